//! Every instruction set of this processor against `iter().all(|byte| *byte == 0)`.
//!
//! All memory that is looked at lies between two pages that cannot be read, and cannot be written itself: a load
//! outside the range, or anything but a load, ends the test.

use mapped_ram::zero::{Detector, InstructionSet};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use proptest::prelude::*;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A size that every memory page of the machines we run on divides.
const GUARD: usize = 64 << 10;
/// What words hold before they are written: their neighbours must keep it.
const STALE: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// Memory of whole guards' length between two guards.
struct Guarded {
    map: NonNull<c_void>,
    room: usize,
}

impl Guarded {
    fn new(len: usize) -> Self {
        let room = len.max(1).next_multiple_of(GUARD);
        let all = NonZeroUsize::new(room + 2 * GUARD).unwrap();
        // SAFETY: a new mapping, at an address that the kernel picks.
        let map = unsafe { mmap_anonymous(None, all, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }.unwrap();
        let mut memory = Self { map, room };
        memory.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        memory
    }

    fn protect(&mut self, flags: ProtFlags) {
        // SAFETY: the range between the guards, of which no reference is alive.
        unsafe { mprotect(self.map.byte_add(GUARD), self.room, flags) }.unwrap();
    }

    /// The bytes between the guards, which can only be read from then on.
    fn with(bytes: &[u8], place: Place) -> (Self, *const u8) {
        let mut memory = Self::new(bytes.len() + place.away());
        let at = match place {
            Place::BehindTheFirstGuard { away } => away,
            Place::BeforeTheLastGuard { away } => memory.room - away - bytes.len(),
        };
        // What is around the bytes is set: whoever takes it for theirs is found out.
        // SAFETY: the room is ours and writable.
        let room = unsafe { slice::from_raw_parts_mut(memory.start(), memory.room) };
        room.fill(0xff);
        room[at..][..bytes.len()].copy_from_slice(bytes);
        memory.protect(ProtFlags::PROT_READ);
        let start = memory.start().wrapping_add(at).cast_const();
        (memory, start)
    }

    fn start(&self) -> *mut u8 {
        self.map.as_ptr().cast::<u8>().wrapping_add(GUARD)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping.
        unsafe { munmap(self.map, self.room + 2 * GUARD) }.unwrap();
    }
}

/// Where bytes lie, so that their start or their end takes every alignment and touches a guard.
#[derive(Clone, Copy, Debug)]
enum Place {
    BehindTheFirstGuard { away: usize },
    BeforeTheLastGuard { away: usize },
}

impl Place {
    fn away(self) -> usize {
        match self {
            Self::BehindTheFirstGuard { away } | Self::BeforeTheLastGuard { away } => away,
        }
    }

    fn any() -> impl Strategy<Value = Self> {
        let away = prop_oneof![2 => Just(0_usize), 1 => 0..130_usize];
        (away, any::<bool>()).prop_map(|(away, first)| {
            if first { Self::BehindTheFirstGuard { away } } else { Self::BeforeTheLastGuard { away } }
        })
    }
}

fn detectors() -> Vec<Detector> {
    InstructionSet::available().map(|set| Detector::with(set).expect("it is said to be available")).collect()
}

/// The words that a scan must leave, from words that were all stale.
fn model(bytes: &[u8], page_size: usize, words: usize) -> Vec<u64> {
    let mut model = vec![STALE; words];
    for (index, page) in bytes.chunks(page_size).enumerate() {
        let word = &mut model[index / 64];
        if index % 64 == 0 {
            *word = 0;
        }
        if !page.iter().all(|byte| *byte == 0) {
            *word |= 1 << (index % 64);
        }
    }
    model
}

#[derive(Clone, Debug)]
enum Page {
    Zero,
    OneBit { position: prop::sample::Index, bit: u32 },
    Full(u8),
}

impl Page {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            4 => Just(Self::Zero),
            3 => (any::<prop::sample::Index>(), 0..8_u32).prop_map(|(position, bit)| Self::OneBit { position, bit }),
            1 => (1..=u8::MAX).prop_map(Self::Full),
        ]
    }

    fn fill(&self, page: &mut [u8]) {
        match self {
            Self::Zero => {}
            Self::OneBit { position, bit } => page[position.index(page.len())] = 1 << bit,
            Self::Full(byte) => page.fill(*byte),
        }
    }
}

