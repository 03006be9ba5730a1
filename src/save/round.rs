//! One round of a save: pages of some blocks, cut into batches and handed to the channels.
//!
//! No channel touches the pages' memory any more when a round is over, however it ends.

use std::ops::Range;
use std::sync::Arc;

use multifd_pool::Pool;

use super::plan::chunks;
use super::worker::SaveBatch;
use super::writer::Writer;
use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::progress::Meter;
use crate::ram_block::RamBlock;
use crate::touched::{Memory, Method, Touched};
use crate::transfer::clear_range;

impl Writer<'_> {
    /// Sends all chunks of `parts` through the channels and waits until none is left.
    pub(super) fn write_parts(&mut self, parts: &[Part<'_>]) -> Result<()> {
        self.check_usable()?;
        // Until it is known to be otherwise: the callback, or memory that a bitmap hands out, may panic, and be caught.
        self.failed = true;
        let written = self.send_parts(parts);
        self.failed = written.is_err();
        written
    }

    fn send_parts(&mut self, parts: &[Part<'_>]) -> Result<()> {
        let page_size = self.layout.page_size();
        let total = parts.iter().map(Part::pages).sum::<u64>() * page_size;
        let batch = self.portions.batch(total, to_u64(self.pool.channels()));
        let mut meter = Meter::new(&mut self.progress, total, page_size, || self.pool.counters());
        // Whatever happens below, a panic of the callback included, no channel reads the memory after this function.
        let guard = SyncOnDrop(&self.pool);
        for part in parts {
            let block = &self.blocks[part.index];
            let mut at = part.pages.start;
            let seen = self.seen[part.index];
            let touched = part.touched(&self.memory, page_size, self.touched);
            if let Some(note) = touched.as_ref().and_then(Touched::shortcoming)
                && !self.notes.iter().any(|known| known == note)
            {
                self.notes.push(note.to_owned());
            }
            // What has to be looked at, in order; then, empty, the end.
            let all = touched.is_none().then(|| part.pages.clone());
            let end = part.pages.end..part.pages.end;
            for stretch in touched.into_iter().flatten().chain(all).chain(std::iter::once(end)) {
                // Where old bytes stand in their room, `finish` clears them: these pages were not seen. What an earlier round wrote
                // goes now.
                block.present.clear_words(at..stretch.start);
                if at < seen.min(stretch.start) {
                    let offset = block.pages_offset + at * page_size;
                    let length = (seen.min(stretch.start) - at) * page_size;
                    clear_range(&mut *self.channel, &block.name, offset, length)
                        .map_err(|error| Error::work(&self.file, error))?;
                }
                self.untouched_pages += stretch.start - at;
                meter.skip((stretch.start - at) * page_size);
                at = stretch.end;
                for pages in chunks(stretch, batch) {
                    let skip = to_usize((pages.start - part.pages.start) * page_size);
                    let is_again = pages.start < seen;
                    // SAFETY: the range is inside the part's memory: a block's (readable for as long as the writer lives)
                    // or the slice that `write_from` borrowed; the bitmap is borrowed as well. All outlive this function,
                    // and `guard` does not let it end before the pool has synced.
                    let batch = unsafe {
                        SaveBatch::new(
                            Arc::clone(block),
                            part.start.wrapping_add(skip),
                            pages,
                            part.selection,
                            is_again,
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
        for part in parts {
            let seen = &mut self.seen[part.index];
            *seen = part.pages.end.max(*seen);
        }
        meter.tell(|| self.pool.counters());
        Ok(())
    }
}

/// Pages that are to be written, and where they are.
pub(super) struct Part<'p> {
    pub(super) index: usize,
    /// Where page `pages.start` is in memory.
    pub(super) start: *const u8,
    pub(super) pages: Range<u64>,
    pub(super) selection: Option<&'p PageBitmap>,
    /// Whether it is the block's own memory, of which may be known what was touched.
    pub(super) is_memory: bool,
}

impl Part<'_> {
    /// What is known of which pages were ever touched; nothing where it does not matter or is not to be asked.
    fn touched<'s>(
        &self,
        memory: &'s [RamBlock<'_>],
        page_size: u64,
        method: Option<Method>,
    ) -> Option<Touched<'s>> {
        let method = method.filter(|_| self.is_memory && self.selection.is_none())?;
        Some(Touched::of(&Memory {
            start: self.start,
            length: (self.pages.end - self.pages.start) * page_size,
            page_size,
            backing: memory[self.index].backing.as_ref(),
            is_fresh: memory[self.index].is_fresh,
            method,
        }))
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
