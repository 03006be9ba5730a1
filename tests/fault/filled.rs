//! What the guest sees is the saved memory with its own writes on top, whoever fills it, in whatever order.

use std::collections::BTreeSet;

use mapped_ram::fault::{Ending, FaultCounters, FaultOptions, Fill};
use mapped_ram::{MapOptions, Prefetch, RamBlock, SaveOptions, WorkingSet};
use proptest::prelude::*;

use crate::memory::{HUGE, Kind, Memory, PAGE, Page, expect_same, save};
use crate::{dir, open, start};

fn page() -> impl Strategy<Value = Page> {
    prop_oneof![
        3 => (1_u8..100).prop_map(Page::Present),
        1 => Just(Page::Absent),
        1 => (1_u8..100).prop_map(Page::Stale),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Private), Just(Kind::Anonymous), Just(Kind::Memfd)]
}

/// What a guest's thread does to a page.
#[derive(Clone, Copy, Debug)]
enum Touch {
    Read(usize),
    Write(usize, u8),
}

fn touches(pages: usize) -> impl Strategy<Value = Vec<Touch>> {
    let touch = prop_oneof![
        (0..pages).prop_map(Touch::Read),
        (0..pages, 100_u8..=255).prop_map(|(page, byte)| Touch::Write(page, byte)),
    ];
    prop::collection::vec(touch, 0..60)
}

fn expect_sum(counters: &FaultCounters) {
    let FaultCounters {
        present,
        on_demand,
        in_background,
        already_there,
        given_up,
        unmapped,
        lost,
        missing,
        ..
    } = *counters;
    assert_eq!(
        present,
        on_demand + in_background + already_there + given_up + unmapped + lost + missing,
        "{counters:?}"
    );
}

const PAGES: usize = 150;

fn cases() -> ProptestConfig {
    // Each case starts half a dozen threads and saves a file.
    let mut config = ProptestConfig::default();
    config.cases = (config.cases / 4).max(8);
    config
}

