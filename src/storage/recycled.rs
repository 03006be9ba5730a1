//! A new file in the room of an old one that nobody needs any more.
//!
//! Allotting room costs a file system much of the time that a save takes. Here the blocks of an expendable older file are
//! written over instead. Nobody must ever take the half-written file for the old snapshot, nor for a new one:
//!
//! ```text
//!   old name --renamed--> passing name in the new file's directory; both directories synced
//!   first bytes broken, and synced: from here on every reader calls it incomplete
//!   ... written over ...
//!   synced --> passing name --renamed--> final name; directory synced
//! ```
//!
//! What the old file held beside the new one's pages becomes a hole at once; what it held in the room of pages that are
//! zero now is cleared page by page ([`Storage::holds_old_bytes`]). What is cleared keeps its blocks, which the next save over this
//! file will find, unless [`RecycledFile::give_back_room`] is asked for: the file system has it again then, and that takes time.
//! A recycled file that is dropped before it was published is removed: its old content is gone in any case.
//!
//! Room in very many small pieces, with holes between them as a rule, is given back at once, and the new file begun anew with the same
//! guarantees: writing it over would take longer than writing to new room. Who saves is told.
//!
//! A file that has more than one name is refused, for under the other names it would change; so is one on another file
//! system than the new name, and one of another user's, who could read the new guest. Its mode becomes that of a new file, 0600;
//! whoever has it open already still sees what is written.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use mapped_ram_format::INCOMPLETE_MAGIC;
use multifd_pool::{Channel, FileChannel};
use nix::libc;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use rustix::fs::{RenameFlags, renameat, renameat_with};
use rustix::io::Errno;

use super::atomic::{PASSING_PREFIX, PASSING_TRIES, place, random_name, sync_names, sync_new_name};
use super::replaced::Replaced;
use super::{IoMode, Storage, extents, note, open};

/// A new file that takes over the room of an old one.
#[derive(Debug)]
pub struct RecycledFile {
    file: File,
    shown: PathBuf,
    directory: File,
    file_name: OsString,
    /// What the file is called in `directory` while it is written; `None` once it has its final name.
    passing: Option<OsString>,
    keeps_room: bool,
    /// How many pieces the old file was in, if they were too many: then its room was given back.
    pieces: Option<u64>,
}

impl RecycledFile {
    /// Takes the file `old` for a new one that will be called `path`. **What `old` holds is lost from here on**, however the
    /// save ends. `old` and `path` may be the same.
    ///
    /// # Errors
    /// When `old` is no regular file of one name that can be written, is another user's and cannot be made this one's, is on another
    /// file system than `path`'s directory, or `path` is something that [`AtomicFile`](super::AtomicFile) refuses: `old` is then
    /// as it was.
    pub fn take_over(old: &Path, path: &Path) -> io::Result<Self> {
        let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let (directory_path, file_name) = place(path)?;
        let directory = File::open(&directory_path)?;
        let (old_directory_path, old_name) = place(old)?;
        let old_directory = File::open(&old_directory_path)?;
        // Not by way of a link, and without waiting for a pipe: what is opened here is what is renamed below.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(old_directory_path.join(&old_name))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return refuse("is no regular file, so it has no room to take over");
        }
        if metadata.nlink() != 1 {
            return refuse(
                "has more than one name, and would change under the others too; name a file that has one name only",
            );
        }
        make_private(&file, &metadata)?;
        let passing = take_name(&old_directory, &old_name, &directory).inspect_err(|_| {
            // Still the old file.
            give_back(&file, &metadata);
        })?;
        let pieces = extents::too_many_pieces(&file);
        let this = Self {
            file,
            shown: path.to_owned(),
            directory,
            file_name,
            passing: Some(passing),
            keeps_room: true,
            pieces,
        };
        // Durable whatever was asked for the new file: else a power cut could bring the old name back over new bytes.
        sync_names(&old_directory)?;
        sync_names(&this.directory)?;
        note::forget(&this.file);
        if pieces.is_some() {
            this.file.set_len(0)?;
        }
        this.file.write_all_at(&INCOMPLETE_MAGIC, 0)?;
        this.file.sync_all()?;
        Ok(this)
    }

    /// Makes what is cleared a hole that takes no room, so that the new file takes no more of it than one that was begun anew. It costs
    /// time: with a file system that tells the disk of free room (`discard`), more than the blocks that were taken over save.
    #[must_use]
    pub fn give_back_room(mut self) -> Self {
        self.keeps_room = false;
        self
    }

    fn purpose(&self) -> open::Purpose {
        if self.keeps_room && self.pieces.is_none() { open::Purpose::WriteOver } else { open::Purpose::Write }
    }
}

