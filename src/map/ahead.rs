//! Which pieces of a bitmap that has to come from the disk are asked for before they are read, so that they are under way
//! together: read one after the other, each makes the block's user wait for the disk.
//!
//! Decided here: which pieces. [`stale_runs`](super::stale::stale_runs) looks at the bitmap where the file holds data, up to
//! the first page behind it; so the places are known from the file's data before a bit of the bitmap is. A hint all the way:
//! what is asked for needlessly costs time, and what is not asked for is read when it is looked at.
//!
//! Positions are bytes of the file, words of the bitmap, or pages of the block, as each says.

use std::ops::Range;

use super::stale::{Data, Present, Room};
use crate::error::Result;
use crate::read::{BitmapPart, Block};
use crate::storage::Source;

/// What a file system brings in at the least, in bytes: most have blocks of 4 KiB, as most hosts have pages.
const PIECE: u64 = 4 << 10;

/// Pieces with no more than so many bytes between them are asked for as one. A piece by itself takes 11 us (128 of them, 16 KiB
/// apart, until all were read), 4 KiB more of one stretch 4 us.
const NEAR: u64 = 4 << 10;

/// A longer stretch, in bytes, is not asked for: who reads it in order has the system's read-ahead, which brings 2 MiB in 1.1 ms,
/// and asking for them takes 2 ms and more.
const LONGEST: u64 = 64 << 10;

/// So much of a bitmap, in bytes, is left to the system's own read-ahead if there is no more of it. It stands behind its block's
/// header, so some of this much comes along with that; whether the rest is cached has to be looked for behind.
const LEAST: u64 = 64 << 10;

/// How often the file is asked for data before a bit is looked at. Of pages of 4 KiB that is enough for 128 GiB full of data,
/// or for any number of runs in them; what lies behind is asked for when it is reached.
const LOOKS: u32 = 1024;

/// A block's bitmap, asked for ahead of the questions about it.
pub(super) struct Ahead<'b, D> {
    part: BitmapPart<'b>,
    source: &'b dyn Source,
    data: D,
    room: Room,
    bitmap: Range<u64>,
    /// From this page on nothing was asked for yet.
    until: u64,
}

impl<'b, D: Data> Ahead<'b, D> {
    pub(super) fn new(block: &'b Block, data: D, room: Room) -> Self {
        let bitmap = block.unread_bitmap();
        let until = if bitmap.end - bitmap.start <= LEAST { u64::MAX } else { 0 };
        Self { part: BitmapPart::new(block), source: &**block.source(), data, room, bitmap, until }
    }

    fn ask(&mut self, page: u64) -> Result<()> {
        let Room { pages_offset, length, page_size } = self.room;
        // A place that will be looked at: of a hole in the bitmap the system says that it is there.
        let from = page.max(LEAST * 8);
        let data = self.data.first(pages_offset + from * page_size, pages_offset + length)?;
        let word = data.map(|start| (start.max(pages_offset) - pages_offset) / page_size / 64);
        self.until = match word {
            Some(word) if !self.source.is_cached(self.bitmap.start + word * 8) => {
                let source = self.source;
                let ask = |stretch: Range<u64>| {
                    let length = stretch.end - stretch.start;
                    if length <= LONGEST {
                        source.ask_for(stretch.start, length);
                    }
                };
                stretches(&self.bitmap, self.room, page / 64, &mut self.data, ask)? * 64
            }
            _ => u64::MAX,
        };
        Ok(())
    }
}

impl<D: Data> Present for Ahead<'_, D> {
    fn next(&mut self, present: bool, from: u64, end: u64) -> Result<u64> {
        if (self.until..end).contains(&from) {
            self.ask(from)?;
        }
        self.part.next(present, from, end)
    }
}

