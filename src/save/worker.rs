//! What runs in each channel of a save: find the zero pages of a region, have room reserved for the others, write them, write
//! down which they are.
//!
//! A region is larger than a write: a page that is not zero is left at its first word, so the scan runs ahead of the writes at
//! little cost, and the file system can give the room for several writes in one piece. Without that, writes into a hole wait
//! for each other in the file system, and more channels gain nothing.
//!
//! Unsafe code is here because the memory may belong to a running guest: it is only ever passed on as a raw pointer,
//! to the zero detector and to the channel.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use iov_slicer::{Block as SliceBlock, Limits, page_runs, slice_pages};
use multifd_pool::{Channel, ChannelContext, IoVec, Piece, RateLimit, WorkError, Worker};

use super::populate::populate;
use crate::bitmap::{PageBitmap, SharedBitmap};
use crate::convert::{to_u64, to_usize};
use crate::zero::Detector;

/// What the channels share about one block.
#[derive(Debug)]
pub(crate) struct BlockState {
    /// The name, as errors show it.
    pub(crate) name: Arc<str>,
    pub(crate) pages_offset: u64,
    /// Whether the page tables of its memory are still to be filled.
    pub(crate) is_fresh: bool,
    pub(crate) present: SharedBitmap,
    /// Which pages were dealt with at all; only where the others hold old bytes, which must go.
    pub(crate) seen: Option<SharedBitmap>,
}

/// A few neighbouring pages of one block that one channel deals with.
pub(crate) struct SaveBatch {
    block: Arc<BlockState>,
    /// Where page `pages.start` is in memory.
    start: *const u8,
    pages: Range<u64>,
    /// Which of the pages are meant, by their numbers in the block; all if null.
    selection: *const PageBitmap,
    /// Whether an earlier round may have left something in the pages' room.
    is_again: bool,
}

// SAFETY: the pointers are read by whichever thread runs the batch; `new`'s caller promises that they stay good, and
// unwritten in the bitmap's case, until the pool has synced.
unsafe impl Send for SaveBatch {}

impl SaveBatch {
    /// # Safety
    /// Until the pool that it is submitted to has synced or was dropped: the memory from `start` on must stay readable
    /// for the length of `pages`, and `selection` must neither move nor change.
    pub(crate) unsafe fn new(
        block: Arc<BlockState>,
        start: *const u8,
        pages: Range<u64>,
        selection: Option<&PageBitmap>,
        is_again: bool,
    ) -> Self {
        let selection = selection.map_or(std::ptr::null(), std::ptr::from_ref);
        Self { block, start, pages, selection, is_again }
    }
}

/// The shortest run that room is reserved for, in bytes. For shorter ones the call costs more than it gains.
const RESERVE_FROM: u64 = 1 << 20;

/// How pages are looked at and written: the same for all channels of a save.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) page_size: u64,
    /// The most that one write has, in bytes.
    pub(crate) chunk: u64,
    /// `None` when zero pages are not looked for.
    pub(crate) detector: Option<Detector>,
    /// Gaps of at most so many zero pages are written too.
    pub(crate) bridge: u64,
    /// Whether what stands in the room of zero pages must be cleared.
    pub(crate) clears: bool,
    pub(crate) rate: Option<Arc<RateLimit>>,
    /// Held while a region is written, where the file system lets one write in at a time; the others scan meanwhile.
    pub(crate) turn: Option<Arc<Mutex<()>>>,
}

/// The state of one channel of a save.
pub(crate) struct SaveWorker {
    channel: Box<dyn Channel>,
    manner: Manner,
    limits: Limits,
    /// Which pages of the run at hand are to be written; bit 0 is the run's first page.
    words: Vec<u64>,
    /// Which pages of the run were dealt with: all of them, in the form that the bitmap takes.
    looked_at: Vec<u64>,
    /// What of the run at hand is written, in the pieces that the slicer makes.
    pieces: Vec<Piece>,
}

impl SaveWorker {
    pub(crate) fn new(channel: Box<dyn Channel>, manner: Manner) -> Self {
        let page_size = manner.page_size;
        let most = match &manner.rate {
            Some(rate) => manner.chunk.min(rate.quantum(page_size)),
            None => manner.chunk,
        };
        let limits = Limits::new(page_size).max_bytes(most);
        Self { channel, manner, limits, words: Vec::new(), looked_at: Vec::new(), pieces: Vec::new() }
    }

