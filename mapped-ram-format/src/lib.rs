//! The byte layout of a QEMU `mapped-ram` snapshot, both ways, without I/O.
//!
//! A mapped-ram file is a QEMU migration stream in which every page of guest memory has one fixed place. This crate
//! decides where everything stands ([`LayoutPlan`]), turns that into bytes ([`Layout::pieces`]), and finds it again
//! in bytes that it does not trust ([`Decoder`]). It also knows the [bitmap] of present pages, the device state behind the
//! memory ([`tail`]) and the header that libvirt puts before the stream ([`libvirt`]).
//!
//! It never reads or writes anything itself: the decoder says which bytes it needs, the caller brings them. Moving
//! pages is left to the caller.
//!
//! Every offset is in bytes from the file's first byte, also where the stream begins later; every length is in bytes
//! unless its name says pages.
//!
//! ```
//! use mapped_ram_format::{BlockPlan, LayoutPlan, decode, tail::TailBuilder};
//!
//! let layout = LayoutPlan::new().block(BlockPlan::new("ram0", 64 << 10)).build()?;
//! assert_eq!(layout.block("ram0").unwrap().pages_offset(), 1 << 20);
//!
//! // A file with no page present: the pieces, holes between them, and what follows the last page.
//! let mut file = vec![0; usize::try_from(layout.tail_offset())?];
//! for piece in layout.pieces() {
//!     let start = usize::try_from(piece.offset)?;
//!     file[start..start + piece.bytes.len()].copy_from_slice(&piece.bytes);
//! }
//! file.extend(TailBuilder::new(&layout).build()?);
//!
//! assert_eq!(decode(&file, 0)?, layout);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bitmap;
mod configuration;
mod decode;
mod error;
mod input;
mod layout;
pub mod libvirt;
mod output;
mod plan;
pub mod tail;
mod wire;

pub use configuration::{Configuration, IGNORE_SHARED, MAPPED_RAM, Subsection};
pub use decode::{DecodeWithError, Decoder, Need, decode, decode_with};
pub use error::{DecodeError, Defect, ErrorKind, PlanError};
pub use layout::{BlockLayout, Layout, Piece};
pub use plan::{BlockPlan, LayoutPlan};
pub use wire::INCOMPLETE_MAGIC;

/// The examples in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