proptest! {
    #![proptest_config(cases())]

    /// Three threads of a guest race with two channels. Each writes bytes of its own, so that the last writes are known.
    #[test]
    fn memory_is_the_models_with_the_guests_writes_on_top(
        pages in prop::collection::vec(page(), PAGES),
        kind in kind(),
        fill in prop_oneof![Just(Fill::All), Just(Fill::Nothing)],
        guests in prop::collection::vec(touches(PAGES), 3),
        prefetch in prop::collection::hash_set(0..PAGES as u64, 0..20),
    ) {
        let dir = dir();
        let path = dir.path().join("guest");
        let saved = save(&path, &[("ram0", &pages)]).remove(0);
        let reader = open(&path);
        let memory = Memory::new(kind, saved.len()).unwrap();
        let prefetch = WorkingSet::new("ram0", 4096, PAGES as u64, prefetch.into_iter().collect()).unwrap();
        let options = FaultOptions::new().fill(fill).channels(2).prefetch(vec![prefetch]);
        let handler = start(options, &reader, &memory, PAGE);
        std::thread::scope(|scope| {
            for (guest, touches) in guests.iter().enumerate() {
                let (memory, saved) = (&memory, &saved);
                scope.spawn(move || {
                    for touch in touches {
                        // Each guest has bytes of its own in every page.
                        match *touch {
                            Touch::Read(page) => {
                                let at = page * PAGE + 2000 + guest;
                                assert_eq!(memory.read(at), saved[at], "page {page}");
                            }
                            Touch::Write(page, byte) => memory.write(page * PAGE + guest, byte),
                        }
                    }
                });
            }
        });
        let mut expected = saved;
        let mut touched = BTreeSet::new();
        for (guest, touches) in guests.iter().enumerate() {
            for touch in touches {
                match *touch {
                    Touch::Read(page) => { touched.insert(page); }
                    Touch::Write(page, byte) => {
                        touched.insert(page);
                        expected[page * PAGE + guest] = byte;
                    }
                }
            }
        }
        if fill == Fill::All {
            prop_assert_eq!(handler.wait().unwrap().ending, Ending::Complete);
        }
        expect_same(&memory.all(), &expected, "memory");
        let present = pages.iter().filter(|page| matches!(page, Page::Present(_))).count() as u64;
        let report = handler.stop();
        let counters = report.counters;
        // Reading all of it has asked for the rest.
        prop_assert_eq!(report.ending, Ending::Complete);
        prop_assert_eq!((counters.present, counters.missing, counters.lost), (present, 0, 0));
        prop_assert_eq!(counters.on_demand + counters.in_background, present, "{:?}", counters);
        prop_assert!(counters.zero_pages <= PAGES as u64 - present);
        expect_sum(&counters);
        expect_same(&memory.all(), &expected, "memory without a handler");
    }

    /// With nobody but the guest, what is recorded is what was asked for, in order, each page once; and it serves every way back.
    #[test]
    fn the_order_of_first_asks_is_kept(
        pages in prop::collection::vec(page(), PAGES),
        asks in prop::collection::vec(0..PAGES, 1..100),
    ) {
        let dir = dir();
        let path = dir.path().join("guest");
        let saved = save(&path, &[("ram0", &pages)]).remove(0);
        let reader = open(&path);
        let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
        let handler = start(FaultOptions::new().fill(Fill::Nothing).record(true), &reader, &memory, PAGE);
        let mut order = Vec::new();
        for page in asks {
            prop_assert_eq!(memory.read(page * PAGE), saved[page * PAGE]);
            if !order.contains(&(page as u64)) {
                order.push(page as u64);
            }
        }
        let sets = handler.working_sets().unwrap();
        prop_assert_eq!(sets.len(), 1);
        prop_assert_eq!((sets[0].block(), sets[0].page_size()), ("ram0", 4096));
        prop_assert_eq!(sets[0].order(), &order[..]);
        drop(handler);

        let file = dir.path().join("set");
        WorkingSet::write_file(&file, &sets).unwrap();
        let sets = WorkingSet::read_file(&file).unwrap();
        let mapping = MapOptions::new().prefetch(Prefetch::Ordered(sets[0].clone()));
        let mut mapping = mapping.map(reader.block("ram0").unwrap()).unwrap();
        mapping.wait_for_prefetch().unwrap();

        let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
        let options = FaultOptions::new().fill(Fill::Nothing).channels(1).prefetch(sets);
        let handler = start(options, &reader, &memory, PAGE);
        let wanted = order.iter().filter(|page| matches!(pages[usize::try_from(**page).unwrap()], Page::Present(_))).count();
        while handler.counters().in_background < wanted as u64 {
            std::thread::yield_now();
        }
        for page in order {
            let at = usize::try_from(page).unwrap() * PAGE;
            prop_assert_eq!(memory.read(at), saved[at]);
        }
        prop_assert_eq!(handler.counters().on_demand, 0);
        prop_assert_eq!(handler.counters().in_background, wanted as u64);
    }

    /// What the guest gives up is zeros from then on, filled or not, raced or not.
    #[test]
    fn what_is_given_up_is_zeros(
        pages in prop::collection::vec(page(), PAGES),
        kind in prop_oneof![Just(Kind::Private), Just(Kind::Memfd)],
        gaps in prop::collection::vec((0..PAGES - 10, 1_usize..10), 1..8),
        fill in prop_oneof![Just(Fill::All), Just(Fill::Nothing)],
    ) {
        let dir = dir();
        let path = dir.path().join("guest");
        let mut saved = save(&path, &[("ram0", &pages)]).remove(0);
        let reader = open(&path);
        let memory = Memory::new(kind, saved.len()).unwrap();
        let handler = start(FaultOptions::new().fill(fill).channels(2), &reader, &memory, PAGE);
        for (first, count) in gaps {
            let (at, length) = (first * PAGE, count * PAGE);
            if kind == Kind::Private {
                memory.give_up(at, length);
            } else {
                // MADV_DONTNEED only forgets the mapping of shared memory; this one frees it.
                // SAFETY: inside the mapping, never a reference.
                let done = unsafe { nix::libc::madvise(memory.at(at).cast(), length, nix::libc::MADV_REMOVE) };
                prop_assert_eq!(done, 0);
            }
            saved[at..at + length].fill(0);
            prop_assert_eq!(memory.read(at), 0);
        }
        expect_same(&memory.all(), &saved, "memory");
        expect_sum(&handler.stop().counters);
        expect_same(&memory.all(), &saved, "memory without a handler");
    }
}

