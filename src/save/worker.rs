//! What runs in each channel of a save: find the zero pages of a region, have room reserved for the others, begin to write them,
//! write down which they are. The writes go on while the next pages are scanned, where the channel can do so, and are waited for
//! before the batch is over.
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
use multifd_pool::{Channel, ChannelContext, IoVec, Piece, RateLimit, WorkError, Worker, Writes};

use super::plan::Portions;
use super::populate::populate;
use crate::bitmap::{PageBitmap, SharedBitmap};
use crate::convert::to_usize;
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
    pub(crate) portions: Portions,
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
    buffers: Buffers,
}

/// What is known of the region at hand, kept so that it need not be allotted for each.
#[derive(Default)]
struct Buffers {
    /// Which of its pages are to be written; bit 0 is the first page.
    words: Vec<u64>,
    /// Which of its pages were dealt with: all of them, in the form that the bitmap takes.
    looked_at: Vec<u64>,
    /// What of it is written, in the pieces that the slicer makes.
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
        Self { channel, manner, limits, buffers: Buffers::default() }
    }
}

/// Scans pages of a block and writes them. It is the part of a [`SaveWorker`] that is not the channel, which its writes are holding.
struct Scan<'w> {
    block: &'w BlockState,
    /// Whether what stands in the room of zero pages must be cleared.
    clears: bool,
    manner: &'w Manner,
    limits: &'w Limits,
    buffers: &'w mut Buffers,
}

impl Scan<'_> {
    /// Scans the pages `run`, which stand in memory from `start` on, a stride at a time, and begins to write what it found: at once, but
    /// where there is room to be made for it, which is made for a whole region.
    ///
    /// # Safety
    /// `start` must be readable for the run's length until `writes` have ended.
    unsafe fn run(
        &mut self,
        start: *const u8,
        run: Range<u64>,
        writes: &mut Writes<'_, dyn Channel>,
        context: &mut ChannelContext<'_>,
    ) -> Result<(), WorkError> {
        let Manner { page_size, portions: Portions { stride, region, .. }, bridge, .. } = *self.manner;
        let place = |page: u64| start.wrapping_add(to_usize((page - run.start) * page_size));
        self.buffers.words.clear();
        // What was scanned and not written yet is from here on.
        let mut waiting = run.start;
        let mut at = run.start;
        while at < run.end {
            let pages = stride.min(run.end - at);
            // SAFETY: inside the run, which is readable by this function's contract.
            let found = unsafe { self.scan(place(at), at, pages) }?;
            at += pages;
            let needs_room = |run: Range<u64>| (run.end - run.start) * page_size >= RESERVE_FROM;
            let is_long = page_runs(found, pages).bridged(bridge).any(needs_room);
            let waits = is_long || self.clears;
            if !waits || at - waiting >= region || at == run.end {
                // SAFETY: as above.
                unsafe { self.write(place(waiting), waiting..at, writes, context) }?;
                self.buffers.words.clear();
                waiting = at;
            }
        }
        Ok(())
    }

    /// Looks for pages that are not zero among so many from page `first` on, which stand in memory from `start` on, and says which, behind
    /// what is known already of the pages before: those are whole words.
    ///
    /// # Safety
    /// `start` must be readable for the pages' length until the call returns.
    unsafe fn scan(&mut self, start: *const u8, first: u64, pages: u64) -> Result<&[u64], WorkError> {
        let Self { block, manner, .. } = *self;
        let words = &mut self.buffers.words;
        if block.is_fresh {
            let length = to_usize(pages * manner.page_size);
            // SAFETY: readable for the pages' length by this function's contract.
            unsafe { populate(&block.name, first * manner.page_size, start, length) }
                .map_err(|error| WorkError::Other(Box::new(error)))?;
        }
        let known = words.len();
        match &manner.detector {
            Some(detector) => {
                words.resize(known + to_usize(pages.div_ceil(64)), 0);
                let (page_size, found) = (to_usize(manner.page_size), &mut words[known..]);
                // SAFETY: readable for the pages' length by this function's contract.
                unsafe { detector.scan(start, page_size, to_usize(pages), found) };
            }
            None => push_ones(words, pages),
        }
        Ok(&words[known..])
    }

    /// Begins to write those of the pages `run` that were found, and writes down which they are.
    ///
    /// # Safety
    /// `start` must be readable for the run's length until `writes` have ended.
    unsafe fn write(
        &mut self,
        start: *const u8,
        run: Range<u64>,
        writes: &mut Writes<'_, dyn Channel>,
        context: &mut ChannelContext<'_>,
    ) -> Result<(), WorkError> {
        let Self { block, manner, .. } = *self;
        let Buffers { words, looked_at, pieces } = &mut *self.buffers;
        let pages = run.end - run.start;
        // The slicer places the run by its own first byte: as a block of the run's length at the run's offset.
        let offset = block.pages_offset + run.start * manner.page_size;
        let piece = SliceBlock::new(start.addr(), pages * manner.page_size, offset)
            .map_err(|error| WorkError::Other(Box::new(error)))?;
        let runs = page_runs(&words[..], pages).bridged(manner.bridge);
        // It guards nothing that a panic could leave half done.
        let turn = manner.turn.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
        make_room(manner, self.clears, (writes, &block.name, offset), runs.clone(), pages, context)?;
        pieces.clear();
        for write in slice_pages(&piece, self.limits, runs) {
            let write = write.map_err(|error| WorkError::Other(Box::new(error)))?;
            let vec = IoVec::from_const(start.wrapping_add(write.addr - start.addr()), to_usize(write.len));
            pieces.push(Piece::new(vec, write.offset));
            if let Some(rate) = &manner.rate {
                if !rate.wait(write.len, || context.is_stopped()) {
                    return Err(WorkError::Cancelled);
                }
                // SAFETY: the slicer only gives ranges inside the run, which is readable by this function's contract.
                unsafe { writes.begin(context, pieces) }?;
            }
        }
        // SAFETY: as above.
        unsafe { writes.begin(context, pieces) }?;
        drop(turn);

        // Before the writes have ended: if one fails, so does the save.
        looked_at.clear();
        push_ones(looked_at, pages);
        block.present.record(run.start, looked_at, words);
        if let Some(seen) = &block.seen {
            seen.record(run.start, looked_at, looked_at);
        }
        let written = words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        let counters = context.counters();
        counters.pages += written;
        counters.zero_pages += pages - written;
        Ok(())
    }
}

