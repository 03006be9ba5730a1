//! Judged by the real thing: qemu-system-x86_64, driven over QMP.
//!
//! Without a QEMU of 9.0 or later these tests say so on stderr and check nothing; with `MAPPED_RAM_REQUIRE_QEMU=1` its
//! absence is a failure. `scripts/install-qemu` installs it.

mod background_snapshot;
mod contrast;
mod full_disk;
mod ours_into_qemu;
mod qemu_into_ours;
mod restored;
mod round_trip;
mod same_bytes;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mapped_ram::{Destination, Reader, VerifyOptions};
use qemu_harness::pattern::Pattern;
use tempfile::TempDir;

const RAM: usize = 64 << 20;

/// On the disk that the build is on, for `O_DIRECT` is not to be had everywhere.
fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A guest's RAM, filled with a pattern.
fn memory(pattern: Pattern, length: usize) -> Vec<u8> {
    let mut memory = vec![0; length];
    pattern.fill(&mut memory, 42);
    memory
}

/// A file that holds `memory`, for a guest to run in.
fn ram_file(dir: &TempDir, name: &str, memory: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, memory).unwrap();
    path
}

/// A file of `length` zeros.
fn empty_ram_file(dir: &TempDir, name: &str, length: usize) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path).unwrap().set_len(length as u64).unwrap();
    path
}

/// Fails, without printing 64 MiB, if two memories differ.
fn expect_same(one: &[u8], two: &[u8], what: &str) {
    assert_eq!(one.len(), two.len(), "{what}: lengths");
    if let Some(at) = one.iter().zip(two).position(|(one, two)| one != two) {
        let pages = one.chunks(4096).zip(two.chunks(4096)).filter(|(one, two)| one != two).count();
        panic!("{what}: {pages} pages differ, the first byte at {at:#x}");
    }
}

/// The memory of a block, loaded by all channels.
fn load(reader: &Reader, idstr: &str) -> Vec<u8> {
    let block = reader.block(idstr).unwrap_or_else(|| panic!("no block {idstr}"));
    let mut memory = vec![0xEE; usize::try_from(block.used_length()).unwrap()];
    block.load(&mut memory, Destination::Used).unwrap();
    memory
}

/// The block that is a guest's RAM: the machines name it differently.
fn ram_block(reader: &Reader, length: usize) -> String {
    let of_length = |block: &&mapped_ram::Block| block.used_length() == length as u64;
    reader.blocks().iter().find(of_length).expect("a block of the RAM's length").idstr().into_owned()
}

fn expect_sound(reader: &Reader) {
    let report = reader.verify(VerifyOptions::new()).unwrap();
    assert_eq!((report.problems, report.warnings), (vec![], vec![]), "{}", reader.file());
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}
