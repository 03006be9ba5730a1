//! A mapped-ram file as collections of the standard library: one thread, one page at a time, nothing clever.
//!
//! The crates under test are compared with it, so it shares no code with them and depends on nothing. It is checked
//! itself against files that real QEMU wrote (tests/qemu in the root package).
//!
//! - [`Stream`] is a whole stream: written to bytes, read from bytes.
//! - [`slices`] says which positional writes a list of iovecs means.
//! - [`Session`] is a save in rounds: what the file must hold after any sequence of operations.
//! - [`SparseFile`] is a file with holes: which bytes, and how many blocks.
//! - [`bitmap`] looks at one bit at a time.
//!
//! Lengths and offsets are in bytes unless a name says pages.

#![forbid(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "the model runs on 64-bit hosts, on small files")]

pub mod bitmap;
mod file;
mod session;
mod slicer;
mod stream;

pub use file::SparseFile;
pub use session::{Operation, Session};
pub use slicer::{Cut, slices};
pub use stream::{Block, Stream};