/// Needs huge pages: asks for some, and FAILS where there are none.
#[test]
fn huge_pages_are_filled_whole() {
    let _pool = crate::memory::HugePages::take(8);
    let dir = dir();
    let path = dir.path().join("guest");
    let per_huge = HUGE / PAGE;
    // One is dense, one absent with stale bytes, one has a single page, one every other.
    let pages: Vec<Page> = (0..4 * per_huge)
        .map(|page| match page / per_huge {
            0 => Page::Present(u8::try_from(page % 99).unwrap() + 1),
            1 => Page::Stale(7),
            2 if page % per_huge == 300 => Page::Present(9),
            2 => Page::Absent,
            _ if page % 2 == 0 => Page::Present(3),
            _ => Page::Stale(4),
        })
        .collect();
    let saved = save(&path, &[("ram0", &pages)]).remove(0);
    let reader = open(&path);
    let kinds = [Kind::Huge, Kind::HugeMemfd];
    for (kind, fill) in kinds.into_iter().flat_map(|kind| [(kind, Fill::Nothing), (kind, Fill::All)]) {
        let memory = Memory::new(kind, saved.len()).unwrap_or_else(|error| {
            panic!("NOT TESTED with huge pages of {kind:?}: {error}");
        });
        let handler = start(FaultOptions::new().fill(fill).channels(2), &reader, &memory, HUGE);
        memory.write(HUGE + 5, 77);
        memory.write(3 * HUGE + 5, 78);
        let mut expected = saved.clone();
        (expected[HUGE + 5], expected[3 * HUGE + 5]) = (77, 78);
        expect_same(&memory.all(), &expected, "memory");
        assert_eq!(handler.wait().unwrap().ending, Ending::Complete);
        let counters = handler.counters();
        assert_eq!((counters.present, counters.on_demand + counters.in_background), (3, 3), "{counters:?}");
        // The channels may have been through before the guest touched its absent page.
        assert!(counters.zero_pages == 1 || fill == Fill::All && counters.zero_pages == 0, "{counters:?}");
        expect_sum(&counters);
        expect_same(&memory.all(), &expected, "memory without a handler");
    }
}

/// A guest that unmaps a part of its memory and moves another.
#[test]
fn memory_may_be_unmapped_and_moved() {
    let dir = dir();
    let path = dir.path().join("guest");
    let pages: Vec<Page> = (0..32).map(Page::Present).collect();
    let saved = save(&path, &[("ram0", &pages)]).remove(0);
    let reader = open(&path);
    let memory = std::mem::ManuallyDrop::new(Memory::new(Kind::Private, saved.len()).unwrap());
    let elsewhere = Memory::new(Kind::Private, 8 * PAGE).unwrap();
    let handler = start(FaultOptions::new().fill(Fill::Nothing), &reader, &memory, PAGE);
    // SAFETY: pages 0 to 8 are ours and not used any more.
    unsafe { nix::sys::mman::munmap(memory.start.cast(), 8 * PAGE) }.unwrap();
    assert_eq!(memory.read(8 * PAGE), 8);
    // SAFETY: pages 16 to 24 replace `elsewhere`, which is ours.
    let moved = unsafe {
        nix::libc::mremap(
            memory.at(16 * PAGE).cast(),
            8 * PAGE,
            8 * PAGE,
            nix::libc::MREMAP_MAYMOVE | nix::libc::MREMAP_FIXED,
            elsewhere.start.as_ptr().cast::<nix::libc::c_void>(),
        )
    };
    assert_eq!(moved.cast(), elsewhere.start.as_ptr());
    for page in 0..8 {
        assert_eq!(elsewhere.read(page * PAGE), saved[(16 + page) * PAGE]);
        assert_eq!(memory.read((8 + page) * PAGE), saved[(8 + page) * PAGE]);
        assert_eq!(memory.read((24 + page) * PAGE), saved[(24 + page) * PAGE]);
    }
    let report = handler.stop();
    assert_eq!(report.ending, Ending::Complete);
    assert_eq!((report.counters.unmapped, report.counters.on_demand), (8, 24), "{:?}", report.counters);
    // SAFETY: what is left of our mapping.
    unsafe {
        nix::sys::mman::munmap(memory.start.byte_add(8 * PAGE).cast(), 8 * PAGE).unwrap();
        nix::sys::mman::munmap(memory.start.byte_add(24 * PAGE).cast(), 8 * PAGE).unwrap();
    }
}

