//! A file that is written where it stands: behind an offset, or through a descriptor that somebody handed over.
//!
//! There is no name to hold back here, so the writer holds back the stream's magic instead: until everything else is
//! synced, the place of the magic says "unfinished". A file that was made here, for want of one, is removed again unless the save
//! is finished: it would be of no use to anybody.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use multifd_pool::Channel;

use super::atomic::{place, sync_new_name};
use super::{IoMode, Storage, note, open};

/// A file whose bytes behind an offset are replaced where they stand.
#[derive(Debug)]
pub struct InPlaceFile {
    file: File,
    shown: String,
    /// The file's path, if it was made here and nobody has finished it yet.
    made: Option<Made>,
}

/// A file that was not there before.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    /// It is gone again unless it is finished.
    is_removed: bool,
}

impl InPlaceFile {
    /// Opens the file at `path` for writing in place, and creates it with mode 0600 if there is none; one that was created is
    /// removed again when it is dropped before it was [published](Storage::publish).
    ///
    /// # Errors
    /// When it cannot be opened for reading and writing, or is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let made = |is_removed| Some(Made { path: path.to_owned(), is_removed });
        let (file, made) = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match options.clone().create_new(true).open(path) {
                    // A symbolic link that leads to nothing yet: whoever made it is to keep what it leads to.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        (options.create(true).open(path)?, made(false))
                    }
                    opened => (opened?, made(true)),
                }
            }
            opened => (opened?, None),
        };
        let mut this = Self::from_file(file, path.display().to_string())?;
        this.made = made;
        Ok(this)
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
        Ok(Self { file, shown: shown.into(), made: None })
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

    fn publish(&mut self, durable: bool) -> io::Result<()> {
        // It is finished: whatever becomes of its name, it stays.
        if let Some(made) = self.made.take()
            && durable
        {
            let (directory, _) = place(&made.path)?;
            let directory = File::open(directory).map_err(|error| {
                let what = format!(
                    "the file is whole, but a power cut may take its name: its folder cannot be opened to sync it: {error}"
                );
                io::Error::new(error.kind(), what)
            })?;
            sync_new_name(&directory)?;
        }
        Ok(())
    }
}

impl Drop for InPlaceFile {
    fn drop(&mut self) {
        let Some(Made { path, is_removed: true }) = &self.made else { return };
        let identity = |about: fs::Metadata| (about.dev(), about.ino());
        let (Ok(here), Ok(ours)) = (fs::symlink_metadata(path), self.file.metadata()) else { return };
        // Somebody may have put another file there meanwhile.
        if identity(here) == identity(ours) {
            // Where even that fails the file stays, and every reader calls it incomplete.
            let _ = fs::remove_file(path);
        }
    }
}
