//! Finds the pages that hold only zero bytes, as fast as the memory can be read.
//!
//! The module decides, for each page of a range, whether any byte of it is set, and with which instructions that
//! is looked up on this processor. What follows from a page being zero (leaving it out, clearing its bit, which
//! chunks to look at, and when) is left to the caller.
//!
//! # Memory that a guest is writing
//!
//! The pages may change while they are looked at, and nothing in the language can order those writes: they come
//! from a virtual processor or from another process. A Rust reference to such memory, or a plain read of it, is
//! undefined behaviour. That rules out the vector intrinsics too: `_mm256_loadu_si256` is a plain load to the
//! compiler, which may drop it, repeat it or assume that two of them agree, and no atomic type is as wide.
//!
//! So the loops over vectors are inline assembly, one block for up to 64 pages. The compiler sees a block that is
//! handed an address and hands back a word; it cannot look inside, so it can assume nothing about the bytes read,
//! and the processor gives a meaning to a load that races with a store: each byte is an old one or a new one. Only
//! the word leaves the block, so no value that was read once is ever taken for a value read again. The portable
//! loop uses volatile reads, one `usize` at a time: each is done exactly once, and they are what the language has for
//! memory that changes behind its back.
//!
//! For a page that changes while it is looked at, the answer is either; a caller that needs the final state looks
//! again when the guest stands still. For all other pages the answer is exact.
//!
//! # Speed
//!
//! One core comes near the memory's bandwidth with any vector width, so the loops differ little on memory outside
//! the cache. Two things count: to leave a page at its first set word, and to have the first words of the next
//! pages on their way by then. Measured on a 2-core AMD EPYC (Zen 4), as a ratio to the faster of two loops that only
//! load, 256 MiB unless it says cache, medians of three runs of `cargo bench --bench zero -- --interleaved`:
//!
//! | | AVX2 | AVX-512 | SSE2 | portable |
//! |---|---|---|---|---|
//! | all pages zero, huge mappings | 0.99 | 0.96 | 1.01 | 0.96 |
//! | the same, two threads | 1.01 | 0.97 | 1.00 | 0.97 |
//! | all pages zero, 4 KiB mappings | 0.90 | 0.92 | 0.99 | 0.97 |
//! | all pages zero, 1 MiB in cache | 1.00 | 0.98 | 0.82 | 0.56 |
//! | every other page zero, at random | 0.77 | 0.73 | 0.70 | 0.52 |
//! | no page zero | 9.7 | 10.5 | 12.6 | 6.3 |
//!
//! Prefetching inside a page costs 3 to 15 percent on this processor, at any distance from 512 bytes to 4 KiB: its own
//! prefetcher does better alone. Reading a page as two or four streams at a time costs more than half. With 4 KiB
//! mappings narrow loads are the faster ones even for a loop that only loads; fetching ahead for zero pages too makes up
//! for that, but takes 10 percent from huge mappings, in which guests' memory mostly is.
//!
//! Every length is in bytes, `pages` counts pages.

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
mod avx512;
mod instruction_set;
#[cfg(all(target_arch = "aarch64", target_pointer_width = "64", not(miri)))]
mod neon;
mod portable;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
mod sse2;

use std::fmt;
use std::sync::OnceLock;

pub use instruction_set::InstructionSet;

/// Looks at `pages` pages that lie back to back from `start`, and returns a word whose bit `i` is set if and only if
/// page `i` holds a byte other than 0.
///
/// # Safety
///
/// `page_size` is a multiple of [`GRAIN`] and not 0, `pages` is 1 to 64, and `page_size * pages` bytes from `start` can
/// be read. Nothing is asked of the alignment, nor of who writes there meanwhile.
type Kernel = unsafe fn(start: *const u8, page_size: usize, pages: usize) -> u64;

/// Every kernel takes pages that are a multiple of this many bytes, the most that one looks at between two branches.
/// RAM pages are 256 bytes at least, so this leaves out no page size of the format.
const GRAIN: usize = 256;

/// Pages that a word has bits for.
const WORD_PAGES: usize = 64;

