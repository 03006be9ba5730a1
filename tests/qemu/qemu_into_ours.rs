//! Group 2: Files of QEMU's, opened by us: each block equals the guest's memory.

use std::collections::BTreeMap;

use mapped_ram::ReaderOptions;
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, GuestBuilder, Qemu, Transfer, boot};

use crate::{RAM, dir, empty_ram_file, expect_same, expect_sound, load, memory, ram_block, ram_file, read};

/// Every way in which QEMU writes the same memory.
fn ways(file: &std::path::Path) -> Vec<(u64, Transfer)> {
    let plain = || Transfer::new(file);
    let mut ways = vec![
        (0, plain().zero_page_detection("none")),
        (0, plain().zero_page_detection("legacy")),
        (12345, plain().offset(12345)),
        (4096, plain().channels(3).offset(4096).direct_io(true)),
    ];
    for direct in [false, true] {
        for detection in ["none", "legacy", "multifd"] {
            ways.push((0, plain().channels(2).direct_io(direct).zero_page_detection(detection)));
        }
    }
    ways
}

/// A guest that stands still is saved in every way: each block equals memory, and what it is in the other files.
fn stopped(machine: &str, arguments: impl Fn(GuestBuilder) -> GuestBuilder) {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let source = memory(Pattern::Ragged, RAM);
    let ram = ram_file(&dir, "ram", &source);
    let builder = arguments(Guest::builder(&qemu).machine(machine).ram_file(&ram));
    let file = dir.path().join("guest.mram");
    let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (offset, way) in ways(&file) {
        let _ = std::fs::remove_file(&file);
        // QEMU saves a guest only once.
        let mut guest = builder.start().unwrap();
        let over = guest.save(&way).unwrap();
        assert!(over.is_completed(), "{machine}, {way:?}: {over:?}");
        let reader = ReaderOptions::new().stream_offset(offset).open(&file).unwrap();
        expect_sound(&reader);
        expect_same(&load(&reader, &ram_block(&reader, RAM)), &source, &format!("{machine}, {way:?}"));
        reader.devices().unwrap();
        for block in reader.blocks() {
            let name = block.idstr().into_owned();
            let bytes = load(&reader, &name);
            if name == "pc.bios" {
                let physical = guest.physical((1 << 32) - bytes.len() as u64, bytes.len() as u64).unwrap();
                expect_same(&bytes, &physical, &format!("{machine}: pc.bios, {way:?}"));
            }
            match seen.get(&name) {
                Some(before) => expect_same(&bytes, before, &format!("{machine}: {name}, {way:?}")),
                None => drop(seen.insert(name, bytes)),
            }
        }
    }
    assert!(machine == "none" || seen.contains_key("pc.bios") || machine == "microvm", "{:?}", seen.keys());
}

#[test]
fn none_stopped() {
    stopped("none", |guest| guest);
}

#[test]
fn pc_stopped() {
    stopped("pc", |guest| guest.arg("-device").arg("VGA"));
}

#[test]
fn q35_stopped() {
    stopped("q35", |guest| guest);
}

#[test]
fn microvm_stopped() {
    stopped("microvm", |guest| guest);
}

/// A guest that writes its memory is saved while it runs. The save stops it at its end; then its memory is what the file
/// must hold, pages that went from set to zero meanwhile included.
fn running(machine: &str, program: fn() -> Vec<u8>) {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let ram = empty_ram_file(&dir, "ram", RAM);
    for (channels, direct) in [(None, false), (Some(2), false), (Some(4), true)] {
        let builder = Guest::builder(&qemu).machine(machine).ram_file(&ram).boot_sector(program());
        let mut guest = builder.paused(false).start().unwrap();
        let counter = |guest: &mut Guest| guest.physical(boot::COUNTER, 4).unwrap();
        while counter(&mut guest) == [0; 4] {}
        let file = dir.path().join("guest.mram");
        let way = Transfer::new(&file).channels(channels).direct_io(direct);
        let over = guest.save(&way).unwrap();
        assert!(over.is_completed(), "{machine}, {way:?}: {over:?}");
        assert!(!guest.is_running().unwrap());
        let reader = mapped_ram::Reader::open(&file).unwrap();
        expect_sound(&reader);
        let name = ram_block(&reader, RAM);
        expect_same(&load(&reader, &name), &read(&ram), &format!("{machine} while running, {way:?}"));
        assert!(!reader.devices().unwrap().is_empty());
    }
}

#[test]
fn pc_running_and_counting() {
    running("pc", boot::counter);
}

#[test]
fn pc_running_and_zeroing() {
    running("pc", boot::zeroing);
}

#[test]
fn q35_running_and_counting() {
    running("q35", boot::counter);
}

#[test]
fn microvm_running() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let ram = empty_ram_file(&dir, "ram", RAM);
    // It has no disk to boot from: its firmware runs.
    let mut guest = Guest::builder(&qemu).machine("microvm").ram_file(&ram).paused(false).start().unwrap();
    let file = dir.path().join("guest.mram");
    assert!(guest.save(&Transfer::new(&file).channels(2)).unwrap().is_completed());
    let reader = mapped_ram::Reader::open(&file).unwrap();
    expect_sound(&reader);
    expect_same(&load(&reader, &ram_block(&reader, RAM)), &read(&ram), "microvm while running");
}
