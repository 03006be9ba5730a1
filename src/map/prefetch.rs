//! Brings a mapped block's pages in before somebody waits for them: which ones, and when to stop.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::region::Region;
use crate::bitmap::PageBitmap;
use crate::error::Result;
use crate::working_set::WorkingSet;

/// How many bytes are asked for at a time: as much as one read of a restore, and little enough that dropping a mapping does not
/// wait long.
const PIECE: u64 = 4 << 20;

/// How much is asked for ahead of what is waited for, in pieces and in bytes: pages that lie apart come from the disk side by side.
const AHEAD: u32 = 128;
const AHEAD_BYTES: u64 = 4 * PIECE;

/// Which pages of a mapped block are read before they are touched.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Prefetch {
    /// None, and none around a page that is touched: the first page is there soonest, and memory holds what is used.
    #[default]
    Nothing,
    /// All that the file holds, from the block's start on, by a thread in the background.
    All,
    /// These pages, by a thread in the background: what [`Mapping::touched`](super::Mapping::touched) said of an earlier
    /// run of the same guest. Pages that the block does not have, or that are absent, are passed over.
    WorkingSet(PageBitmap),
    /// These pages in this order, by a thread in the background: what a handler of page faults recorded in an earlier run
    /// (feature `userfaultfd`). Absent pages are passed over.
    Ordered(WorkingSet),
}

impl Prefetch {
    /// The runs of pages to bring in, none of them longer than `longest`.
    fn pieces<'a>(
        &'a self,
        present: &'a PageBitmap,
        page_size: u64,
        longest: u64,
    ) -> Box<dyn Iterator<Item = Range<u64>> + 'a> {
        let wanted: Box<dyn Iterator<Item = Range<u64>>> = match self {
            Self::Nothing => return Box::new(std::iter::empty()),
            Self::All => Box::new(present.runs()),
            Self::WorkingSet(pages) => Box::new(pages.runs().flat_map(|run| present.runs_within(run))),
            Self::Ordered(set) => Box::new(set.ranges().flat_map(move |bytes| {
                present.runs_within(bytes.start / page_size..bytes.end.div_ceil(page_size))
            })),
        };
        Box::new(wanted.flat_map(move |run| {
            let step = usize::try_from(longest).unwrap_or(usize::MAX);
            run.clone().step_by(step).map(move |at| at..at.saturating_add(longest).min(run.end))
        }))
    }

    /// Whether it can be meant for this block.
    pub(super) fn check(&self, block: &str, length: u64) -> Result<()> {
        match self {
            Self::Ordered(set) => set.check_block(block, length),
            _ => Ok(()),
        }
    }

    pub(super) fn reads_ahead(&self) -> bool {
        matches!(self, Self::All)
    }
}

/// The thread that brings pages in. Dropping it stops it and waits for it.
#[derive(Debug)]
pub(super) struct Prefetcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Prefetcher {
    /// Begins.
    pub(super) fn begin(
        prefetch: Prefetch,
        region: Arc<Region>,
        present: Arc<PageBitmap>,
        page_size: u64,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let pieces = || prefetch.pieces(&present, page_size, (PIECE / page_size).max(1));
            let bytes = |pages: &Range<u64>| pages.start * page_size..pages.end * page_size;
            let mut asked = pieces().map(|pages| bytes(&pages));
            // What was asked for, and is not waited for yet: how many pieces, and how many bytes.
            let (mut count, mut length) = (0, 0);
            for pages in pieces().map(|pages| bytes(&pages)) {
                while count < AHEAD
                    && length < AHEAD_BYTES
                    && let Some(next) = asked.next()
                {
                    (count, length) = (count + 1, length + (next.end - next.start));
                    region.ask_for(next);
                }
                (count, length) = (count - 1, length - (pages.end - pages.start));
                // Nothing is published by the flag; it only has to be seen some time.
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                region.populate(pages)?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("mapped-ram-prefetch".into()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Waits until all is in.
    pub(super) fn wait(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the prefetching thread panicked")))
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What it could not read, its user will be told when touching it.
        let _ = self.join();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bitmap(bits: &[bool]) -> PageBitmap {
        let mut bitmap = PageBitmap::new(bits.len() as u64);
        for page in (0..).zip(bits).filter(|(_, set)| **set).map(|(page, _)| page) {
            bitmap.insert(page..page + 1);
        }
        bitmap
    }

    proptest! {
        #[test]
        fn what_is_wanted_and_present_comes_once_in_order(
            present in prop::collection::vec(any::<bool>(), 1..200),
            wanted in prop::collection::vec(any::<bool>(), 0..250),
            longest in 1_u64..50,
        ) {
            let present = bitmap(&present);
            let wanted = bitmap(&wanted);
            let is_wanted = |page| wanted.contains(page);
            let both: Vec<u64> = (0..200).filter(|page| present.contains(*page) && is_wanted(*page)).collect();
            let set = Prefetch::WorkingSet(wanted.clone());
            let pieces: Vec<_> = set.pieces(&present, 4096, longest).collect();
            prop_assert!(pieces.iter().all(|piece| piece.end - piece.start <= longest));
            prop_assert_eq!(&pieces.into_iter().flatten().collect::<Vec<_>>(), &both);
            let all: Vec<u64> = (0..200).filter(|page| present.contains(*page)).collect();
            prop_assert_eq!(Prefetch::All.pieces(&present, 4096, longest).flatten().collect::<Vec<_>>(), all);
            let backwards: Vec<u64> = (0..250).rev().filter(|page| is_wanted(*page)).collect();
            let in_order: Vec<u64> = both.iter().rev().copied().collect();
            let set = Prefetch::Ordered(WorkingSet::new("a", 4096, 250, backwards).unwrap());
            prop_assert_eq!(set.pieces(&present, 4096, longest).flatten().collect::<Vec<_>>(), in_order);
            prop_assert_eq!(Prefetch::Nothing.pieces(&present, 4096, longest).count(), 0);
        }
    }
}