/// The kernel puts nothing across the end of a mapping, and says the same as where none is: nobody may take that for memory that is gone.
#[test]
fn memory_that_fell_into_many_mappings_is_filled_whole() {
    let dir = dir();
    let path = dir.path().join("guest");
    let pages: Vec<Page> = (0..300).map(|page| Page::Present(u8::try_from(page % 99).unwrap() + 1)).collect();
    let saved = save(&path, &[("ram0", &pages)]).remove(0);
    let reader = open(&path);
    for kind in [Kind::Private, Kind::Anonymous, Kind::Memfd] {
        for alone in [&[5][..], &[0, 2, 15, 16, 17, 40, 299], &[31, 33, 35, 37, 39, 128, 200]] {
            let memory = Memory::new(kind, saved.len()).unwrap();
            for page in alone {
                memory.split_off(page * PAGE);
            }
            let handler = start(FaultOptions::new().channels(2), &reader, &memory, PAGE);
            let report = handler.wait().unwrap();
            assert_eq!((report.ending, report.counters.unmapped), (Ending::Complete, 0), "{report:?}");
            drop(handler);
            expect_same(&memory.all(), &saved, "memory");
        }
    }
}

/// What is still missing is a hole of the memory's file, and no page that was never touched: a save has it filled.
#[test]
fn memory_that_is_still_being_filled_is_saved_whole() {
    let dir = dir();
    let (path, again) = (dir.path().join("guest"), dir.path().join("again"));
    let saved = save(&path, &[("ram0", &[Page::Present(3); 600])]).remove(0);
    let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
    let handler = start(FaultOptions::new().fill(Fill::Nothing), &open(&path), &memory, PAGE);
    assert_eq!(memory.read(0), 3);
    let file = std::sync::Arc::new(std::fs::File::from(memory.fd.as_ref().unwrap().try_clone().unwrap()));
    // SAFETY: mapped as long as the save takes.
    let block =
        unsafe { RamBlock::from_raw("ram0", memory.start.as_ptr(), memory.length) }.backed_by(file, 0);
    SaveOptions::new().save(&again, vec![block]).unwrap();
    drop(handler);
    let mut back = vec![0; saved.len()];
    open(&again).block("ram0").unwrap().read_at(0, &mut back).unwrap();
    expect_same(&back, &saved, "what was saved");
}

/// Memory that was touched before is left as it is.
#[test]
fn pages_that_are_there_are_kept() {
    let dir = dir();
    let path = dir.path().join("guest");
    let pages: Vec<Page> = (0..64).map(|page| Page::Present(page + 1)).collect();
    let mut saved = save(&path, &[("ram0", &pages)]).remove(0);
    let reader = open(&path);
    for kind in [Kind::Private, Kind::Memfd] {
        let memory = Memory::new(kind, saved.len()).unwrap();
        for page in [0, 5, 6, 63] {
            memory.write(page * PAGE, 200);
            saved[page * PAGE..(page + 1) * PAGE].fill(0);
            saved[page * PAGE] = 200;
        }
        let handler = start(FaultOptions::new(), &reader, &memory, PAGE);
        assert_eq!(handler.wait().unwrap().counters.already_there, 4);
        expect_same(&memory.all(), &saved, "memory");
    }
}
