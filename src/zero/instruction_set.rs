//! The ways in which memory can be read, and which of them this processor has.
//!
//! The order of [`InstructionSet::ALL`] decides which one is taken when nobody asks for another.

#[cfg(all(target_arch = "aarch64", target_pointer_width = "64", not(miri)))]
use super::neon;
use super::{Kernel, portable};
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
use super::{avx2, avx512, sse2};
use std::fmt;

/// What a [`Detector`](super::Detector) reads memory with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// 64 bytes at a time (x86-64 with AVX-512F).
    Avx512,
    /// 32 bytes at a time (x86-64 with AVX2).
    Avx2,
    /// 16 bytes at a time (every x86-64).
    Sse2,
    /// 16 bytes at a time (every 64-bit Arm that runs Linux).
    Neon,
    /// One `usize` at a time, without assembly (every processor).
    Portable,
}

impl InstructionSet {
    /// All of them, the one to prefer first.
    ///
    /// AVX2 stands before AVX-512: memory bounds both, AVX2 was ahead by 3 percent outside the cache, and older Intel
    /// processors lower their clock for the wide registers, which then slows the write that follows the scan. It
    /// stands before SSE2, which is faster by 1 to 10 percent when the whole range is zero, because it is faster by 10
    /// where zero pages lie among others and by 20 in cache.
    const ALL: [Self; 5] = [Self::Avx2, Self::Avx512, Self::Sse2, Self::Neon, Self::Portable];

    /// Those that this processor and this build have, the fastest first. The last one is always
    /// [`InstructionSet::Portable`].
    ///
    /// # Examples
    ///
    /// ```
    /// use mapped_ram::zero::{Detector, InstructionSet};
    ///
    /// let best = InstructionSet::available().next();
    /// assert_eq!(best, Some(Detector::best().instruction_set()));
    /// ```
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// Whether this processor and this build have it.
    pub fn is_available(self) -> bool {
        self.kernel().is_some()
    }

    /// A short name in lower case: `avx512`, `avx2`, `sse2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Sse2 => "sse2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// The loop to call; `Some` only if this processor can run it.
    pub(super) fn kernel(self) -> Option<Kernel> {
        match self {
            #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
            Self::Avx512 => is_x86_feature_detected!("avx512f").then_some(avx512::pages as Kernel),
            #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
            Self::Avx2 => is_x86_feature_detected!("avx2").then_some(avx2::pages as Kernel),
            #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
            Self::Sse2 => is_x86_feature_detected!("sse2").then_some(sse2::pages as Kernel),
            #[cfg(all(target_arch = "aarch64", target_pointer_width = "64", not(miri)))]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon").then_some(neon::pages as Kernel),
            Self::Portable => Some(portable::pages),
            _ => None,
        }
    }
}

impl fmt::Display for InstructionSet {
    /// Writes [`InstructionSet::name`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
