//! A file that is written where it stands: behind an offset, or through a descriptor that somebody handed over.
//!
//! There is no name to hold back here, so the writer holds back the stream's magic instead: until everything else is
//! synced, the place of the magic says "unfinished".

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use multifd_pool::Channel;

use super::{IoMode, Storage, note, open};

/// A file whose bytes behind an offset are replaced where they stand.
#[derive(Debug)]
pub struct InPlaceFile {
    file: File,
    shown: String,
}

impl InPlaceFile {
    /// Opens the file at `path` for writing in place, and creates it with mode 0600 if there is none.
    ///
    /// # Errors
    /// When it cannot be opened for reading and writing, or is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Self::from_file(file, path.display().to_string())
    }

    /// Takes a descriptor that is open for reading and writing; `shown` is what errors call it.
    ///
    /// # Errors
    /// When it is no regular file: offsets would mean nothing.
    pub fn from_file(file: File, shown: impl Into<String>) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if kind.is_fifo()
            || kind.is_socket()
            || kind.is_char_device()
            || kind.is_dir()
            || kind.is_block_device()
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "is no regular file; a mapped-ram stream needs one, for its pages have fixed offsets",
            ));
        }
        note::forget(&file);
        Ok(Self { file, shown: shown.into() })
    }
}

impl Storage for InPlaceFile {
    fn name(&self) -> String {
        self.shown.clone()
    }

    open::methods_of_a_file!(|_| open::Purpose::Write);

    fn is_in_place(&self) -> bool {
        true
    }

    fn publish(&mut self, _durable: bool) -> io::Result<()> {
        Ok(())
    }
}
