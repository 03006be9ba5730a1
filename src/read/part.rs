//! Questions about a block's bitmap that are answered by reading no more of it than they need.
//!
//! The bitmap of 64 GiB is 2 MiB: reading all of it takes longer than mapping the block. Who only asks about the places
//! where the file holds data reads a few hundred bytes for each. [`Block::bitmap`] is for those who need all of it; where it
//! was read already, nothing is read here.
//!
//! Positions are page numbers within the block, unless they are said to be offsets in bytes.

use std::sync::Arc;

use super::Block;
use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::Result;

/// How many words of the bitmap are read for an answer somewhere new: 512 bytes, which stand for 16 MiB in pages of 4 KiB.
/// A call costs as much as copying 4 KiB.
const FIRST: u64 = 64;

/// Up to this many words behind the last answer, who asks is taken to go on where he stopped: what lies between is read
/// along, since a call of its own costs as much as copying that.
const NEAR: u64 = 512;

/// How many times as much is read at a time by who goes on where he stopped.
const GROWTH: u64 = 4;

/// The most words that are read at a time, by who goes on where he stopped: 64 KiB.
const MOST: u64 = 8 << 10;

/// What the page cache holds or does not hold as one, in bytes of the file.
const CACHED_AS_ONE: u64 = 4 << 10;

/// A window of a block's bitmap that goes where the questions are.
pub(crate) struct BitmapPart<'b> {
    block: &'b Block,
    whole: Option<&'b PageBitmap>,
    /// The words from `first` on.
    words: Vec<u64>,
    first: u64,
    bytes: Vec<u8>,
}

impl<'b> BitmapPart<'b> {
    pub(crate) fn new(block: &'b Block) -> Self {
        let whole = block.bitmap_if_read().map(Arc::as_ref);
        Self { block, whole, words: Vec::new(), first: 0, bytes: Vec::new() }
    }

    /// The first page from `from` on that is present, or absent if `present` is false; `end`, at most the block's number of
    /// pages, if there is none before it.
    ///
    /// # Errors
    /// When that part of the bitmap cannot be read.
    pub(crate) fn next(&mut self, present: bool, from: u64, end: u64) -> Result<u64> {
        let mut at = from;
        while at < end {
            let (words, first) = self.words_from(at / 64)?;
            let wanted = |word: u64| if present { word } else { !word };
            let head = wanted(words[0]) & (u64::MAX << (at % 64));
            let rest = || (1..).zip(&words[1..]).map(|(index, word)| (index, wanted(*word)));
            let found = if head == 0 { rest().find(|(_, word)| *word != 0) } else { Some((0, head)) };
            if let Some((index, word)) = found {
                return Ok(((first + index) * 64 + u64::from(word.trailing_zeros())).min(end));
            }
            at = (first + to_u64(words.len())) * 64;
        }
        Ok(end)
    }

    /// The words from number `word` on, at least one; and `word`.
    fn words_from(&mut self, word: u64) -> Result<(&[u64], u64)> {
        if let Some(whole) = self.whole {
            return Ok((&whole.words()[to_usize(word)..], word));
        }
        let behind = self.first + to_u64(self.words.len());
        if !(self.first..behind).contains(&word) {
            let goes_on = word.checked_sub(behind).is_some_and(|gap| gap <= NEAR);
            let count = if goes_on {
                (GROWTH * to_u64(self.words.len())).clamp(FIRST, MOST)
            } else {
                // Not beyond what is cached with the word itself: waiting for the disk takes a hundred times as long as a read.
                let offset = self.block.layout().bitmap_offset() + word * 8;
                FIRST.min((CACHED_AS_ONE - offset % CACHED_AS_ONE) / 8).max(1)
            };
            let all = self.block.pages().div_ceil(64);
            self.read(word, count.min(all - word))?;
        }
        let skip = to_usize(word - self.first);
        Ok((&self.words[skip..], word))
    }

    fn read(&mut self, word: u64, count: u64) -> Result<()> {
        self.words.resize(to_usize(count), 0);
        // Not to be believed until it was read.
        self.first = u64::MAX - MOST;
        self.block.read_bitmap_words(word, &mut self.words, &mut self.bytes)?;
        self.first = word;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mapped_ram_format::bitmap::BitmapEncoding;
    use proptest::prelude::*;

    use super::*;
    use crate::{RamBlock, ReaderOptions, SaveOptions, Tail};

    const SMALL: u64 = 256;

    proptest! {
        #[test]
        fn it_answers_as_the_whole_bitmap_does(
            runs in prop::collection::vec((1_u64..40_000, 1_u64..3000), 0..12),
            rest in 1_u64..200,
            questions in prop::collection::vec((any::<bool>(), any::<u64>(), any::<u64>()), 1..40),
            encoding in prop::sample::select(BitmapEncoding::ALL.to_vec()),
        ) {
            let pages = runs.iter().map(|(gap, count)| gap + count).sum::<u64>() + rest;
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("guest.mram");
            let mut writer = SaveOptions::new()
                .page_size(SMALL)
                .create(&path, vec![RamBlock::detached("ram0", pages * SMALL)])
                .unwrap();
            let mut at = 0;
            for (gap, count) in runs {
                writer.write_from(0, (at + gap) * SMALL, &vec![7; to_usize(count * SMALL)]).unwrap();
                at += gap + count;
            }
            writer.finish(&Tail::minimal()).unwrap();
            // Another encoding makes another bitmap of the same bytes.
            let open = || ReaderOptions::new().bitmap_encoding(encoding).open(&path).unwrap();
            let (fresh, read) = (open(), open());
            if !read.blocks()[0].layout().has_room_for(encoding.word) {
                return Ok(());
            }
            let whole = read.blocks()[0].bitmap().unwrap();
            let mut parts = BitmapPart::new(&fresh.blocks()[0]);
            let mut of_whole = BitmapPart::new(&read.blocks()[0]);
            for (present, from, end) in questions {
                let (from, end) = (from % pages, end % (pages + 1));
                let expected = (from..end).find(|page| whole.contains(*page) == present).unwrap_or(from.max(end));
                let expected = if from < end { expected } else { end };
                prop_assert_eq!(parts.next(present, from, end).unwrap(), expected);
                prop_assert_eq!(of_whole.next(present, from, end).unwrap(), expected);
            }
            prop_assert!(fresh.blocks()[0].bitmap_if_read().is_none());
        }
    }
}
