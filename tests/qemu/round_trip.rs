//! Group 4: A file of QEMU's, read and written again by us, its tail passed through: QEMU loads it, and the guest runs on.

use mapped_ram::{Destination, LoadOptions, LoadTarget, RamBlock, Reader, SaveOptions, Tail};
use qemu_harness::{Guest, Qemu, Transfer, boot};

use crate::{RAM, dir, empty_ram_file};

#[test]
fn a_copy_of_a_running_pc_runs_on() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    let builder = |ram: &std::path::Path| {
        Guest::builder(&qemu).machine("pc").ram_file(ram).boot_sector(boot::counter())
    };
    let count =
        |guest: &mut Guest| u32::from_le_bytes(guest.physical(boot::COUNTER, 4).unwrap().try_into().unwrap());

    let ram = empty_ram_file(&dir, "ram", RAM);
    let mut first = builder(&ram).paused(false).start().unwrap();
    while count(&mut first) < 1000 {}
    assert!(first.save(&Transfer::new(&theirs).channels(2)).unwrap().is_completed());
    let saved_at = count(&mut first);
    drop(first);

    let reader = Reader::open(&theirs).unwrap();
    let mut memories: Vec<Vec<u8>> =
        reader.blocks().iter().map(|block| vec![0; usize::try_from(block.used_length()).unwrap()]).collect();
    let mut targets: Vec<LoadTarget<'_>> = reader
        .blocks()
        .iter()
        .zip(&mut memories)
        .map(|(block, memory)| LoadTarget::new(block, memory, Destination::Zeroed))
        .collect();
    LoadOptions::new().load(&mut targets).unwrap();
    let blocks = reader
        .blocks()
        .iter()
        .zip(&memories)
        .map(|(block, memory)| RamBlock::new(block.layout().idstr_bytes(), memory))
        .collect();
    let mut writer = SaveOptions::new().head_of(reader.layout()).create(&ours, blocks).unwrap();
    writer.write_all().unwrap();
    writer.finish(&Tail::copied_from(&reader)).unwrap();

    for multifd in [None, Some(2)] {
        let ram = empty_ram_file(&dir, "ram again", RAM);
        let mut second = builder(&ram).incoming().start().unwrap();
        let over = second.load(&Transfer::new(&ours).channels(multifd)).unwrap();
        assert!(over.is_completed(), "{over:?}");
        assert_eq!(count(&mut second), saved_at);
        second.cont().unwrap();
        while count(&mut second) <= saved_at {}
        assert!(second.is_running().unwrap());
    }
}
