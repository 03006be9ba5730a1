//! rust-vmm's guest memory: what is saved from it comes back into it, dirty pages in rounds included.

use std::num::NonZeroUsize;

use mapped_ram::guest_memory::{load_targets, ram_blocks, take_dirty_pages};
use mapped_ram::{Destination, ErrorKind, LoadOptions, RamBlock, Reader, SaveOptions, Tail};
use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
    mmap::MmapRegionBuilder,
};

const PAGE: usize = 4096;

type Memory = GuestMemoryMmap<AtomicBitmap>;

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Regions of so many pages each, with holes between them.
fn memory(regions: &[usize]) -> Memory {
    let regions = regions.iter().enumerate().map(|(index, pages)| {
        let length = pages * PAGE;
        let bitmap = AtomicBitmap::new(length, NonZeroUsize::new(PAGE).unwrap());
        let region = MmapRegionBuilder::new_with_bitmap(length, bitmap)
            .with_mmap_prot(nix::libc::PROT_READ | nix::libc::PROT_WRITE)
            .with_mmap_flags(nix::libc::MAP_PRIVATE | nix::libc::MAP_ANONYMOUS)
            .build()
            .unwrap();
        GuestRegionMmap::new(region, GuestAddress((index as u64) << 32)).unwrap()
    });
    GuestMemoryMmap::from_regions(regions.collect()).unwrap()
}

/// Writes a byte somewhere, as a guest does.
fn write(
    memory: &Memory,
    regions: &[usize],
    (region, at, byte): (prop::sample::Index, prop::sample::Index, u8),
) {
    let region = region.index(regions.len());
    let address = ((region as u64) << 32) + at.index(regions[region] * PAGE) as u64;
    memory.write_obj(byte, GuestAddress(address)).unwrap();
}

fn contents(memory: &Memory, regions: &[usize]) -> Vec<Vec<u8>> {
    let read = |(index, pages): (usize, &usize)| {
        let mut bytes = vec![0; pages * PAGE];
        memory.read_slice(&mut bytes, GuestAddress((index as u64) << 32)).unwrap();
        bytes
    };
    regions.iter().enumerate().map(read).collect()
}

proptest! {
    #[test]
    fn rounds_of_dirty_pages_are_restored(
        regions in prop::collection::vec(1_usize..100, 1..4),
        rounds in prop::collection::vec(prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index, u8)>(), 0..30), 1..4),
    ) {
        let guest = memory(&regions);
        let dir = dir();
        let path = dir.path().join("guest.mram");
        let mut writer = SaveOptions::new().channels(2).create(&path, ram_blocks(&guest).unwrap()).unwrap();
        writer.write_all().unwrap();
        for round in rounds {
            for one in round {
                write(&guest, &regions, one);
            }
            for (index, region) in guest.iter().enumerate() {
                let dirty = take_dirty_pages(MmapRegion::bitmap(region), PAGE as u64).unwrap();
                prop_assert_eq!(dirty.pages(), regions[index] as u64);
                writer.write_pages(index, &dirty).unwrap();
                prop_assert_eq!(take_dirty_pages(MmapRegion::bitmap(region), PAGE as u64).unwrap().count(), 0);
            }
        }
        writer.finish(&Tail::minimal()).unwrap();

        let again = memory(&regions);
        let reader = Reader::open(&path).unwrap();
        LoadOptions::new().load(&mut load_targets(&reader, &again, Destination::Zeroed).unwrap()).unwrap();
        prop_assert!(contents(&again, &regions) == contents(&guest, &regions));
    }

    #[test]
    fn dirty_pages_are_those_that_were_marked(
        pages in 1_usize..300,
        marks in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..3 * PAGE), 0..20),
        page_size in prop_oneof![Just(256_usize), Just(PAGE)],
    ) {
        let length = pages * page_size;
        let bitmap = AtomicBitmap::new(length, NonZeroUsize::new(page_size).unwrap());
        let mut expected = std::collections::BTreeSet::new();
        for (at, count) in marks {
            let at = at.index(length);
            let count = count.min(length - at);
            bitmap.mark_dirty(at, count);
            expected.extend((at..at + count).map(|byte| (byte / page_size) as u64));
        }
        let twice = 2 * page_size as u64;
        if pages > 1 {
            prop_assert_eq!(take_dirty_pages(&bitmap, twice).unwrap_err().kind(), ErrorKind::Usage);
        }
        prop_assert!(take_dirty_pages(&bitmap, 0).is_err());
        let dirty = take_dirty_pages(&bitmap, page_size as u64).unwrap();
        prop_assert_eq!(dirty.runs().flatten().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }
}

/// To read a page of shared memory that was never touched takes a page of memory: a save must not do that.
#[test]
fn a_save_of_shared_memory_does_not_fill_it() {
    use std::os::unix::fs::MetadataExt;
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let length = 64 << 20;
    file.set_len(2 * length as u64).unwrap();
    let place = FileOffset::new(file.try_clone().unwrap(), length as u64);
    let guest =
        GuestMemoryMmap::<()>::from_ranges_with_files([(GuestAddress(0), length, Some(place))]).unwrap();
    for address in [0, 40 << 20] {
        guest.write_obj(7_u64, GuestAddress(address)).unwrap();
    }
    let before = file.metadata().unwrap().blocks();
    let report = SaveOptions::new().save(&path, ram_blocks(&guest).unwrap()).unwrap();
    // What is looked at are 64 pages around each that was touched.
    assert!(file.metadata().unwrap().blocks() <= before + 2 * 64 * 8);
    assert_eq!(report.pages_written(), 2);
    let mut back = vec![0; length];
    Reader::open(&path).unwrap().blocks()[0].read_at(0, &mut back).unwrap();
    let found: Vec<usize> = (0..length).filter(|at| back[*at] != 0).collect();
    assert_eq!(found, [0, 40 << 20]);
}

#[test]
fn regions_that_do_not_fit_the_file_are_errors() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let bytes = vec![1; 2 * PAGE];
    SaveOptions::new().save(&path, vec![RamBlock::new("pc.ram", &bytes)]).unwrap();
    let reader = Reader::open(&path).unwrap();
    let refused = |regions: &[usize]| {
        let memory = memory(regions);
        let error = load_targets(&reader, &memory, Destination::Zeroed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    };
    assert!(refused(&[1, 1]).contains("1 blocks, and the guest's memory 2 regions"));
    assert!(refused(&[2]).contains("no block `ram0`"));
}

#[test]
fn memory_without_rights_is_an_error_and_no_signal() {
    let region = MmapRegionBuilder::<()>::new(PAGE)
        .with_mmap_prot(nix::libc::PROT_NONE)
        .with_mmap_flags(nix::libc::MAP_PRIVATE | nix::libc::MAP_ANONYMOUS)
        .build()
        .unwrap();
    let region = GuestRegionMmap::new(region, GuestAddress(0x1000)).unwrap();
    let guest = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    let error = ram_blocks(&guest).unwrap_err();
    assert!(
        error.to_string().contains("at 0x1000") && error.to_string().contains("right to read"),
        "{error}"
    );
}
