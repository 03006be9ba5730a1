//! A block's bytes as a handler needs them: any range, absent pages as zeros.
//!
//! Every offset and length is in bytes from the block's start.

use std::ops::Range;
use std::sync::Arc;

use multifd_pool::{Cancel, Channel, WorkError};

use crate::bitmap::PageBitmap;
use crate::convert::to_usize;
use crate::error::Result;
use crate::read::Block;
use crate::storage::Source;
use crate::transfer::read_slice_at;

/// A block, for threads of their own.
#[derive(Clone)]
pub(super) struct BlockPages {
    pub(super) name: Arc<str>,
    pub(super) file: Arc<str>,
    pub(super) source: Arc<dyn Source>,
    pub(super) length: u64,
    present: Arc<PageBitmap>,
    pages_offset: u64,
    page_size: u64,
}

impl std::fmt::Debug for BlockPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockPages").field("name", &self.name).finish_non_exhaustive()
    }
}

impl BlockPages {
    pub(super) fn new(block: &Block) -> Result<Self> {
        block.check_held()?;
        Ok(Self {
            name: Arc::from(block.idstr()),
            file: Arc::from(block.file()),
            source: Arc::clone(block.source()),
            length: block.used_length(),
            present: Arc::clone(block.bitmap()?),
            pages_offset: block.layout().pages_offset(),
            page_size: block.page_size(),
        })
    }

    /// The runs of present pages inside a range, cut to it.
    fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let size = self.page_size;
        self.present
            .runs_within(range.start / size..range.end.div_ceil(size))
            .map(move |run| (run.start * size).max(range.start)..(run.end * size).min(range.end))
    }

    /// Whether the file holds anything of a range.
    pub(super) fn is_present(&self, range: Range<u64>) -> bool {
        self.runs(range).next().is_some()
    }

    /// The runs of units (of `unit` bytes, from `start` on) that the file holds anything of, in `units`; in order, none twice.
    pub(super) fn present_units(
        &self,
        start: u64,
        unit: u64,
        units: Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = units.start;
        self.runs(start + units.start * unit..start + units.end * unit).filter_map(move |run| {
            let first = ((run.start - start) / unit).max(next);
            next = next.max((run.end - start).div_ceil(unit));
            (first < next).then_some(first..next)
        })
    }

    /// Fills all of `bytes` with the block's, from `offset` on.
    pub(super) fn read(
        &self,
        channel: &mut dyn Channel,
        offset: u64,
        bytes: &mut [u8],
        cancel: &Cancel,
    ) -> Result<(), WorkError> {
        let length = crate::convert::to_u64(bytes.len());
        let mut at = 0;
        for run in self.runs(offset..offset + length) {
            let (from, to) = (to_usize(run.start - offset), to_usize(run.end - offset));
            bytes[at..from].fill(0);
            read_slice_at(channel, &self.name, &mut bytes[from..to], self.pages_offset + run.start, cancel)?;
            at = to;
        }
        bytes[at..].fill(0);
        Ok(())
    }
}

/// Room that pages are read into, on a page of the host, so that they can come past the page cache.
#[derive(Debug)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    skip: usize,
}

const ALIGNMENT: usize = 4096;

impl Scratch {
    pub(super) fn new(length: u64) -> Self {
        let bytes = vec![0; to_usize(length) + ALIGNMENT];
        let skip = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, skip }
    }

    pub(super) fn part(&mut self, length: u64) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + to_usize(length)]
    }
}
