//! What a file says of its holes.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// The data of one stretch of a file, in bytes from the stretch's start.
pub(super) struct Holes<'f> {
    file: &'f File,
    offset: u64,
    length: u64,
}

impl<'f> Holes<'f> {
    /// Nothing where the file ends before the memory: what lies behind is no hole, but memory that cannot be read, and must not
    /// pass for zeros.
    pub(super) fn new(file: &'f File, offset: u64, length: u64) -> Option<Self> {
        let end = offset.checked_add(length)?;
        (file.metadata().ok()?.len() >= end).then_some(Self { file, offset, length })
    }

    /// The first data from `from` on.
    pub(super) fn next(&mut self, from: u64) -> io::Result<Option<Range<u64>>> {
        let too_far = || io::Error::from_raw_os_error(nix::libc::EFBIG);
        let at = self.offset.checked_add(from).and_then(|at| i64::try_from(at).ok()).ok_or_else(too_far)?;
        let start = match lseek(self.file, at, Whence::SeekData) {
            Ok(start) => start,
            // Behind the last data, or behind the file's end: nothing is there that could be read.
            Err(Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = lseek(self.file, start, Whence::SeekHole)?;
        let inside = |position: i64| (position.cast_unsigned() - self.offset).min(self.length);
        let data = inside(start)..inside(end);
        Ok((data.start < data.end).then_some(data))
    }
}
