//! A file that appears under its name only when it is whole.
//!
//! The bytes go to a file without a name (`O_TMPFILE`) in the directory of the final one: however the process ends,
//! the kernel takes such a file away. Publishing links it under the final name, in one step when the name is free; to
//! take the place of an older file it is linked under a passing name first and renamed over the old one. Where the
//! file system has no nameless files, a temporary one with a name stands in, removed when it is dropped.
//!
//! New files have mode 0600: guest memory holds secrets.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use multifd_pool::Channel;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::libc;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::replaced::Replaced;
use super::{IoMode, Storage, note, open};

/// How the start of a passing name looks. It says whose it is, should one ever be found.
pub(super) const PASSING_PREFIX: &str = ".mapped-ram-";

/// How many passing names are tried before giving up; each has 62^12 possibilities.
pub(super) const PASSING_TRIES: usize = 16;

/// A new file that gets its name only in [`publish`](Storage::publish).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use mapped_ram::storage::{AtomicFile, Storage};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("guest.mram");
/// let mut file = AtomicFile::create(&path)?;
/// file.set_len(4096)?;
/// assert!(!path.exists());
/// file.sync()?;
/// file.publish(true)?;
/// assert!(path.exists());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    /// The path as the user gave it, for messages.
    shown: PathBuf,
    directory: File,
    directory_path: PathBuf,
    file_name: OsString,
    /// The named stand-in where nameless files are not to be had. Removes itself when dropped.
    stand_in: Option<tempfile::TempPath>,
}

impl AtomicFile {
    /// Begins a file that will be called `path`. An older file there stays as it is until the new one is published;
    /// where `path` is a symbolic link, the file that it points to is the one replaced.
    ///
    /// # Errors
    /// When the directory does not exist or cannot be written, when `path` names something that is no regular file,
    /// is a symbolic link to nothing, or ends in a slash.
    pub fn create(path: &Path) -> io::Result<Self> {
        let (directory_path, file_name) = place(path)?;
        let directory = File::open(&directory_path)?;
        let (file, stand_in) = match nameless(&directory_path) {
            Ok(file) => (file, None),
            Err(_) => named(&directory_path)?,
        };
        Ok(Self { file, shown: path.to_owned(), directory, directory_path, file_name, stand_in })
    }

    /// Like [`create`](Self::create), but with a named temporary file from the start, as on a file system without
    /// `O_TMPFILE`.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_named(path: &Path) -> io::Result<Self> {
        let mut this = Self::create(path)?;
        (this.file, this.stand_in) = named(&this.directory_path)?;
        Ok(this)
    }

    fn publish_nameless(&self) -> io::Result<()> {
        match self.link(&self.file_name) {
            Err(Errno::EEXIST) => {}
            other => return Ok(other?),
        }
        let passing = self.link_passing()?;
        let renamed =
            renameat(&self.directory, passing.as_os_str(), &self.directory, self.file_name.as_os_str());
        if renamed.is_err() {
            // Nothing more can be done about a name that cannot be taken back; the rename's error is the one to tell.
            let _ = unlinkat(&self.directory, passing.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        Ok(renamed?)
    }

    fn link_passing(&self) -> io::Result<OsString> {
        for _ in 0..PASSING_TRIES {
            let mut name = OsString::from(PASSING_PREFIX);
            name.push(random_name());
            match self.link(&name) {
                Ok(()) => return Ok(name),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for the new file"))
    }

    fn link(&self, name: &OsStr) -> nix::Result<()> {
        let from = open::proc_path(self.file.as_raw_fd());
        linkat(nix::fcntl::AT_FDCWD, &from, &self.directory, name, AtFlags::AT_SYMLINK_FOLLOW)
    }
}

impl Storage for AtomicFile {
    fn name(&self) -> String {
        self.shown.display().to_string()
    }

    open::methods_of_a_file!(|_| open::Purpose::Write);

    fn is_in_place(&self) -> bool {
        false
    }

    fn publish(&mut self, durable: bool) -> io::Result<()> {
        let old = Replaced::hold(&self.directory, &self.file_name);
        match self.stand_in.take() {
            None => self.publish_nameless()?,
            Some(temporary) => {
                temporary
                    .persist(self.directory_path.join(&self.file_name))
                    .map_err(|failed| failed.error)?;
            }
        }
        if durable {
            sync_new_name(&self.directory)?;
        }
        let _ = old.let_go();
        Ok(())
    }
}

impl AsFd for AtomicFile {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes durable which names are in `directory`, where the file system has such a thing.
pub(super) fn sync_names(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        // Shared folders of virtual machines, for one: the names are as durable as they get.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => synced,
    }
}

/// The same when a finished file has just been given its name: an error says that it has.
pub(super) fn sync_new_name(directory: &File) -> io::Result<()> {
    sync_names(directory).map_err(|error| {
        let what = format!("the file is whole and has its name, but a power cut may take the name: {error}");
        io::Error::new(error.kind(), what)
    })
}

/// The directory and the name in it that `path`, or what the symbolic link there points to, stands for.
pub(super) fn place(path: &Path) -> io::Result<(PathBuf, OsString)> {
    let target = resolve(path)?;
    let file_name = target
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_owned();
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((directory, file_name))
}

/// The path that will be replaced: `path` itself, or what the symbolic link there points to.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => {
            let target = if metadata.is_symlink() {
                fs::canonicalize(path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => {
                        io::Error::new(error.kind(), "is a symbolic link to nothing; name another file")
                    }
                    _ => error,
                })?
            } else {
                path.to_owned()
            };
            if fs::metadata(&target)?.is_file() {
                Ok(target)
            } else {
                Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "exists and is no regular file; name a file to be created or replaced",
                ))
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.as_os_str().as_bytes().ends_with(b"/") {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "ends in a slash, so it names a folder; name a file to be created or replaced",
                ));
            }
            Ok(path.to_owned())
        }
        Err(error) => Err(error),
    }
}

fn nameless(directory: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
        .open(directory)?;
    // A file without a name can only be given one through /proc.
    fs::metadata(open::proc_path(file.as_raw_fd()))?;
    Ok(file)
}

fn named(directory: &Path) -> io::Result<(File, Option<tempfile::TempPath>)> {
    let temporary = tempfile::Builder::new().prefix(PASSING_PREFIX).rand_bytes(12).tempfile_in(directory)?;
    let (file, path) = temporary.into_parts();
    Ok((file, Some(path)))
}

pub(super) fn random_name() -> String {
    use rand::RngExt as _;
    use rand::distr::Alphanumeric;
    rand::rng().sample_iter(Alphanumeric).take(12).map(char::from).collect()
}
