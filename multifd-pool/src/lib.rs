//! Threads that write and read a file at offsets: the channels of a snapshot.
//!
//! A [`Pool`] runs 1 to 255 channels. Each is a named thread with a [`Worker`] of its own, which has its own descriptor
//! and buffers. Batches go through a bounded queue: the producer waits while it is full, so memory stays constant.
//!
//! ```text
//!   submit --> [ bounded queue ] --> channel 0: Worker::run --> Channel::write_at (pwritev)
//!                                --> channel 1: ...
//!   sync   <-- nothing queued, nothing running
//! ```
//!
//! - The first error is kept, with its block and offset; it stops the other channels at their next system call.
//! - A panic in a channel is an error like any other. Nothing ever hangs for it.
//! - [`Pool::sync`] returns, in success or failure, only when no batch is queued or running. Who submits batches that
//!   point into memory may rely on it, and on the same from dropping the pool.
//! - A [`Cancel`] handle ends the work from outside, from any thread.
//! - A [`RateLimit`] holds all channels together to so many bytes a second.
//!
//! What a batch is and what is done with it is the worker's business; this crate has one ready-made pair,
//! [`IoWorker`] and [`IoBatch`], that transfers memory. [`write_all_at`] and [`read_exact_at`] carry out one transfer
//! whole: an interrupted call is made again, a short one goes on where it stopped, a call that transfers nothing is an
//! error, and errors say which block, at which offset of the file.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use multifd_pool::{FileChannel, IoBatch, IoVec, IoWorker, Pool};
//!
//! let file = tempfile::tempfile()?;
//! let memory = vec![7_u8; 1 << 20];
//!
//! let pool = Pool::builder()
//!     .channels(4)
//!     .spawn(|_| Ok(IoWorker::new(FileChannel::buffered(file.try_clone()?))))?;
//! for (i, chunk) in memory.chunks(1 << 18).enumerate() {
//!     let vec = IoVec::from_const(chunk.as_ptr(), chunk.len());
//!     // SAFETY: `memory` is not touched until `finish` has returned.
//!     pool.submit(unsafe { IoBatch::write("ram0", vec![vec], (i as u64) << 18) })?;
//! }
//! let counters = pool.finish()?;
//! assert_eq!(counters.iter().map(|channel| channel.bytes).sum::<u64>(), 1 << 20);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod builder;
mod cancel;
#[expect(unsafe_code, reason = "the trait's methods take raw memory")]
mod channel;
mod context;
mod counters;
mod error;
#[expect(unsafe_code, reason = "system calls on raw memory")]
mod file;
#[expect(unsafe_code, reason = "an iovec is a raw pointer that crosses threads")]
mod iovec;
mod piece;
mod pool;
#[cfg_attr(not(loom), expect(unreachable_pub, reason = "the model checker reaches it"))]
mod queue;
mod rate;
mod read_piece;
#[cfg(feature = "io-uring")]
#[expect(unsafe_code, reason = "hands raw memory to the kernel and waits for it")]
mod ring;
#[expect(unsafe_code, reason = "system calls on a descriptor")]
mod room;
mod sync;
#[expect(unsafe_code, reason = "hands raw memory to a channel")]
mod transfer;
#[expect(unsafe_code, reason = "a batch of raw memory")]
mod transfer_worker;
#[cfg(feature = "io-uring")]
#[expect(unsafe_code, reason = "says which raw memory a ring gets")]
mod uring;
#[expect(unsafe_code, reason = "hands raw memory to a channel")]
mod writes;

pub use builder::Builder;
pub use cancel::Cancel;
pub use channel::Channel;
pub use context::ChannelContext;
pub use counters::ChannelCounters;
pub use error::{Operation, PoolError, SubmitError, TransferError, WorkError};
pub use file::{Alignment, FileChannel};
pub use iovec::IoVec;
pub use piece::Piece;
pub use pool::{Pool, Worker};
pub use rate::{RateLimit, RateSchedule};
pub use read_piece::ReadPiece;
pub use transfer::{read_exact_at, write_all_at};
pub use transfer_worker::{IoBatch, IoWorker};
#[cfg(feature = "io-uring")]
pub use uring::UringChannel;
pub use writes::Writes;

#[cfg(loom)]
#[doc(hidden)]
pub mod model {
    //! The queue by itself, for the model checker.
    pub use crate::queue::{Queue, Refused, Take};
}
