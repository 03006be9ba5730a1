//! Group 1: Files of ours, loaded by QEMU: its guest's memory equals the source.

use mapped_ram::storage::IoMode;
use mapped_ram::{RamBlock, SaveOptions, Tail};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, Qemu, Transfer};

use crate::{RAM, dir, empty_ram_file, expect_same, memory, read};

fn loads(pattern: Pattern) {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let source = memory(pattern, RAM);
    for channels in [1, 4] {
        for offset in [0, 12345] {
            for mode in [IoMode::Buffered, IoMode::Direct] {
                let file = dir.path().join("guest.mram");
                let block = RamBlock::new("ram0", &source);
                let mut writer = SaveOptions::new()
                    .channels(channels)
                    .io_mode(mode)
                    .stream_offset(offset)
                    .in_place(&file, vec![block])
                    .unwrap();
                writer.write_all().unwrap();
                writer.finish(&Tail::minimal()).unwrap();
                for (multifd, direct) in [(None, false), (Some(2), false), (Some(3), true)] {
                    let ram = empty_ram_file(&dir, "ram", RAM);
                    let mut guest = Guest::builder(&qemu).ram_file(&ram).incoming().start().unwrap();
                    let how = Transfer::new(&file).offset(offset).channels(multifd).direct_io(direct);
                    let over = guest.load(&how).unwrap();
                    assert!(over.is_completed(), "{over:?}");
                    let what = format!(
                        "{pattern:?}, {channels} channels, {mode:?}, offset {offset}, loaded with {how:?}"
                    );
                    expect_same(&read(&ram), &source, &what);
                }
            }
        }
    }
}

#[test]
fn dense() {
    loads(Pattern::Dense);
}

#[test]
fn sparse() {
    loads(Pattern::Sparse);
}

#[test]
fn ragged() {
    loads(Pattern::Ragged);
}

#[test]
fn a_new_file_under_its_final_name() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let source = memory(Pattern::Ragged, RAM);
    let file = dir.path().join("guest.mram");
    SaveOptions::new().zero_detection(false).save(&file, vec![RamBlock::new("ram0", &source)]).unwrap();
    let ram = empty_ram_file(&dir, "ram", RAM);
    let mut guest = Guest::builder(&qemu).ram_file(&ram).incoming().start().unwrap();
    assert!(guest.load(&Transfer::new(&file).channels(2)).unwrap().is_completed());
    expect_same(&read(&ram), &source, "saved without zero detection");
}

#[test]
fn pages_aligned_to_a_page_only() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let source = memory(Pattern::Ragged, RAM);
    let file = dir.path().join("guest.mram");
    SaveOptions::new().alignment(4096).save(&file, vec![RamBlock::new("ram0", &source)]).unwrap();
    let ram = empty_ram_file(&dir, "ram", RAM);
    let mut guest = Guest::builder(&qemu).ram_file(&ram).incoming().start().unwrap();
    assert!(guest.load(&Transfer::new(&file).channels(2)).unwrap().is_completed());
    expect_same(&read(&ram), &source, "aligned to a page");
}
