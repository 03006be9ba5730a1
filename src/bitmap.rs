//! Which pages of a RAM block: a bitmap of one bit a page, in host words.
//!
//! The same type says which pages of a block are dirty (what a monitor hands to the writer) and which are present
//! (what a reader found in a file). How such a bitmap stands in the file, byte order included, is decided in
//! `mapped-ram-format`; this module only holds it in memory.
//!
//! Positions are page numbers within the block, not bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::convert::{to_u64, to_usize};
use crate::zeroed::{try_zeroed, try_zeroed_atomic};

/// One bit for each page of a RAM block: dirty pages, or present ones.
///
/// Bit `i` is bit `i % 64` of word `i / 64`, as in the bitmaps of KVM (`KVM_GET_DIRTY_LOG`) on little-endian hosts.
///
/// ```
/// use mapped_ram::PageBitmap;
///
/// let mut dirty = PageBitmap::new(100);
/// dirty.insert(3..5);
/// dirty.insert(99..100);
/// assert_eq!(dirty.count(), 3);
/// assert_eq!(dirty.runs().collect::<Vec<_>>(), [3..5, 99..100]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    pages: u64,
}

impl PageBitmap {
    /// A bitmap of `pages` pages, none of them set.
    ///
    /// # Panics
    /// When the system has no memory for it: one bit a page. [`try_new`](Self::try_new) is for numbers of pages that nobody vouches for.
    ///
    /// ```should_panic
    /// mapped_ram::PageBitmap::new(u64::MAX);
    /// ```
    pub fn new(pages: u64) -> Self {
        Self::try_new(pages).unwrap_or_else(|| no_memory(pages))
    }

    /// A bitmap of `pages` pages, none of them set; `None` if the system has no memory for it.
    ///
    /// ```
    /// use mapped_ram::PageBitmap;
    ///
    /// assert_eq!(PageBitmap::try_new(100), Some(PageBitmap::new(100)));
    /// assert_eq!(PageBitmap::try_new(u64::MAX), None);
    /// ```
    pub fn try_new(pages: u64) -> Option<Self> {
        Some(Self { words: try_zeroed(to_usize(pages.div_ceil(64)))?, pages })
    }

    /// A bitmap of `pages` pages, all of them set.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn full(pages: u64) -> Self {
        let mut bitmap = Self::new(pages);
        bitmap.words.fill(u64::MAX);
        bitmap.clear_padding();
        bitmap
    }

    /// Takes words as they are, bit `i % 64` of word `i / 64` for page `i`; bits at and above `pages` are dropped.
    ///
    /// The pages are the writer's. KVM's dirty log has a bit for each page of the *host*, which is larger on some: save with that page size
    /// ([`SaveOptions::page_size`](crate::SaveOptions::page_size)).
    ///
    /// ```
    /// use mapped_ram::PageBitmap;
    ///
    /// let bitmap = PageBitmap::from_words(vec![u64::MAX], 3);
    /// assert_eq!(bitmap.count(), 3);
    /// ```
    ///
    /// # Panics
    /// When `words` is not exactly as long as `pages` pages take: it is then of pages of another size.
    pub fn from_words(words: Vec<u64>, pages: u64) -> Self {
        let (count, wanted) = (words.len(), pages.div_ceil(64));
        assert!(
            to_u64(count) == wanted,
            "{count} words for {pages} pages, which take {wanted}: of pages of another size?"
        );
        let mut bitmap = Self { words, pages };
        bitmap.clear_padding();
        bitmap
    }

    fn clear_padding(&mut self) {
        let used = self.pages % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }

    /// How many pages the bitmap speaks of, set or not.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether page `page` is set; `false` for a page that the bitmap does not have.
    pub fn contains(&self, page: u64) -> bool {
        page < self.pages && self.words[to_usize(page / 64)] >> (page % 64) & 1 == 1
    }

    /// Sets the pages of `range`; those that the bitmap does not have are left out.
    pub fn insert(&mut self, range: Range<u64>) {
        self.for_each_mask(range, |word, mask| *word |= mask);
    }

    /// Clears the pages of `range`; those that the bitmap does not have are left out.
    pub fn remove(&mut self, range: Range<u64>) {
        self.for_each_mask(range, |word, mask| *word &= !mask);
    }

    /// Sets the pages that are set in `other` too: what several sources have written.
    ///
    /// ```
    /// use mapped_ram::PageBitmap;
    ///
    /// let (mut of_devices, of_kvm) = (PageBitmap::from_words(vec![0b0011], 4), PageBitmap::from_words(vec![0b0110], 4));
    /// of_devices.union(&of_kvm);
    /// assert_eq!(of_devices, PageBitmap::from_words(vec![0b0111], 4));
    /// ```
    ///
    /// # Panics
    /// When the bitmaps are not of as many pages.
    pub fn union(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages, "bitmaps of as many pages");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    fn for_each_mask(&mut self, range: Range<u64>, mut apply: impl FnMut(&mut u64, u64)) {
        let end = range.end.min(self.pages);
        let mut at = range.start;
        while at < end {
            let stop = (at / 64 + 1).saturating_mul(64).min(end);
            apply(&mut self.words[to_usize(at / 64)], mask(at % 64, stop - at));
            at = stop;
        }
    }

    /// How many pages are set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The runs of set pages, in order; each as long as it can be.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        iov_slicer::page_runs(&self.words[..], self.pages)
    }

    /// The runs of set pages inside `range`, in order.
    pub fn runs_within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        iov_slicer::page_runs(&self.words[..], self.pages).within(range)
    }

    /// The words: bit `i % 64` of word `i / 64` for page `i`, bits at and above [`pages`](Self::pages) zero.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

