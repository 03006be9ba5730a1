//! Zeroed memory that may be refused.
//!
//! A bitmap's length comes from a file's header. Memory for it must come from the system zeroed and untouched, so that a
//! huge, mostly empty one takes address space only; and where even that is refused, it must be an error, not the end of the
//! process. The standard library has either, not both.

use std::alloc::{Layout, alloc_zeroed};
use std::mem::ManuallyDrop;
use std::sync::atomic::AtomicU64;

/// `count` zeros, or `None` if the system has no room for them.
pub(crate) fn try_zeroed(count: usize) -> Option<Vec<u64>> {
    let layout = Layout::array::<u64>(count).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout is not of size 0.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    #[expect(clippy::same_length_and_capacity, reason = "the allocation above is of `count` words")]
    // SAFETY: allocated by the global allocator with the layout of `count` words, all of them initialised: zeros.
    let words = unsafe { Vec::from_raw_parts(start.cast(), count, count) };
    Some(words)
}

/// The same for words that many threads change.
pub(crate) fn try_zeroed_atomic(count: usize) -> Option<Vec<AtomicU64>> {
    // The same size they have everywhere; the same alignment on 64-bit machines.
    const { assert!(align_of::<AtomicU64>() == align_of::<u64>()) };
    let mut words = ManuallyDrop::new(try_zeroed(count)?);
    // SAFETY: the words' own allocation, which they do not free any more; every word is an atomic one too, of one layout.
    Some(unsafe { Vec::from_raw_parts(words.as_mut_ptr().cast(), words.len(), words.capacity()) })
}
