//! Runs of a bitmap against a look at every bit.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use iov_slicer::{Block, Limits, SliceErrorKind, page_runs, slice_pages};
use proptest::prelude::*;

/// The runs of pages for which `set` says yes, by looking at each.
fn naive(range: Range<u64>, set: impl Fn(u64) -> bool, gap: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for page in range.filter(|page| set(*page)) {
        match runs.last_mut() {
            Some(run) if page - run.end <= gap => run.end = page + 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

fn bit(words: &[u64], page: u64) -> bool {
    words.get(usize::try_from(page / 64).unwrap()).is_some_and(|word| word >> (page % 64) & 1 == 1)
}

/// Words that are empty, full, random, or ragged at their ends.
fn bitmaps() -> impl Strategy<Value = Vec<u64>> {
    let word = prop_oneof![
        3 => Just(0),
        3 => Just(u64::MAX),
        2 => any::<u64>(),
        1 => (0_u32..64).prop_map(|n| u64::MAX << n),
        1 => (0_u32..64).prop_map(|n| u64::MAX >> n),
    ];
    prop::collection::vec(word, 0..12)
}

proptest! {
    #[test]
    fn runs_are_those_of_a_look_at_every_bit(
        words in bitmaps(),
        pages in 0_u64..900,
        start in 0_u64..900,
        len in 0_u64..900,
        gap in prop_oneof![Just(0_u64), 1_u64..80],
        clear in any::<bool>(),
    ) {
        let range = start..(start + len).min(pages).max(start);
        let range = if range.start >= pages { pages..pages } else { range };
        let expected = naive(range, |page| bit(&words, page) != clear, gap);

        let runs = page_runs(&words[..], pages).within(start..start + len).bridged(gap);
        let runs = if clear { runs.clear() } else { runs };
        prop_assert_eq!(runs.collect::<Vec<_>>(), expected.clone());

        let shared: Vec<AtomicU64> = words.iter().copied().map(AtomicU64::new).collect();
        let runs = page_runs(&shared[..], pages).within(start..start + len).bridged(gap);
        let runs = if clear { runs.clear() } else { runs };
        prop_assert_eq!(runs.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn pages_are_written_once_where_they_belong(
        words in bitmaps(),
        used in 1_u64..3000,
        max_bytes in prop_oneof![1_u64..60, Just(0x7fff_f000)],
        pages_offset in 0_u64..1 << 40,
    ) {
        const PAGE: u64 = 8;
        let pages = used.div_ceil(PAGE);
        let block = Block::new(1 << 20, used, pages_offset).unwrap();
        let limits = Limits::new(PAGE).max_bytes(max_bytes);
        let runs = page_runs(&words[..], pages);
        let writes: Result<Vec<_>, _> = slice_pages(&block, &limits, runs.clone()).collect();
        let writes = writes.unwrap();

        let expected: Vec<u64> =
            runs.clone().flat_map(|run| run.start * PAGE..(run.end * PAGE).min(used)).collect();
        let got: Vec<u64> = writes
            .iter()
            .flat_map(|write| {
                let at = write.addr as u64 - (1 << 20);
                assert_eq!(write.offset, pages_offset + at);
                at..at + write.len
            })
            .collect();
        prop_assert_eq!(got, expected);
        for write in &writes {
            prop_assert!(write.len <= max_bytes && write.len > 0);
        }
        // Where not one page fits, no write that was cut reaches into the next page.
        if max_bytes < PAGE {
            for pair in writes.windows(2) {
                let at = pair[0].addr as u64 - (1 << 20);
                let is_cut = pair[0].addr as u64 + pair[0].len == pair[1].addr as u64;
                prop_assert!(!is_cut || at / PAGE == (at + pair[0].len - 1) / PAGE);
            }
        }
        // Where pages fit, every cut is at a page and no write could have been longer by one.
        if max_bytes >= PAGE {
            for pair in writes.windows(2) {
                let joined = pair[0].addr as u64 + pair[0].len == pair[1].addr as u64;
                prop_assert!(!joined || pair[0].len + PAGE > max_bytes);
                prop_assert!(!joined || (pair[1].offset - pages_offset) % PAGE == 0);
            }
        }
    }

    #[test]
    fn a_run_past_the_end_is_an_error_and_the_last_item(pages in 1_u64..100, past in 1_u64..100, start in 0_u64..100) {
        let block = Block::new(1 << 20, pages * 4096, 0).unwrap();
        let bad = start.min(pages)..pages + past;
        let mut writes = slice_pages(&block, &Limits::new(4096), [0..1, bad, 0..1]);
        prop_assert!(writes.next().unwrap().is_ok());
        let error = writes.next().unwrap().unwrap_err();
        prop_assert_eq!((error.index, error.kind), (1, SliceErrorKind::PastEnd));
        prop_assert!(writes.next().is_none());
    }
}

#[test]
fn empty_runs_are_skipped_wherever_they_are() {
    let block = Block::new(1 << 20, 4 * 4096, 0).unwrap();
    let writes = slice_pages(&block, &Limits::new(4096), [0..0, 100..100, 2..3, 4..4]);
    let writes: Vec<_> = writes.map(|write| write.unwrap().offset).collect();
    assert_eq!(writes, [2 * 4096]);
}

#[test]
fn numbers_at_the_end_of_the_range_do_not_overflow() {
    let words = [u64::MAX];
    assert!(page_runs(&words[..], u64::MAX).eq(std::iter::once(0..64)));
    assert!(page_runs(&words[..], u64::MAX).clear().eq(std::iter::once(64..u64::MAX)));
    assert_eq!(page_runs(&words[..], u64::MAX).within(u64::MAX - 1..u64::MAX).count(), 0);
    let block = Block::new(0, 4096, 0).unwrap();
    let far = u64::MAX - 1..u64::MAX;
    assert!(slice_pages(&block, &Limits::new(u64::MAX), std::iter::once(far)).next().unwrap().is_err());
}
