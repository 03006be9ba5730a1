//! Whether an open file is whole: more than opening it already proved.
//!
//! Opening proved the structure: every range lies inside the file and none overlap. Here everything else is looked at
//! that can be known without the guest: that each page that is marked present can be read, that none of them stands in
//! a hole of the file (what a full disk leaves behind when nobody looks at short writes), and that the tail's sections
//! follow each other up to the end of the stream. What the format allows and nobody means, such as bytes behind that end, is a warning.
//!
//! What no reader can know is whether a page holds the right bytes: the format has no checksums.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use multifd_pool::{Cancel, Channel, ChannelContext, Pool, WorkError, Worker};

use super::chunks::{CHUNK, DIRECT_ALIGNMENT, default_channels, for_each_chunk};
use super::{Block, Reader};
use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::progress::{Callback, Meter, Progress};
use crate::storage::IoMode;
use crate::transfer::read_slice;
use crate::zero::Detector;

/// What is looked at.
#[must_use = "options do nothing until `verify` is called"]
pub struct VerifyOptions<'a> {
    allow_holes: bool,
    channels: usize,
    io_mode: IoMode,
    cancel: Cancel,
    progress: Callback<'a>,
}

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> VerifyOptions<'a> {
    /// Everything, with as many channels as there are cores, at most 8; present pages in holes are problems.
    pub fn new() -> Self {
        Self {
            allow_holes: false,
            channels: default_channels(),
            io_mode: IoMode::Buffered,
            cancel: Cancel::new(),
            progress: None,
        }
    }

    /// Takes present pages that stand in holes of the file for pages of zeros. They are, where zero pages were written
    /// (zero detection off) and holes dug into the file later, as `cp --sparse=always` does. Where nobody did that,
    /// they are pages that were lost.
    pub fn allow_holes(mut self, allow: bool) -> Self {
        self.allow_holes = allow;
        self
    }

    /// How many threads read, 1 to 255.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Through the page cache or past it.
    pub fn io_mode(mut self, mode: IoMode) -> Self {
        self.io_mode = mode;
        self
    }

    /// A handle that ends the work from outside.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Calls `callback` now and then while pages are read.
    pub fn progress(mut self, callback: impl FnMut(&Progress) + Send + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }
}

/// What was found in a file that could be read to its end.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The blocks, in the file's order.
    pub blocks: Vec<BlockReport>,
    /// What makes the file damaged or incomplete; empty for a sound one.
    pub problems: Vec<Problem>,
    /// What is right by the format, and most likely not what was meant. Whoever loads the file gets all that it says.
    pub warnings: Vec<Problem>,
    /// How many bytes stand behind the last block's pages.
    pub tail_bytes: u64,
    /// How many devices have their state in the tail.
    pub devices: usize,
}

/// What was found in one block.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BlockReport {
    /// The block's name.
    pub idstr: String,
    /// How many pages the block has.
    pub pages: u64,
    /// How many of them stand in the file.
    pub present: u64,
    /// How many present pages are zeros all through; room that a copy can save.
    pub present_zero: u64,
    /// How many present pages stand wholly in holes of the file.
    pub present_in_holes: u64,
    /// How many bytes that are not zeros stand in the pages' rooms, where no page is present ([`Reader::unmarked_blocks`]); 0 where
    /// any is, since a live save leaves stale bytes beside them.
    pub unmarked_bytes: u64,
}

impl VerifyReport {
    /// Whether the file holds pages, and marks not a single one of any block as present: its bitmaps were most likely never written
    /// ([`Reader::unmarked_blocks`]).
    pub fn is_unmarked(&self) -> bool {
        self.blocks.iter().all(|block| block.present == 0)
            && self.blocks.iter().any(|block| block.unmarked_bytes > 0)
    }
}

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The block, where it is about one.
    pub block: Option<String>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong, and what it may mean.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(block) = &self.block {
            write!(f, "block `{block}`, ")?;
        }
        write!(f, "offset {:#x}: {}", self.offset, self.what)
    }
}

