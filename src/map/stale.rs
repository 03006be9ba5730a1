//! Which parts of a block's room in the file must not show, and how each is hidden. No memory is touched here.

use std::ops::Range;

use crate::error::Result;

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
pub(crate) struct Plan {
    /// Whole pages of the host, to be replaced by anonymous memory.
    pub(crate) cover: Vec<Range<u64>>,
    /// To be overwritten with zeros, in private copies.
    pub(crate) wipe: Vec<Range<u64>>,
}

/// Which pages of a block are present, as far as it is asked.
pub(super) trait Present {
    /// The first page from `from` on that is present, or absent if `present` is false; `end` if there is none before it.
    fn next(&mut self, present: bool, from: u64, end: u64) -> Result<u64>;
}

/// Where a block's file holds data: offsets in bytes of the file.
pub(super) trait Data {
    /// [`Source::first_data`](crate::storage::Source::first_data).
    fn first(&mut self, offset: u64, end: u64) -> Result<Option<u64>>;

    /// Where the data ends that begins at `offset`, at most `end`.
    fn end(&mut self, offset: u64, end: u64) -> Result<u64>;
}

/// The runs of bytes whose pages are absent although there is data in their room: in order, each as long as it can be.
///
/// A hole is never stale, so the bitmap is only asked about where there is data; and where pages are present nobody cares
/// where the data ends. Of a file without stale pages that is one question about data, and a look at the bitmap, for each
/// run of present pages.
pub(super) fn stale_runs(
    present: &mut impl Present,
    data: &mut impl Data,
    room: Room,
) -> Result<Vec<Range<u64>>> {
    let Room { pages_offset, length, page_size } = room;
    let end = pages_offset + length;
    let pages = length / page_size;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut push = |run: Range<u64>| {
        let run = run.start * page_size..run.end * page_size;
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    };
    // All below this page is decided.
    let mut at = 0;
    while at < pages {
        let Some(start) = data.first(pages_offset + at * page_size, end)? else { break };
        // Data may begin and end inside a page; two stretches of data may share one.
        let page = ((start.max(pages_offset) - pages_offset) / page_size).max(at);
        at = present.next(false, page, pages)?;
        if at > page {
            continue;
        }
        let stop = data.end(start, end)?;
        let stop = (stop.max(pages_offset) - pages_offset).div_ceil(page_size).clamp(page + 1, pages);
        while at < stop {
            let clear = at..present.next(true, at, stop)?;
            at = present.next(false, clear.end, stop)?;
            push(clear);
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
    use crate::bitmap::PageBitmap;

    impl Present for PageBitmap {
        fn next(&mut self, present: bool, from: u64, end: u64) -> Result<u64> {
            Ok((from..end).find(|page| self.contains(*page) == present).unwrap_or(end))
        }
    }

    /// For each byte of a small file whether it is data; and how often that was asked.
    struct Bytes {
        is_data: Vec<bool>,
        questions: usize,
    }

    impl Bytes {
        fn find(&mut self, is_data: bool, offset: u64, end: u64) -> Option<u64> {
            self.questions += 1;
            (offset..end).find(|at| self.is_data[usize::try_from(*at).unwrap()] == is_data)
        }
    }

    impl Data for Bytes {
        fn first(&mut self, offset: u64, end: u64) -> Result<Option<u64>> {
            Ok(self.find(true, offset, end))
        }

        fn end(&mut self, offset: u64, end: u64) -> Result<u64> {
            Ok(self.find(false, offset, end).unwrap_or(end))
        }
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
            let mut file = Bytes { is_data: data.clone(), questions: 0 };
            let stale = stale_runs(&mut present, &mut file, room).unwrap();
            // Not more than two for each end of a stretch of data or of present pages.
            let changes = data.windows(2).filter(|pair| pair[0] != pair[1]).count()
                + pages.windows(2).filter(|pair| pair[0] != pair[1]).count();
            prop_assert!(file.questions <= 2 * changes + 3, "{} questions", file.questions);
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
