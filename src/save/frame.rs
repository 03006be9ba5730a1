//! What a stream has beside its pages: head, bitmaps, tail. All of it goes through one channel of the writer's own.

use std::ops::Range;
use std::sync::Arc;

use mapped_ram_format::INCOMPLETE_MAGIC;

use super::tail::Tail;
use super::writer::Writer;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::transfer::{clear_range, write_slice};

/// How many bitmap words are encoded and written at a time: 64 KiB, which covers 2 GiB of 4 KiB pages.
const BITMAP_WINDOW: usize = 8 << 10;

impl Writer<'_> {
    pub(super) fn write_head(&mut self) -> Result<()> {
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
        let preamble = self.preamble.take();
        // What makes readers take the file: the stream's first bytes, or those of what stands before it.
        self.magic_offset = if preamble.is_some() { 0 } else { start };
        if let Some(preamble) = preamble {
            let label: Arc<str> = Arc::from("what stands before the stream");
            preamble.pour_data(|at, bytes| self.write_but_magic(&label, bytes, at))?;
        }
        for piece in self.layout.pieces() {
            self.write_but_magic(&label, &piece.bytes, piece.offset)?;
        }
        Ok(())
    }

    /// Writes `bytes`, except for those that stand at the place of the magic where readers could see an unfinished file: they come
    /// last of all.
    fn write_but_magic(&mut self, label: &Arc<str>, bytes: &[u8], offset: u64) -> Result<()> {
        let place = offset - self.magic_offset;
        let held = if self.storage.is_in_place() { self.magic.len() } else { 0 };
        let (kept, rest) = bytes.split_at(held.saturating_sub(to_usize(place)).min(bytes.len()));
        if !kept.is_empty() {
            self.magic[to_usize(place)..][..kept.len()].copy_from_slice(kept);
        }
        self.write_bytes(label, rest, offset + to_u64(kept.len()))
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
    pub(super) fn clear_unseen(&mut self) -> Result<()> {
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

    pub(super) fn write_bitmaps(&mut self) -> Result<()> {
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
                self.bitmap_encoding.encode(&words, &mut bytes);
                // A file's bytes are zero until written: an empty stretch of the bitmap stays a hole.
                if words.iter().any(|word| *word != 0) {
                    self.write_bytes(&block.name, &bytes, offset)?;
                }
                offset += to_u64(bytes.len());
            }
        }
        Ok(())
    }

    pub(super) fn write_tail(&mut self, tail: &Tail) -> Result<u64> {
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
}
