//! Group 6: A guest of QEMU's, brought back by each of the ways: read into memory, mapped, and restored into a file that a
//! QEMU runs in. The counter is right, no stale byte shows, and QEMU's own load leaves the same memory.

use std::fs::File;
use std::path::Path;

use mapped_ram::{Destination, LoadOptions, LoadTarget, MapOptions, Prefetch, RamBlock, Reader, SaveOptions};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, Qemu, Transfer, boot};

use crate::{RAM, dir, empty_ram_file, expect_same, load, ram_block, read};

fn counter(memory: &[u8]) -> u32 {
    let at = usize::try_from(boot::COUNTER).unwrap();
    u32::from_le_bytes(memory[at..at + 4].try_into().unwrap())
}

/// The block's memory by a mapping.
fn mapped(reader: &Reader, idstr: &str, prefetch: Prefetch) -> Vec<u8> {
    let mut mapping = MapOptions::new().prefetch(prefetch).map(reader.block(idstr).unwrap()).unwrap();
    mapping.wait_for_prefetch().unwrap();
    let mut memory = vec![0; mapping.len()];
    // SAFETY: the mapping is readable for its length, and nobody else uses it.
    unsafe { memory.as_mut_ptr().copy_from_nonoverlapping(mapping.as_ptr(), memory.len()) };
    memory
}

/// Restores into a file as the command does: shared memory that another process may have mapped.
fn restore_into(reader: &Reader, idstr: &str, path: &Path, destination: Destination) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: touches no existing mapping.
    let start =
        unsafe { mmap(None, RAM.try_into().unwrap(), protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
    let block = reader.block(idstr).unwrap();
    // SAFETY: the mapping is writable for its length until it is unmapped below, and never a reference.
    let target = unsafe { LoadTarget::from_raw(block, start.as_ptr().cast(), RAM, destination) };
    LoadOptions::new().channels(2).load(&mut [target]).unwrap();
    // SAFETY: all of what was mapped above, used by nobody any more.
    unsafe { munmap(start, RAM) }.unwrap();
}

/// A guest that stands in a QEMU which has not run it yet: what is restored into the file is what the guest's processors see, and
/// nothing of what stood there before.
#[test]
fn into_the_file_of_a_qemu_that_is_there_already() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let mut expected = vec![0; RAM];
    Pattern::Ragged.fill(&mut expected, 7);
    let saved = dir.path().join("guest.mram");
    SaveOptions::new().save(&saved, vec![RamBlock::new("ram0", &expected)]).unwrap();

    let ram = empty_ram_file(&dir, "ram", RAM);
    std::fs::write(&ram, vec![0xEE; RAM]).unwrap();
    let mut guest = Guest::builder(&qemu).machine("pc").ram_file(&ram).paused(true).start().unwrap();
    restore_into(&Reader::open(&saved).unwrap(), "ram0", &ram, Destination::Used);
    // Without the hole below 1 MiB, where a PC has its screen and its firmware.
    for range in [0..0xA0000, 0x10_0000..RAM] {
        let (start, length) = (range.start as u64, range.len() as u64);
        expect_same(&guest.physical(start, length).unwrap(), &expected[range], "what the guest sees");
    }
    assert!(!guest.is_running().unwrap());
}

/// The block's memory in a memfd that is filled while it is read, the pages in an order of its own.
#[cfg(feature = "userfaultfd")]
fn on_demand(reader: &Reader, idstr: &str, fill: mapped_ram::fault::Fill) -> Vec<u8> {
    use mapped_ram::fault::{Ending, FaultOptions, FaultTarget};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    let file = memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, i64::try_from(RAM).unwrap()).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: touches no existing mapping.
    let start =
        unsafe { mmap(None, RAM.try_into().unwrap(), protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
    let target = FaultTarget::new(reader.block(idstr).unwrap(), start.as_ptr().cast(), RAM);
    // SAFETY: mapped for this, and touched through raw pointers only.
    let handler = unsafe { FaultOptions::new().fill(fill).channels(2).start(&[target]) }.unwrap();
    let mut memory = vec![0; RAM];
    for page in (0..RAM / 4096).rev() {
        let piece = &mut memory[page * 4096..(page + 1) * 4096];
        let from = start.as_ptr().cast::<u8>().wrapping_add(page * 4096);
        // SAFETY: inside the mapping, which nobody writes but the handler.
        unsafe { piece.as_mut_ptr().copy_from_nonoverlapping(from, 4096) };
    }
    assert_eq!(handler.wait().unwrap().ending, Ending::Complete);
    // SAFETY: all of what was mapped above, used by nobody any more.
    unsafe { munmap(start, RAM) }.unwrap();
    memory
}

/// A running guest is saved while it writes; then its memory is what every way must show.
fn by_every_way(program: fn() -> Vec<u8>) {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let ram = empty_ram_file(&dir, "ram", RAM);
    let saved = dir.path().join("guest.mram");
    // QEMU writes over a file of ours, which is noted to have no stale bytes: that must have no force any more.
    SaveOptions::new().save(&saved, vec![RamBlock::new("ram0", &[1; 4096])]).unwrap();
    let builder = |ram: &Path| Guest::builder(&qemu).machine("pc").ram_file(ram).boot_sector(program());
    let mut guest = builder(&ram).paused(false).start().unwrap();
    while guest.physical(boot::COUNTER, 4).unwrap() == [0; 4] {}
    assert!(guest.save(&Transfer::new(&saved).channels(2)).unwrap().is_completed());
    drop(guest);
    let expected = read(&ram);
    assert_ne!(counter(&expected), 0);

    let reader = Reader::open(&saved).unwrap();
    let name = ram_block(&reader, RAM);
    assert!(!reader.is_noted_clean());
    expect_same(&load(&reader, &name), &expected, "loaded");
    expect_same(&mapped(&reader, &name, Prefetch::Nothing), &expected, "mapped");
    expect_same(&mapped(&reader, &name, Prefetch::All), &expected, "mapped and prefetched");
    // Noted or not, as a look at all stale bytes has it.
    let stale = reader.note_clean().unwrap();
    assert!(stale.is_none() || !reader.is_noted_clean());
    let again = Reader::open(&saved).unwrap();
    expect_same(&mapped(&again, &name, Prefetch::Nothing), &expected, "mapped after a look");
    #[cfg(feature = "userfaultfd")]
    for fill in [mapped_ram::fault::Fill::Nothing, mapped_ram::fault::Fill::All] {
        expect_same(&on_demand(&reader, &name, fill), &expected, "filled on demand");
    }
    let ours = empty_ram_file(&dir, "ours", RAM);
    restore_into(&reader, &name, &ours, Destination::Zeroed);
    expect_same(&read(&ours), &expected, "restored into a file");

    let theirs = empty_ram_file(&dir, "theirs", RAM);
    let mut guest = builder(&theirs).incoming().start().unwrap();
    assert!(guest.load(&Transfer::new(&saved).channels(2)).unwrap().is_completed());
    drop(guest);
    expect_same(&read(&ours), &read(&theirs), "QEMU's own load");
}

#[test]
fn a_counting_pc() {
    by_every_way(boot::counter);
}

/// Its pages go from set to zero while it is saved: stale bytes are in the file.
#[test]
fn a_pc_whose_pages_become_zero() {
    by_every_way(boot::zeroing);
}
