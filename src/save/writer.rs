//! The order of a save: head, pages, bitmaps, tail, sync, name.
//!
//! The writer decides when what is written. What it is made of: rounds of pages (`round`), all that is no page (`frame`),
//! the choice of the mode (`mode`). Where to is the storage's business, how to scan and cut the worker's.
//!
//! Every method returns only when no channel touches the caller's memory any more, also when it fails or panics.

use std::sync::Arc;
use std::time::Instant;

use mapped_ram_format::bitmap::BitmapEncoding;
use mapped_ram_format::{INCOMPLETE_MAGIC, Layout};
use multifd_pool::{Cancel, Channel, Pool, RateLimit};

use super::copied::Copied;
use super::mode::pick_mode;
use super::options::SaveOptions;
use super::plan::{Portions, chunk, plan, takes_turns};
use super::policy::SyncMode;
use super::report::SaveReport;
use super::round::Part;
use super::tail::Tail;
use super::worker::{BlockState, Manner, SaveBatch, SaveWorker};
use crate::bitmap::{PageBitmap, SharedBitmap};
use crate::convert::to_u64;
use crate::error::{Error, Result};
use crate::progress::Callback;
use crate::ram_block::{Place, RamBlock};
use crate::storage::{IoMode, Storage};
use crate::touched::Method;
use crate::transfer::write_slice;
use crate::zero::Detector;

