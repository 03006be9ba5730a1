//! Which parts of a block's memory were ever touched: the cost of a save follows a guest's resident memory, not its size.
//!
//! Memory that nobody touched reads as zeros, and reading it to find that out costs a page fault a page. Two kinds of
//! memory say where it was never touched:
//!
//! - a shared mapping of a file (a memfd, QEMU's `memory-backend-file`): the file's holes, by `SEEK_DATA`. Which file it
//!   is the caller says ([`RamBlock::backed_by`](crate::RamBlock::backed_by)). Not where userfaultfd brings what is missing.
//! - private anonymous memory: pages that are neither present nor swapped out, by the `PAGEMAP_SCAN` ioctl (Linux 6.7) or,
//!   without it, `/proc/self/pagemap`.
//!
//! For the second, absence proves zeros only where the mapping has nothing behind it: a private file mapping has the file,
//! and memory under userfaultfd whatever its handler brings. `/proc/self/smaps` tells them apart; it is asked only once
//! something seems absent, for its cost grows with what is present. Whatever cannot be found out counts as touched.
//!
//! What is touched after it was asked for is the guest's write, and in its next dirty bitmap.
//!
//! Everything here is in pages of the target, in whole words of the bitmap (64 pages): no two channels ever share one.

mod holes;
#[expect(unsafe_code, reason = "an ioctl that fills a buffer")]
mod pagemap;
mod smaps;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use self::holes::Holes;
use self::pagemap::Pagemap;
use crate::convert::to_u64;

pub(crate) use self::pagemap::Method;

/// Parts are whole words of the bitmap.
const WORD_PAGES: u64 = 64;

/// Blocks below this many bytes are looked at whole: to ask costs more than to look.
const WORTH_ASKING: u64 = 1 << 20;

/// Where a block's memory is, for finding out what of it was touched.
pub(crate) struct Memory<'m> {
    pub(crate) start: *const u8,
    pub(crate) length: u64,
    pub(crate) page_size: u64,
    /// The file that is mapped shared there, and from which of its bytes on.
    pub(crate) backing: Option<&'m (Arc<File>, u64)>,
    /// Nobody but the save has touched the mapping, and nobody fills it.
    pub(crate) is_fresh: bool,
    pub(crate) method: Method,
}

/// How it is found out what was touched.
enum Source<'m> {
    All,
    Holes(Holes<'m>),
    Pagemap(Box<Pagemap>),
}

/// The parts of a block that may hold something, in order and apart, each whole words of the bitmap but for the block's end.
pub(crate) struct Touched<'m> {
    source: Source<'m>,
    /// Where the memory is, until it is known that no handler fills holes of its file.
    unasked: Option<Range<u64>>,
    page_size: u64,
    pages: u64,
    /// Behind all that was given out.
    at: u64,
    /// A part that may go on.
    open: Option<Range<u64>>,
}

impl<'m> Touched<'m> {
    /// Asks about all of `memory`.
    pub(crate) fn of(memory: &Memory<'m>) -> Self {
        let source = if memory.length < WORTH_ASKING {
            Source::All
        } else if let Some((file, offset)) =
            memory.backing.filter(|_| memory.is_fresh || smaps::can_be_asked())
        {
            Holes::new(file, *offset, memory.length).map_or(Source::All, Source::Holes)
        } else if memory.backing.is_some() {
            Source::All
        } else {
            Pagemap::new(memory.start.addr(), memory.length, memory.method)
                .map_or(Source::All, |pagemap| Source::Pagemap(Box::new(pagemap)))
        };
        let pages = memory.length / memory.page_size;
        let start = bytes(memory.start.addr());
        let unasked = (!memory.is_fresh).then_some(start..start.saturating_add(memory.length));
        Self { source, unasked, page_size: memory.page_size, pages, at: 0, open: None }
    }

    /// What could not be had, in words for people.
    pub(crate) fn shortcoming(&self) -> Option<&'static str> {
        match &self.source {
            Source::Pagemap(pagemap) if !pagemap.scans() => Some(
                "the kernel has no PAGEMAP_SCAN (Linux 6.7); what was touched was read from /proc/self/pagemap, page by page",
            ),
            Source::All if self.pages * self.page_size >= WORTH_ASKING => Some(
                "which memory was touched cannot be found out (no /proc, a file shorter than the memory, or a file system whose holes are not believed); all of it was looked at",
            ),
            _ => None,
        }
    }

    /// The next bytes that may hold something, from byte `from` of the block on.
    fn next_bytes(&mut self, from: u64) -> Option<Range<u64>> {
        let found = match &mut self.source {
            Source::All => Ok(None),
            Source::Holes(holes) => holes.next(from).and_then(|found| {
                let is_hole = found.as_ref().is_none_or(|data| data.start > from);
                // Asked once there is a hole, for what it costs grows with the memory's pages.
                match self.unasked.take_if(|_| is_hole) {
                    Some(addresses) if smaps::is_filled_on_demand(&addresses)? => {
                        Err(io::Error::other("its holes are filled on demand"))
                    }
                    _ => Ok(found),
                }
            }),
            Source::Pagemap(pagemap) => pagemap.next(from),
        };
        match (&self.source, found) {
            (Source::All, _) | (_, Err(_)) => {
                // Not to be found out: all that is left counts as touched.
                self.source = Source::All;
                let end = self.pages * self.page_size;
                (from < end).then_some(from..end)
            }
            (_, Ok(found)) => found,
        }
    }
}

impl Iterator for Touched<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        loop {
            let from = self.at.max(self.open.as_ref().map_or(0, |open| open.end));
            let part = if from < self.pages { self.next_bytes(from * self.page_size) } else { None };
            let Some(bytes) = part else {
                self.at = self.pages;
                return self.open.take();
            };
            let start = bytes.start / self.page_size / WORD_PAGES * WORD_PAGES;
            let end = bytes.end.div_ceil(self.page_size).next_multiple_of(WORD_PAGES).min(self.pages);
            let part = start.max(from)..end;
            match &mut self.open {
                Some(open) if open.end == part.start => open.end = part.end,
                open => {
                    if let Some(whole) = open.replace(part) {
                        self.at = whole.end;
                        return Some(whole);
                    }
                }
            }
        }
    }
}

const _: () = assert!(size_of::<usize>() <= size_of::<u64>());

/// An address as a number of bytes.
fn bytes(address: usize) -> u64 {
    to_u64(address)
}

#[cfg(test)]
mod tests;
