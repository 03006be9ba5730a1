//! The runs of set bits of a bitmap, a word at a time.
//!
//! Whole words of zeros, or of ones, cost one comparison each, so the walk of a bitmap that is nearly empty or nearly
//! full goes as fast as memory is read.

use core::iter::FusedIterator;
use core::ops::Range;

use crate::words::Words;

/// The runs of set pages of a bitmap of `pages` pages: ranges of page numbers, in order, each as long as it can be.
///
/// Page `i` is bit `i % 64` of word `i / 64`. Bits at and above `pages` are not looked at; pages whose words are missing
/// count as clear.
///
/// Equals `(0..pages).filter(|i| words[i / 64] >> (i % 64) & 1 == 1)` with neighbours joined.
///
/// ```
/// let words = [0b1110_0110_u64, 1];
/// let runs: Vec<_> = iov_slicer::page_runs(&words[..], 128).collect();
/// assert_eq!(runs, [1..3, 5..8, 64..65]);
/// ```
#[inline]
pub fn page_runs<W: Words + ?Sized>(words: &W, pages: u64) -> PageRuns<'_, W> {
    PageRuns { words, at: 0, end: pages, flip: 0, gap: 0, ahead: None }
}

/// Iterator over the runs of a bitmap. Made by [`page_runs`].
#[derive(Debug)]
pub struct PageRuns<'w, W: Words + ?Sized> {
    words: &'w W,
    /// The first page that was not looked at yet.
    at: u64,
    end: u64,
    /// All ones when clear pages are asked for.
    flip: u64,
    /// Gaps of at most this many pages do not end a run.
    gap: u64,
    /// A run that was found while looking whether the one before goes on behind a gap.
    ahead: Option<Range<u64>>,
}

impl<W: Words + ?Sized> Clone for PageRuns<'_, W> {
    fn clone(&self) -> Self {
        Self { ahead: self.ahead.clone(), ..*self }
    }
}

impl<W: Words + ?Sized> PageRuns<'_, W> {
    /// Only the pages inside `range`; runs are cut at its ends.
    #[must_use]
    #[inline]
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.at = self.at.max(range.start);
        self.end = self.end.min(range.end);
        self
    }

    /// Joins runs that are at most `max_gap` pages apart.
    ///
    /// ```
    /// let words = [0b1001_0100_0001_u64];
    /// let runs: Vec<_> = iov_slicer::page_runs(&words[..], 64).bridged(2).collect();
    /// assert_eq!(runs, [0..1, 6..12]);
    /// ```
    #[must_use]
    #[inline]
    pub fn bridged(mut self, max_gap: u64) -> Self {
        self.gap = max_gap;
        self
    }

    /// The runs of clear pages instead, those whose words are missing included.
    #[must_use]
    #[inline]
    pub fn clear(mut self) -> Self {
        self.flip = u64::MAX;
        self
    }

    #[inline]
    fn word(&self, index: u64) -> u64 {
        let word = match usize::try_from(index) {
            Ok(index) if index < self.words.len() => self.words.word(index),
            _ => 0,
        };
        word ^ self.flip
    }

    /// The first page from `at` on, below the end, whose bit is set (after xor with `invert`); else the end.
    #[inline]
    fn first_page(&self, at: u64, invert: u64) -> u64 {
        if at >= self.end {
            return self.end;
        }
        let mut index = at / 64;
        let mut word = (self.word(index) ^ invert) & (u64::MAX << (at % 64));
        let last = (self.end - 1) / 64;
        while word == 0 {
            if index == last {
                return self.end;
            }
            // Behind the last word there is nothing but what missing words stand for.
            let len = crate::to_u64(self.words.len());
            if index + 1 >= len && (self.flip ^ invert) == 0 {
                return self.end;
            }
            index += 1;
            word = self.word(index) ^ invert;
        }
        (index * 64 + u64::from(word.trailing_zeros())).min(self.end)
    }

    #[inline]
    fn next_run(&mut self) -> Option<Range<u64>> {
        let start = self.first_page(self.at, 0);
        if start >= self.end {
            self.at = self.end;
            return None;
        }
        // Set when it was found, whatever it is by now.
        let stop = self.first_page(start, u64::MAX).max(start + 1);
        self.at = stop;
        Some(start..stop)
    }
}

impl<W: Words + ?Sized> Iterator for PageRuns<'_, W> {
    type Item = Range<u64>;

    #[inline]
    fn next(&mut self) -> Option<Range<u64>> {
        let mut run = match self.ahead.take() {
            Some(run) => run,
            None => self.next_run()?,
        };
        if self.gap != 0 {
            while let Some(next) = self.next_run() {
                if next.start - run.end > self.gap {
                    self.ahead = Some(next);
                    break;
                }
                run.end = next.end;
            }
        }
        Some(run)
    }
}

impl<W: Words + ?Sized> FusedIterator for PageRuns<'_, W> {}