fn no_memory(pages: u64) -> ! {
    panic!("no memory for a bitmap of {pages} pages: {} bytes", pages.div_ceil(64) * 8)
}

/// `count` set bits from bit `first` on. `count` is 1 to 64.
fn mask(first: u64, count: u64) -> u64 {
    (u64::MAX >> (64 - count)) << first
}

/// The present pages of a block while many channels write it.
///
/// Each word is updated with its own atomic operation; nothing else orders the updates, because the pool's `sync`
/// orders them all before the bitmap is read.
#[derive(Debug)]
pub(crate) struct SharedBitmap {
    words: Vec<AtomicU64>,
}

impl SharedBitmap {
    /// None of them set; `None` if the system has no memory for one bit a page.
    pub(crate) fn try_new(pages: u64) -> Option<Self> {
        Some(Self { words: try_zeroed_atomic(to_usize(pages.div_ceil(64)))? })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// Writes down what a channel found about the pages from `first` on: for each bit that is set in `looked_at`, the
    /// page's bit becomes the one in `present`. Bit 0 of word 0 of both stands for page `first`.
    pub(crate) fn record(&self, first: u64, looked_at: &[u64], present: &[u64]) {
        let shift = first % 64;
        let base = to_usize(first / 64);
        for (i, (&looked_at, &present)) in looked_at.iter().zip(present).enumerate() {
            self.update(base + i, looked_at << shift, present << shift);
            if shift != 0 {
                self.update(base + i + 1, looked_at >> (64 - shift), present >> (64 - shift));
            }
        }
    }

    /// Clears the bits of whole words: `pages` begins at a multiple of 64, and ends at one or at the bitmap's end.
    pub(crate) fn clear_words(&self, pages: std::ops::Range<u64>) {
        if pages.is_empty() {
            return;
        }
        debug_assert!(pages.start.is_multiple_of(64), "a word may be another thread's too");
        for word in &self.words[to_usize(pages.start / 64)..to_usize(pages.end.div_ceil(64))] {
            // A read first: a bitmap of a huge guest that was never written to stays untouched memory.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn update(&self, index: usize, looked_at: u64, present: u64) {
        if looked_at != 0 {
            // Two updates are enough: nobody reads the bitmap between them, and channels never share a page.
            self.words[index].fetch_and(!(looked_at & !present), Ordering::Relaxed);
            self.words[index].fetch_or(looked_at & present, Ordering::Relaxed);
        }
    }
}
