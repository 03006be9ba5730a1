//! Where a block of memory is, and where it stands in the file.

use crate::error::{BlockError, SliceError, SliceErrorKind};
use crate::to_u64;

/// A block of memory and its place in the file: the byte at `host + i` stands at `pages_offset + i`, for each `i` below
/// `used_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    host: usize,
    used_length: u64,
    pages_offset: u64,
}

impl Block {
    /// A block of `used_length` bytes from the address `host` on, which stands in the file from `pages_offset` on.
    ///
    /// # Errors
    /// When the block's end is past the end of the address space, or past the largest file offset (`i64::MAX`).
    #[inline]
    pub fn new(host: usize, used_length: u64, pages_offset: u64) -> Result<Self, BlockError> {
        // One past the last address may not be representable; every other address must be.
        let room = to_u64(usize::MAX - host);
        if used_length > room {
            return Err(BlockError::Memory { host, used_length });
        }
        match pages_offset.checked_add(used_length) {
            Some(end) if end <= i64::MAX.cast_unsigned() => Ok(Self { host, used_length, pages_offset }),
            _ => Err(BlockError::File { pages_offset, used_length }),
        }
    }

    /// The address of the block's first byte.
    #[inline]
    pub fn host(&self) -> usize {
        self.host
    }

    /// The block's length.
    #[inline]
    pub fn used_length(&self) -> u64 {
        self.used_length
    }

    /// Where the block's first byte stands in the file.
    #[inline]
    pub fn pages_offset(&self) -> u64 {
        self.pages_offset
    }

    /// Where the byte at address `addr` stands in the file. `addr` must be inside the block.
    #[inline]
    pub(crate) fn file_offset(&self, addr: usize) -> u64 {
        self.pages_offset + to_u64(addr - self.host)
    }

    /// Whether `len` bytes at `addr` are inside the block, their end as well as their start.
    #[inline]
    pub(crate) fn contains(&self, addr: usize, len: usize) -> bool {
        // A start before the block wraps around to an offset that is past its end: one comparison finds both.
        let offset = to_u64(addr.wrapping_sub(self.host));
        let len = to_u64(len);
        addr >= self.host && offset <= self.used_length && len <= self.used_length - offset
    }

    /// [`used_length`](Self::used_length), as memory counts: it is memory of this process.
    #[inline]
    pub(crate) fn memory(&self) -> usize {
        usize::try_from(self.used_length).unwrap_or(usize::MAX)
    }

    /// Whether `addr` has `len` bytes inside the block, of which there are 1 to `longest`: that is to be no more than the
    /// block's length.
    #[inline]
    pub(crate) fn holds(&self, addr: usize, len: usize, longest: usize) -> bool {
        // No bytes wrap to the most there can be, a start before the block to the farthest.
        len.wrapping_sub(1) < longest && addr.wrapping_sub(self.host) <= self.memory() - len
    }

    /// Says what is wrong with a segment that [`contains`](Self::contains) refused.
    #[cold]
    pub(crate) fn refuse(&self, index: usize, addr: usize, len: usize) -> SliceError {
        let kind = if addr.checked_add(len).is_none() {
            SliceErrorKind::Overflow
        } else if addr < self.host {
            SliceErrorKind::BeforeBlock
        } else {
            SliceErrorKind::PastEnd
        };
        SliceError { kind, index, addr, len: to_u64(len), host: self.host, limit: self.used_length }
    }
}
