//! A piece of raw memory on its way to a channel.

use std::fmt;

/// A piece of memory by its address and length, with the layout of a `libc::iovec`.
///
/// It is only a description: nothing is read or written before it is passed to one of the unsafe transfer functions,
/// and whoever does that answers for the memory.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct IoVec(libc::iovec);

// SAFETY: an address and a length; that the memory may be touched from another thread is what the callers of the unsafe
// transfer functions promise.
unsafe impl Send for IoVec {}
// SAFETY: as for `Send`; an `IoVec` does not change behind a shared reference.
unsafe impl Sync for IoVec {}

impl IoVec {
    /// `len` bytes from `start` on, which may be written to.
    pub fn new(start: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: start.cast(), iov_len: len })
    }

    /// `len` bytes from `start` on, which are only read: for writes to a file.
    pub fn from_const(start: *const u8, len: usize) -> Self {
        Self::new(start.cast_mut(), len)
    }

    /// The first byte.
    pub fn addr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same without its first `by` bytes, at most its length.
    pub(crate) fn skip(&self, by: usize) -> Self {
        Self::new(self.addr().wrapping_add(by), self.len() - by)
    }

    /// The same without what follows its first `len` bytes, at most its length.
    pub(crate) fn first(&self, len: usize) -> Self {
        Self::new(self.addr(), len.min(self.len()))
    }

    pub(crate) fn as_libc(vecs: &[Self]) -> *const libc::iovec {
        vecs.as_ptr().cast()
    }
}

impl fmt::Debug for IoVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:?}", self.len(), self.addr())
    }
}
