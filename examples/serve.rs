//! A tiny monitor that serves a snapshot to its own guest: the guest's memory is a memfd, shared with whoever has to see it, and each
//! of its pages comes from the file when the guest touches it.
//!
//! Run without arguments it saves a made-up guest first; with the path of a file, all that is served of it is its first block. Needs
//! root, or access to /dev/userfaultfd.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use mapped_ram::fault::{FaultOptions, FaultTarget};
use mapped_ram::{RamBlock, Reader, SaveOptions};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = if let Some(path) = std::env::args_os().nth(1) {
        PathBuf::from(path)
    } else {
        let path = dir.path().join("guest.mram");
        let mut guest = vec![0_u8; 64 << 20];
        guest[..8].copy_from_slice(b"a guest!");
        guest[32 << 20..].fill(7);
        SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &guest)])?;
        path
    };
    let reader = Reader::open(&path)?;
    let block = &reader.blocks()[0];
    let length = usize::try_from(block.used_length())?;

    let memory = memfd_create("guest", MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&memory, i64::try_from(length)?)?;
    let size = NonZeroUsize::new(length).ok_or("the first block is empty")?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: touches no existing mapping.
    let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &memory, 0) }?;

    let began = Instant::now();
    let target = FaultTarget::new(block, start.as_ptr().cast(), length);
    // SAFETY: mapped above for this, never touched, and only through raw pointers from here on.
    let handler = unsafe { FaultOptions::new().record(true).start(&[target]) }?;
    // Here a virtual processor would run. It reads its last byte, and waits for that page alone:
    // SAFETY: inside the mapping, which is never a reference.
    let last = unsafe { start.as_ptr().cast::<u8>().add(length - 1).read_volatile() };
    println!("{}: {length} bytes, the last is {last:#04x}, read after {:?}", block.idstr(), began.elapsed());

    let report = handler.wait()?;
    println!("all there after {:?}: {:?}", began.elapsed(), report.counters);
    let mut in_file = [0];
    block.read_at(block.used_length() - 1, &mut in_file)?;
    assert_eq!(in_file, [last]);
    drop(handler);
    // SAFETY: all of what was mapped above, used by nobody any more.
    unsafe { munmap(start, length) }?;
    Ok(())
}
