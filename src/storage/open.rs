//! Opens further descriptors of a file that is open already, whatever its name is by now.
//!
//! A descriptor of its own lets each channel choose `O_DIRECT` for itself; a duplicate would share the flag. The way
//! there is `/proc/self/fd`, which also works for files without a name. Where `/proc` is not mounted a duplicate must
//! do, and with it the buffered mode.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

#[cfg(feature = "io-uring")]
use multifd_pool::UringChannel;
use multifd_pool::{Alignment, Channel, FileChannel};
use nix::libc;

use super::IoMode;
use crate::map::host_page;

/// The name by which the kernel opens the file behind `fd` once more.
pub(super) fn proc_path(fd: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

/// Another open file description of the same file, for reading, and for writing too if `write`.
pub(super) fn reopen(file: &File, write: bool, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags | libc::O_CLOEXEC)
        .open(proc_path(file.as_raw_fd()))
}

/// Whether there is a way to further descriptors: `/proc` is mounted.
pub(crate) fn can_reopen() -> bool {
    std::path::Path::new("/proc/self/fd").is_dir()
}

/// Another buffered descriptor: a new description where that is possible, else a duplicate.
pub(super) fn reopen_buffered(file: &File, write: bool) -> io::Result<File> {
    reopen(file, write, 0).or_else(|_| file.try_clone())
}

/// A direct descriptor, or `None` where the file system or the way to it has none.
pub(super) fn reopen_direct(file: &File, write: bool) -> Option<File> {
    reopen(file, write, libc::O_DIRECT).ok()
}

/// Calls of fewer bytes go through the page cache in the mixed mode.
///
/// Measured on ext4 (2 channels, 256 MiB in runs of one length, gaps as long, synced; medians of 5, uncached against direct):
/// runs of 64 KiB 0.58 and 0.79 s, 128 KiB 0.40 and 0.59, 256 KiB 0.31 and 0.43; from 512 KiB on they differ by less
/// than the disk's own drift, and direct takes a tenth of the processor time.
const DIRECT_FROM: usize = 512 << 10;

/// Writes of fewer bytes go through the page cache where a ring has the others in flight: nobody waits for each of them.
///
/// Measured on ext4 (2 channels, 1 GiB, synced; medians of 5 of `mapped-ram save`, with 512, 64, 32 and 16 KiB here): runs of 1 to 32
/// pages far apart 0.087, 0.084, 0.077 and 0.072 s; runs of 1 to 16 pages with gaps as long, not bridged, 0.81, 0.77, 0.73 and 0.76 s,
/// with 1.0, 0.9, 0.6 and 0.5 s of processor time.
#[cfg(feature = "io-uring")]
const RING_FROM: usize = 32 << 10;

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
    /// Writing over old bytes: what is cleared keeps its room ([`FileChannel::keeping_room`]).
    WriteOver,
}

/// A channel over descriptors of its own.
pub(super) fn channel(file: &File, purpose: Purpose, mode: IoMode) -> io::Result<Box<dyn Channel>> {
    let write = purpose != Purpose::Read;
    let keeps_room = purpose == Purpose::WriteOver;
    let buffered = reopen_buffered(file, write)?;
    let mode = substitute(write, mode);
    let direct = match mode {
        IoMode::Direct | IoMode::Mixed | IoMode::Uring => reopen_direct(file, write),
        IoMode::Uncached => return Ok(Box::new(FileChannel::uncached(buffered).keeping_room(keeps_room))),
        IoMode::Auto | IoMode::Buffered => None,
    };
    let Some(direct) = direct else {
        let is_mixed = write && mode == IoMode::Uring || mode == IoMode::Mixed;
        let channel =
            if is_mixed { FileChannel::uncached(buffered) } else { FileChannel::buffered(buffered) };
        return Ok(Box::new(channel.keeping_room(keeps_room)));
    };
    let alignment = Alignment::of(&direct)?;
    let alignment = if write { alignment.in_pages(host_page()) } else { alignment };
    #[cfg(feature = "io-uring")]
    if mode == IoMode::Uring {
        let ring_from = if write { RING_FROM } else { 0 };
        // Where too little memory may be locked for another ring, or no more descriptors be had, this channel does without.
        if let (Ok(direct), Ok(buffered)) = (direct.try_clone(), buffered.try_clone())
            && let Ok(channel) = UringChannel::new(direct, buffered, alignment, ring_from)
        {
            return Ok(Box::new(channel.keeping_room(keeps_room)));
        }
    }
    // The page cache gathers short writes; for short reads it does nothing.
    let direct_from = if mode == IoMode::Direct || mode == IoMode::Uring && !write { 0 } else { DIRECT_FROM };
    let channel = if direct_from == 0 {
        FileChannel::direct(direct, buffered, alignment)
    } else {
        FileChannel::mixed(direct, buffered, alignment, direct_from)
    };
    Ok(Box::new(channel.keeping_room(keeps_room)))
}

/// What takes the place of `mode` where this process may have no rings.
fn substitute(write: bool, mode: IoMode) -> IoMode {
    #[cfg(feature = "io-uring")]
    let has_rings = UringChannel::is_available;
    #[cfg(not(feature = "io-uring"))]
    let has_rings = || false;
    match mode {
        IoMode::Uring if !has_rings() && write => IoMode::Mixed,
        IoMode::Uring if !has_rings() => IoMode::Direct,
        mode => mode,
    }
}

/// The mode that [`channel`] will really give.
pub(super) fn effective_mode(file: &File, write: bool, mode: IoMode) -> IoMode {
    match substitute(write, mode) {
        mode @ (IoMode::Direct | IoMode::Mixed | IoMode::Uring) if reopen_direct(file, write).is_some() => {
            mode
        }
        IoMode::Uring if !write => IoMode::Buffered,
        IoMode::Uncached | IoMode::Mixed | IoMode::Uring if FileChannel::takes_uncached(file) => {
            IoMode::Uncached
        }
        _ => IoMode::Buffered,
    }
}

/// How much room the file takes, in bytes.
pub(super) fn disk_bytes(file: &File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    /// What `st_blocks` counts, whatever the file system's own blocks are.
    const UNIT: u64 = 512;
    file.metadata().ok().map(|metadata| metadata.blocks() * UNIT)
}

/// The methods of [`Storage`](super::Storage) that are the same for all that is one `file` of the system's; its channels are for what
/// `$purpose` says of it.
macro_rules! methods_of_a_file {
    ($purpose:expr) => {
        fn channel(&mut self, _index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
            let purpose: fn(&Self) -> open::Purpose = $purpose;
            open::channel(&self.file, purpose(self), mode)
        }

        fn effective_mode(&self, mode: IoMode) -> IoMode {
            open::effective_mode(&self.file, true, mode)
        }

        fn set_len(&mut self, length: u64) -> io::Result<()> {
            self.file.set_len(length)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.file.sync_all()
        }

        fn sync_data(&mut self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn disk_bytes(&self) -> Option<u64> {
            open::disk_bytes(&self.file)
        }

        fn note_clean(&mut self, stream_offset: u64) {
            // A file system without extended attributes, for instance: then whoever maps the file has to look.
            let _ = note::FileState::of(&self.file)
                .and_then(|state| note::put(&self.file, stream_offset, &state));
        }
    };
}
pub(super) use methods_of_a_file;
