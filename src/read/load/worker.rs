//! What a channel does with its part of a block: it reads the runs of present pages straight to where they belong, and clears the
//! absent ones if the memory may hold something else.
//!
//! All calls of a batch are given to the channel together, so that one that can has many in flight. What a call reads of a gap
//! goes where the gap is, and zeros over it afterwards; or, in memory whose absent pages are not to be touched, into a scratch
//! buffer, where every gap of a batch has a place of its own: somebody may look at what was read before it is thrown away, the kernel of
//! a file system or disk that checksums what it holds. The first is twice as fast where every other page is absent: the disk does not have to be told where each page goes.
//!
//! Unsafe code is here because the memory may be seen by others while it is filled (a guest's devices, another process): it is only
//! ever passed on as a raw pointer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use multifd_pool::{Channel, ChannelContext, IoVec, PoolError, ReadPiece, WorkError, Worker};

use super::calls::Calls;
use super::report::State;
use super::target::Destination;
use crate::bitmap::PageBitmap;
use crate::convert::to_usize;
use crate::error::Error;
use crate::read::DIRECT_ALIGNMENT;
use crate::zero::Detector;
use crate::zeroed::try_zeroed;

/// Neighbouring pages of one block that one channel fills.
pub(super) struct LoadBatch {
    pub(super) name: Arc<str>,
    pub(super) present: Arc<PageBitmap>,
    pub(super) page_size: u64,
    /// Where page `pages.start` is in the file.
    pub(super) file_offset: u64,
    /// Where page `pages.start` is in memory.
    pub(super) start: *mut u8,
    pub(super) pages: Range<u64>,
    pub(super) destination: Destination,
    pub(super) state: Arc<State>,
}

// SAFETY: the pointer leads to memory that `LoadOptions::load` has on loan, valid for writes by `LoadTarget`'s
// contract; each page of it is in one batch only, and the loan outlives the pool.
unsafe impl Send for LoadBatch {}

impl LoadBatch {
    /// Where these pages go.
    fn memory(&self, pages: &Range<u64>) -> IoVec {
        let skip = to_usize((pages.start - self.pages.start) * self.page_size);
        IoVec::new(self.start.wrapping_add(skip), to_usize((pages.end - pages.start) * self.page_size))
    }

    /// Where this page is in the file.
    fn offset(&self, page: u64) -> u64 {
        self.file_offset + (page - self.pages.start) * self.page_size
    }

    /// Whether the memory of absent pages may be written to on the way.
    fn is_all_ours(&self) -> bool {
        match self.destination {
            Destination::Fresh | Destination::Used => true,
            Destination::Zeroed => false,
        }
    }

    /// Makes zeros of what a call has read into the gaps between its runs.
    fn wipe_gaps(&self, call: &Range<u64>) {
        let mut at = call.start;
        for run in self.present.runs_within(call.clone()) {
            let gap = self.memory(&(at..run.start));
            // SAFETY: inside the batch's part of the memory, valid for writes by `LoadTarget`'s contract.
            unsafe { gap.addr().write_bytes(0, gap.len()) };
            at = run.end;
        }
    }

    /// Sees to the absent pages from `from` to `to`.
    fn clear(&self, from: u64, to: u64, check_zeroed: bool) -> Result<(), WorkError> {
        let vec = self.memory(&(from..to));
        if self.destination == Destination::Used {
            // SAFETY: inside the batch's part of the memory, valid for writes by `LoadTarget`'s contract.
            unsafe { vec.addr().write_bytes(0, vec.len()) };
        // SAFETY: the same, and readable, as `check_zeroed` asks for.
        } else if check_zeroed && !unsafe { Detector::best().is_zero(vec.addr(), vec.len()) } {
            let bytes = from * self.page_size..to * self.page_size;
            return Err(WorkError::Other(Box::new(NotZero { block: Arc::clone(&self.name), bytes })));
        }
        Ok(())
    }
}

/// A promise that the caller did not keep.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the memory for block `{block}` was said to be zero, and is not between {:#x} and {:#x}, where absent pages go; clear it, or \
     say Destination::Used",
    bytes.start,
    bytes.end
)]
struct NotZero {
    block: Arc<str>,
    bytes: Range<u64>,
}

pub(super) fn load_error(file: &str, error: PoolError) -> Error {
    if let PoolError::Other { source, .. } = &error
        && let Some(not_zero) = source.downcast_ref::<NotZero>()
    {
        return Error::Usage(not_zero.to_string());
    }
    Error::pool(file, error)
}

/// One call of a batch.
struct Call {
    /// What it reads, with the gaps.
    pages: Range<u64>,
    has_gaps: bool,
    /// Where in the list of iovecs its own are.
    vecs: Range<usize>,
}

pub(super) struct LoadWorker {
    channel: Box<dyn Channel>,
    rule: Calls,
    check_zeroed: bool,
    /// Where what stands in gaps goes; made when it is first needed. In words, and with room to begin it where direct I/O can use it.
    scratch: Vec<u64>,
    /// How long it is, in bytes: as much as a batch has.
    scratch_length: u64,
    /// How much of it the gaps of this batch have, in bytes.
    scratch_used: usize,
    vecs: Vec<IoVec>,
    calls: Vec<Call>,
}

