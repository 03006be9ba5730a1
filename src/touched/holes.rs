//! What a file says of its holes.
//!
//! Believed are file systems that count what was written through a mapping and is in memory only, as a running guest's pages are. Others
//! do not (a FUSE server is asked before it has been told of such pages), or nobody has looked: there all of the memory is looked at.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};

/// The crate does not name it for every C library.
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

const BELIEVED: [FsType; 5] =
    [TMPFS_MAGIC, HUGETLBFS_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// The data of one stretch of a file, in bytes from the stretch's start.
pub(super) struct Holes<'f> {
    file: &'f File,
    offset: u64,
    length: u64,
}

impl<'f> Holes<'f> {
    /// Nothing where the file system is not believed, or the file ends before the memory.
    pub(super) fn new(file: &'f File, offset: u64, length: u64) -> Option<Self> {
        let kind = fstatfs(file).ok()?.filesystem_type();
        let this = Self { file, offset, length };
        (BELIEVED.contains(&kind) && this.is_whole()).then_some(this)
    }

    /// Whether the file goes as far as the memory: what lies behind its end is no hole, but memory that cannot be read, and must not pass
    /// for zeros.
    fn is_whole(&self) -> bool {
        let end = self.offset.checked_add(self.length);
        end.is_some_and(|end| self.file.metadata().is_ok_and(|about| about.len() >= end))
    }

    /// The first data from `from` on.
    ///
    /// # Errors
    /// What `lseek(2)` says; a file that was cut since.
    pub(super) fn next(&mut self, from: u64) -> io::Result<Option<Range<u64>>> {
        let found = self.seek(from);
        // Asked behind the look: what was a hole before the file was cut was one.
        if self.is_whole() { found } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn seek(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let too_far = || io::Error::from_raw_os_error(nix::libc::EFBIG);
        let at = self.offset.checked_add(from).and_then(|at| i64::try_from(at).ok()).ok_or_else(too_far)?;
        let start = match lseek(self.file, at, Whence::SeekData) {
            Ok(start) => start,
            // Behind the last data.
            Err(Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = lseek(self.file, start, Whence::SeekHole)?;
        let inside = |position: i64| (position.cast_unsigned() - self.offset).min(self.length);
        let data = inside(start)..inside(end);
        Ok((data.start < data.end).then_some(data))
    }
}
