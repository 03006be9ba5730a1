//! Fills memory with blocks of a file, by all channels.
//!
//! Each channel takes a chunk of a block, reads its runs of present pages straight to where they belong, and clears
//! the absent ones if the memory may hold something else. Past the page cache, runs with short gaps between them are read by
//! one call, what the file holds in the gaps into a scratch buffer that nobody looks at:
//!
//! ```text
//!   file     | present | gap | present | gap too long | present |
//!   call     |-------- 1 --------------|              |--- 2 ---|
//!   goes to  | memory  | scratch | memory |           | memory  |
//! ```
//!
//! Unsafe code is here because the memory may be seen by others while it is filled (a guest's devices, another
//! process): it is only ever passed on as a raw pointer.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use multifd_pool::{
    Cancel, Channel, ChannelContext, ChannelCounters, FileChannel, IoVec, Pool, PoolError, WorkError, Worker,
};

use nix::sys::mman::{MmapAdvise, madvise};

use super::Block;
use super::chunks::{default_channels, for_each_chunk};
use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::progress::{Callback, Meter, Progress};
use crate::storage::IoMode;
use crate::zero::Detector;

/// Advice is given from here on in memory that does not begin on a page, in bytes: the largest page size of a Linux host.
const ADVICE_ALIGNMENT: u64 = 64 << 10;

/// The longest gap that is read through past the page cache, in bytes. By a program made to find it out, on a busy machine: one thread, ext4 on a virtio disk, runs of one page: with
/// gaps of 1, 4 and 8 pages one call for all was 14, 6 and 3.7 times as fast as a call for each run, of 16 pages 1.4 times, of
/// 32 pages 0.6; several threads wait side by side and gain less. Through the page cache a call costs less than copying its
/// gap, and reading a hole fills the cache with zeros: with a gap of one page half as fast or worse, so nothing is bridged.
const BRIDGE: u64 = 32 << 10;

/// How many places are looked at to tell whether a file is in the page cache.
const LOOKS: u64 = 16;

/// What direct I/O may ask of the scratch buffer's address: no disk in use has larger blocks.
const SCRATCH_ALIGNMENT: usize = 4096;

/// What memory holds before a block is loaded into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Anonymous memory that was mapped for this and never touched: as [`Zeroed`](Self::Zeroed), and filled in huge pages where
    /// the kernel has them (`MADV_HUGEPAGE`), which is several times faster than page by page. Absent pages take memory then
    /// where a present one is in the same huge page, usually 2 MiB. The advice stays when the load is over.
    Fresh,
    /// Zeros, and it was perhaps never touched: absent pages are left alone, so that they cost no memory.
    /// [`LoadOptions::check_zeroed`] checks the promise.
    Zeroed,
    /// Anything: absent pages are cleared.
    Used,
}

