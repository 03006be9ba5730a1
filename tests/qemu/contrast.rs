//! What kills QEMU is an error here.

use std::fs;

use mapped_ram::{ErrorKind, RamBlock, Reader, SaveOptions};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, Qemu, Transfer};

use crate::{dir, empty_ram_file, memory};

const LENGTH: usize = 4 << 20;

/// Spoils a sound file, expects `kind` of us, and tells how QEMU ended.
fn spoil(spoil: impl Fn(&mut Vec<u8>), kind: ErrorKind) -> Option<String> {
    let qemu = Qemu::for_test()?;
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let source = memory(Pattern::Dense, LENGTH);
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &source)]).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    spoil(&mut bytes);
    fs::write(&path, bytes).unwrap();
    assert_eq!(Reader::open(&path).unwrap_err().kind(), kind);

    let ram = empty_ram_file(&dir, "ram", LENGTH);
    let mut guest = Guest::builder(&qemu).memory(LENGTH as u64).ram_file(&ram).incoming().start().unwrap();
    let over = guest.load(&Transfer::new(&path).channels(2));
    let said = match over {
        Ok(over) => format!("{over:?}"),
        Err(error) => error.to_string(),
    };
    println!("QEMU {}: {said}", qemu.version());
    Some(said)
}

fn header(bytes: &[u8]) -> usize {
    bytes.windows(5).position(|part| part == b"\x04ram0").unwrap() + 5 + 8
}

#[test]
fn a_page_size_of_0() {
    let Some(said) = spoil(
        |bytes| {
            let at = header(bytes) + 4;
            bytes[at..at + 8].fill(0);
        },
        ErrorKind::Damaged,
    ) else {
        return;
    };
    // Newer versions may have learned; what counts is that we say so.
    assert!(!said.contains("completed"), "{said}");
}

#[test]
fn a_file_cut_inside_a_block() {
    let Some(said) = spoil(|bytes| bytes.truncate((1 << 20) + 100_000), ErrorKind::Incomplete) else {
        return;
    };
    assert!(!said.contains("completed"), "{said}");
}
