//! How the command ends: exit codes, and the errors behind them.

use std::io;
use std::path::Path;

use mapped_ram::ErrorKind;

/// All went well.
pub(crate) const OK: u8 = 0;
/// Two memories that were compared are not the same.
pub(crate) const DIFFERS: u8 = 1;
/// The command line asks for something that cannot be.
pub(crate) const USAGE: u8 = 2;
/// The file is damaged, incomplete, or of a kind that is not read.
pub(crate) const DAMAGED: u8 = 3;
/// The system refused to read or write.
pub(crate) const IO: u8 = 4;
/// A signal ended the command, as shells count it for SIGINT.
pub(crate) const CANCELLED: u8 = 130;

/// How a command that could be carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Differs,
    Damaged,
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Library(#[from] mapped_ram::Error),
    /// Of a file that is damaged something can be had.
    #[error("{0}; what can be had of its memory, `extract --salvage` takes")]
    Salvageable(mapped_ram::Error),
    /// The file is sound, but more than this command takes on.
    #[error("{file}: {what}")]
    Unsupported { file: String, what: String },
    /// Guests' memory is partly overwritten.
    #[error("{problem}; {files}: half restored, let no guest use it before a restore has gone well")]
    HalfRestored { files: String, problem: Box<Problem> },
    /// A file that is a guest's memory took no more of it.
    #[error("{file}: fill the file with block `{block}`: {cause}; {loaded}")]
    Unfilled { file: String, block: String, cause: String, loaded: String },
    #[error("{file}: {what}: {source}")]
    Io { file: String, what: String, source: io::Error },
}

impl Problem {
    pub(crate) fn io(path: &Path, what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { file: path.display().to_string(), what: what.into(), source }
    }

    pub(crate) fn cancelled(path: &Path) -> Self {
        mapped_ram::Error::Cancelled { file: path.display().to_string() }.into()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Unsupported { .. } => DAMAGED,
            // A file that was cut meanwhile, as the library calls it.
            Self::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => DAMAGED,
            Self::Io { .. } | Self::Unfilled { .. } => IO,
            Self::HalfRestored { problem, .. } => problem.exit_code(),
            Self::Library(error) | Self::Salvageable(error) => match error.kind() {
                ErrorKind::Usage => USAGE,
                ErrorKind::Incomplete | ErrorKind::Damaged | ErrorKind::Unsupported => DAMAGED,
                ErrorKind::Cancelled => CANCELLED,
                _ => IO,
            },
        }
    }
}
