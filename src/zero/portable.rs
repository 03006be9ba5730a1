//! The loop over pages with volatile reads, for every processor, every length and every alignment.

use std::ops::BitOr;

/// Volatile reads of one word between two branches: a cache line on a 64-bit processor.
const UNROLL: usize = 8;
const WORD: usize = size_of::<usize>();

/// A [`Kernel`](super::Kernel) that takes any page size, multiple of the grain or not.
///
/// # Safety
///
/// `pages` is at most 64 and `page_size * pages` bytes from `start` can be read.
pub(super) unsafe fn pages(start: *const u8, page_size: usize, pages: usize) -> u64 {
    (0..pages).fold(0, |word, index| {
        // SAFETY: page `index` is one of those that the caller vouches for.
        let zero = unsafe { is_zero(start.wrapping_add(index * page_size), page_size) };
        word | (u64::from(!zero) << index)
    })
}

/// Whether the `len` bytes from `start` are all 0.
///
/// # Safety
///
/// `len` bytes from `start` can be read.
pub(super) unsafe fn is_zero(start: *const u8, len: usize) -> bool {
    let head = start.align_offset(WORD).min(len);
    let words = (len - head) / WORD;
    let tail = head + words * WORD;

    // SAFETY: `at` and `at + count` are in the range or at its end.
    let bytes = |at: usize, count: usize| unsafe { all_zero::<u8, 1>(start.wrapping_add(at), count) };
    #[expect(clippy::cast_ptr_alignment, reason = "`head` is what is missing to the alignment")]
    let aligned = start.wrapping_add(head).cast::<usize>();
    let unrolled = words - words % UNROLL;
    // SAFETY: the range holds `words` whole words from `aligned` on, and `unrolled` is a multiple of `UNROLL`.
    let most = || unsafe { all_zero::<usize, UNROLL>(aligned, unrolled) };
    // SAFETY: as above, and every number is a multiple of 1.
    let rest = || unsafe { all_zero::<usize, 1>(aligned.wrapping_add(unrolled), words - unrolled) };
    bytes(0, head) && most() && rest() && bytes(tail, len - tail)
}

/// Whether the `count` values from `at` are all 0, looking `STEP` of them up between two branches.
///
/// # Safety
///
/// `count` values from `at`, which is aligned for them, can be read, and `count` is a multiple of `STEP`.
#[inline]
unsafe fn all_zero<T: Copy + Default + PartialEq + BitOr<Output = T>, const STEP: usize>(
    mut at: *const T,
    count: usize,
) -> bool {
    let end = at.wrapping_add(count);
    while at != end {
        let mut any = T::default();
        for index in 0..STEP {
            // SAFETY: `at` is below the end by a whole number of steps.
            any = any | unsafe { at.wrapping_add(index).read_volatile() };
        }
        if any != T::default() {
            return false;
        }
        at = at.wrapping_add(STEP);
    }
    true
}
