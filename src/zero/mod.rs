//! Which pages of memory are zero, at the speed of memory.
//!
//! The memory may be a running guest's: it changes while it is looked at. A Rust reference to it, or a plain read, would
//! be undefined behaviour, and the vector intrinsics are plain reads. So the fast detectors are inline assembly, which
//! the compiler takes for a black box that reads what it likes, and the portable one reads volatile words. Whatever a
//! guest does meanwhile, the answer is about bytes that were there at some moment during the look.
//!
//! Here is decided how one page is looked at; which pages, and what becomes of them, is the writer's business.
//!
//! Lengths are in bytes, except where pages are counted.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::sync::OnceLock;

/// The vector code looks at this many bytes at a time; what is no multiple of it goes the portable way.
const STEP: usize = 256;

/// Which instructions a [`Detector`] uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// 64 bytes an instruction (x86-64 with AVX-512F).
    Avx512,
    /// 32 bytes an instruction (x86-64 with AVX2).
    Avx2,
    /// 16 bytes an instruction (any x86-64).
    Sse2,
    /// 16 bytes an instruction (any AArch64).
    Neon,
    /// One word at a time (anywhere).
    Portable,
}

/// All of them, the fastest that a machine has first. Measured on an EPYC with AVX-512 (`cargo bench --bench zero`):
/// memory bandwidth rules, and AVX2 comes nearest to it; AVX-512 is a few percent behind.
const BY_SPEED: [InstructionSet; 5] = [
    InstructionSet::Avx2,
    InstructionSet::Avx512,
    InstructionSet::Neon,
    InstructionSet::Sse2,
    InstructionSet::Portable,
];

impl InstructionSet {
    /// Those that this machine has, the fastest first; never empty.
    pub fn available() -> impl Iterator<Item = Self> {
        BY_SPEED.into_iter().filter(|set| set.is_available())
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        self.look().is_some()
    }

    /// The code for it, if this machine can run it.
    fn look(self) -> Option<Look> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => std::arch::is_x86_feature_detected!("avx512f").then_some(x86_64::avx512 as Look),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2").then_some(x86_64::avx2 as Look),
            #[cfg(target_arch = "x86_64")]
            Self::Sse2 => Some(x86_64::sse2),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Some(aarch64::neon),
            Self::Portable => Some(portable::is_zero),
            // Those of other architectures.
            _ => None,
        }
    }
}

/// Whether the bytes from an address on are all zero. Only [`Portable`](InstructionSet::Portable) takes any length; the
/// others take multiples of [`STEP`], at least one.
///
/// # Safety
/// The bytes must be readable until it returns, and the machine must have the instructions.
type Look = unsafe fn(*const u8, usize) -> bool;

/// Finds zero pages with one set of instructions.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    look: Look,
    instruction_set: InstructionSet,
}

impl Detector {
    /// The fastest that this machine has.
    pub fn best() -> Self {
        static BEST: OnceLock<Detector> = OnceLock::new();
        *BEST.get_or_init(|| {
            InstructionSet::available()
                .find_map(Self::with)
                .unwrap_or(Self { look: portable::is_zero, instruction_set: InstructionSet::Portable })
        })
    }

    /// One with these instructions, if this machine has them.
    pub fn with(instruction_set: InstructionSet) -> Option<Self> {
        instruction_set.look().map(|look| Self { look, instruction_set })
    }

    /// Which instructions it uses.
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// Looks at `pages` pages of `page_size` bytes from `start` on: bit `i % 64` of `words[i / 64]` becomes 1 if page
    /// `i` holds a byte that is not zero, else 0. Bits behind the last page, in its word, become 0.
    ///
    /// # Panics
    /// If `words` has fewer than `pages` bits.
    ///
    /// # Safety
    /// `start` to `start + pages * page_size` must be readable until it returns. It may be written meanwhile by anyone;
    /// of a page that is, either answer may come out.
    pub unsafe fn scan(&self, start: *const u8, page_size: usize, pages: usize, words: &mut [u64]) {
        assert!(pages.div_ceil(64) <= words.len(), "{} words for {pages} pages", words.len());
        let mut page = start;
        let mut left = pages;
        for word in words.iter_mut().take(pages.div_ceil(64)) {
            let mut bits = 0;
            for bit in 0..left.min(64) {
                // SAFETY: one of the pages that are readable by this function's contract.
                bits |= u64::from(unsafe { !self.is_zero(page, page_size) }) << bit;
                page = page.wrapping_add(page_size);
            }
            *word = bits;
            left = left.saturating_sub(64);
        }
    }

    /// Whether the `len` bytes from `start` on are all zero; no bytes are.
    ///
    /// # Safety
    /// As [`scan`](Self::scan), for `len` bytes.
    #[inline]
    pub unsafe fn is_zero(&self, start: *const u8, len: usize) -> bool {
        let whole = len - len % STEP;
        // SAFETY: parts of what is readable by this function's contract; `with` made sure of the instructions.
        unsafe {
            (whole == 0 || (self.look)(start, whole))
                && (whole == len || portable::is_zero(start.wrapping_add(whole), len - whole))
        }
    }
}

/// Whether `bytes` are all zero, by the fastest way that this machine has. Equals `bytes.iter().all(|byte| *byte == 0)`.
///
/// ```
/// assert!(mapped_ram::zero::is_zero_slice(&[0; 5000]));
/// assert!(!mapped_ram::zero::is_zero_slice(&[0, 0, 1]));
/// ```
pub fn is_zero_slice(bytes: &[u8]) -> bool {
    // SAFETY: the slice is borrowed until the call returns.
    unsafe { Detector::best().is_zero(bytes.as_ptr(), bytes.len()) }
}