/// How far ahead the first words of a page are fetched, in pages, when a page is left at its first set word.
///
/// A page that is left early costs one cache miss and often one miss of the address translation, both of which this
/// hides. GiB/s at 0 and at 8 pages ahead, 256 MiB of pages of 4 KiB, with AVX2 / AVX-512 / SSE2: no page zero, huge
/// mappings 299, 295 / 257, 307 / 310, 365; 4 KiB mappings 197, 222 / 168, 200 / 180, 209; every other page zero, at
/// random, 21.2, 23.2 with AVX2. 2 and 4 pages ahead gain less where mappings are small, 16 and 32 lose with huge ones.
/// Done for zero pages as well, it costs 10 percent of their speed.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_pointer_width = "64", not(miri)))]
const PAGES_AHEAD: usize = 8;

/// Tells zero pages from others with one of the [`InstructionSet`]s of this processor.
///
/// It is two words in size and `Copy`: make one, and give every thread its own.
///
/// # Examples
///
/// ```
/// use mapped_ram::zero::Detector;
///
/// let mut ram = vec![0_u8; 3 * 4096];
/// ram[4096 + 17] = 1;
///
/// let mut words = [0];
/// Detector::best().scan_slice(&ram, 4096, &mut words);
/// assert_eq!(words, [0b010]);
/// ```
#[derive(Clone, Copy)]
pub struct Detector {
    instruction_set: InstructionSet,
    kernel: Kernel,
}

impl Detector {
    /// The detector that is the fastest on this processor: [`Detector::with`] the first of
    /// [`InstructionSet::available`].
    ///
    /// The processor is asked once, by the first call.
    pub fn best() -> Self {
        static BEST: OnceLock<Detector> = OnceLock::new();
        *BEST.get_or_init(|| {
            let portable = Self { instruction_set: InstructionSet::Portable, kernel: portable::pages };
            InstructionSet::available().find_map(Self::with).unwrap_or(portable)
        })
    }

    /// The detector that uses `instruction_set`, or `None` if this processor or this build lacks it.
    ///
    /// # Examples
    ///
    /// ```
    /// use mapped_ram::zero::{Detector, InstructionSet};
    ///
    /// assert!(Detector::with(InstructionSet::Portable).is_some());
    /// ```
    pub fn with(instruction_set: InstructionSet) -> Option<Self> {
        let kernel = instruction_set.kernel()?;
        Some(Self { instruction_set, kernel })
    }

    /// What the detector reads memory with.
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// Sets bit `i % 64` of `words[i / 64]` if page `i` holds a byte other than 0, and clears it if not.
    ///
    /// Page `i` is the `page_size` bytes from `start + i * page_size`. For memory that nobody writes this equals
    /// `page.iter().any(|byte| *byte != 0)` for each page. A page that is written meanwhile gets either bit, unless
    /// it holds a set byte all the time that stays where it is: then its bit is 1.
    ///
    /// The bits behind `pages` in the last word that has any become 0; words behind that one are left alone. The fast
    /// loops take any multiple of 256 bytes as page size, of any alignment; other sizes are read by the portable one.
    ///
    /// # Panics
    ///
    /// If `page_size` is 0, or `words` has fewer than `pages.div_ceil(64)` words.
    ///
    /// # Safety
    ///
    /// `page_size * pages` bytes from `start` must be mapped and stay readable until the call returns. They may be
    /// written at the same time by a guest, by another process, or through raw pointers, but not through a
    /// `&mut` that is alive, and `words` must not be among them.
    ///
    /// # Examples
    ///
    /// ```
    /// use mapped_ram::zero::Detector;
    ///
    /// let ram = [0_u8, 0, 7, 0].map(|first| { let mut page = [0_u8; 256]; page[0] = first; page });
    /// let mut words = [u64::MAX];
    /// // SAFETY: `ram` is four pages of 256 bytes and outlives the call.
    /// unsafe { Detector::best().scan(ram.as_ptr().cast(), 256, 4, &mut words) };
    /// assert_eq!(words, [0b0100]);
    /// ```
    pub unsafe fn scan(&self, start: *const u8, page_size: usize, pages: usize, words: &mut [u64]) {
        assert!(page_size > 0, "a page has at least one byte");
        let used = pages.div_ceil(WORD_PAGES);
        assert!(words.len() >= used, "{pages} pages need {used} words, not {}", words.len());

        let kernel = if page_size.is_multiple_of(GRAIN) { self.kernel } else { portable::pages };
        for (index, word) in words[..used].iter_mut().enumerate() {
            let first = index * WORD_PAGES;
            let count = WORD_PAGES.min(pages - first);
            // SAFETY: pages `first..first + count` are among those that the caller vouches for, `count` is 1 to 64 and
            // the page size is a multiple of the grain, or the kernel is the portable one, which takes any.
            *word = unsafe { kernel(start.wrapping_add(first * page_size), page_size, count) };
        }
    }

