//! What can go wrong, in words that name the file, the block and the offset.
//!
//! One error type for the whole crate, because a save or a restore passes through all of its layers; its
//! [`ErrorKind`] is what programs decide by.

use std::io;
use std::sync::Arc;

use mapped_ram_format::{DecodeError, PlanError};
use multifd_pool::{Operation, PoolError, TransferError, WorkError};

use crate::read::LoadedBlock;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a program can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that cannot be: a wrong size, an unknown block, a bad option.
    Usage,
    /// The file is a save that never finished, or was cut short.
    Incomplete,
    /// The file contradicts itself, or was cut while it was read.
    Damaged,
    /// The file is whole as far as one can tell, but of a kind that this version does not read.
    Unsupported,
    /// The operating system refused to read or write.
    Io,
    /// A cancel handle ended the operation.
    Cancelled,
}

/// Why a save, a read or a restore failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The blocks and options given make no stream.
    #[error("these RAM blocks make no mapped-ram stream: {0}")]
    Plan(#[from] PlanError),
    /// The bytes of the file are no whole mapped-ram stream.
    #[error("{file}: {source}")]
    Decode {
        /// The file, as the caller named it.
        file: String,
        /// What stands where.
        source: DecodeError,
    },
    /// The structure is sound, but something that it speaks of is not.
    #[error("{file}: {what}")]
    Damaged {
        /// The file, as the caller named it.
        file: String,
        /// Block, offset, and what is wrong there.
        what: String,
    },
    /// A limit of this implementation.
    #[error("{file}: {what}")]
    Unsupported {
        /// The file, as the caller named it.
        file: String,
        /// Which limit, and what to do.
        what: String,
    },
    /// A channel could not read or write a part of a block.
    #[error("{file}: {source}")]
    Transfer {
        /// The file, as the caller named it.
        file: String,
        /// Block, offset, length and the system's error.
        source: Arc<TransferError>,
    },
    /// A load ended before all of its blocks were loaded.
    #[error("{source}; {}", in_words(blocks))]
    Load {
        /// Why.
        source: Box<Error>,
        /// What is in the memory for each block, in the order in which they were given to the load.
        blocks: Vec<LoadedBlock>,
    },
    /// The system refused something that belongs to no single block.
    #[error("{file}: {operation}: {source}")]
    Io {
        /// The file, as the caller named it.
        file: String,
        /// What was tried.
        operation: String,
        /// What the system said.
        source: io::Error,
    },
    /// The channels could not be started, or one of them ended by a panic.
    #[error("{file}: {source}")]
    Channels {
        /// The file, as the caller named it.
        file: String,
        /// Which channel, and why.
        source: PoolError,
    },
    /// A cancel handle ended the operation.
    #[error("{file}: cancelled")]
    Cancelled {
        /// The file, as the caller named it.
        file: String,
    },
}

impl Error {
    /// What a program can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) | Self::Plan(_) => ErrorKind::Usage,
            Self::Decode { source, .. } => match source.kind() {
                mapped_ram_format::ErrorKind::Incomplete => ErrorKind::Incomplete,
                mapped_ram_format::ErrorKind::Unsupported => ErrorKind::Unsupported,
                _ => ErrorKind::Damaged,
            },
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            // Opening found all of it inside the file: what ends early now was cut meanwhile.
            Self::Transfer { source, .. }
                if source.operation == Operation::Read && is_end(&source.source) =>
            {
                ErrorKind::Damaged
            }
            Self::Transfer { .. } | Self::Io { .. } => ErrorKind::Io,
            Self::Channels { source, .. } => match source {
                PoolError::BadChannelCount(_) => ErrorKind::Usage,
                _ => ErrorKind::Io,
            },
            Self::Load { source, .. } => source.kind(),
            Self::Cancelled { .. } => ErrorKind::Cancelled,
        }
    }

    pub(crate) fn io(file: &str, operation: impl Into<String>, source: io::Error) -> Self {
        Self::Io { file: file.to_owned(), operation: operation.into(), source }
    }

    /// The system has no memory: `bytes` were wanted for `what`.
    pub(crate) fn no_memory(file: &str, bytes: u64, what: &str) -> Self {
        Self::io(file, format!("get {bytes} bytes of memory for {what}"), io::ErrorKind::OutOfMemory.into())
    }

    pub(crate) fn pool(file: &str, source: PoolError) -> Self {
        let file = file.to_owned();
        match source {
            PoolError::Transfer(source) => Self::Transfer { file, source },
            PoolError::Cancelled => Self::Cancelled { file },
            source => Self::Channels { file, source },
        }
    }

    pub(crate) fn work(file: &str, error: WorkError) -> Self {
        let file = file.to_owned();
        match error {
            WorkError::Transfer(source) => Self::Transfer { file, source: Arc::new(source) },
            WorkError::Cancelled => Self::Cancelled { file },
            other => Self::Io {
                file,
                operation: "transfer".to_owned(),
                source: io::Error::other(other.to_string()),
            },
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn in_words(blocks: &[LoadedBlock]) -> String {
    blocks.iter().map(LoadedBlock::to_string).collect::<Vec<_>>().join(", ")
}