/// A page size and pages of it, at most about 2 MiB, the last one perhaps short.
fn ram(page_sizes: impl Strategy<Value = usize>) -> impl Strategy<Value = (usize, Vec<u8>)> {
    page_sizes
        .prop_flat_map(|page_size| {
            let most = ((2 << 20) / page_size).min(200);
            (Just(page_size), prop::collection::vec(Page::any(), 0..=most), any::<prop::sample::Index>())
        })
        .prop_map(|(page_size, pages, short)| {
            let mut bytes = vec![0; page_size * pages.len()];
            for (page, bytes) in pages.iter().zip(bytes.chunks_mut(page_size)) {
                page.fill(bytes);
            }
            // Half of the time the last page is cut.
            let cut = short.index(2 * page_size).saturating_sub(page_size).min(bytes.len());
            bytes.truncate(bytes.len() - cut);
            (page_size, bytes)
        })
}

fn check_scan(page_size: usize, bytes: &[u8], place: Place) -> Result<(), TestCaseError> {
    let whole = bytes.len() / page_size;
    let (_memory, start) = Guarded::with(&bytes[..whole * page_size], place);
    // One word more than is used, which must stay as it is.
    let words = whole.div_ceil(64) + 1;
    let expected = model(&bytes[..whole * page_size], page_size, words);
    for detector in detectors() {
        let mut found = vec![STALE; words];
        // SAFETY: the pages lie between the guards.
        unsafe { detector.scan(start, page_size, whole, &mut found) };
        prop_assert_eq!(&found, &expected, "{:?}", detector);
    }
    Ok(())
}