/// Saves RAM blocks into one mapped-ram stream. Made by [`SaveOptions::create`] and its relatives.
///
/// Pages may be written again and again, in rounds, as long as the guest runs; the file then holds what was written
/// last. Nothing is under the final name before [`finish`](Self::finish) returned; a writer that is dropped before
/// leaves no file (or, in place, a stream that every reader calls incomplete). After a method that failed, or panicked with the
/// progress callback, every other one is an error.
///
/// ```
/// # fn main() -> mapped_ram::Result<()> {
/// use mapped_ram::{PageBitmap, RamBlock, Reader, SaveOptions, Tail};
///
/// let mut memory = vec![1_u8; 1 << 20];
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("guest.mram");
/// let start = memory.as_mut_ptr();
/// // SAFETY: `memory` lives until the end, and the writer is gone before.
/// let block = unsafe { RamBlock::from_raw("ram0", start, 1 << 20) };
/// let mut writer = SaveOptions::new().create(&path, vec![block])?;
///
/// writer.write_all()?; // the guest may run
/// // SAFETY: a byte of `memory`, to which there is no reference.
/// unsafe { start.write(2) }; // it dirties page 0
/// let mut dirty = PageBitmap::new(256);
/// dirty.insert(0..1);
/// writer.write_pages(0, &dirty)?; // the guest stands still
/// writer.finish(&Tail::minimal())?;
///
/// let mut byte = [0];
/// Reader::open(&path)?.block("ram0").unwrap().read_at(0, &mut byte)?;
/// assert_eq!(byte, [2]);
/// # Ok(())
/// # }
/// ```
pub struct Writer<'a> {
    /// Before the storage, so that no channel is left when that is dropped.
    pub(super) pool: Pool<SaveBatch>,
    pub(super) storage: Box<dyn Storage>,
    /// For all that is no page: head, bitmaps, tail.
    pub(super) channel: Box<dyn Channel>,
    pub(super) file: String,
    pub(super) layout: Layout,
    pub(super) blocks: Vec<Arc<BlockState>>,
    pub(super) memory: Vec<RamBlock<'a>>,
    /// Written before the stream, when the head is.
    pub(super) preamble: Option<Copied>,
    pub(super) bitmap_encoding: BitmapEncoding,
    /// Kept back until all else is synced, and where it goes.
    pub(super) magic: [u8; INCOMPLETE_MAGIC.len()],
    pub(super) magic_offset: u64,
    pub(super) cancel: Cancel,
    pub(super) progress: Callback<'a>,
    pub(super) portions: Portions,
    io_mode: IoMode,
    sync: SyncMode,
    /// `None` when everything is looked at, touched or not.
    pub(super) touched: Option<Method>,
    pub(super) untouched_pages: u64,
    /// For each block the end of what an earlier round dealt with: pages behind it have nothing in their room yet.
    pub(super) seen: Vec<u64>,
    pub(super) notes: Vec<String>,
    started: Instant,
    /// An operation failed: what the file holds is not known any more.
    pub(super) failed: bool,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("file", &self.file)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl<'a> Writer<'a> {
    pub(super) fn begin(
        options: SaveOptions<'a>,
        mut storage: Box<dyn Storage>,
        memory: Vec<RamBlock<'a>>,
    ) -> Result<Self> {
        let started = Instant::now();
        let layout = plan(&options, &memory)?;
        let file = storage.name();
        let (io_mode, notes) = pick_mode(&options, &*storage, &memory);
        let cancel = options.cancel;
        let open = |source| Error::io(&file, "open a channel for the stream's head", source);
        let channel = storage.channel(0, IoMode::Buffered).map_err(open)?;

        let page_size = layout.page_size();
        let portions = Portions::new(io_mode, page_size, options.max_bandwidth.is_some());
        let manner = Manner {
            page_size,
            portions,
            chunk: options.chunk.unwrap_or_else(|| chunk(io_mode)).max(page_size),
            detector: options.zero_detection.then(Detector::best),
            bridge: options.bridge.pages(page_size),
            clears: storage.holds_old_bytes(),
            rate: options.max_bandwidth.map(|rate| Arc::new(RateLimit::new(rate))),
            turn: takes_turns(io_mode, options.max_bandwidth.is_some()).then(Arc::default),
        };
        let pool = Pool::<SaveBatch>::builder()
            .channels(options.channels)
            .queue_depth(2 * options.channels)
            .name("mapped-ram")
            .cancel(cancel.clone())
            .spawn(|index| {
                let channel = storage.channel(index, io_mode)?;
                Ok(SaveWorker::new(channel, manner.clone()))
            })
            .map_err(|error| Error::pool(&file, error))?;

        let blocks = layout
            .blocks()
            .iter()
            .zip(&memory)
            .map(|(block, memory)| {
                let pages = if block.is_left_out() { 0 } else { block.pages() };
                let bitmap = || {
                    SharedBitmap::try_new(pages).ok_or_else(|| {
                        let what = format!("the bitmap of block `{}`", block.idstr());
                        Error::no_memory(&file, pages.div_ceil(64) * 8, &what)
                    })
                };
                Ok(Arc::new(BlockState {
                    name: Arc::from(block.idstr()),
                    pages_offset: block.pages_offset(),
                    is_fresh: memory.is_fresh,
                    present: bitmap()?,
                    seen: storage.holds_old_bytes().then(bitmap).transpose()?,
                }))
            })
            .collect::<Result<_>>()?;

        let seen = memory.len();
        let mut writer = Self {
            pool,
            storage,
            channel,
            file,
            layout,
            blocks,
            memory,
            preamble: options.preamble,
            bitmap_encoding: options.bitmap_encoding,
            magic: [0; INCOMPLETE_MAGIC.len()],
            magic_offset: 0,
            cancel,
            progress: options.progress,
            portions,
            io_mode,
            sync: options.sync,
            touched: (options.zero_detection && options.skip_untouched).then_some(options.touched_method),
            untouched_pages: 0,
            seen: vec![0; seen],
            notes,
            started,
            failed: false,
        };
        writer.write_head()?;
        Ok(writer)
    }

    /// Where everything stands in the file.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes every page of every block that is memory of this process.
    ///
    /// # Errors
    /// The first error of any channel, with block and offset; the writer is then of no more use.
    pub fn write_all(&mut self) -> Result<()> {
        let parts: Vec<Part<'_>> = (0..self.memory.len())
            .filter_map(|index| match self.memory[index].place {
                Place::Here(start) => {
                    let pages = 0..self.layout.blocks()[index].pages();
                    Some(Part { index, start, pages, selection: None, is_memory: true })
                }
                Place::Detached | Place::LeftOut => None,
            })
            .collect();
        self.write_parts(&parts)
    }

    /// Writes the pages of block `index` (in the order the blocks were given) that are set in `dirty`, over what was
    /// written for them before.
    ///
    /// # Errors
    /// A bitmap of another number of pages, a block that is not memory of this process; otherwise as
    /// [`write_all`](Self::write_all).
    pub fn write_pages(&mut self, index: usize, dirty: &PageBitmap) -> Result<()> {
        let layout = self.block_layout(index)?;
        let (name, pages) = (layout.idstr().to_string(), layout.pages());
        let Place::Here(start) = self.memory[index].place else {
            return Err(Error::Usage(format!(
                "block `{name}` is not memory of this process; use `write_from`"
            )));
        };
        if dirty.pages() != pages {
            return Err(Error::Usage(format!(
                "the dirty bitmap of block `{name}` has {} pages, the block {pages}",
                dirty.pages()
            )));
        }
        self.write_parts(&[Part { index, start, pages: 0..pages, selection: Some(dirty), is_memory: true }])
    }

    /// Writes `bytes` as the pages of block `index` from `offset` (bytes from the block's start) on.
    ///
    /// # Errors
    /// An offset or length that is no multiple of the page size, a range outside of the block; otherwise as
    /// [`write_all`](Self::write_all).
    pub fn write_from(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let layout = self.block_layout(index)?;
        let (name, page_size, used_length) = (layout.idstr(), layout.page_size(), layout.used_length());
        let length = to_u64(bytes.len());
        if layout.is_left_out() {
            return Err(Error::Usage(format!("block `{name}` is left out of the file; it has no pages")));
        }
        if !offset.is_multiple_of(page_size) || !length.is_multiple_of(page_size) {
            return Err(Error::Usage(format!(
                "{length} bytes at offset {offset:#x} of block `{name}` are not whole pages of {page_size}"
            )));
        }
        let end = offset.checked_add(length).filter(|end| *end <= used_length);
        let Some(end) = end else {
            return Err(Error::Usage(format!(
                "{length} bytes at offset {offset:#x} run past the end of block `{name}` at {used_length:#x}"
            )));
        };
        let pages = offset / page_size..end / page_size;
        self.write_parts(&[Part { index, start: bytes.as_ptr(), pages, selection: None, is_memory: false }])
    }

    /// Writes the bitmaps and the tail, makes the file durable and gives it its name.
    ///
    /// # Errors
    /// What the system says to writing or syncing, and [`Error::Usage`] after an operation that failed: the file is
    /// then not published.
    pub fn finish(mut self, tail: &Tail) -> Result<SaveReport> {
        self.check_usable()?;
        self.pool.sync().map_err(|error| Error::pool(&self.file, error))?;
        self.clear_unseen()?;
        self.write_bitmaps()?;
        let end = self.write_tail(tail)?;
        self.check_cancelled()?;

        let Self {
            pool,
            mut storage,
            mut channel,
            file,
            layout,
            blocks,
            magic,
            magic_offset,
            cancel,
            io_mode,
            sync: how,
            started,
            ..
        } = self;
        let channels = pool.finish().map_err(|error| Error::pool(&file, error))?;
        let write_time = started.elapsed();
        let sync = Instant::now();
        let make_durable = |storage: &mut dyn Storage| {
            let result = match how {
                SyncMode::None => Ok(()),
                SyncMode::Data => storage.sync_data(),
                SyncMode::Full => storage.sync(),
            };
            result.map_err(|source| Error::io(&file, "make the file durable", source))
        };
        // Of the file as it is when its last byte is written.
        if !storage.is_in_place() {
            storage.note_clean(layout.stream_offset());
        }
        make_durable(&mut *storage)?;
        if storage.is_in_place() {
            // Only now may a reader take the stream for whole.
            write_slice(&mut *channel, &Arc::from("magic"), &magic, magic_offset, &cancel)
                .map_err(|error| Error::work(&file, error))?;
            storage.note_clean(layout.stream_offset());
            make_durable(&mut *storage)?;
        }
        drop(channel);
        storage
            .publish(how == SyncMode::Full)
            .map_err(|source| Error::io(&file, "give the finished file its name", source))?;
        Ok(SaveReport {
            channels,
            guest_bytes: layout.blocks().iter().map(mapped_ram_format::BlockLayout::used_length).sum(),
            file_length: end,
            disk_bytes: storage.disk_bytes(),
            io_mode,
            sync: how,
            untouched_pages: self.untouched_pages,
            present_pages: blocks.iter().map(|block| block.present.count()).collect(),
            notes: self.notes,
            pieces_given_back: storage.pieces_given_back(),
            write_time,
            sync_time: sync.elapsed(),
        })
    }

    fn block_layout(&self, index: usize) -> Result<&mapped_ram_format::BlockLayout> {
        let blocks = self.layout.blocks();
        blocks.get(index).ok_or_else(|| {
            Error::Usage(format!("there is no block {index}; the writer has {}", blocks.len()))
        })
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        if self.failed {
            return Err(Error::Usage(format!("{}: an earlier write failed; begin the save anew", self.file)));
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled { file: self.file.clone() });
        }
        Ok(())
    }
}