/// Has the file be what a new one would be: this user's, and nobody else's to read.
fn make_private(file: &File, before: &Metadata) -> io::Result<()> {
    let user = geteuid().as_raw();
    if before.uid() != user {
        fchown(file, Some(user), None).map_err(|error| {
            let owner = before.uid();
            io::Error::new(
                error.kind(),
                format!("belongs to user {owner}, who could read the new guest, and cannot be made this user's ({error}); name a file of your own"),
            )
        })?;
    }
    if before.mode() & 0o7777 != 0o600 {
        // Its owner is refused that by a file system without modes only, where a new file has none either.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    Ok(())
}

/// Undoes [`make_private`], as far as that is let.
fn give_back(file: &File, before: &Metadata) {
    if before.uid() != geteuid().as_raw() {
        let _ = fchown(file, Some(before.uid()), None);
    }
    let _ = file.set_permissions(before.permissions());
}

/// Moves `old_name` to a free passing name in `directory`, which it returns.
fn take_name(old_directory: &File, old_name: &OsString, directory: &File) -> io::Result<OsString> {
    for _ in 0..PASSING_TRIES {
        let mut passing = OsString::from(PASSING_PREFIX);
        passing.push(random_name());
        let flags = RenameFlags::NOREPLACE;
        let renamed = match renameat_with(old_directory, old_name, directory, &passing, flags) {
            // A file system without the flag; a random name of 62^12 is free.
            Err(Errno::INVAL) => renameat(old_directory, old_name, directory, &passing),
            other => other,
        };
        match renamed {
            Ok(()) => return Ok(passing),
            Err(Errno::EXIST) => {}
            Err(Errno::XDEV) => {
                return Err(io::Error::new(
                    io::ErrorKind::CrossesDevices,
                    "is on another file system than the new file; room can only be taken over within one",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for the file while it is written"))
}

impl Storage for RecycledFile {
    fn name(&self) -> String {
        self.shown.display().to_string()
    }

    open::methods_of_a_file!(Self::purpose);

    fn prepare(&mut self, length: u64, pages: &[Range<u64>]) -> io::Result<()> {
        self.file.set_len(length)?;
        if !self.holds_old_bytes() {
            return Ok(());
        }
        let mut channel = FileChannel::buffered(self.file.try_clone()?).keeping_room(self.keeps_room);
        // The broken magic stays: at no moment is it anything else.
        let mut at = crate::convert::to_u64(INCOMPLETE_MAGIC.len());
        for place in pages {
            if at < place.start {
                channel.clear(at, place.start - at)?;
            }
            at = place.end;
        }
        if at < length {
            channel.clear(at, length - at)?;
        }
        Ok(())
    }

    fn holds_old_bytes(&self) -> bool {
        self.pieces.is_none()
    }

    fn pieces_given_back(&self) -> Option<u64> {
        self.pieces
    }

    /// It has no name that anybody looks for, but a passing one, which a power cut leaves: so its magic comes last.
    fn is_in_place(&self) -> bool {
        true
    }

    fn publish(&mut self, durable: bool) -> io::Result<()> {
        let Some(passing) = &self.passing else { return Ok(()) };
        let old = Replaced::hold(&self.directory, &self.file_name);
        renameat(&self.directory, passing, &self.directory, &self.file_name)?;
        self.passing = None;
        if durable {
            sync_new_name(&self.directory)?;
        }
        let _ = old.let_go();
        Ok(())
    }
}

impl Drop for RecycledFile {
    fn drop(&mut self) {
        if let Some(passing) = &self.passing {
            // Where even that fails the file stays, under a name that says whose it is, and every reader calls it incomplete.
            let _ = unlinkat(&self.directory, passing.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
