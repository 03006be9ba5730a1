//! Where a saved guest goes to and comes from: the files behind the writer and the reader.
//!
//! A [`Storage`] takes what the writer writes and decides how an unfinished save looks from outside:
//!
//! ```text
//!   AtomicFile    a file without a name -> synced -> linked under its final name -> the directory synced
//!   InPlaceFile   magic withheld -> all else written -> synced -> magic written -> synced
//!   RecycledFile  old name taken away, magic broken, both synced -> written over -> synced -> renamed to its final name
//! ```
//!
//! A [`Source`] is what the reader reads. Both hand out [`Channel`]s, one a thread, each with a descriptor of its own.
//! What is written and when is the writer's business ([`crate::Writer`]), how one call is retried the pool's.
//!
//! Both are traits so that tests can put failing, recording and crashing storages behind the same writer.

mod atomic;
#[expect(unsafe_code, reason = "asks the file system where a file lies")]
mod extents;
mod in_place;
mod note;
pub(crate) mod open;
mod recycled;
mod replaced;
mod source;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;

use multifd_pool::Channel;

pub use atomic::AtomicFile;
pub use in_place::InPlaceFile;
pub use note::FileState;
pub use recycled::RecycledFile;
pub use source::FileSource;

/// How channels read and write the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoMode {
    /// What suits the work: [`Uring`](Self::Uring), or [`Mixed`](Self::Mixed) without it, for a save that is to be durable, if
    /// the guest's memory is aligned for that; a load goes past the page cache unless most of the file is there, by
    /// [`Uring`](Self::Uring), or [`Direct`](Self::Direct) without it; all else goes through it.
    #[default]
    Auto,
    /// Through the page cache.
    Buffered,
    /// Past the page cache (`O_DIRECT`), each channel one call after the other; what is not aligned for it, and file systems
    /// that have no such thing, go through the page cache.
    Direct,
    /// Through the page cache, leaving nothing there (`RWF_DONTCACHE`, Linux 6.14 and later); where kernel or file system
    /// do not know that, as [`Buffered`](Self::Buffered).
    Uncached,
    /// Long calls, of half a MiB or more, as [`Direct`](Self::Direct), short ones as [`Uncached`](Self::Uncached): the disk
    /// takes scattered pages faster when the page cache gathers them.
    Mixed,
    /// With many transfers of each channel in flight at a time: io_uring. A save's long writes, and all else of it as
    /// [`Mixed`](Self::Mixed); all that a load reads, long or short. It takes the feature `io-uring` and a kernel that lets the process
    /// have it; else it is [`Mixed`](Self::Mixed) for what is written, and [`Direct`](Self::Direct) for what is read.
    Uring,
}

impl IoMode {
    /// A short name in lower case: `auto`, `buffered`, `direct`, `uncached`, `mixed` or `uring`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Buffered => "buffered",
            Self::Direct => "direct",
            Self::Uncached => "uncached",
            Self::Mixed => "mixed",
            Self::Uring => "uring",
        }
    }
}

impl fmt::Display for IoMode {
    /// Writes [`IoMode::name`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a writer's bytes go.
///
/// Dropped before [`publish`](Self::publish) returned `Ok`, a storage leaves nothing that looks like a finished save.
pub trait Storage: Send {
    /// What to call the storage in error messages: a path, as a rule.
    fn name(&self) -> String;

    /// Opens a channel of its own for thread `index`; its offsets are those of the file.
    ///
    /// # Errors
    /// When no further descriptor can be opened.
    fn channel(&mut self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>>;

    /// The mode that channels asked for `mode` really get.
    fn effective_mode(&self, mode: IoMode) -> IoMode {
        mode
    }

    /// Makes the file ready for a stream that ends at `length`, before anything of it is written: the file is that long
    /// then, so that writes need not lengthen it one after the other. `pages` are the places of the blocks' pages, in
    /// order; where the file holds old bytes outside of them, those must be zeros afterwards.
    ///
    /// # Errors
    /// What `ftruncate(2)` or `fallocate(2)` say.
    fn prepare(&mut self, length: u64, pages: &[Range<u64>]) -> io::Result<()> {
        let _ = pages;
        self.set_len(length)
    }

    /// Whether the places of pages hold old bytes. The writer then clears those of zero pages with
    /// [`Channel::clear`].
    fn holds_old_bytes(&self) -> bool {
        false
    }

    /// How much room the file takes, in bytes (`st_blocks`); `None` if that is not known.
    fn disk_bytes(&self) -> Option<u64> {
        None
    }

    /// Cuts the file, or makes it longer with a hole, so that it ends at `length` bytes.
    ///
    /// # Errors
    /// What `ftruncate(2)` says.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Returns when all that was written is on stable storage.
    ///
    /// # Errors
    /// What `fsync(2)` says; what was written may then be lost.
    fn sync(&mut self) -> io::Result<()>;

    /// Returns when what was written, and as much of the file's metadata as reading it back needs, is on stable storage.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    fn sync_data(&mut self) -> io::Result<()> {
        self.sync()
    }

