//! Group 3: Byte for byte: for the same RAM and machine name, our file equals QEMU's from the first RAM block record to the end
//! of the last block's pages, and takes no more room.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mapped_ram::storage::{FileSource, Source};
use mapped_ram::{Bridge, RamBlock, Reader, SaveOptions};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, Qemu, Transfer};
use reference_model::Stream;
use reference_model::bitmap::Encoding;

use crate::{RAM, dir, expect_same, memory, ram_file, read};

#[test]
fn ours_equals_qemus() {
    let Some(qemu) = Qemu::for_test() else { return };
    for pattern in Pattern::ALL {
        let dir = dir();
        let source = memory(pattern, RAM);
        let ram = ram_file(&dir, "ram", &source);
        let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        let mut guest = Guest::builder(&qemu).ram_file(&ram).start().unwrap();
        assert!(guest.save(&Transfer::new(&theirs).channels(2)).unwrap().is_completed());
        // QEMU leaves every zero page a hole.
        SaveOptions::new()
            .channels(2)
            .bridge(Bridge::None)
            .save(&ours, vec![RamBlock::new("ram0", &source)])
            .unwrap();

        let part = |path| {
            let reader = Reader::open(path).unwrap();
            let (start, end) = (reader.layout().records_offset(), reader.layout().tail_offset());
            read(path)[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].to_vec()
        };
        expect_same(&part(&ours), &part(&theirs), &format!("{pattern:?}"));
        assert_eq!(data(&ours), data(&theirs), "{pattern:?}: other data, other holes");
        // The file system counts its own index of extents too, which depends on the order that they were written in: a block
        // for some hundred of them.
        let room = |path| fs::metadata(path).unwrap().blocks();
        let index = room(&theirs) / 1000 + 8;
        assert!(
            room(&ours) <= room(&theirs) + index,
            "{pattern:?}: {} blocks, QEMU's {}",
            room(&ours),
            room(&theirs)
        );
    }
}

/// The stretches of data of the records and pages of a file.
fn data(path: &Path) -> Vec<(u64, u64)> {
    let source = FileSource::open(path).unwrap();
    let reader = Reader::open(path).unwrap();
    let (mut at, end) = (reader.layout().records_offset(), reader.layout().tail_offset());
    let mut found = Vec::new();
    while let Some((start, stop)) = source.next_data(at, end).unwrap() {
        // From the first page on: what comes before is one block of the head with the first record.
        found.push((start.max(1 << 20), stop));
        at = stop;
    }
    found
}

/// The reference model is judged too: it reads what QEMU wrote, and writes it again byte for byte.
#[test]
fn the_reference_model_rewrites_qemus_files() {
    let Some(qemu) = Qemu::for_test() else { return };
    let length = 4 << 20;
    let source = memory(Pattern::Ragged, length);
    for (machine, channels) in [("none", None), ("none", Some(2)), ("pc", Some(2)), ("microvm", None)] {
        let dir = dir();
        let ram = ram_file(&dir, "ram", &source);
        let file = dir.path().join("theirs");
        let mut guest =
            Guest::builder(&qemu).machine(machine).memory(length as u64).ram_file(&ram).start().unwrap();
        assert!(guest.save(&Transfer::new(&file).channels(channels)).unwrap().is_completed());
        let bytes = read(&file);
        let stream = Stream::read(&bytes, 0, Encoding::X86).unwrap();
        let again = stream.write();
        expect_same(&again.read(0, again.length()), &bytes, machine);
        let ram = stream.blocks.iter().find(|block| block.used_length == length as u64).unwrap();
        for (page, bytes) in source.chunks(4096).enumerate() {
            let zeros = vec![0; 4096];
            assert_eq!(ram.pages.get(&(page as u64)).unwrap_or(&zeros), bytes, "{machine}: page {page}");
        }
    }
}