    /// Whether the `len` bytes from `start` are all 0; true if `len` is 0.
    ///
    /// Equals `bytes.iter().all(|byte| *byte == 0)` for memory that nobody writes. Any alignment and any length will
    /// do; the fast loops are used from 256 bytes on.
    ///
    /// # Safety
    ///
    /// As for [`Detector::scan`], with `len` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use mapped_ram::zero::Detector;
    ///
    /// let bytes = [0_u8; 1000];
    /// // SAFETY: 999 bytes from the second one on belong to `bytes`.
    /// assert!(unsafe { Detector::best().is_zero(bytes.as_ptr().add(1), 999) });
    /// ```
    pub unsafe fn is_zero(&self, start: *const u8, len: usize) -> bool {
        if len < GRAIN {
            // SAFETY: the caller vouches for `len` bytes.
            return unsafe { portable::is_zero(start, len) };
        }
        let ragged = len % GRAIN;
        // SAFETY: one page of `len - ragged` bytes, a multiple of the grain and not 0.
        let whole = unsafe { (self.kernel)(start, len - ragged, 1) };
        if whole != 0 || ragged == 0 {
            return whole == 0;
        }
        // The last grain takes some bytes a second time: that is cheaper than a loop for the ragged end.
        // SAFETY: the range has at least one grain, and this is its last one.
        unsafe { (self.kernel)(start.wrapping_add(len - GRAIN), GRAIN, 1) == 0 }
    }

    /// Whether `bytes` are all 0. Equals `bytes.iter().all(|byte| *byte == 0)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use mapped_ram::zero::Detector;
    ///
    /// assert!(Detector::best().is_zero_slice(&[0; 5000]));
    /// assert!(!Detector::best().is_zero_slice(b"\0\0\0!"));
    /// ```
    pub fn is_zero_slice(&self, bytes: &[u8]) -> bool {
        // SAFETY: the slice is readable for its length.
        unsafe { self.is_zero(bytes.as_ptr(), bytes.len()) }
    }

    /// Sets bit `i % 64` of `words[i / 64]` if chunk `i` of `bytes.chunks(page_size)` holds a byte other than 0, and
    /// clears it if not. The last page may be shorter than the others.
    ///
    /// The bits behind the last page in its word become 0; words behind that one are left alone.
    ///
    /// # Panics
    ///
    /// If `page_size` is 0, or `words` has less than one bit for each page.
    ///
    /// # Examples
    ///
    /// ```
    /// use mapped_ram::zero::Detector;
    ///
    /// let mut bytes = [0_u8; 2 * 256 + 1];
    /// bytes[512] = 1;
    /// let mut words = [0];
    /// Detector::best().scan_slice(&bytes, 256, &mut words);
    /// assert_eq!(words, [0b100]);
    /// ```
    pub fn scan_slice(&self, bytes: &[u8], page_size: usize, words: &mut [u64]) {
        assert!(page_size > 0, "a page has at least one byte");
        let (pages, short) = (bytes.len() / page_size, bytes.len() % page_size);
        let used = bytes.len().div_ceil(page_size).div_ceil(WORD_PAGES);
        assert!(words.len() >= used, "{} bytes need {used} words, not {}", bytes.len(), words.len());

        // SAFETY: the slice holds `pages` whole pages.
        unsafe { self.scan(bytes.as_ptr(), page_size, pages, words) };
        if short > 0 {
            let word = &mut words[pages / WORD_PAGES];
            let bit = pages % WORD_PAGES;
            if bit == 0 {
                *word = 0;
            }
            *word |= u64::from(!self.is_zero_slice(&bytes[pages * page_size..])) << bit;
        }
    }
}

impl Default for Detector {
    /// [`Detector::best`].
    fn default() -> Self {
        Self::best()
    }
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector").field("instruction_set", &self.instruction_set).finish_non_exhaustive()
    }
}
