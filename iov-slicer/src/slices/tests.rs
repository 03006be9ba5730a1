//! The ways to a write against one another, and against what is looked at one by one.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::slice;

/// Segments as (gap, length): mostly back to back, and few of them empty or as long as memory.
fn segments() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let gap = prop_oneof![60 => Just(0_usize), 1 => 1_usize..50];
    let length =
        prop_oneof![60 => 1_usize..5000, 1 => Just(0), 1 => 1_usize << 30..1 << 40, 1 => any::<usize>()];
    prop::collection::vec((gap, length), 0..50).prop_map(|steps| {
        let mut end = 1000_usize;
        let place = |(gap, length): (usize, usize)| {
            let addr = end.wrapping_add(gap);
            end = addr.wrapping_add(length);
            (addr, length)
        };
        steps.into_iter().map(place).collect()
    })
}

/// One by one.
fn naive(
    segments: &[(usize, usize)],
    mut end: usize,
    limit: usize,
    mut iovecs: usize,
) -> (usize, usize, Stop) {
    for (taken, (addr, len)) in segments.iter().enumerate().filter(|(_, (_, len))| *len != 0) {
        let stop = match () {
            () if *addr != end => Stop::Natural,
            () if iovecs == 0 => Stop::Iovecs,
            () if *len > limit - end => Stop::Bytes,
            () => {
                iovecs -= 1;
                end += len;
                continue;
            }
        };
        return (taken, end, stop);
    }
    (segments.len(), end, Stop::Natural)
}

