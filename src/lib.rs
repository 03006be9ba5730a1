//! Saves a virtual machine's memory to a file and brings it back, with many threads, in the file format of QEMU's
//! `mapped-ram` migration capability (QEMU 9.0 and later).
//!
//! Every page of guest RAM has a fixed place in such a file. So many threads write at once, zero pages take no room,
//! a page that was dirtied twice lands in the same place, and a block can be read, or mapped, as it stands. What this
//! crate writes QEMU loads, and the other way round.
//!
//! - [`SaveOptions`] begins a save and gives a [`Writer`]; [`RamBlock`] says where a block's memory is.
//! - [`Reader`] opens a file; [`Block`] gives its pages, [`LoadOptions`] fills memory with all of them,
//!   [`MapOptions`] maps them: there at once, read when they are touched; the module `fault` (feature `userfaultfd`) fills memory of
//!   any kind when it is touched.
//! - [`Reader::verify`] says whether a file is whole.
//!
//! ```
//! # fn main() -> mapped_ram::Result<()> {
//! use mapped_ram::{Destination, RamBlock, Reader, SaveOptions};
//!
//! let guest = vec![7_u8; 1 << 20];
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("guest.mram");
//! SaveOptions::new().channels(4).save(&path, vec![RamBlock::new("ram0", &guest)])?;
//!
//! let mut back = vec![0_u8; 1 << 20];
//! Reader::open(&path)?.block("ram0").unwrap().load(&mut back, Destination::Zeroed)?;
//! assert_eq!(back, guest);
//! # Ok(())
//! # }
//! ```
//!
//! A file under its final name is always whole: a save writes to a file without a name, syncs it, and only then gives
//! it the name; until then an older file stays there untouched. Errors name file, block and offset.
//!
//! # What it is made of
//!
//! The layout is [`mapped_ram_format`]'s business, where writes are cut [`iov_slicer`]'s, threads and retried system
//! calls [`multifd_pool`]'s. This crate composes them.

#![deny(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod bitmap;
mod convert;
mod error;
#[cfg(feature = "userfaultfd")]
pub mod fault;
#[cfg(feature = "vm-memory")]
#[expect(unsafe_code, reason = "another crate's mappings become blocks")]
pub mod guest_memory;
mod map;
mod progress;
#[expect(unsafe_code, reason = "raw pointers to a guest's memory may cross threads")]
mod ram_block;
mod read;
mod save;
pub mod storage;
mod touched;
#[expect(unsafe_code, reason = "slices go through the pool's raw transfers")]
mod transfer;
mod working_set;
#[expect(unsafe_code, reason = "looks at memory that a guest may be writing")]
pub mod zero;
#[expect(unsafe_code, reason = "the standard library has no fallible zeroed memory")]
mod zeroed;

pub use mapped_ram_format as format;
pub use mapped_ram_format::tail::Device;
pub use multifd_pool::{Cancel, ChannelCounters};

pub use bitmap::PageBitmap;
pub use error::{Error, ErrorKind, Result};
pub use map::{MapOptions, Mapping, Prefetch, StalePage};
pub use progress::Progress;
pub use ram_block::RamBlock;
pub use read::{
    Block, BlockReport, Destination, DeviceState, LoadOptions, LoadReport, LoadState, LoadTarget,
    LoadedBlock, Problem, Reader, ReaderOptions, UnmarkedBlock, VerifyOptions, VerifyReport,
};
pub use save::{Bridge, SaveOptions, SaveReport, SyncMode, Tail, Writer};
pub use working_set::WorkingSet;