    /// Writes down, beside the bytes of the file, that the clear pages of the stream at `stream_offset` hold no bytes but zeros:
    /// [`Source::is_noted_clean`] says so later. Called when all is written, before the last sync. Nothing where there is no
    /// place for it.
    fn note_clean(&mut self, stream_offset: u64) {
        let _ = stream_offset;
    }

    /// In how many small pieces the file lay that was to be written over, if its room was given back for that.
    fn pieces_given_back(&self) -> Option<u64> {
        None
    }

    /// Whether the bytes are seen under a name while they are written. The writer then keeps the stream's magic back
    /// until all else is synced.
    fn is_in_place(&self) -> bool;

    /// Gives the finished, synced file its name, and makes the name durable if `durable`. Nothing to do in place.
    ///
    /// # Errors
    /// When the name cannot be given: an older file under that name is then still there, whole. Or when the name cannot be made durable:
    /// then the new file has it, and the error says so.
    fn publish(&mut self, durable: bool) -> io::Result<()>;
}

/// What a reader reads from.
pub trait Source: Send + Sync {
    /// What to call the source in error messages: a path, as a rule.
    fn name(&self) -> String;

    /// The length in bytes.
    ///
    /// # Errors
    /// What `fstat(2)` says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the length is 0.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the start of `buffer` with the bytes from `offset` on and returns how many there were: fewer than asked
    /// for, or 0, at the end of the file.
    ///
    /// # Errors
    /// What `pread(2)` says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Opens a channel of its own for thread `index`.
    ///
    /// # Errors
    /// When no further descriptor can be opened.
    fn channel(&self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>>;

    /// The mode that channels asked for `mode` really get.
    fn effective_mode(&self, mode: IoMode) -> IoMode {
        mode
    }

    /// The first stretch of data that begins at `offset` or behind it, as (start, end), before `end`; `None` when
    /// only a hole is left there. A source that does not know its holes answers `(offset, end)`.
    ///
    /// # Errors
    /// What `lseek(2)` with `SEEK_DATA` says.
    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((offset < end).then_some((offset, end)))
    }

    /// Where the first data at `offset` or behind it begins, before `end`: the start of what
    /// [`next_data`](Self::next_data) says, for less work where its end is not asked for.
    ///
    /// # Errors
    /// As there.
    fn first_data(&self, offset: u64, end: u64) -> io::Result<Option<u64>> {
        Ok(self.next_data(offset, end)?.map(|(start, _)| start))
    }

    /// Whether the byte at `offset` can be read without waiting for the disk. A hole always can. Yes where a source does not know.
    fn is_cached(&self, offset: u64) -> bool {
        let _ = offset;
        true
    }

    /// Says that the `length` bytes from `offset` on will be read soon: a source that has to fetch them may begin now. Returns
    /// without waiting for them. Nothing unless a source knows better.
    fn ask_for(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// In which state the file is; `None` where there is no file to ask.
    ///
    /// # Errors
    /// What `fstat(2)` says.
    fn state(&self) -> io::Result<Option<FileState>> {
        Ok(None)
    }

    /// Whether it is written down, beside the file's bytes, that the clear pages of the stream at `stream_offset` hold no bytes but
    /// zeros, and the file was not written since. Then [`Block::map`](crate::Block::map) need not look for stale ones.
    fn is_noted_clean(&self, stream_offset: u64) -> bool {
        let _ = stream_offset;
        false
    }

    /// Writes down that the clear pages of the stream at `stream_offset` held no bytes but zeros while the file was in `state`.
    ///
    /// # Errors
    /// When the file system has no place for it (`user.` extended attributes), or the file may not be written by its owner or by
    /// this process.
    fn note_clean(&self, stream_offset: u64, state: &FileState) -> io::Result<()> {
        let _ = (stream_offset, state);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The file behind the source, open for reading, if there is one: what a block is mapped from.
    fn file(&self) -> Option<&File> {
        None
    }
}
