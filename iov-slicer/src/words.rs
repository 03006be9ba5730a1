//! What a bitmap is, for this crate: words of 64 bits, bit `i % 64` of word `i / 64` for page `i`.

use core::sync::atomic::{AtomicU64, Ordering};

/// The words of a bitmap, plain or shared with other threads.
pub trait Words {
    /// Word `index`, below [`len`](Self::len).
    fn word(&self, index: usize) -> u64;

    /// How many words there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Words for [u64] {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        self[index]
    }

    #[inline]
    fn len(&self) -> usize {
        <[u64]>::len(self)
    }
}

impl Words for [AtomicU64] {
    /// Loaded `Relaxed`: whoever walks a bitmap that is still changing gets each word as it was at some moment,
    /// and may ask for one more than once: a run may be of two moments, and is never empty.
    #[inline]
    fn word(&self, index: usize) -> u64 {
        self[index].load(Ordering::Relaxed)
    }

    #[inline]
    fn len(&self) -> usize {
        <[AtomicU64]>::len(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_words_is_empty() {
        assert!(Words::is_empty(&[0_u64; 0][..]) && !Words::is_empty(&[0_u64][..]));
    }
}
