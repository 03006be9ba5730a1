//! Group 3: Byte for byte: for the same RAM and machine name, our file equals QEMU's from the first RAM block record to the end
//! of the last block's pages, and takes no more room.

use std::fs;
use std::os::unix::fs::MetadataExt;

use mapped_ram::{RamBlock, Reader, SaveOptions};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, Qemu, Transfer};

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
        SaveOptions::new().channels(2).save(&ours, vec![RamBlock::new("ram0", &source)]).unwrap();

        let part = |path| {
            let reader = Reader::open(path).unwrap();
            let (start, end) = (reader.layout().records_offset(), reader.layout().tail_offset());
            read(path)[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].to_vec()
        };
        expect_same(&part(&ours), &part(&theirs), &format!("{pattern:?}"));
        let room = |path| fs::metadata(path).unwrap().blocks();
        assert!(
            room(&ours) <= room(&theirs),
            "{pattern:?}: {} blocks, QEMU's {}",
            room(&ours),
            room(&theirs)
        );
    }
}