/// A block, and the memory that is to hold it.
#[derive(Debug)]
pub struct LoadTarget<'m> {
    block: &'m Block,
    start: *mut u8,
    length: u64,
    destination: Destination,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> LoadTarget<'m> {
    /// `block` into `memory`, which must be exactly as long.
    pub fn new(block: &'m Block, memory: &'m mut [u8], destination: Destination) -> Self {
        let length = to_u64(memory.len());
        Self { block, start: memory.as_mut_ptr(), length, destination, memory: PhantomData }
    }

    /// As [`new`](Self::new), for memory that others may see.
    ///
    /// # Safety
    /// `start` to `start + length` must be valid for writes until the load has returned, and no Rust reference to it
    /// may exist meanwhile.
    pub unsafe fn from_raw(
        block: &'m Block,
        start: *mut u8,
        length: usize,
        destination: Destination,
    ) -> Self {
        Self { block, start, length: to_u64(length), destination, memory: PhantomData }
    }

    /// Tells the kernel that the memory will be filled as a whole.
    fn advise(&self) {
        // Whole pages only: the kernel would round up, and speak of memory that is not ours.
        let address = to_u64(self.start.addr());
        let skip = address.next_multiple_of(ADVICE_ALIGNMENT) - address;
        let Some(length) = self.length.checked_sub(skip) else { return };
        let length = to_usize(length / ADVICE_ALIGNMENT * ADVICE_ALIGNMENT);
        let Some(start) = NonNull::new(self.start.wrapping_add(to_usize(skip))) else { return };
        // Advice: a kernel without huge pages fills the memory as well.
        // SAFETY: inside the memory that the load has on loan, and what it holds does not change.
        let _ = unsafe { madvise(start.cast(), length, MmapAdvise::MADV_HUGEPAGE) };
    }

    fn check(&self, first: &Block) -> Result<()> {
        self.block.check_held()?;
        if !Arc::ptr_eq(self.block.shared(), first.shared()) {
            return Err(Error::Usage(
                "one load fills memory from one file only; load each file by itself".into(),
            ));
        }
        if self.length != self.block.used_length() {
            return Err(Error::Usage(format!(
                "block `{}` has {} bytes, the memory for it {}; they must be the same",
                self.block.idstr(),
                self.block.used_length(),
                self.length
            )));
        }
        Ok(())
    }
}

/// What a load did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// What each channel did; `zero_pages` counts absent pages, cleared or left alone. Gaps that were read through count among
    /// the bytes.
    pub channels: Vec<ChannelCounters>,
    /// The mode that was asked for; in place of [`IoMode::Auto`] the one that was chosen.
    pub io_mode: IoMode,
}

impl LoadReport {
    /// The counters of all channels added up.
    pub fn totals(&self) -> ChannelCounters {
        let mut totals = ChannelCounters::default();
        for channel in &self.channels {
            totals += *channel;
        }
        totals
    }
}

