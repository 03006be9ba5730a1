//! Transfers that are given together, and what becomes of them, whatever the ring makes of them.
#![cfg(feature = "io-uring")]

mod reads;
mod writes;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use multifd_pool::{Alignment, Channel, FileChannel, IoVec, Piece, ReadPiece, UringChannel};

const LENGTH: usize = 256 << 10;

fn memory() -> Arc<Vec<u8>> {
    Arc::new((0..LENGTH).map(|i| u8::try_from(i % 251).unwrap() + 1).collect())
}

/// Two descriptors of a file on the disk that the build is on; neither is direct where its file system has no such thing.
fn files() -> (File, File) {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(named.path());
    let direct = open(libc::O_DIRECT).or_else(|_| open(0)).unwrap();
    (direct, named.into_file())
}

/// A ring. Where the kernel gives this process none (a container, often), what takes its place is tested, and that is said.
fn ring(direct: &File, buffered: &File, alignment: Alignment, direct_from: usize) -> Box<dyn Channel> {
    let (direct, buffered) = (direct.try_clone().unwrap(), buffered.try_clone().unwrap());
    if UringChannel::is_available() {
        return Box::new(UringChannel::new(direct, buffered, alignment, direct_from).unwrap());
    }
    eprintln!(
        "NOT TESTED: this kernel, or its settings, gives no io_uring; the mixed channel was tested in its place"
    );
    Box::new(FileChannel::mixed(direct, buffered, alignment, direct_from))
}

/// Linux 5.6 and later know all that a ring is for, if they give one at all.
#[test]
fn rings_are_available_where_one_can_be_had() {
    let (direct, buffered) = files();
    let alignment = Alignment { memory: 4096, offset: 4096 };
    let ring = UringChannel::new(direct, buffered, alignment, 0);
    assert_eq!(UringChannel::is_available(), ring.is_ok());
}

/// All else is left to the calls that come after, which a kernel that refused it would only be asked for in vain.
#[test]
fn a_ring_is_given_what_is_aligned_and_of_writes_what_is_long() {
    const STEP: usize = 4096;
    let (direct, buffered) = files();
    buffered.set_len(LENGTH as u64).unwrap();
    let alignment = Alignment { memory: STEP, offset: STEP as u64 };
    let Ok(mut ring) = UringChannel::new(direct, buffered, alignment, 2 * STEP) else {
        eprintln!("NOT TESTED: this kernel, or its settings, gives no io_uring");
        return;
    };
    let mut memory = vec![1_u8; 6 * STEP];
    let start = memory.as_mut_ptr();
    let start = start.wrapping_add(start.align_offset(STEP));
    // Past the memory's start, length, offset in the file; whether it is aligned.
    let cases = [
        (0, 2 * STEP, 0, true),
        (STEP, 3 * STEP, STEP, true),
        (0, STEP, 0, true),
        (512, 2 * STEP, 0, false),
        (0, 2 * STEP + 512, 0, false),
        (0, 2 * STEP, 512, false),
        (0, 0, 0, false),
    ];
    for (past, length, offset, is_aligned) in cases {
        let vecs = [IoVec::new(start.wrapping_add(past), length)];
        let mut written = vec![Piece::new(vecs[0], offset as u64)];
        // SAFETY: inside `memory`, to which there is no reference, and which outlives `ring`.
        let calls = unsafe { ring.begin_writes(&mut written) };
        let taken = is_aligned && length >= 2 * STEP;
        assert_eq!((calls > 0, written.is_empty()), (taken, taken), "{past} {length} {offset}");
        written.clear();
        ring.end_writes(&mut written);
        assert!(written.is_empty(), "{past} {length} {offset}: nothing is left of it");
        let mut read = [ReadPiece::new(&vecs, offset as u64)];
        // SAFETY: as above.
        let calls = unsafe { ring.read_many(&mut read) };
        assert_eq!((calls > 0, read[0].done), (is_aligned, if is_aligned { length as u64 } else { 0 }));
    }
    let too_many = vec![IoVec::new(start, 0); 1025];
    let mut read = [ReadPiece::new(&too_many, 0)];
    // SAFETY: as above.
    assert_eq!(unsafe { ring.read_many(&mut read) }, 0);
}

/// A ring's channel finds room and makes zeros as the file's own does.
#[test]
fn room_and_zeros_are_the_files() {
    let blocks = |file: &File| file.metadata().unwrap().blocks();
    let (direct, buffered) = files();
    let file = buffered.try_clone().unwrap();
    file.write_all_at(&memory(), 0).unwrap();
    file.sync_all().unwrap();
    let alignment = Alignment { memory: 4096, offset: 4096 };
    let Ok(mut ring) = UringChannel::new(direct, buffered, alignment, 0) else {
        eprintln!("NOT TESTED: this kernel, or its settings, gives no io_uring");
        return;
    };
    ring.clear(0, LENGTH as u64).unwrap();
    let mut bytes = vec![7; LENGTH];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    let before = blocks(&file);
    ring.reserve(LENGTH as u64, 1 << 20).unwrap();
    // As much as another file there is given.
    let other = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    FileChannel::buffered(other.try_clone().unwrap()).reserve(0, 1 << 20).unwrap();
    assert_eq!(blocks(&file) > before, blocks(&other) > 0);
}