/// Makes the file ready for `runs` of the `pages` pages of a block that stand in it from an offset on: room for the long ones,
/// and, if it `clears`, nothing between them but zeros.
///
/// What is in flight is waited for first: the file system would wait for it too, and keep the other channels from writing meanwhile.
fn make_room(
    manner: &Manner,
    clears: bool,
    (writes, block, offset): (&mut Writes<'_, dyn Channel>, &Arc<str>, u64),
    runs: impl Iterator<Item = Range<u64>> + Clone,
    pages: u64,
    context: &mut ChannelContext<'_>,
) -> Result<(), WorkError> {
    let page_size = manner.page_size;
    let clear = |writes: &mut Writes<'_, dyn Channel>, context: &mut ChannelContext<'_>, run: Range<u64>| {
        writes.wait(context)?;
        let length = (run.end - run.start) * page_size;
        context.clear(writes.channel(), block, offset + run.start * page_size, length)
    };
    let mut cleared = 0;
    if clears && 2 * runs.clone().map(|run| run.end - run.start).sum::<u64>() < pages {
        // Mostly zeros: one call for all of it is quicker than one for each gap. What is not zero finds the room that was kept, or is
        // given it below.
        clear(writes, context, 0..pages)?;
        cleared = pages;
    }
    for run in runs.chain(std::iter::once(pages..pages)) {
        if clears && cleared < run.start {
            clear(writes, context, cleared..run.start)?;
        }
        cleared = cleared.max(run.end);
        let length = (run.end - run.start) * page_size;
        // Where the flow is to be smooth, a call that takes a while (a tmpfs clears what it reserves) only makes it jerky.
        if length >= RESERVE_FROM && manner.rate.is_none() {
            writes.wait(context)?;
            context.reserve(writes.channel(), block, offset + run.start * page_size, length)?;
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
        // Dropped, if not ended, before the batch is over.
        let mut writes = Writes::new(&mut *self.channel, &block.name);
        let mut scan = Scan {
            block: &block,
            // A page that became zero holds what it was before; and one that was bridged, what it had become when its neighbours
            // were written. Both are dirty, and come again.
            clears: self.manner.clears || is_again,
            manner: &self.manner,
            limits: &self.limits,
            buffers: &mut self.buffers,
        };
        let all = selection.is_none().then(|| pages.clone());
        let selected = selection.into_iter().flat_map(|selection| selection.runs_within(pages.clone()));
        for run in all.into_iter().chain(selected) {
            let at = start.wrapping_add(to_usize((run.start - pages.start) * self.manner.page_size));
            // SAFETY: the run is inside the batch's pages, readable by `SaveBatch::new`'s contract until the pool has synced.
            unsafe { scan.run(at, run, &mut writes, context) }?;
        }
        writes.end(context)
    }
}

/// Appends `pages` set bits, in whole words of which the last one's other bits are clear.
fn push_ones(words: &mut Vec<u64>, pages: u64) {
    words.resize(words.len() + to_usize(pages / 64), u64::MAX);
    if !pages.is_multiple_of(64) {
        words.push((1 << (pages % 64)) - 1);
    }
}