/// How blocks are loaded into memory.
///
/// ```
/// # fn main() -> mapped_ram::Result<()> {
/// use mapped_ram::{Destination, LoadOptions, LoadTarget, Reader};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("guest.mram");
/// # let saved = vec![3_u8; 1 << 16];
/// # mapped_ram::SaveOptions::new().save(&path, vec![mapped_ram::RamBlock::new("ram0", &saved)])?;
///
/// let reader = Reader::open(&path)?;
/// let block = reader.block("ram0").unwrap();
/// let mut memory = vec![0; 1 << 16];
/// LoadOptions::new().channels(2).load(&mut [LoadTarget::new(block, &mut memory, Destination::Zeroed)])?;
/// assert_eq!(memory, saved);
/// # Ok(())
/// # }
/// ```
#[must_use = "options do nothing until `load` is called"]
pub struct LoadOptions<'a> {
    channels: usize,
    io_mode: IoMode,
    check_zeroed: bool,
    cancel: Cancel,
    progress: Callback<'a>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> LoadOptions<'a> {
    /// Buffered, with as many channels as there are cores, at most 8.
    pub fn new() -> Self {
        Self {
            channels: default_channels(),
            io_mode: IoMode::Buffered,
            check_zeroed: false,
            cancel: Cancel::new(),
            progress: None,
        }
    }

    /// How many threads read, 1 to 255.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Through the page cache or past it. [`IoMode::Auto`] looks whether most of the file is in the page cache, and reads past it
    /// otherwise: the fastest way for a guest that is restored once. One that is restored again and again is better brought into the
    /// cache by the first load.
    pub fn io_mode(mut self, mode: IoMode) -> Self {
        self.io_mode = mode;
        self
    }

    /// Whether memory that was promised to be zero ([`Destination::Zeroed`], [`Destination::Fresh`]) is looked at where
    /// absent pages go. Off unless asked for: it reads that memory, which must be readable then.
    pub fn check_zeroed(mut self, on: bool) -> Self {
        self.check_zeroed = on;
        self
    }

    /// A handle that ends the load from outside.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Calls `callback` now and then while pages are read.
    pub fn progress(mut self, callback: impl FnMut(&Progress) + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// Fills the memory of all `targets`.
    ///
    /// # Errors
    /// Memory that is not exactly as long as its block, a block that the file leaves out, targets from several files;
    /// these leave the memory as it was. From then on [`Error::Load`]: the first error of any channel, with block and
    /// offset, and how far each block had come.
    pub fn load(mut self, targets: &mut [LoadTarget<'_>]) -> Result<LoadReport> {
        let Some(first) = targets.first() else { return Ok(LoadReport::default()) };
        let shared = Arc::clone(first.block.shared());
        let file = &shared.file;
        for target in targets.iter() {
            target.check(first.block)?;
        }
        for target in targets.iter().filter(|target| target.destination == Destination::Fresh) {
            target.advise();
        }
        if self.io_mode == IoMode::Auto {
            self.io_mode = if is_cached(targets)? { IoMode::Buffered } else { IoMode::Direct };
        }
        // The batches point into the targets' memory: whatever way this function is left, dropping the pool waits for
        // its channels, and the targets are the caller's.
        let pool = Pool::<LoadBatch>::builder()
            .channels(self.channels)
            .queue_depth(2 * self.channels)
            .name("mapped-ram")
            .cancel(self.cancel.clone())
            .spawn(|index| {
                let channel = shared.source.channel(index, self.io_mode)?;
                let bridge = if self.io_mode == IoMode::Direct { BRIDGE } else { 0 };
                Ok(LoadWorker::new(channel, bridge, self.check_zeroed))
            })
            .map_err(|error| Error::pool(file, error))?;
        let states: Vec<Arc<State>> = targets.iter().map(|_| Arc::default()).collect();
        // Only when the pool is gone has every channel said what it did.
        self.run(pool, targets, &states).map_err(|source| Error::Load {
            source: Box::new(source),
            blocks: targets.iter().zip(&states).map(|(target, state)| state.of(target.block)).collect(),
        })
    }

    fn run(
        &mut self,
        pool: Pool<LoadBatch>,
        targets: &[LoadTarget<'_>],
        states: &[Arc<State>],
    ) -> Result<LoadReport> {
        let Some(first) = targets.first() else { return Ok(LoadReport::default()) };
        let shared = first.block.shared();
        let file = &shared.file;
        let total = targets.iter().map(|target| target.length).sum();
        let page_size = shared.layout.page_size();
        let mut meter = Meter::new(&mut self.progress, total, page_size, || pool.counters());
        for (target, state) in targets.iter().zip(states) {
            let present = Arc::clone(target.block.bitmap()?);
            let name: Arc<str> = Arc::from(target.block.idstr());
            let pages_offset = target.block.layout().pages_offset();
            for_each_chunk(target.block, |pages| {
                let skip = pages.start * page_size;
                let batch = LoadBatch {
                    name: Arc::clone(&name),
                    present: Arc::clone(&present),
                    page_size,
                    file_offset: pages_offset + skip,
                    start: target.start.wrapping_add(to_usize(skip)),
                    pages,
                    destination: target.destination,
                    state: Arc::clone(state),
                };
                pool.submit(batch).map_err(|refused| load_error(file, refused.error))?;
                meter.tell(|| pool.counters());
                Ok(())
            })?;
        }
        pool.sync().map_err(|error| load_error(file, error))?;
        meter.tell(|| pool.counters());
        let channels = pool.finish().map_err(|error| load_error(file, error))?;
        Ok(LoadReport { channels, io_mode: self.io_mode })
    }
}

/// Whether most of what `targets` ask for is in the page cache, as far as a few looks tell.
fn is_cached(targets: &[LoadTarget<'_>]) -> Result<bool> {
    let (mut looks, mut found) = (0, 0);
    for target in targets {
        let block = target.block;
        let Some(file) = block.source().file() else { return Ok(true) };
        let present = block.bitmap()?;
        let apart = block.pages().div_ceil(LOOKS);
        for at in (0..LOOKS).map(|look| look * apart) {
            let Some(run) = present.runs_within(at..at + apart).next() else { continue };
            let offset = block.layout().pages_offset() + run.start * block.page_size();
            looks += 1;
            found += u64::from(FileChannel::holds_cached(file, offset));
        }
    }
    Ok(2 * found >= looks)
}

impl Block {
    /// Fills `memory`, exactly as long as the block, with the default [`LoadOptions`].
    ///
    /// # Errors
    /// As [`LoadOptions::load`].
    pub fn load(&self, memory: &mut [u8], destination: Destination) -> Result<LoadReport> {
        LoadOptions::new().load(&mut [LoadTarget::new(self, memory, destination)])
    }
}

/// Neighbouring pages of one block that one channel fills.
struct LoadBatch {
    name: Arc<str>,
    present: Arc<PageBitmap>,
    page_size: u64,
    /// Where page `pages.start` is in the file.
    file_offset: u64,
    /// Where page `pages.start` is in memory.
    start: *mut u8,
    pages: Range<u64>,
    destination: Destination,
    state: Arc<State>,
}

/// How far a block has come.
#[derive(Debug, Default)]
struct State {
    is_begun: AtomicBool,
    loaded: AtomicU64,
}

impl State {
    fn of(&self, block: &Block) -> LoadedBlock {
        // Whoever wrote these has ended, and was waited for.
        let loaded = self.loaded.load(Ordering::Relaxed);
        LoadedBlock {
            idstr: block.idstr().into_owned(),
            pages: block.pages(),
            loaded,
            state: if loaded == block.pages() {
                LoadState::Whole
            } else if self.is_begun.load(Ordering::Relaxed) {
                LoadState::Partly
            } else {
                LoadState::Untouched
            },
        }
    }
}

/// What a load that failed has left in the memory for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadState {
    /// All of the saved guest's.
    Whole,
    /// Some of its pages; others are as they were, or half read.
    Partly,
    /// What was there before.
    Untouched,
}

/// How far one block of a load that failed had come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedBlock {
    /// The block's name.
    pub idstr: String,
    /// How many pages the block has.
    pub pages: u64,
    /// How many of them are certain to be as they were saved: absent ones counted, chunks that were begun and not finished
    /// left out.
    pub loaded: u64,
    /// The same in a word.
    pub state: LoadState,
}

impl std::fmt::Display for LoadedBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { idstr, pages, loaded, state } = self;
        match state {
            LoadState::Whole => write!(f, "block `{idstr}` is wholly loaded"),
            LoadState::Partly => {
                write!(f, "block `{idstr}` partly (at least {loaded} of its {pages} pages)")
            }
            LoadState::Untouched => write!(f, "block `{idstr}` is untouched"),
        }
    }
}

