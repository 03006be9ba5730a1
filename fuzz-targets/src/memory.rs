//! A guest's memory: anonymous, never touched at first, and the kernel can have it back.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// The pages in which memory is given back, at least as large as the host's, in bytes.
pub(crate) const HOST_PAGE: usize = 4096;

pub(crate) struct Memory {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

impl Memory {
    /// Zeros; on a page of the host.
    pub(crate) fn new(length: usize) -> Self {
        Self::with_access(length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// A range of addresses and nothing more.
    pub(crate) fn reserve(length: usize) -> Self {
        Self::with_access(length, ProtFlags::PROT_NONE)
    }

    fn with_access(length: usize, access: ProtFlags) -> Self {
        let length = NonZeroUsize::new(length).unwrap();
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: anonymous, and wherever the kernel likes.
        let start = unsafe { mmap_anonymous(None, length, access, flags) }.unwrap();
        Self { start: start.cast(), length }
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Writes `byte` all over `range`.
    pub(crate) fn fill(&mut self, range: Range<usize>, byte: u8) {
        assert!(range.start <= range.end && range.end <= self.length.get());
        // SAFETY: inside the memory, by the line above; who saves it does nothing between two calls.
        unsafe { self.start.as_ptr().add(range.start).write_bytes(byte, range.end - range.start) };
    }

    /// Gives back the host's pages that begin inside of `range`, whose start is on one.
    pub(crate) fn discard(&mut self, range: Range<usize>) {
        assert!(range.start.is_multiple_of(HOST_PAGE) && range.end <= self.length.get());
        let length = range.end - range.start;
        // SAFETY: inside the memory, by the line above; what it holds becomes zeros, as the caller wants.
        unsafe { madvise(self.start.add(range.start).cast(), length, MmapAdvise::MADV_DONTNEED) }.unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the whole of what `with_access` mapped, which nobody may use any more.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}
