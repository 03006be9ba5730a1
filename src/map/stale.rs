//! Which parts of a block's room in the file must not show, and how each is hidden. No memory is touched here.

use std::io;
use std::ops::Range;

use crate::bitmap::PageBitmap;

/// How many stretches of one block are covered by mappings of their own. Each splits its neighbours, so a block takes at most
/// twice as many and one more of the 65530 mappings that a process may have (`vm.max_map_count`): room for fourteen such
/// blocks, and for the program itself.
pub(super) const COVERS: usize = 2048;

/// Where a block stands in its file, in bytes of the file.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) pages_offset: u64,
    pub(super) length: u64,
    pub(super) page_size: u64,
}

/// What hides the stale bytes of a block: bytes from its start, in order, none of them in both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whole pages of the host, to be replaced by anonymous memory.
    pub(super) cover: Vec<Range<u64>>,
    /// To be overwritten with zeros, in private copies.
    pub(super) wipe: Vec<Range<u64>>,
}

/// The runs of bytes whose pages are clear in `present` although `next_data`, as [`Source::next_data`], finds data in their
/// room: in order, each as long as it can be.
///
/// [`Source::next_data`]: crate::storage::Source::next_data
pub(super) fn stale_runs(
    present: &PageBitmap,
    room: Room,
    mut next_data: impl FnMut(u64, u64) -> io::Result<Option<(u64, u64)>>,
) -> io::Result<Vec<Range<u64>>> {
    let Room { pages_offset, length, page_size } = room;
    let end = pages_offset + length;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut push = |run: Range<u64>| {
        let run = run.start * page_size..run.end * page_size;
        match runs.last_mut() {
            _ if run.is_empty() => {}
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    };
    let mut at = pages_offset;
    let mut looked_at = 0;
    while let Some((start, stop)) = next_data(at, end)? {
        // Data may begin and end inside a page; two stretches of data may share one.
        let mut page = ((start - pages_offset) / page_size).max(looked_at);
        looked_at = (stop - pages_offset).div_ceil(page_size).max(page);
        for run in present.runs_within(page..looked_at) {
            push(page..run.start);
            page = run.end;
        }
        push(page..looked_at);
        at = stop.max(at + 1);
        if at >= end {
            break;
        }
    }
    Ok(runs)
}

/// Covers the longest of `stale`, at most `limit` of them, as far as they fill pages of the host; the rest is wiped.
pub(super) fn plan(stale: &[Range<u64>], host_page: u64, limit: usize) -> Plan {
    let whole = |run: &Range<u64>| {
        let start = run.start.next_multiple_of(host_page);
        start..(run.end / host_page * host_page).max(start)
    };
    let mut chosen: Vec<usize> = (0..stale.len()).filter(|&index| !whole(&stale[index]).is_empty()).collect();
    if chosen.len() > limit {
        let longest_first = |&index: &usize| (u64::MAX - (stale[index].end - stale[index].start), index);
        chosen.sort_unstable_by_key(longest_first);
        chosen.truncate(limit);
        chosen.sort_unstable();
    }
    let mut plan = Plan::default();
    let mut chosen = chosen.into_iter().peekable();
    for (index, run) in stale.iter().enumerate() {
        if chosen.next_if_eq(&index).is_none() {
            plan.wipe.push(run.clone());
            continue;
        }
        let middle = whole(run);
        let edges = [run.start..middle.start, middle.end..run.end];
        plan.wipe.extend(edges.into_iter().filter(|edge| !edge.is_empty()));
        plan.cover.push(middle);
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// For each byte of a small file whether it is data, and the answer of `lseek`.
    fn next_data(data: &[bool], offset: u64, end: u64) -> Option<(u64, u64)> {
        let start = (offset..end).find(|at| data[usize::try_from(*at).unwrap()])?;
        let stop = (start..end).find(|at| !data[usize::try_from(*at).unwrap()]).unwrap_or(end);
        Some((start, stop))
    }

    fn is_in(runs: &[Range<u64>], at: u64) -> bool {
        runs.iter().any(|run| run.contains(&at))
    }

    proptest! {
        #[test]
        fn a_byte_is_stale_if_its_page_is_clear_and_holds_data(
            pages in prop::collection::vec(any::<bool>(), 1..40),
            page_size in prop_oneof![Just(4_u64), Just(8), Just(16)],
            pages_offset in 0_u64..20,
            holes in prop::collection::vec(any::<bool>(), 180),
        ) {
            let mut present = PageBitmap::new(pages.len() as u64);
            for page in (0..).zip(&pages).filter(|(_, set)| **set).map(|(page, _)| page) {
                present.insert(page..page + 1);
            }
            let length = pages.len() as u64 * page_size;
            // The file system knows holes in blocks of four bytes.
            let data: Vec<bool> = holes.iter().flat_map(|data| [*data; 4]).collect();
            let room = Room { pages_offset, length, page_size };
            let stale = stale_runs(&present, room, |offset, end| Ok(next_data(&data, offset, end))).unwrap();
            for at in 0..length {
                let page = at / page_size;
                let room = (page * page_size..(page + 1) * page_size).map(|at| usize::try_from(pages_offset + at).unwrap());
                let expected = !present.contains(page) && room.into_iter().any(|at| data[at]);
                prop_assert_eq!(is_in(&stale, at), expected, "byte {} of {:?}", at, stale);
            }
            prop_assert!(stale.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", stale);
        }

        #[test]
        fn all_that_is_stale_is_hidden_once_and_nothing_else_is(
            steps in prop::collection::vec((1_u64..30, 1_u64..30), 0..30),
            host_page in prop_oneof![Just(1_u64), Just(4), Just(16)],
            limit in 0_usize..10,
        ) {
            let mut at = 0;
            let mut stale = Vec::new();
            for (gap, length) in steps {
                stale.push(at + gap..at + gap + length);
                at += gap + length;
            }
            let Plan { cover, wipe } = plan(&stale, host_page, limit);
            for byte in 0..at + 20 {
                let ways = u8::from(is_in(&cover, byte)) + u8::from(is_in(&wipe, byte));
                prop_assert_eq!(ways, u8::from(is_in(&stale, byte)), "byte {}", byte);
            }
            prop_assert!(cover.len() <= limit);
            prop_assert!(cover.iter().all(|run| run.start % host_page == 0 && run.end % host_page == 0));
            let longest_wiped = wipe.iter().map(|run| run.end - run.start).max().unwrap_or(0);
            let shortest = cover.iter().map(|run| run.end - run.start).min();
            if host_page == 1 && let Some(shortest) = shortest {
                prop_assert!(longest_wiped <= shortest, "{longest_wiped} bytes are wiped, {shortest} covered");
            }
        }
    }
}
