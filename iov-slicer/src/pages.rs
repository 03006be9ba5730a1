//! Runs of pages as writes of one iovec each.

use core::iter::FusedIterator;
use core::ops::Range;

use crate::block::Block;
use crate::error::{SliceError, SliceErrorKind};
use crate::limits::Limits;

/// One positional write of one iovec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageWrite {
    /// Where it goes in the file, in bytes.
    pub offset: u64,
    /// The address of its first byte.
    pub addr: usize,
    /// Its length in bytes.
    pub len: u64,
}

/// The writes that put the pages of `runs` where they belong: one for each run, cut where a run is longer than the
/// limit, at the last page that fits (in the middle of a page if not even one fits).
///
/// Page `i` is the bytes from `i * page_size` of the block; the last page is shorter where the block's length is no
/// multiple of the page size. Empty runs give no write.
///
/// A run that is not inside the block is an error, and the last item.
///
/// ```
/// use iov_slicer::{Block, Limits, page_runs, slice_pages};
///
/// let block = Block::new(0x7000_0000, 1 << 20, 0x10_0000)?;
/// let words = [0b1111_0011_u64];
/// let limits = Limits::new(4096).max_bytes(3 * 4096);
/// let writes: Result<Vec<_>, _> = slice_pages(&block, &limits, page_runs(&words[..], 256)).collect();
/// let lengths: Vec<u64> = writes?.iter().map(|write| write.len / 4096).collect();
/// assert_eq!(lengths, [2, 3, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn slice_pages<I>(block: &Block, limits: &Limits, runs: I) -> PageWrites<I::IntoIter>
where
    I: IntoIterator<Item = Range<u64>>,
{
    // The most whole pages that fit; if none does, the pieces are cut where the limit falls.
    let whole = limits.max_bytes / limits.page_size * limits.page_size;
    PageWrites {
        block: *block,
        limits: *limits,
        whole,
        runs: runs.into_iter(),
        index: 0,
        at: 0,
        end: 0,
        failed: false,
    }
}

/// Iterator over the writes of runs of pages. Made by [`slice_pages`].
#[derive(Clone, Debug)]
pub struct PageWrites<I> {
    block: Block,
    limits: Limits,
    whole: u64,
    runs: I,
    index: usize,
    /// What is left of the run at hand, in bytes from the block's start.
    at: u64,
    end: u64,
    failed: bool,
}

impl<I: Iterator<Item = Range<u64>>> PageWrites<I> {
    /// The bytes of a run, or an error if it is not inside the block.
    #[inline]
    fn bytes(&self, run: &Range<u64>) -> Result<(u64, u64), SliceError> {
        let page_size = self.limits.page_size;
        let used = self.block.used_length();
        let pages = used.div_ceil(page_size);
        if run.end > pages {
            return Err(self.refuse(run));
        }
        // Below `pages`, a product with the page size is below the used length; only the last page's end needs care.
        let end = if run.end == pages { used } else { run.end * page_size };
        Ok((run.start * page_size, end))
    }

    #[cold]
    fn refuse(&self, run: &Range<u64>) -> SliceError {
        let page_size = self.limits.page_size;
        let start = run.start.saturating_mul(page_size);
        let host = self.block.host();
        let addr = usize::try_from(start).ok().and_then(|start| host.checked_add(start));
        SliceError {
            kind: if addr.is_some() { SliceErrorKind::PastEnd } else { SliceErrorKind::Overflow },
            index: self.index,
            addr: addr.unwrap_or(usize::MAX),
            len: (run.end - run.start).saturating_mul(page_size),
            host,
            limit: self.block.used_length(),
        }
    }
}

impl<I: Iterator<Item = Range<u64>>> Iterator for PageWrites<I> {
    type Item = Result<PageWrite, SliceError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.at == self.end {
            if self.failed {
                return None;
            }
            let run = self.runs.next()?;
            if run.start < run.end {
                match self.bytes(&run) {
                    Ok((start, end)) => (self.at, self.end) = (start, end),
                    Err(error) => {
                        self.failed = true;
                        return Some(Err(error));
                    }
                }
            }
            self.index += 1;
        }
        let left = self.end - self.at;
        let len = if left <= self.limits.max_bytes {
            left
        } else if self.whole == 0 {
            // Not one page fits: up to the limit, but no write reaches into the next page.
            self.limits.max_bytes.min(self.limits.page_size - self.at % self.limits.page_size)
        } else {
            self.whole
        };
        // Inside the block, so it fits a usize: the block's memory does.
        let skip = usize::try_from(self.at).unwrap_or(usize::MAX);
        let write =
            PageWrite { offset: self.block.pages_offset() + self.at, addr: self.block.host() + skip, len };
        self.at += len;
        Some(Ok(write))
    }
}

impl<I: FusedIterator<Item = Range<u64>>> FusedIterator for PageWrites<I> {}
