//! Why a block or an iovec was refused.

use core::fmt;

/// A block that cannot be: its memory or its place in the file runs past what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// `host + used_length` is past the end of the address space.
    Memory {
        /// The address of the first byte.
        host: usize,
        /// The length in bytes.
        used_length: u64,
    },
    /// `pages_offset + used_length` is past the largest file offset, `i64::MAX`.
    File {
        /// Where the first byte stands in the file.
        pages_offset: u64,
        /// The length in bytes.
        used_length: u64,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory { host, used_length } => {
                write!(f, "{used_length:#x} bytes at address {host:#x} run past the end of the address space")
            }
            Self::File { pages_offset, used_length } => {
                write!(
                    f,
                    "{used_length:#x} bytes at file offset {pages_offset:#x} run past the largest file offset"
                )
            }
        }
    }
}

impl core::error::Error for BlockError {}

/// What is wrong with an iovec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SliceErrorKind {
    /// Address + length is past the end of the address space.
    Overflow,
    /// It begins before the block.
    BeforeBlock,
    /// It begins or ends behind the block's end.
    PastEnd,
}

/// An iovec, or a run of pages, that is not inside the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SliceError {
    /// What is wrong with it.
    pub kind: SliceErrorKind,
    /// Which iovec (or run), counted from 0.
    pub index: usize,
    /// The address of its first byte.
    pub addr: usize,
    /// Its length in bytes.
    pub len: u64,
    /// The address of the block's first byte.
    pub host: usize,
    /// The block's used length in bytes.
    pub limit: u64,
}

impl SliceError {
    /// Where the iovec begins, in bytes from the block's start; negative before it.
    pub fn offset(&self) -> i128 {
        i128::from(crate::to_u64(self.addr)) - i128::from(crate::to_u64(self.host))
    }
}

impl fmt::Display for SliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            SliceErrorKind::Overflow => "runs past the end of the address space",
            SliceErrorKind::BeforeBlock => "begins before the block",
            SliceErrorKind::PastEnd => "runs past the end of the block",
        };
        let (index, len, offset, limit) = (self.index, self.len, self.offset(), self.limit);
        write!(f, "iovec {index} of {len} bytes at block offset {offset} {what} of {limit} bytes")
    }
}

impl core::error::Error for SliceError {}
