//! Fills memory with blocks of a file, by all channels.
//!
//! - [`target`]: which memory a block goes to, and what it holds before;
//! - [`way`]: through the page cache or past it, and how much at a time;
//! - [`calls`]: which pages one call reads; [`worker`]: what a channel does with its part;
//! - [`report`]: what a load did, or how far it came.

mod calls;
mod report;
#[expect(unsafe_code, reason = "memory that others may see, as a raw pointer")]
mod target;
mod way;
#[expect(unsafe_code, reason = "memory that others may see is filled through raw pointers")]
mod worker;

use std::sync::Arc;

use multifd_pool::{Cancel, Pool};

pub use report::{LoadReport, LoadState, LoadedBlock};
pub use target::{Destination, LoadTarget};

use self::report::State;
use self::way::Way;
use self::worker::{LoadBatch, LoadWorker, load_error};
use super::Block;
use super::chunks::{default_channels, for_each_chunk};
use crate::convert::to_usize;
use crate::error::{Error, Result};
use crate::progress::{Callback, Meter, Progress};
use crate::storage::IoMode;

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

    /// Through the page cache or past it; which of them it became is in [`LoadReport::io_mode`]. [`IoMode::Auto`] looks whether most of
    /// the file is in the page cache, and reads past it otherwise, with many reads in flight where the kernel lets it: the fastest way
    /// for a guest that is restored once. One that is restored again and again is better brought into the cache by the first load.
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

    /// Calls `callback` now and then while pages are read. If it panics, so does the load, and what is in the memory is not known.
    pub fn progress(mut self, callback: impl FnMut(&Progress) + Send + 'a) -> Self {
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
        let way = Way::choose(self.io_mode, &*shared.source, targets)?;
        // The batches point into the targets' memory: whatever way this function is left, dropping the pool waits for
        // its channels, and the targets are the caller's.
        let pool = Pool::<LoadBatch>::builder()
            .channels(self.channels)
            .queue_depth(self.channels.saturating_mul(2))
            .name("mapped-ram")
            .cancel(self.cancel.clone())
            .spawn(|index| {
                let channel = shared.source.channel(index, way.io_mode)?;
                Ok(LoadWorker::new(channel, way.calls, way.chunk, self.check_zeroed))
            })
            .map_err(|error| Error::pool(file, error))?;
        let states: Vec<Arc<State>> = targets.iter().map(|_| Arc::default()).collect();
        // Only when the pool is gone has every channel said what it did.
        self.run(way, pool, targets, &states).map_err(|source| Error::Load {
            source: Box::new(source),
            blocks: targets.iter().zip(&states).map(|(target, state)| state.of(target.block)).collect(),
        })
    }

    fn run(
        &mut self,
        way: Way,
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
            for_each_chunk(target.block, way.chunk, |pages| {
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
        Ok(LoadReport { channels, io_mode: way.io_mode })
    }
}

impl Block {
    /// Fills `memory`, exactly as long as the block, with the default [`LoadOptions`].
    ///
    /// ```
    /// # fn main() -> mapped_ram::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("guest.mram");
    /// # let memory = vec![3_u8; 1 << 16];
    /// # mapped_ram::SaveOptions::new().save(&path, vec![mapped_ram::RamBlock::new("ram0", &memory)])?;
    /// use mapped_ram::{Destination, Reader};
    ///
    /// let reader = Reader::open(&path)?;
    /// let block = reader.block("ram0").unwrap();
    /// // Full of something else: absent pages are cleared too.
    /// let mut back = vec![0xFF; 1 << 16];
    /// block.load(&mut back, Destination::Used)?;
    /// assert_eq!(back, memory);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`LoadOptions::load`].
    pub fn load(&self, memory: &mut [u8], destination: Destination) -> Result<LoadReport> {
        LoadOptions::new().load(&mut [LoadTarget::new(self, memory, destination)])
    }
}