fn check_scan_slice(page_size: usize, bytes: &[u8], place: Place) -> Result<(), TestCaseError> {
    let (_memory, start) = Guarded::with(bytes, place);
    // SAFETY: the bytes lie between the guards; nobody writes there.
    let guarded = unsafe { slice::from_raw_parts(start, bytes.len()) };
    let words = bytes.len().div_ceil(page_size).div_ceil(64) + 1;
    let expected = model(bytes, page_size, words);
    for detector in detectors() {
        let mut found = vec![STALE; words];
        detector.scan_slice(guarded, page_size, &mut found);
        prop_assert_eq!(&found, &expected, "{:?}", detector);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_scan_finds_the_pages_with_data((page_size, bytes) in ram((8..17_u32).prop_map(|bits| 1 << bits)), place in Place::any()) {
        check_scan(page_size, &bytes, place)?;
        check_scan_slice(page_size, &bytes, place)?;
    }

    #[test]
    fn a_scan_takes_any_page_size((page_size, bytes) in ram(prop_oneof![1..600_usize, (1..20_usize).prop_map(|n| n * 256)]), place in Place::any()) {
        check_scan(page_size, &bytes, place)?;
        check_scan_slice(page_size, &bytes, place)?;
    }

    #[test]
    fn any_range_is_zero_or_not(len in prop_oneof![0..1200_usize, 0..20_000_usize], page in Page::any(), place in Place::any()) {
        let mut bytes = vec![0; len];
        if len > 0 {
            page.fill(&mut bytes);
        }
        let (_memory, start) = Guarded::with(&bytes, place);
        let expected = bytes.iter().all(|byte| *byte == 0);
        for detector in detectors() {
            // SAFETY: the bytes lie between the guards.
            let found = unsafe { detector.is_zero(start, len) };
            prop_assert_eq!(found, expected, "{:?}", detector);
            // SAFETY: as above; nobody writes there.
            let guarded = unsafe { slice::from_raw_parts(start, len) };
            prop_assert_eq!(detector.is_zero_slice(guarded), expected, "{:?}", detector);
        }
    }
}

#[test]
fn a_single_bit_is_found_wherever_it_is() {
    for page_size in [256, 512, 4096] {
        let mut bytes = vec![0; 3 * page_size];
        for bit in 0..page_size * 8 {
            bytes[page_size + bit / 8] = 1 << (bit % 8);
            for detector in detectors() {
                let mut words = [STALE];
                detector.scan_slice(&bytes, page_size, &mut words);
                assert_eq!(words, [0b010], "{detector:?}, page size {page_size}, bit {bit}");
                assert!(!detector.is_zero_slice(&bytes[page_size..2 * page_size]), "{detector:?}, bit {bit}");
            }
            bytes[page_size + bit / 8] = 0;
        }
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_single_byte_is_found_at_every_end_and_alignment() {
    // Every length around the grain and its double, every alignment to a cache line, every position.
    let mut room = vec![0_u8; 64 + 600];
    for len in [1, 7, 8, 9, 63, 64, 65, 255, 256, 257, 319, 320, 511, 512, 513] {
        for away in 0..64 {
            for detector in detectors() {
                assert!(
                    detector.is_zero_slice(&room[away..][..len]),
                    "{detector:?}, {len} bytes from {away}"
                );
            }
            for position in (0..len).filter(|at| *at < 16 || len - at < 16 || at % 29 == 0) {
                room[away + position] = 0x80;
                for detector in detectors() {
                    let found = detector.is_zero_slice(&room[away..][..len]);
                    assert!(!found, "{detector:?}, {len} bytes from {away}, set at {position}");
                }
                room[away + position] = 0;
            }
        }
    }
}

#[test]
fn a_word_holds_64_pages() {
    let page_size = 256;
    for pages in [0, 1, 2, 63, 64, 65, 127, 128, 129, 1000] {
        for fill in [0, 1] {
            let bytes = vec![fill; pages * page_size];
            let words = pages.div_ceil(64) + 1;
            for detector in detectors() {
                let mut found = vec![STALE; words];
                detector.scan_slice(&bytes, page_size, &mut found);
                assert_eq!(found, model(&bytes, page_size, words), "{detector:?}, {pages} pages of {fill}");
            }
        }
    }
}

#[test]
fn memory_that_is_written_meanwhile_does_not_disturb_its_neighbours() {
    const PAGE: usize = 4096;
    const PAGES: usize = 192;
    // Page i is: 0 zero, 1 one late byte, 2 written all the time, 3 written all the time but for a byte that stays.
    let memory = Guarded::new(PAGE * PAGES);
    // SAFETY: the room is ours, aligned for a u64, and reached through these atomics and the detector alone.
    let cells = unsafe {
        let start = memory.map.as_ptr().wrapping_byte_add(GUARD).cast::<AtomicU64>();
        slice::from_raw_parts(start, PAGE * PAGES / 8)
    };
    let page = |index: usize| &cells[index * PAGE / 8..][..PAGE / 8];
    for index in 0..PAGES {
        if index % 4 % 2 == 1 {
            page(index)[PAGE / 8 - 1].store(1 << 63, Ordering::Relaxed);
        }
    }

    let (stop, both_run) = (AtomicBool::new(false), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 1_u64;
            both_run.wait();
            while !stop.load(Ordering::Relaxed) {
                for index in (0..PAGES).filter(|index| index % 4 >= 2) {
                    for cell in page(index).iter().rev().skip(1).step_by(37) {
                        cell.store(value, Ordering::Relaxed);
                    }
                }
                // Every other round leaves only zeros behind.
                value = if value == 0 { u64::MAX } else { 0 };
            }
        });
        both_run.wait();
        let scanned = std::panic::catch_unwind(|| {
            for detector in detectors() {
                for _ in 0..200 {
                    let mut words = [STALE; PAGES / 64];
                    // SAFETY: the pages lie between the guards; they are written through atomics alone.
                    unsafe { detector.scan(memory.start(), PAGE, PAGES, &mut words) };
                    for word in words {
                        assert_eq!(word & 0xbbbb_bbbb_bbbb_bbbb, 0xaaaa_aaaa_aaaa_aaaa, "{detector:?}");
                    }
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        scanned.unwrap();
    });
}

#[test]
fn what_is_available_can_be_used() {
    let available: Vec<_> = InstructionSet::available().collect();
    assert_eq!(available.last(), Some(&InstructionSet::Portable));
    assert_eq!(available.first(), Some(&Detector::best().instruction_set()));
    assert_eq!(available.first(), Some(&Detector::default().instruction_set()));
    let all = [
        (InstructionSet::Avx512, "avx512"),
        (InstructionSet::Avx2, "avx2"),
        (InstructionSet::Sse2, "sse2"),
        (InstructionSet::Neon, "neon"),
        (InstructionSet::Portable, "portable"),
    ];
    for (set, name) in all {
        assert_eq!(set.name(), name);
        assert_eq!(set.to_string(), name);
        assert_eq!(set.is_available(), available.contains(&set));
        assert_eq!(
            Detector::with(set).map(|detector| detector.instruction_set()),
            set.is_available().then_some(set)
        );
    }
    #[cfg(target_arch = "x86_64")]
    assert!(InstructionSet::Sse2.is_available() && !InstructionSet::Neon.is_available());
    #[cfg(target_arch = "aarch64")]
    assert!(InstructionSet::Neon.is_available() && !InstructionSet::Sse2.is_available());
}

#[test]
#[should_panic(expected = "65 pages need 2 words, not 1")]
fn too_few_words_are_refused() {
    // SAFETY: not a byte is read before the words are counted.
    unsafe { Detector::best().scan(NonNull::dangling().as_ptr(), 4096, 65, &mut [0]) };
}

#[test]
#[should_panic(expected = "need 1 words, not 0")]
fn a_short_last_page_needs_a_word_too() {
    Detector::best().scan_slice(&[0; 100], 4096, &mut []);
}

#[test]
#[should_panic(expected = "a page has at least one byte")]
fn pages_of_no_bytes_are_refused() {
    Detector::best().scan_slice(&[0; 100], 0, &mut [0]);
}