impl LoadWorker {
    /// Of batches of `chunk` bytes at most.
    pub(super) fn new(channel: Box<dyn Channel>, rule: Calls, chunk: u64, check_zeroed: bool) -> Self {
        Self {
            channel,
            rule,
            check_zeroed,
            scratch: Vec::new(),
            scratch_length: chunk,
            scratch_used: 0,
            vecs: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// `length` bytes for a gap of this batch, which are overwritten with what nobody needs.
    fn scratch(&mut self, length: u64) -> Result<IoVec, WorkError> {
        let whole = to_usize(self.scratch_length) + DIRECT_ALIGNMENT;
        if self.scratch.is_empty() {
            // Zeros that nobody has touched take no memory.
            self.scratch = try_zeroed(whole / 8).ok_or_else(|| {
                WorkError::Other(format!("get {whole} bytes of memory to read into").into())
            })?;
        }
        let start = self.scratch.as_mut_ptr().cast::<u8>();
        let at = start.align_offset(DIRECT_ALIGNMENT) + self.scratch_used;
        self.scratch_used += to_usize(length);
        assert!(self.scratch_used <= to_usize(self.scratch_length), "the gaps of a batch are a part of it");
        Ok(IoVec::new(start.wrapping_add(at), to_usize(length)))
    }

    /// Lists the calls that read `batch`, and sees to its absent pages; says how many are present.
    fn list(&mut self, batch: &LoadBatch) -> Result<u64, WorkError> {
        self.vecs.clear();
        self.calls.clear();
        self.scratch_used = 0;
        let (mut at, mut present) = (batch.pages.start, 0);
        for part in self.rule.parts(batch.present.runs_within(batch.pages.clone()), batch.page_size) {
            if part.bridged.is_none() || batch.destination != Destination::Used {
                batch.clear(at, part.pages.start, self.check_zeroed)?;
            }
            at = part.pages.end;
            present += part.pages.end - part.pages.start;
            let scratch = part.bridged.filter(|_| !batch.is_all_ours());
            let scratch = scratch.map(|gap| self.scratch(gap * batch.page_size)).transpose()?;
            let Some(call) = self.calls.last_mut().filter(|_| part.bridged.is_some()) else {
                let first = self.vecs.len();
                self.vecs.push(batch.memory(&part.pages));
                self.calls.push(Call { pages: part.pages, has_gaps: false, vecs: first..first + 1 });
                continue;
            };
            (call.pages.end, call.has_gaps) = (part.pages.end, true);
            if let Some(scratch) = scratch {
                self.vecs.extend([scratch, batch.memory(&part.pages)]);
                call.vecs.end = self.vecs.len();
            } else {
                self.vecs[call.vecs.start] = batch.memory(&call.pages);
            }
        }
        batch.clear(at, batch.pages.end, self.check_zeroed)?;
        Ok(present)
    }

    /// Reads what is listed.
    fn read(&mut self, batch: &LoadBatch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let Self { channel, vecs, calls, .. } = self;
        let piece = |call: &Call| ReadPiece::new(&vecs[call.vecs.clone()], batch.offset(call.pages.start));
        let mut pieces: Vec<ReadPiece<'_>> = calls.iter().map(piece).collect();
        let mut from = 0;
        loop {
            // SAFETY: parts of the batch's memory, valid for writes by `LoadTarget`'s contract, and the scratch buffer, which
            // is this worker's own and is read by nobody.
            let result = unsafe { context.read_pieces(&mut **channel, &batch.name, &mut pieces[from..]) };
            let Err(WorkError::Transfer(error)) = result else { return result };
            // What cannot be read may stand in a gap, where nobody needs it.
            let failed = pieces[from..].iter().position(|piece| piece.done < piece.len());
            let Some(failed) = failed.map(|at| from + at).filter(|at| calls[*at].has_gaps) else {
                return Err(WorkError::Transfer(error));
            };
            for run in batch.present.runs_within(calls[failed].pages.clone()) {
                let vecs = [batch.memory(&run)];
                // SAFETY: as above, without the scratch buffer.
                unsafe { context.read_exact(&mut **channel, &batch.name, &vecs, batch.offset(run.start)) }?;
            }
            from = failed + 1;
        }
    }
}

impl Worker for LoadWorker {
    type Batch = LoadBatch;

    fn run(&mut self, batch: LoadBatch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        batch.state.is_begun.store(true, Ordering::Relaxed);
        let present = self.list(&batch)?;
        let result = self.read(&batch, context);
        if batch.is_all_ours() {
            // Also after an error: what the file holds in gaps is nobody's.
            self.calls.iter().filter(|call| call.has_gaps).for_each(|call| batch.wipe_gaps(&call.pages));
        }
        result?;
        let all = batch.pages.end - batch.pages.start;
        batch.state.loaded.fetch_add(all, Ordering::Relaxed);
        let counters = context.counters();
        counters.pages += present;
        counters.zero_pages += all - present;
        Ok(())
    }
}
