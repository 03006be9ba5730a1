//! A tiny monitor of rust-vmm's kind: saves its `GuestMemoryMmap` while its devices write to it, and brings it back.
//!
//! What the guest's processors write is not in these bitmaps but in KVM's dirty log: a real monitor adds that to each round
//! (`PageBitmap::union`, and the example `kvm`).

use std::num::NonZeroUsize;

use mapped_ram::guest_memory::{load_targets, ram_blocks, take_dirty_pages};
use mapped_ram::{Destination, LoadOptions, Reader, SaveOptions, Tail};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

const PAGE_SIZE: usize = 4096;
/// Below and above the hole that a PC has for its devices.
const REGIONS: [(u64, usize); 2] = [(0, 32 << 20), (4 << 30, 16 << 20)];

type Error = Box<dyn std::error::Error>;

fn memory() -> Result<GuestMemoryMmap<AtomicBitmap>, Error> {
    let mut regions = Vec::new();
    for (address, length) in REGIONS {
        let bitmap = AtomicBitmap::new(length, NonZeroUsize::new(PAGE_SIZE).ok_or("no page size")?);
        let region = MmapRegionBuilder::new_with_bitmap(length, bitmap)
            .with_mmap_prot(nix::libc::PROT_READ | nix::libc::PROT_WRITE)
            .with_mmap_flags(nix::libc::MAP_PRIVATE | nix::libc::MAP_ANONYMOUS | nix::libc::MAP_NORESERVE)
            .build()?;
        regions.push(
            GuestRegionMmap::new(region, GuestAddress(address)).ok_or("a region out of all addresses")?,
        );
    }
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

fn main() -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest.mram");
    let guest = memory()?;
    let counter = GuestAddress(4 << 30);

    let mut writer = SaveOptions::new().create(&path, ram_blocks(&guest)?)?;
    // All of it first: a bitmap knows only of what was written since it was made, and last asked.
    writer.write_all()?;
    for round in 1..=3_u64 {
        // What a device of the monitor's does while pages are written:
        guest.write_obj(round, counter)?;
        for (index, region) in guest.iter().enumerate() {
            let dirty = take_dirty_pages(MmapRegion::bitmap(region), PAGE_SIZE as u64)?;
            println!("round {round}, block ram{index}: {} dirty pages", dirty.count());
            writer.write_pages(index, &dirty)?;
        }
    }
    let report = writer.finish(&Tail::minimal())?;
    println!("saved: {} pages of {} bytes of memory", report.pages_written(), report.guest_bytes);

    let again = memory()?;
    let reader = Reader::open(&path)?;
    LoadOptions::new().load(&mut load_targets(&reader, &again, Destination::Zeroed)?)?;
    assert_eq!(again.read_obj::<u64>(counter)?, 3);
    println!("brought back: the counter is 3");
    Ok(())
}
