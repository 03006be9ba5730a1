//! Every detector against a look at each byte.

use mapped_ram::zero::{Detector, InstructionSet, is_zero_slice};
use proptest::prelude::*;

fn detectors() -> Vec<Detector> {
    let all: Vec<Detector> = InstructionSet::available().map(|set| Detector::with(set).unwrap()).collect();
    assert!(all.iter().any(|detector| detector.instruction_set() == InstructionSet::Portable));
    all
}

fn naive(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// `bytes` right before a page that may not be read, so that a step too far is a fault.
struct Guarded {
    start: *mut u8,
    mapped: usize,
    offset: usize,
    length: usize,
}

impl Guarded {
    fn new(bytes: &[u8]) -> Self {
        let length = bytes.len();
        let mapped = length.next_multiple_of(4096) + 4096;
        // SAFETY: a fresh private mapping; its last page is made inaccessible, the bytes end where that page begins.
        unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            let start = start.cast::<u8>();
            assert_eq!(libc::mprotect(start.add(mapped - 4096).cast(), 4096, libc::PROT_NONE), 0);
            let offset = mapped - 4096 - length;
            start.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), length);
            Self { start, mapped, offset, length }
        }
    }

    fn at(&self) -> *const u8 {
        self.start.wrapping_add(self.offset)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.start.cast(), self.mapped) };
    }
}

proptest! {
    #[test]
    fn any_bytes_of_any_length_anywhere(
        length in 0_usize..3000,
        shift in 0_usize..70,
        set in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..3),
    ) {
        let mut bytes = vec![0; length + shift];
        for (place, value) in set {
            if length > 0 {
                bytes[shift + place.index(length)] = value;
            }
        }
        // What stands before must not matter.
        bytes[..shift].fill(0xFF);
        let expected = naive(&bytes[shift..]);
        prop_assert_eq!(is_zero_slice(&bytes[shift..]), expected);
        let guarded = Guarded::new(&bytes[shift..]);
        for detector in detectors() {
            // SAFETY: both are alive, and as long as said.
            unsafe {
                prop_assert_eq!(detector.is_zero(bytes[shift..].as_ptr(), length), expected, "{:?}", detector);
                prop_assert_eq!(detector.is_zero(guarded.at(), guarded.length), expected, "{:?}", detector);
            }
        }
    }

    #[test]
    fn scans_find_the_pages_in_use(
        pages in 0_usize..200,
        page_size in prop_oneof![Just(256_usize), Just(512), Just(4096)],
        used in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u32..8), 0..40),
        garbage in any::<u64>(),
    ) {
        let mut bytes = vec![0; pages * page_size];
        let mut expected = vec![0_u64; pages.div_ceil(64)];
        for (page, place, bit) in used {
            if pages > 0 {
                let page = page.index(pages);
                bytes[page * page_size + place.index(page_size)] |= 1 << bit;
                expected[page / 64] |= 1 << (page % 64);
            }
        }
        let guarded = Guarded::new(&bytes);
        for detector in detectors() {
            // One word more than needed: it must stay as it was, and the needed ones be written whole.
            let mut words = vec![garbage; pages.div_ceil(64) + 1];
            // SAFETY: alive, and as long as said.
            unsafe { detector.scan(guarded.at(), page_size, pages, &mut words) };
            prop_assert_eq!(words.pop(), Some(garbage));
            prop_assert_eq!(&words, &expected, "{:?}", detector);
        }
    }
}

#[test]
fn a_single_bit_is_found_wherever_it_is() {
    let mut page = vec![0; 4096];
    for detector in detectors() {
        for place in 0..page.len() {
            for bit in 0..8 {
                page[place] = 1 << bit;
                // SAFETY: `page` is borrowed for longer than the call.
                let zero = unsafe { detector.is_zero(page.as_ptr(), page.len()) };
                assert!(!zero, "{detector:?}: byte {place} bit {bit}");
            }
            page[place] = 0;
        }
        // SAFETY: as above.
        assert!(unsafe { detector.is_zero(page.as_ptr(), page.len()) });
    }
}

#[test]
#[should_panic(expected = "1 words for 65 pages")]
fn too_few_words_are_refused() {
    let bytes = vec![0; 65 * 256];
    // SAFETY: `bytes` is borrowed for longer than the call.
    unsafe { Detector::best().scan(bytes.as_ptr(), 256, 65, &mut [0]) };
}
