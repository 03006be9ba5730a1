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
use multifd_pool::{Cancel, Channel, Pool, RateLimit};

use super::options::SaveOptions;
use super::plan::{chunk, chunks, plan, region_pages};
use super::policy::SyncMode;
use super::report::SaveReport;
use super::tail::Tail;
use super::worker::{BlockState, Manner, SaveBatch, SaveWorker};
use crate::bitmap::{PageBitmap, SharedBitmap};
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::progress::{Callback, Meter};
use crate::ram_block::{Place, RamBlock};
use crate::storage::{IoMode, Storage};
use crate::touched::{Memory, Method, Touched};
use crate::transfer::{clear_range, write_slice};
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
    sync: SyncMode,
    /// `None` when everything is looked at, touched or not.
    touched: Option<Method>,
    untouched_pages: u64,
    notes: Vec<String>,
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
        let (io_mode, notes) = pick_mode(&options, &*storage, &memory);
        let cancel = options.cancel;
        let open = |source| Error::io(&file, "open a channel for the stream's head", source);
        let channel = storage.channel(0, IoMode::Buffered).map_err(open)?;

        let page_size = layout.page_size();
        let manner = Manner {
            page_size,
            chunk: options.chunk.unwrap_or_else(|| chunk(io_mode)).max(page_size),
            detector: options.zero_detection.then(Detector::best),
            bridge: options.bridge.pages(page_size),
            clears: storage.holds_old_bytes(),
            rate: options.max_bandwidth.map(|rate| Arc::new(RateLimit::new(rate))),
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
            .map(|block| {
                let pages = if block.is_left_out() { 0 } else { block.pages() };
                Arc::new(BlockState {
                    name: Arc::from(block.idstr()),
                    pages_offset: block.pages_offset(),
                    present: SharedBitmap::new(pages),
                    seen: storage.holds_old_bytes().then(|| SharedBitmap::new(pages)),
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
            sync: options.sync,
            touched: (options.zero_detection && options.skip_untouched).then_some(options.touched_method),
            untouched_pages: 0,
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
            magic,
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
        make_durable(&mut *storage)?;
        if storage.is_in_place() {
            // Only now may a reader take the stream for whole.
            write_slice(&mut *channel, &Arc::from("magic"), &magic, layout.stream_offset(), &cancel)
                .map_err(|error| Error::work(&file, error))?;
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
            notes: self.notes,
            write_time,
            sync_time: sync.elapsed(),
        })
    }

    fn write_head(&mut self) -> Result<()> {
        let start = self.layout.stream_offset();
        let label: Arc<str> = Arc::from("head");
        if self.storage.is_in_place() && !self.storage.holds_old_bytes() {
            // First of all, what stood there must not be taken for a whole stream any more.
            self.write_bytes(&label, &INCOMPLETE_MAGIC, start)?;
            self.storage
                .set_len(start + to_u64(INCOMPLETE_MAGIC.len()))
                .and_then(|()| self.storage.sync())
                .map_err(|source| Error::io(&self.file, "mark the stream as unfinished", source))?;
        }
        self.prepare()?;
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

    fn prepare(&mut self) -> Result<()> {
        let held = self.layout.blocks().iter().filter(|block| !block.is_left_out());
        let pages: Vec<Range<u64>> = held.map(|block| block.pages_offset()..block.end()).collect();
        match self.storage.prepare(self.layout.tail_offset(), &pages) {
            // A limit on the length of files is told by the write that passes it, with block and offset.
            Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Ok(()),
            other => other.map_err(|source| Error::io(&self.file, "make the file ready", source)),
        }
    }

    /// Clears the room of pages that were never dealt with, where it holds old bytes.
    fn clear_unseen(&mut self) -> Result<()> {
        let page_size = self.layout.page_size();
        for (block, layout) in self.blocks.iter().zip(self.layout.blocks()) {
            let Some(seen) = block.seen.as_ref().filter(|_| !layout.is_left_out()) else { continue };
            for run in iov_slicer::page_runs(seen.words(), layout.pages()).clear() {
                let offset = block.pages_offset + run.start * page_size;
                clear_range(&mut *self.channel, &block.name, offset, (run.end - run.start) * page_size)
                    .map_err(|error| Error::work(&self.file, error))?;
            }
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
        let total = parts.iter().map(Part::pages).sum::<u64>() * page_size;
        let region = region_pages(page_size, total, to_u64(self.pool.channels()));
        let mut meter = Meter::new(&mut self.progress, total, page_size, || self.pool.counters());
        // Whatever happens below, a panic of the callback included, no channel reads the memory after this function.
        let guard = SyncOnDrop(&self.pool);
        for part in parts {
            let block = &self.blocks[part.index];
            let mut at = part.pages.start;
            for stretch in part.stretches(&self.memory, page_size, self.touched) {
                // Where old bytes stand in their room, `finish` clears them: these pages were not seen.
                block.present.clear_words(at..stretch.start);
                self.untouched_pages += stretch.start - at;
                meter.skip((stretch.start - at) * page_size);
                at = stretch.end;
                for pages in chunks(stretch, region) {
                    let skip = to_usize((pages.start - part.pages.start) * page_size);
                    // SAFETY: the range is inside the part's memory: a block's (readable for as long as the writer lives)
                    // or the slice that `write_from` borrowed; the bitmap is borrowed as well. All outlive this function,
                    // and `guard` does not let it end before the pool has synced.
                    let batch = unsafe {
                        SaveBatch::new(
                            Arc::clone(block),
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
        }
        self.pool.sync().map_err(|error| Error::pool(&self.file, error))?;
        meter.tell(|| self.pool.counters());
        Ok(())
    }
}

/// The mode that the channels get, and what is to be said of it.
fn pick_mode(
    options: &SaveOptions<'_>,
    storage: &dyn Storage,
    memory: &[RamBlock<'_>],
) -> (IoMode, Vec<String>) {
    /// What file systems ask of the memory for direct I/O, in bytes: no disk in use has larger blocks.
    const DIRECT_ALIGNMENT: usize = 4096;
    let mut notes = Vec::new();
    let wanted = match options.io_mode {
        IoMode::Auto if options.sync == SyncMode::None => IoMode::Buffered,
        IoMode::Auto => {
            let is_aligned = |block: &RamBlock<'_>| match block.place {
                Place::Here(start) => start.addr().is_multiple_of(DIRECT_ALIGNMENT),
                Place::Detached | Place::LeftOut => true,
            };
            let is_large = options.page_size.is_multiple_of(DIRECT_ALIGNMENT as u64);
            if is_large && memory.iter().all(is_aligned) { IoMode::Direct } else { IoMode::Uncached }
        }
        other => other,
    };
    let mut got = storage.effective_mode(wanted);
    if got != wanted {
        // Next best for a durable save: what does not fill the page cache with what nobody will read.
        if wanted == IoMode::Direct && options.io_mode == IoMode::Auto {
            got = storage.effective_mode(IoMode::Uncached);
        }
        notes.push(format!("the file system or kernel has no {wanted} writes here; wrote {got}"));
    } else if options.io_mode == IoMode::Auto {
        notes.push(format!("wrote {got}, which suits a save with --sync {}", options.sync));
    }
    (got, notes)
}

/// Pages that are to be written, and where they are.
struct Part<'p> {
    index: usize,
    /// Where page `pages.start` is in memory.
    start: *const u8,
    pages: Range<u64>,
    selection: Option<&'p PageBitmap>,
    /// Whether it is the block's own memory, of which may be known what was touched.
    is_memory: bool,
}

impl Part<'_> {
    /// What of the part has to be looked at, in order; then, empty, its end.
    fn stretches<'s>(
        &self,
        memory: &'s [RamBlock<'_>],
        page_size: u64,
        touched: Option<Method>,
    ) -> Box<dyn Iterator<Item = Range<u64>> + 's> {
        let end = self.pages.end;
        match touched {
            Some(method) if self.is_memory && self.selection.is_none() => {
                let memory = Memory {
                    start: self.start,
                    length: (end - self.pages.start) * page_size,
                    page_size,
                    backing: memory[self.index].backing.as_ref(),
                    method,
                };
                Box::new(Touched::of(&memory).chain(std::iter::once(end..end)))
            }
            _ => Box::new(std::iter::once(self.pages.clone())),
        }
    }

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
