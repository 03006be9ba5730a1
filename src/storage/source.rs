//! A regular file as the source of a reader.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use multifd_pool::{Channel, FileChannel};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;
use nix::unistd::{Whence, lseek};

use super::{FileState, IoMode, Source, note, open};
use crate::convert::to_u64;

/// A file that is read at offsets.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    shown: String,
}

impl FileSource {
    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    /// When it cannot be opened or is a directory, a pipe or a socket.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Without waiting for whoever is to write into a pipe. Of a file the flag means nothing, but where somebody has a lease on it.
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && std::fs::metadata(path)?.is_file() => {
                File::open(path)?
            }
            opened => opened?,
        };
        Self::from_file(file, path.display().to_string())
    }

    /// Takes a descriptor that is open for reading; `shown` is what errors call it.
    ///
    /// # Errors
    /// When it is no regular file.
    pub fn from_file(file: File, shown: impl Into<String>) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
        }
        Ok(Self { file, shown: shown.into() })
    }

    /// The descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        self.shown.clone()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + to_u64(filled)) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn channel(&self, _index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        open::channel(&self.file, open::Purpose::Read, mode)
    }

    fn effective_mode(&self, mode: IoMode) -> IoMode {
        open::effective_mode(&self.file, false, mode)
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn state(&self) -> io::Result<Option<FileState>> {
        FileState::of(&self.file).map(Some)
    }

    fn is_noted_clean(&self, stream_offset: u64) -> bool {
        note::holds(&self.file, stream_offset)
    }

    fn note_clean(&self, stream_offset: u64, state: &FileState) -> io::Result<()> {
        note::put(&self.file, stream_offset, state)
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        let Some(start) = self.first_data(offset, end)? else { return Ok(None) };
        let stop = match lseek(&self.file, start.cast_signed(), Whence::SeekHole) {
            Ok(stop) => stop.cast_unsigned(),
            // As below.
            Err(Errno::EINVAL) => end,
            Err(error) => return Err(error.into()),
        };
        Ok(Some((start, stop.min(end))))
    }

    fn first_data(&self, offset: u64, end: u64) -> io::Result<Option<u64>> {
        if offset >= end {
            return Ok(None);
        }
        let Ok(from) = i64::try_from(offset) else { return Ok(None) };
        match lseek(&self.file, from, Whence::SeekData) {
            Ok(start) => Ok(Some(start.cast_unsigned()).filter(|start| *start < end)),
            Err(Errno::ENXIO) => Ok(None),
            // A file system that knows no holes: all is data.
            Err(Errno::EINVAL) => Ok(Some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn is_cached(&self, offset: u64) -> bool {
        FileChannel::holds_cached(&self.file, offset)
    }

    fn ask_for(&self, offset: u64, length: u64) {
        let (Ok(from), Ok(count)) = (i64::try_from(offset), i64::try_from(length)) else { return };
        // To the system a length of 0 is all of the file.
        if count > 0 {
            // A hint: who is not heard reads later.
            let _ = posix_fadvise(&self.file, from, count, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }
}