proptest! {
    #[test]
    fn eight_at_a_time_is_as_one_by_one(
        segments in segments(),
        limit in prop_oneof![1000_usize..200_000, Just(usize::MAX)],
        iovecs in prop_oneof![0_usize..60, Just(usize::MAX)],
    ) {
        let run = extend(&segments, 1000, limit, iovecs);
        let (taken, end, stop) = naive(&segments, 1000, limit, iovecs);
        prop_assert!(run.stop == stop);
        prop_assert_eq!(run.end, end);
        // Empty ones at the end may be counted or not: they have no bytes.
        let between = run.taken.min(taken)..run.taken.max(taken);
        prop_assert!(segments[between].iter().all(|(_, len)| *len == 0));
    }

    /// The short ways give what the long one gives, which is checked against bytes in `tests/slices.rs`; and lists that
    /// are mostly of one kind, so that each of them is gone.
    #[test]
    fn writes_seen_ahead_and_short_runs_are_as_by_a_close_look(
        kinds in prop::collection::vec((0_usize..5, 1_usize..100, 1_usize..40), 0..6),
        max_bytes in prop_oneof![1_u64..3000, Just(1 << 40)],
        max_iovecs in prop_oneof![1_usize..12, Just(1024)],
        merge in any::<bool>(),
        bad in prop::option::weighted(0.3, (any::<prop::sample::Index>(), 0_usize..200_000, 1_usize..200_000)),
    ) {
        let mut segments = Vec::new();
        let mut end = 0x1000;
        for (kind, count, len) in kinds {
            for index in 0..count {
                let (gap, len) = match kind {
                    0 => (1, len),
                    1 => (0, len),
                    2 => (usize::from(index % len == 0), 1 + index % 3),
                    3 => (index % 2, index % 5),
                    _ => (0, usize::from(index % 7 != 0)),
                };
                segments.push((end + gap, len));
                end += gap + len;
            }
        }
        let block = Block::new(0x1000, to_u64(end - 0x1000), 77).unwrap();
        if let Some((at, addr, len)) = bad {
            segments.insert(at.index(segments.len() + 1), (addr, len));
        }
        let limits = Limits::new(16).max_bytes(max_bytes).max_iovecs(max_iovecs).merge(merge);
        let slices = slice(&block, &limits, &segments);
        let shown = |item: Result<Write<'_, (usize, usize)>, SliceError>| {
            item.map(|write| (write.offset, write.addr, write.len, write.first_index, write.iovecs().collect::<Vec<_>>()))
        };
        let mut close = slices.clone();
        let by_close_looks = core::iter::from_fn(|| {
            let (index, skip, item) = close.clone().find();
            (close.index, close.skip) = (index, skip);
            item
        });
        prop_assert_eq!(slices.map(shown).collect::<Vec<_>>(), by_close_looks.map(shown).collect::<Vec<_>>());
    }

    /// Else the short way is never taken, which only a clock would notice, or taken beyond a limit or the block's end.
    #[test]
    fn a_short_run_is_taken_whole_if_no_limit_is_near(
        lengths in prop::collection::vec(1_usize..100, 1..12),
        (before, behind) in (0_usize..300, 0_usize..300),
        what_follows in 0..4,
        max_bytes in prop_oneof![1_u64..700, Just(1 << 40)],
        max_iovecs in 1_usize..14,
        merge in any::<bool>(),
        is_begun in prop::bool::weighted(0.1),
    ) {
        let start = 1000 + before;
        let mut end = start;
        let mut segments: Vec<(usize, usize)> = Vec::new();
        for len in &lengths {
            segments.push((end, *len));
            end += len;
        }
        match what_follows {
            0 => {}
            1 => segments.push((end + 1, 5)),
            2 => segments.push((end - 1, 5)),
            _ => segments.push((7, 0)),
        }
        // The run may leave the block, or just not.
        let used = (end - 1000 + behind).saturating_sub(if behind % 3 == 0 { behind + 1 } else { 0 });
        let block = Block::new(1000, to_u64(used), 0).unwrap();
        let limits = Limits::new(16).max_bytes(max_bytes).max_iovecs(max_iovecs).merge(merge);
        let mut slices = slice(&block, &limits, &segments);
        slices.skip = usize::from(is_begun);
        let fits = end <= 1000 + used
            && to_u64(end - start) <= max_bytes
            && (merge || lengths.len() <= max_iovecs);
        let is_taken = fits && !is_begun && (2..=STRIDE).contains(&lengths.len()) && what_follows != 3;
        prop_assert_eq!(slices.short_run(), is_taken.then_some((end, lengths.len())));
    }

    #[test]
    fn what_is_alone_has_a_gap_behind_it(
        // So few that are not, that some lists have more than one looks ahead before the first, and one at that very place.
        steps in prop::collection::vec(
            (prop_oneof![1 => Just(0_usize), 100 => 1_usize..5], prop_oneof![1 => Just(0_usize), 200 => 1_usize..15]),
            0..2 * AHEAD,
        ),
        joined in prop::option::of(AHEAD - 2..AHEAD + 3),
        short in 0_usize..30,
        longest in 15_usize..25,
    ) {
        let mut end = 1000;
        let mut place = |(gap, len): (usize, usize)| {
            let addr = end + gap;
            end = addr + len;
            (addr, len)
        };
        let steps = steps.into_iter().enumerate();
        let segments: Vec<(usize, usize)> =
            steps.map(|(index, (gap, len))| place((if joined == Some(index) { 0 } else { gap }, len))).collect();
        let used = (end - 1000).saturating_sub(short);
        let block = Block::new(1000, to_u64(used), 0).unwrap();
        let longest = longest.min(used);
        let is_alone = |index: usize| {
            let (addr, len) = segments[index];
            let is_apart = segments.get(index + 1).is_none_or(|(next, bytes)| *bytes != 0 && *next != addr + len);
            len != 0 && len <= longest && addr + len <= 1000 + used && is_apart
        };
        let count = alone(&segments, &block, longest);
        prop_assert!((0..count).all(is_alone), "{count} of {segments:?}");
        // It may stop one short of one that it does not like, or of what it did not look at.
        let all = (0..segments.len()).take_while(|index| is_alone(*index)).count();
        prop_assert!(count + 1 >= all.min(AHEAD), "{count} of {all} in {segments:?}");
    }

    /// Else the way of eight is never taken, which only a clock would notice.
    #[test]
    fn eight_that_fit_are_seen_at_a_glance(
        lengths in prop::array::uniform8(1_usize..1 << 40),
        (gap, at) in (prop_oneof![Just(0_usize), 1_usize..9], 0_usize..8),
        short in 0_usize..3,
    ) {
        let mut end = 1000;
        let segments: Vec<(usize, usize)> = lengths
            .iter()
            .enumerate()
            .map(|(index, len)| {
                let addr = end + if index == at { gap } else { 0 };
                end = addr + len;
                (addr, *len)
            })
            .collect();
        let all = all_of(segments.first_chunk().unwrap(), 1000, end - short);
        prop_assert_eq!(all, (gap == 0 && short == 0).then_some(end));
    }
}

#[test]
fn the_rest_of_a_write_begins_in_the_segment_that_it_is_in() {
    let block = Block::new(0, 0x1_0000, 0x1000).unwrap();
    let segments = [(0, 100), (100, 0), (100, 100), (200, 300)];
    let limits = Limits::new(16).merge(false);
    let write = slice(&block, &limits, &segments).next().unwrap().unwrap();
    let rest = write.advance(150).unwrap();
    assert_eq!((rest.offset, rest.addr, rest.len, rest.first_index), (0x1000 + 150, 150, 350, 2));
    assert_eq!(rest.iovecs().collect::<Vec<_>>(), [(150, 50), (200, 300)]);
    let rest = rest.advance(50).unwrap();
    assert_eq!(rest.iovecs().collect::<Vec<_>>(), [(200, 300)]);
    assert_eq!(rest.first_index, 3);
}

#[test]
fn a_segment_that_leaves_the_block_is_not_begun_at_a_limit_in_bytes() {
    let block = Block::new(0, 1024, 0).unwrap();
    let limits = Limits::new(16).max_bytes(160);
    let segments = [(0, 100), (100, 2000)];
    let mut writes = slice(&block, &limits, &segments);
    let first = writes.next().unwrap().unwrap();
    assert_eq!((first.addr, first.len), (0, 100));
    assert_eq!(writes.next().unwrap().unwrap_err().index, 1);
    assert!(writes.next().is_none());
}