// SAFETY: the pointer leads to memory that `LoadOptions::load` has on loan, valid for writes by `LoadTarget`'s
// contract; each page of it is in one batch only, and the loan outlives the pool.
unsafe impl Send for LoadBatch {}

struct LoadWorker {
    channel: Box<dyn Channel>,
    /// The longest gap that is read through, in bytes; none if 0.
    bridge: u64,
    check_zeroed: bool,
    /// Where what stands in gaps goes; made when it is first needed. With room to begin it where direct I/O can use it.
    scratch: Vec<u8>,
    vecs: Vec<IoVec>,
}

impl LoadWorker {
    fn new(channel: Box<dyn Channel>, bridge: u64, check_zeroed: bool) -> Self {
        Self { channel, bridge, check_zeroed, scratch: Vec::new(), vecs: Vec::new() }
    }

    /// `length` bytes that are overwritten with what nobody looks at, at most [`BRIDGE`].
    fn scratch(&mut self, length: u64) -> IoVec {
        self.scratch.resize(to_usize(BRIDGE) + SCRATCH_ALIGNMENT, 0);
        let start = self.scratch.as_mut_ptr();
        IoVec::new(start.wrapping_add(start.align_offset(SCRATCH_ALIGNMENT)), to_usize(length))
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

fn load_error(file: &str, error: PoolError) -> Error {
    if let PoolError::Other { source, .. } = &error
        && let Some(not_zero) = source.downcast_ref::<NotZero>()
    {
        return Error::Usage(not_zero.to_string());
    }
    Error::pool(file, error)
}

impl Worker for LoadWorker {
    type Batch = LoadBatch;

    fn run(&mut self, batch: LoadBatch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        batch.state.is_begun.store(true, Ordering::Relaxed);
        let LoadBatch { name, present, page_size, start, pages, destination, .. } = &batch;
        let check_zeroed = self.check_zeroed;
        let clear = |from: u64, to: u64| {
            let at = start.wrapping_add(to_usize((from - pages.start) * page_size));
            let length = to_usize((to - from) * page_size);
            if *destination == Destination::Used {
                // SAFETY: inside the batch's part of the memory, valid for writes by `LoadTarget`'s contract.
                unsafe { at.write_bytes(0, length) };
            // SAFETY: the same, and readable, as `check_zeroed` asks for.
            } else if check_zeroed && !unsafe { Detector::best().is_zero(at, length) } {
                let bytes = from * page_size..to * page_size;
                return Err(WorkError::Other(Box::new(NotZero { block: Arc::clone(name), bytes })));
            }
            Ok(())
        };
        let mut at = pages.start;
        let mut read = 0;
        // What one call reads.
        let mut call = pages.start..pages.start;
        for run in present.runs_within(pages.clone()) {
            clear(at, run.start)?;
            let gap = run.start - call.end;
            if call.is_empty() {
                call.start = run.start;
            } else if gap * page_size <= self.bridge {
                let scratch = self.scratch(gap * page_size);
                self.vecs.push(scratch);
            } else {
                self.read(&batch, &call, context)?;
                call.start = run.start;
            }
            self.vecs.push(batch.memory(&run));
            call.end = run.end;
            read += run.end - run.start;
            at = run.end;
        }
        self.read(&batch, &call, context)?;
        clear(at, pages.end)?;
        batch.state.loaded.fetch_add(pages.end - pages.start, Ordering::Relaxed);
        let counters = context.counters();
        counters.pages += read;
        counters.zero_pages += pages.end - pages.start - read;
        Ok(())
    }
}

impl LoadBatch {
    /// Where these pages go.
    fn memory(&self, pages: &Range<u64>) -> IoVec {
        let skip = to_usize((pages.start - self.pages.start) * self.page_size);
        IoVec::new(self.start.wrapping_add(skip), to_usize((pages.end - pages.start) * self.page_size))
    }
}

impl LoadWorker {
    /// Reads the pages of `call` into what `vecs` lists for them, and empties the list.
    fn read(
        &mut self,
        batch: &LoadBatch,
        call: &Range<u64>,
        context: &mut ChannelContext<'_>,
    ) -> Result<(), WorkError> {
        let offset =
            |pages: &Range<u64>| batch.file_offset + (pages.start - batch.pages.start) * batch.page_size;
        // SAFETY: parts of the batch's memory, valid for writes by `LoadTarget`'s contract, and the scratch buffer, which
        // is this worker's own and is read by nobody.
        let result = unsafe { context.read_exact(&mut *self.channel, &batch.name, &self.vecs, offset(call)) };
        let is_bridged = self.vecs.len() > 1;
        self.vecs.clear();
        match result {
            // What cannot be read may stand in a gap, where nobody needs it.
            Err(WorkError::Transfer(_)) if is_bridged => {}
            other => return other,
        }
        for run in batch.present.runs_within(call.clone()) {
            let vecs = [batch.memory(&run)];
            // SAFETY: as above, without the scratch buffer.
            unsafe { context.read_exact(&mut *self.channel, &batch.name, &vecs, offset(&run)) }?;
        }
        Ok(())
    }
}
