//! Cuts iovecs that point into one block of memory into the positional writes that put the block into a file.
//!
//! A block of memory has a fixed place in a file: its first byte stands at `pages_offset`, and so on byte for byte.
//! `pwritev(2)` takes one file offset and many iovecs, so the iovecs of one call must lie back to back. This crate
//! only decides where to cut:
//!
//! - [`slice()`] takes iovecs and gives [`Write`]s, each of which one `pwritev` call can do;
//! - [`page_runs`] walks a bitmap of pages, a word at a time, and [`slice_pages`] turns its runs into [`PageWrite`]s.
//!
//! It does no I/O, allocates nothing, and never looks behind an address: addresses are numbers here.
//!
//! Every offset and length is in bytes, except where pages are counted.
//!
//! ```
//! use iov_slicer::{Block, Limits, slice};
//!
//! // 1 MiB of memory at 0x7000_0000, which stands in the file from 0x10_0000 on.
//! let block = Block::new(0x7000_0000, 1 << 20, 0x10_0000)?;
//! let iovecs = [(0x7000_0000, 4096), (0x7000_1000, 4096), (0x7000_8000, 4096)];
//!
//! let mut writes = slice(&block, &Limits::new(4096), &iovecs);
//! let first = writes.next().unwrap()?;
//! assert_eq!((first.offset, first.len), (0x10_0000, 8192));
//! assert_eq!(first.iovecs().collect::<Vec<_>>(), [(0x7000_0000, 8192)]);
//! let second = writes.next().unwrap()?;
//! assert_eq!((second.offset, second.len), (0x10_8000, 4096));
//! assert!(writes.next().is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "std")]
extern crate std;

mod block;
mod error;
mod limits;
mod pages;
mod runs;
mod segment;
mod slices;
mod words;

pub use block::Block;
pub use error::{BlockError, SliceError, SliceErrorKind};
pub use limits::Limits;
pub use pages::{PageWrite, PageWrites, slice_pages};
pub use runs::{PageRuns, page_runs};
pub use segment::Segment;
pub use slices::{Iovecs, Slices, Write, check, slice};
pub use words::Words;

/// A count of bytes in memory as a `u64`: no host that Rust builds for has larger addresses.
#[inline]
const fn to_u64(value: usize) -> u64 {
    value as u64
}