    /// Scans and writes the pages `run` of `block`, which stand in memory from `start` on.
    ///
    /// # Safety
    /// `start` must be readable for the run's length until the call returns.
    unsafe fn save_run(
        &mut self,
        block: &BlockState,
        start: *const u8,
        run: Range<u64>,
        is_again: bool,
        context: &mut ChannelContext<'_>,
    ) -> Result<(), WorkError> {
        let pages = run.end - run.start;
        if block.is_fresh {
            let length = to_usize(pages * self.manner.page_size);
            // SAFETY: readable for the run's length by this function's contract.
            unsafe { populate(&block.name, run.start * self.manner.page_size, start, length) }
                .map_err(|error| WorkError::Other(Box::new(error)))?;
        }
        fill_ones(&mut self.looked_at, pages);
        self.pieces.clear();
        match &self.manner.detector {
            Some(detector) => {
                self.words.clear();
                self.words.resize(self.looked_at.len(), 0);
                // SAFETY: readable for the run's length by this function's contract.
                unsafe {
                    detector.scan(start, to_usize(self.manner.page_size), to_usize(pages), &mut self.words);
                }
            }
            None => self.words.clone_from(&self.looked_at),
        }

        // The slicer places the run by its own first byte: as a block of the run's length at the run's offset.
        let offset = block.pages_offset + run.start * self.manner.page_size;
        let piece = SliceBlock::new(start.addr(), pages * self.manner.page_size, offset)
            .map_err(|error| WorkError::Other(Box::new(error)))?;
        let runs = page_runs(&self.words[..], pages).bridged(self.manner.bridge);
        let turn = self.manner.turn.clone();
        // It guards nothing that a panic could leave half done.
        let turn = turn.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
        // A page that became zero holds what it was before; and one that was bridged, what it had become when its neighbours were
        // written. Both are dirty, and come again.
        let clears = self.manner.clears || is_again;
        make_room(
            &self.manner,
            clears,
            &mut *self.channel,
            (&block.name, offset),
            runs.clone(),
            pages,
            context,
        )?;
        for write in slice_pages(&piece, &self.limits, runs) {
            let write = write.map_err(|error| WorkError::Other(Box::new(error)))?;
            let vec = IoVec::from_const(start.wrapping_add(write.addr - start.addr()), to_usize(write.len));
            self.pieces.push(Piece::new(vec, write.offset));
            if let Some(rate) = &self.manner.rate
                && !rate.wait(write.len, || context.is_stopped())
            {
                return Err(WorkError::Cancelled);
            }
            if self.manner.rate.is_some() {
                // SAFETY: the slicer only gives ranges inside the run, which is readable by this function's contract.
                unsafe { context.write_pieces(&mut *self.channel, &block.name, &mut self.pieces) }?;
                self.pieces.clear();
            }
        }
        // SAFETY: as above.
        unsafe { context.write_pieces(&mut *self.channel, &block.name, &mut self.pieces) }?;
        drop(turn);

        block.present.record(run.start, &self.looked_at, &self.words);
        if let Some(seen) = &block.seen {
            seen.record(run.start, &self.looked_at, &self.looked_at);
        }
        let written = self.words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        let counters = context.counters();
        counters.pages += written;
        counters.zero_pages += pages - written;
        Ok(())
    }
}

/// Makes the file ready for `runs` of the `pages` pages of a block that stand in it from an offset on: room for the long ones,
/// and, if it `clears`, nothing between them but zeros.
fn make_room(
    manner: &Manner,
    clears: bool,
    channel: &mut dyn Channel,
    (block, offset): (&Arc<str>, u64),
    runs: impl Iterator<Item = Range<u64>> + Clone,
    pages: u64,
    context: &mut ChannelContext<'_>,
) -> Result<(), WorkError> {
    let page_size = manner.page_size;
    let mut cleared = 0;
    if clears && 2 * runs.clone().map(|run| run.end - run.start).sum::<u64>() < pages {
        // Mostly zeros: one call for all of it is quicker than one for each gap. What is not zero finds the room that was kept, or is
        // given it below.
        context.clear(channel, block, offset, pages * page_size)?;
        cleared = pages;
    }
    for run in runs.chain(std::iter::once(pages..pages)) {
        if clears && cleared < run.start {
            let length = (run.start - cleared) * page_size;
            context.clear(channel, block, offset + cleared * page_size, length)?;
        }
        cleared = cleared.max(run.end);
        let length = (run.end - run.start) * page_size;
        // Where the flow is to be smooth, a call that takes a while (a tmpfs clears what it reserves) only makes it jerky.
        if length >= RESERVE_FROM && manner.rate.is_none() {
            context.reserve(channel, block, offset + run.start * page_size, length)?;
        }
    }
    Ok(())
}

impl Worker for SaveWorker {
    type Batch = SaveBatch;

    fn run(&mut self, batch: SaveBatch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let SaveBatch { block, start, pages, selection, is_again } = batch;
        // SAFETY: null or, by `SaveBatch::new`'s contract, a bitmap that nobody changes until the pool has synced.
        let selection = unsafe { selection.as_ref() };
        let Some(selection) = selection else {
            // SAFETY: readable by `SaveBatch::new`'s contract.
            return unsafe { self.save_run(&block, start, pages, is_again, context) };
        };
        for run in selection.runs_within(pages.clone()) {
            let at = start.wrapping_add(to_usize((run.start - pages.start) * self.manner.page_size));
            // SAFETY: the run is inside the batch's pages, readable by `SaveBatch::new`'s contract.
            unsafe { self.save_run(&block, at, run, is_again, context) }?;
        }
        Ok(())
    }
}

/// Makes `words` hold `pages` set bits and nothing else.
fn fill_ones(words: &mut Vec<u64>, pages: u64) {
    words.clear();
    words.resize(to_usize(pages.div_ceil(64)), u64::MAX);
    if let Some(last) = words.last_mut()
        && !pages.is_multiple_of(64)
    {
        *last = (1 << (pages % 64)) - 1;
    }
    debug_assert_eq!(to_u64(words.len()), pages.div_ceil(64));
}