/// Hands the stretches of `bitmap` that will be looked at from word `first` on to `ask`: whole pieces, in order, none of them
/// twice. Returns the word up to which that is all.
///
/// One question about data for each piece, not for each run: where a piece will be looked at once, the runs in it do not
/// matter.
fn stretches(
    bitmap: &Range<u64>,
    room: Room,
    first: u64,
    data: &mut impl Data,
    mut ask: impl FnMut(Range<u64>),
) -> Result<u64> {
    let Room { pages_offset, length, page_size } = room;
    let words = (bitmap.end - bitmap.start).div_ceil(8);
    let place = |word: u64| bitmap.start + word * 8;
    let mut waiting = 0..0;
    // All below this word is asked for.
    let mut at = first;
    for _ in 0..LOOKS {
        if at >= words {
            break;
        }
        // From the page before on: data that reaches up to this word is followed into it.
        let from = pages_offset + (at * 64).saturating_sub(1) * page_size;
        let Some(start) = data.first(from, pages_offset + length)? else {
            at = words;
            break;
        };
        let page = (start.max(pages_offset) - pages_offset) / page_size;
        let word = (page / 64).max(at);
        let wanted = place(word) / PIECE * PIECE..place(word + 1).min(bitmap.end).next_multiple_of(PIECE);
        // A word may begin in one piece and end in the next.
        at = ((wanted.end - bitmap.start) / 8).max(word + 1);
        if !waiting.is_empty() && wanted.start <= waiting.end + NEAR {
            waiting.end = wanted.end;
        } else {
            let ready = std::mem::replace(&mut waiting, wanted);
            if !ready.is_empty() {
                ask(ready);
            }
        }
    }
    if !waiting.is_empty() {
        ask(waiting);
    }
    Ok(at.min(words))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bitmap::PageBitmap;
    use crate::map::stale::stale_runs;

    /// A file whose data are the present pages, which begin at `offset`; and how often it was asked.
    struct Written {
        present: PageBitmap,
        room: Room,
        questions: u32,
    }

    impl Data for Written {
        fn first(&mut self, offset: u64, end: u64) -> Result<Option<u64>> {
            self.questions += 1;
            let Room { pages_offset, page_size, .. } = self.room;
            let page = (offset - pages_offset) / page_size;
            let run = self.present.runs_within(page..self.present.pages()).next();
            Ok(run.map(|run| (pages_offset + run.start * page_size).max(offset)).filter(|start| *start < end))
        }

        fn end(&mut self, _offset: u64, _end: u64) -> Result<u64> {
            unreachable!("no page of this file is stale")
        }
    }

    /// A bitmap that writes down which pages were looked at.
    struct Watched {
        present: PageBitmap,
        seen: Vec<Range<u64>>,
    }

    impl Present for Watched {
        fn next(&mut self, present: bool, from: u64, end: u64) -> Result<u64> {
            let mut runs = self.present.runs_within(from..end);
            let found = match runs.next() {
                Some(run) if present => run.start,
                Some(run) if run.start == from => run.end,
                None if present => end,
                _ => from,
            };
            self.seen.push(from..(found + 1).min(end));
            Ok(found)
        }
    }

    /// All stretches of a bitmap, each batch as it is asked for when the one before is used up.
    fn all_stretches(file: &mut Written, bitmap: &Range<u64>) -> Vec<Range<u64>> {
        let words = (bitmap.end - bitmap.start).div_ceil(8);
        let (mut asked, mut at) = (Vec::new(), 0);
        while at < words {
            let before = file.questions;
            let room = file.room;
            let behind = stretches(bitmap, room, at, file, |stretch| asked.push(stretch)).unwrap();
            assert!(file.questions - before <= LOOKS);
            assert!(behind > at, "{behind} words are not more than {at}");
            at = behind;
        }
        asked
    }

    proptest! {
        #[test]
        fn what_will_be_looked_at_is_asked_for_and_little_else(
            steps in prop::collection::vec(
                prop_oneof![(1_u64..300, 1_u64..300), (1_u64..200_000, 1_u64..3000), (1_u64..3, 1_u64..200_000)], 0..40),
            on_a_border in any::<bool>(),
            rest in 0_u64..300_000,
            bitmap_offset in 0_u64..10_000,
            half_a_word in any::<bool>(),
        ) {
            let mut runs = Vec::new();
            let mut at = 0;
            for (gap, length) in steps {
                let start = at + gap;
                // Where a run ends with a piece of the bitmap, the bit behind it is in the next.
                let end = start + length;
                let border = (end.div_ceil(8) + bitmap_offset).next_multiple_of(PIECE).saturating_sub(bitmap_offset) * 8;
                at = if on_a_border { border.max(end) } else { end };
                runs.push(start..at);
            }
            let pages = at + rest + 1;
            let mut present = PageBitmap::new(pages);
            for run in &runs {
                present.insert(run.clone());
            }
            let room = Room { pages_offset: 1 << 30, length: pages * 4096, page_size: 4096 };
            // As hosts of 64 bits write it, or of 32.
            let word = if half_a_word { 4 } else { 8 };
            let bitmap = bitmap_offset..bitmap_offset + pages.div_ceil(8 * word) * word;

            let mut file = Written { present: present.clone(), room, questions: 0 };
            let asked = all_stretches(&mut file, &bitmap);
            prop_assert!(u64::from(file.questions) <= (bitmap.end - bitmap.start) / PIECE + 3, "{} questions", file.questions);

            let mut watched = Watched { present, seen: Vec::new() };
            prop_assert_eq!(stale_runs(&mut watched, &mut file, room).unwrap(), []);
            let is_asked = |byte: u64| asked.iter().any(|piece| piece.contains(&byte));
            for look in &watched.seen {
                let bytes = bitmap.start + look.start / 8..bitmap.start + (look.end - 1) / 8 + 1;
                for byte in bytes.clone().step_by(256).chain([bytes.end - 1]) {
                    prop_assert!(is_asked(byte), "byte {} for {:?} in {:?}", byte, look, asked);
                }
            }

            prop_assert!(asked.windows(2).all(|pair| pair[0].end + NEAR < pair[1].start), "{:?}", asked);
            for piece in &asked {
                prop_assert!(piece.start < piece.end, "{:?}", piece);
                prop_assert!(piece.start % PIECE == 0 && piece.end % PIECE == 0, "{:?}", piece);
                // At both ends something is looked at: in the same piece, or in one that a word of it reaches into.
                let seen_near = |at: u64| {
                    let near = at.saturating_sub(8)..at + PIECE + 8;
                    watched.seen.iter().any(|look| {
                        let bytes = bitmap.start + look.start / 64 * 8..bitmap.start + ((look.end - 1) / 64 + 1) * 8;
                        bytes.start < near.end && near.start < bytes.end
                    })
                };
                prop_assert!(seen_near(piece.start) && seen_near(piece.end - PIECE), "{:?} in {:?}", piece, asked);
            }
        }
    }

    #[test]
    fn a_long_bitmap_is_asked_for_in_batches() {
        // Full of data: every piece is looked at.
        let pages = u64::from(LOOKS) * PIECE * 8 * 2;
        let room = Room { pages_offset: 1 << 40, length: pages * 4096, page_size: 4096 };
        let bitmap = 100..100 + pages / 8;
        let mut file = Written { present: PageBitmap::full(pages), room, questions: 0 };
        let mut first = Vec::new();
        let behind = stretches(&bitmap, room, 0, &mut file, |stretch| first.push(stretch)).unwrap();
        assert_eq!(file.questions, LOOKS);
        assert!(behind < pages / 64, "{behind}");
        assert_eq!(first.last().unwrap().end, (100 + behind * 8).next_multiple_of(PIECE));
        let all = all_stretches(&mut file, &bitmap);
        assert_eq!((all[0].start, all.last().unwrap().end), (0, bitmap.end.next_multiple_of(PIECE)));
    }
}
