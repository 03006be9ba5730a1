//! The order of a save: head, pages, bitmaps, tail, sync, name.
//!
//! The writer decides when what is written; where to is the storage's business, how to scan and cut the worker's.
//!
//! Every method returns only when no channel touches the caller's memory any more, also when it fails or panics.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use mapped_ram_format::bitmap::BitmapEncoding;
use mapped_ram_format::{INCOMPLETE_MAGIC, Layout};
use multifd_pool::{Cancel, Channel, Pool};

use super::options::SaveOptions;
use super::plan::{CHUNK, chunk_pages, chunks, plan};
use super::report::SaveReport;
use super::tail::Tail;
use super::worker::{BlockState, SaveBatch, SaveWorker};
use crate::bitmap::{PageBitmap, SharedBitmap};
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::progress::{Callback, Meter};
use crate::ram_block::{Place, RamBlock};
use crate::storage::{IoMode, Storage};
use crate::transfer::write_slice;
use crate::zero::Detector;

/// How many bitmap words are encoded and written at a time: 64 KiB, which covers 2 GiB of 4 KiB pages.
const BITMAP_WINDOW: usize = 8 << 10;

/// Saves RAM blocks into one mapped-ram stream. Made by [`SaveOptions::create`] and its relatives.
///
/// Pages may be written again and again, in rounds, as long as the guest runs; the file then holds what was written
/// last. Nothing is under the final name before [`finish`](Self::finish) returned; a writer that is dropped before
/// leaves no file (or, in place, a stream that every reader calls incomplete).
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
    pool: Pool<SaveBatch>,
    storage: Box<dyn Storage>,
    /// For all that is no page: head, bitmaps, tail.
    channel: Box<dyn Channel>,
    file: String,
    layout: Layout,
    blocks: Vec<Arc<BlockState>>,
    memory: Vec<RamBlock<'a>>,
    magic: Vec<u8>,
    cancel: Cancel,
    progress: Callback<'a>,
    io_mode: IoMode,
    started: Instant,
    /// An operation failed: what the file holds is not known any more.
    failed: bool,
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
        let io_mode = storage.effective_mode(options.io_mode);
        let cancel = options.cancel;
        let open = |source| Error::io(&file, "open a channel for the stream's head", source);
        let channel = storage.channel(0, IoMode::Buffered).map_err(open)?;

        let detector = options.zero_detection.then(Detector::best);
        let page_size = layout.page_size();
        let pool = Pool::<SaveBatch>::builder()
            .channels(options.channels)
            .queue_depth(2 * options.channels)
            .name("mapped-ram")
            .cancel(cancel.clone())
            .spawn(|index| {
                let channel = storage.channel(index, options.io_mode)?;
                Ok(SaveWorker::new(channel, page_size, CHUNK, detector))
            })
            .map_err(|error| Error::pool(&file, error))?;

        let blocks = layout
            .blocks()
            .iter()
            .map(|block| {
                let pages = if block.is_left_out() { 0 } else { block.pages() };
                Arc::new(BlockState {
                    name: Arc::from(block.idstr()),
                    pages_offset: block.pages_offset(),
                    present: SharedBitmap::new(pages),
                })
            })
            .collect();

        let mut writer = Self {
            pool,
            storage,
            channel,
            file,
            layout,
            blocks,
            memory,
            magic: Vec::new(),
            cancel,
            progress: options.progress,
            io_mode,
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
                    Some(Part { index, start, pages, selection: None })
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
        self.write_parts(&[Part { index, start, pages: 0..pages, selection: Some(dirty) }])
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
        self.write_parts(&[Part { index, start: bytes.as_ptr(), pages, selection: None }])
    }

    /// Writes the bitmaps and the tail, makes the file durable and gives it its name.
    ///
    /// # Errors
    /// What the system says to writing or syncing, and [`Error::Usage`] after an operation that failed: the file is
    /// then not published.
    pub fn finish(mut self, tail: &Tail) -> Result<SaveReport> {
        self.check_usable()?;
        self.pool.sync().map_err(|error| Error::pool(&self.file, error))?;
        self.write_bitmaps()?;
        let end = self.write_tail(tail)?;
        self.check_cancelled()?;

        let Self { pool, mut storage, mut channel, file, layout, magic, cancel, io_mode, started, .. } = self;
        let channels = pool.finish().map_err(|error| Error::pool(&file, error))?;
        let write_time = started.elapsed();
        let sync = Instant::now();
        let sync_error = |source| Error::io(&file, "make the file durable", source);
        storage.sync().map_err(sync_error)?;
        if storage.is_in_place() {
            // Only now may a reader take the stream for whole.
            write_slice(&mut *channel, &Arc::from("magic"), &magic, layout.stream_offset(), &cancel)
                .map_err(|error| Error::work(&file, error))?;
            storage.sync().map_err(sync_error)?;
        }
        drop(channel);
        storage
            .publish(true)
            .map_err(|source| Error::io(&file, "give the finished file its name", source))?;
        Ok(SaveReport {
            channels,
            guest_bytes: layout.blocks().iter().map(mapped_ram_format::BlockLayout::used_length).sum(),
            file_length: end,
            io_mode,
            write_time,
            sync_time: sync.elapsed(),
        })
    }

    fn write_head(&mut self) -> Result<()> {
        let start = self.layout.stream_offset();
        let label: Arc<str> = Arc::from("head");
        if self.storage.is_in_place() {
            // First of all, what stood there must not be taken for a whole stream any more.
            self.write_bytes(&label, &INCOMPLETE_MAGIC, start)?;
            self.storage
                .set_len(start + to_u64(INCOMPLETE_MAGIC.len()))
                .and_then(|()| self.storage.sync())
                .map_err(|source| Error::io(&self.file, "mark the stream as unfinished", source))?;
        }
        for mut piece in self.layout.pieces() {
            if piece.offset == start && self.storage.is_in_place() {
                let rest = piece.bytes.split_off(INCOMPLETE_MAGIC.len());
                self.magic = std::mem::replace(&mut piece.bytes, rest);
                piece.offset += to_u64(INCOMPLETE_MAGIC.len());
            }
            self.write_bytes(&label, &piece.bytes, piece.offset)?;
        }
        Ok(())
    }

    fn write_bitmaps(&mut self) -> Result<()> {
        let mut words = Vec::with_capacity(BITMAP_WINDOW);
        let mut bytes = Vec::new();
        for index in 0..self.blocks.len() {
            let block = Arc::clone(&self.blocks[index]);
            let mut offset = self.layout.blocks()[index].bitmap_offset();
            for window in block.present.words().chunks(BITMAP_WINDOW) {
                words.clear();
                words.extend(window.iter().map(|word| word.load(std::sync::atomic::Ordering::Relaxed)));
                bytes.clear();
                bytes.resize(words.len() * 8, 0);
                BitmapEncoding::NATIVE.encode(&words, &mut bytes);
                // A file's bytes are zero until written: an empty stretch of the bitmap stays a hole.
                if words.iter().any(|word| *word != 0) {
                    self.write_bytes(&block.name, &bytes, offset)?;
                }
                offset += to_u64(bytes.len());
            }
        }
        Ok(())
    }

    fn write_tail(&mut self, tail: &Tail) -> Result<u64> {
        let start = self.layout.tail_offset();
        let label: Arc<str> = Arc::from("tail");
        let layout = self.layout.clone();
        let length = tail.pour(&layout, |at, bytes| self.write_bytes(&label, bytes, start + at))?;
        Ok(start + length)
    }

    fn write_bytes(&mut self, what: &Arc<str>, bytes: &[u8], offset: u64) -> Result<()> {
        write_slice(&mut *self.channel, what, bytes, offset, &self.cancel)
            .map_err(|error| Error::work(&self.file, error))
    }

    fn block_layout(&self, index: usize) -> Result<&mapped_ram_format::BlockLayout> {
        let blocks = self.layout.blocks();
        blocks.get(index).ok_or_else(|| {
            Error::Usage(format!("there is no block {index}; the writer has {}", blocks.len()))
        })
    }

    fn check_usable(&self) -> Result<()> {
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

    /// Sends all chunks of `parts` through the channels and waits until none is left.
    fn write_parts(&mut self, parts: &[Part<'_>]) -> Result<()> {
        self.check_usable()?;
        let written = self.send_parts(parts);
        self.failed = written.is_err();
        written
    }

    fn send_parts(&mut self, parts: &[Part<'_>]) -> Result<()> {
        let page_size = self.layout.page_size();
        let chunk_pages = chunk_pages(page_size);
        let total = parts.iter().map(Part::pages).sum::<u64>() * page_size;
        let mut meter = Meter::new(&mut self.progress, total, page_size, || self.pool.counters());
        // Whatever happens below, a panic of the callback included, no channel reads the memory after this function.
        let guard = SyncOnDrop(&self.pool);
        for part in parts {
            for pages in chunks(part.pages.clone(), chunk_pages) {
                let skip = to_usize((pages.start - part.pages.start) * page_size);
                // SAFETY: the range is inside the part's memory: a block's (readable for as long as the writer lives)
                // or the slice that `write_from` borrowed; the bitmap is borrowed as well. All outlive this function,
                // and `guard` does not let it end before the pool has synced.
                let batch = unsafe {
                    SaveBatch::new(
                        Arc::clone(&self.blocks[part.index]),
                        part.start.wrapping_add(skip),
                        pages,
                        part.selection,
                    )
                };
                if let Err(refused) = guard.0.submit(batch) {
                    return Err(Error::pool(&self.file, refused.error));
                }
                meter.tell(|| self.pool.counters());
            }
        }
        self.pool.sync().map_err(|error| Error::pool(&self.file, error))?;
        meter.tell(|| self.pool.counters());
        Ok(())
    }
}

/// Pages that are to be written, and where they are.
struct Part<'p> {
    index: usize,
    /// Where page `pages.start` is in memory.
    start: *const u8,
    pages: Range<u64>,
    selection: Option<&'p PageBitmap>,
}

impl Part<'_> {
    /// How many pages are meant.
    fn pages(&self) -> u64 {
        self.selection.map_or(self.pages.end - self.pages.start, PageBitmap::count)
    }
}

struct SyncOnDrop<'p>(&'p Pool<SaveBatch>);

impl Drop for SyncOnDrop<'_> {
    fn drop(&mut self) {
        // The error, if any, was or will be returned by the call that failed; here only the waiting counts.
        let _ = self.0.sync();
    }
}
