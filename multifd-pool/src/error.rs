//! What can go wrong in a channel, and what the producer hears of it.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What a transfer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the file into memory.
    Read,
    /// From memory into the file.
    Write,
    /// Asking for room in the file.
    Reserve,
    /// Making a part of the file zeros.
    Clear,
}

/// The two operations that move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl From<Direction> for Operation {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Read => Self::Read,
            Direction::Write => Self::Write,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Reserve => "reservation of room for a part",
            Self::Clear => "clearing of a part",
        })
    }
}

/// A transfer that failed: what, of which block, and where in the file.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of block `{block}` failed at file offset {:#x} ({done} of {length} bytes from {offset:#x} done): {source}", offset + done)]
#[non_exhaustive]
pub struct TransferError {
    /// What was tried.
    pub operation: Operation,
    /// The block, as the caller named it.
    pub block: Arc<str>,
    /// Where the transfer began, in bytes of the file.
    pub offset: u64,
    /// How many bytes it was to transfer.
    pub length: u64,
    /// How many of them it did transfer; the failure is at `offset + done`.
    pub done: u64,
    /// What the system said.
    pub source: io::Error,
}

/// Why a worker could not run a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// A transfer failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The pool was stopped, from outside or by another channel's error, before the batch was done.
    #[error("cancelled")]
    Cancelled,
    /// Anything else.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

/// The first thing that went wrong in a pool.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A transfer failed.
    #[error(transparent)]
    Transfer(Arc<TransferError>),
    /// A worker failed in another way.
    #[error("channel {channel}: {source}")]
    Other {
        /// Which channel.
        channel: usize,
        /// What the worker said.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// A worker panicked.
    #[error("channel {channel} panicked: {message}")]
    Panicked {
        /// Which channel.
        channel: usize,
        /// The panic's message, if it had one.
        message: String,
    },
    /// A [`Cancel`](crate::Cancel) handle was used.
    #[error("cancelled")]
    Cancelled,
    /// A channel could not be set up; those that were have ended again.
    #[error("channel {channel} could not be started: {source}")]
    Spawn {
        /// Which channel.
        channel: usize,
        /// What the system, or the closure that makes workers, said.
        source: Arc<io::Error>,
    },
    /// A pool has 1 to 255 channels.
    #[error("{0} channels; a pool has 1 to 255")]
    BadChannelCount(usize),
}

/// A batch that the pool did not take, and why.
#[derive(thiserror::Error)]
#[error("the batch was not taken: {error}")]
pub struct SubmitError<B> {
    /// The batch, as it was.
    pub batch: B,
    /// The first thing that went wrong in the pool.
    #[source]
    pub error: PoolError,
}

impl<B> fmt::Debug for SubmitError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Batches need not be `Debug` for their errors to be.
        f.debug_struct("SubmitError").field("error", &self.error).finish_non_exhaustive()
    }
}