impl Reader {
    /// Reads the whole file and says what is wrong with it. The format has no checksums: what is missing is found, what was
    /// changed is not.
    ///
    /// ```
    /// # fn main() -> mapped_ram::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("guest.mram");
    /// # let memory = vec![3_u8; 1 << 16];
    /// # mapped_ram::SaveOptions::new().save(&path, vec![mapped_ram::RamBlock::new("ram0", &memory)])?;
    /// use mapped_ram::{Reader, VerifyOptions};
    ///
    /// let report = Reader::open(&path)?.verify(VerifyOptions::new().channels(2))?;
    /// for problem in report.problems.iter().chain(&report.warnings) {
    ///     eprintln!("{problem}");
    /// }
    /// assert!(report.problems.is_empty());
    /// assert_eq!(report.blocks[0].present, 16);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What keeps the file from being read to its end. What is wrong with its content is in the report instead.
    pub fn verify(&self, mut options: VerifyOptions<'_>) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        for block in self.blocks() {
            let mut found = BlockReport {
                idstr: block.idstr().into_owned(),
                pages: block.pages(),
                ..BlockReport::default()
            };
            if !block.is_left_out() {
                found.present = block.present_pages()?;
                let lost = present_in_holes(block)?;
                found.present_in_holes = lost.count;
                if let Some(first) = lost.first
                    && !options.allow_holes
                {
                    report.problems.push(lost_pages(block, lost.count, first));
                }
            }
            report.blocks.push(found);
        }
        self.find_unmarked(&options, &mut report)?;
        self.read_pages(&mut options, &mut report)?;
        self.verify_tail(&mut report)?;
        Ok(report)
    }

    fn find_unmarked(&self, options: &VerifyOptions<'_>, report: &mut VerifyReport) -> Result<()> {
        for (index, unmarked) in self.unmarked_by_index(&options.cancel)? {
            report.blocks[index].unmarked_bytes = unmarked.bytes;
            report.warnings.push(Problem {
                what: unmarked.what(),
                offset: unmarked.offset,
                block: Some(unmarked.idstr),
            });
        }
        Ok(())
    }

    /// Reads every present page once and counts those that are zeros.
    fn read_pages(&self, options: &mut VerifyOptions<'_>, report: &mut VerifyReport) -> Result<()> {
        let page_size = self.layout().page_size();
        let held = self.blocks().iter().filter(|block| !block.is_left_out());
        let total = held.map(Block::used_length).sum();
        let pool = Pool::<VerifyBatch>::builder()
            .channels(options.channels)
            .queue_depth(options.channels.saturating_mul(2))
            .name("mapped-ram")
            .cancel(options.cancel.clone())
            .spawn(|index| {
                let channel = self.source().channel(index, options.io_mode)?;
                Ok(VerifyWorker { channel, buffer: Vec::new() })
            })
            .map_err(|error| Error::pool(self.file(), error))?;
        let mut meter = Meter::new(&mut options.progress, total, page_size, || pool.counters());
        let zeros: Vec<Arc<AtomicU64>> = report.blocks.iter().map(|_| Arc::default()).collect();
        for (block, zeros) in self.blocks().iter().zip(&zeros).filter(|(block, _)| !block.is_left_out()) {
            let present = Arc::clone(block.bitmap()?);
            let name: Arc<str> = Arc::from(block.idstr());
            for_each_chunk(block, CHUNK, |pages| {
                let batch = VerifyBatch {
                    name: Arc::clone(&name),
                    present: Arc::clone(&present),
                    page_size,
                    pages_offset: block.layout().pages_offset(),
                    pages,
                    zeros: Arc::clone(zeros),
                };
                pool.submit(batch).map_err(|refused| Error::pool(self.file(), refused.error))?;
                meter.tell(|| pool.counters());
                Ok(())
            })?;
        }
        pool.sync().map_err(|error| Error::pool(self.file(), error))?;
        meter.tell(|| pool.counters());
        for (block, zeros) in report.blocks.iter_mut().zip(&zeros) {
            block.present_zero = zeros.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// What [`verify`](Self::verify) warns of behind the end of the stream: bytes that are not all zeros, and belong to nothing.
    ///
    /// # Errors
    /// As [`devices`](Self::devices).
    pub fn bytes_behind(&self) -> Result<Option<Problem>> {
        let bytes = self.tail()?;
        Ok(bytes_behind(&bytes, self.parse_tail(&bytes)?.length(), self.tail_range().0))
    }

    fn verify_tail(&self, report: &mut VerifyReport) -> Result<()> {
        let (start, end) = self.tail_range();
        report.tail_bytes = end - start;
        let bytes = self.tail()?;
        match self.parse_tail(&bytes) {
            Ok(tail) => {
                report.devices = tail.devices().len();
                report.warnings.extend(bytes_behind(&bytes, tail.length(), start));
            }
            Err(Error::Decode { source, .. }) => report.problems.push(Problem {
                block: None,
                offset: source.offset(),
                what: format!("the tail (end of the RAM section, devices, vmdescription): {source}"),
            }),
            Err(other) => return Err(other),
        }
        Ok(())
    }
}

/// What stands behind the end of the stream, at `end` of the tail, which begins at `start` of the file. Zeros are padding.
fn bytes_behind(tail: &[u8], end: usize, start: u64) -> Option<Problem> {
    let behind = &tail[end..];
    if Detector::best().is_zero_slice(behind) {
        return None;
    }
    Some(Problem {
        block: None,
        offset: start + to_u64(end),
        what: format!(
            "{} bytes stand behind the end of the stream, and not all are zeros: they belong to nothing, perhaps a longer file stood \
             here before",
            behind.len()
        ),
    })
}

#[derive(Default)]
struct Lost {
    count: u64,
    first: Option<u64>,
}

fn lost_pages(block: &Block, count: u64, first: u64) -> Problem {
    Problem {
        block: Some(block.idstr().into_owned()),
        offset: block.layout().pages_offset() + first * block.page_size(),
        what: format!(
            "{count} pages are marked present but stand in holes of the file, the first is page {first}: most likely \
             they were lost to a full disk. If zero pages were saved and the file was made sparse later, allow holes"
        ),
    }
}

/// Counts the present pages of which the file holds no data at all.
fn present_in_holes(block: &Block) -> Result<Lost> {
    let (start, end, page_size) = (block.layout().pages_offset(), block.layout().end(), block.page_size());
    let bitmap = block.bitmap()?;
    let mut lost = Lost::default();
    let mut hole_start = start;
    while hole_start < end {
        let data = block.shared().source.next_data(hole_start, end).map_err(|error| {
            Error::io(&block.shared().file, format!("look for data at {hole_start:#x}"), error)
        })?;
        let (hole_end, next) = data.unwrap_or((end, end));
        let pages = (hole_start - start).div_ceil(page_size)..(hole_end - start) / page_size;
        for run in bitmap.runs_within(pages) {
            lost.count += run.end - run.start;
            lost.first.get_or_insert(run.start);
        }
        hole_start = next;
    }
    Ok(lost)
}

struct VerifyBatch {
    name: Arc<str>,
    present: Arc<PageBitmap>,
    page_size: u64,
    pages_offset: u64,
    pages: Range<u64>,
    zeros: Arc<AtomicU64>,
}

struct VerifyWorker {
    channel: Box<dyn Channel>,
    buffer: Vec<u8>,
}

impl Worker for VerifyWorker {
    type Batch = VerifyBatch;

    fn run(&mut self, batch: VerifyBatch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let VerifyBatch { name, present, page_size, pages_offset, pages, zeros } = batch;
        let detector = Detector::best();
        if self.buffer.is_empty() {
            // With room to begin where direct I/O can use it.
            let length = to_usize(CHUNK) + DIRECT_ALIGNMENT;
            self.buffer.try_reserve_exact(length).map_err(|error| {
                WorkError::Other(format!("get {length} bytes of memory to read into: {error}").into())
            })?;
            self.buffer.resize(length, 0);
        }
        let skip = self.buffer.as_ptr().align_offset(DIRECT_ALIGNMENT);
        let buffer = &mut self.buffer[skip..][..to_usize(CHUNK)];
        let mut read = 0;
        for run in present.runs_within(pages.clone()) {
            let (mut at, end) = (run.start * page_size, run.end * page_size);
            // A page may be larger than what is read at a time (a header can say so): it is zero if all its pieces are.
            let mut page_is_zero = true;
            while at < end {
                let bytes = &mut buffer[..to_usize(CHUNK.min(end - at))];
                read_slice(context, &mut *self.channel, &name, bytes, pages_offset + at)?;
                for piece in bytes.chunks(to_usize(page_size.min(CHUNK))) {
                    page_is_zero &= detector.is_zero_slice(piece);
                    at += to_u64(piece.len());
                    if at.is_multiple_of(page_size) {
                        zeros.fetch_add(u64::from(page_is_zero), Ordering::Relaxed);
                        page_is_zero = true;
                    }
                }
            }
            read += run.end - run.start;
        }
        let counters = context.counters();
        counters.pages += read;
        counters.zero_pages += pages.end - pages.start - read;
        Ok(())
    }
}
