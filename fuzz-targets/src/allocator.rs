//! An allocator that counts: no input may make a decoder allocate more than a small multiple of its own size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    // Of this thread alone: the fuzzer's own threads are none of our business.
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(size: usize) {
    // A thread that ends has no counters any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get().wrapping_add(size));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().wrapping_sub(layout.size())));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Runs `work` and panics if it had more than `bound` bytes allocated at any moment, beyond what was before.
pub(crate) fn bounded<T>(bound: usize, work: impl FnOnce() -> T) -> T {
    NOW.set(0);
    PEAK.set(0);
    let result = work();
    // Memory that was freed meanwhile, but allocated before, makes the count wrap: then nothing is known.
    let peak = PEAK.get();
    assert!(peak <= bound || peak > usize::MAX / 2, "{peak} bytes allocated, {bound} allowed");
    result
}
