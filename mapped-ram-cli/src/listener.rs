//! A socket under a name: made for its owner alone, and taken away at the end.
//!
//! What stands under the name already is looked at first: only a socket that nobody listens at any more is removed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use mapped_ram::Cancel;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};

use crate::exit::Problem;

/// How often a wait looks whether it was cancelled, in milliseconds.
const LOOK: u8 = 100;

pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and number of the socket's file.
    identity: (u64, u64),
}

impl Listener {
    pub(crate) fn bind(path: &Path) -> Result<Self, Problem> {
        clear(path)?;
        // The only thread that makes files is this one, so that the mask can be changed meanwhile.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|error| Problem::io(path, "make a socket", error))?;
        let about =
            fs::symlink_metadata(path).map_err(|error| Problem::io(path, "look at the socket", error))?;
        listener.set_nonblocking(true).map_err(|error| Problem::io(path, "listen at the socket", error))?;
        Ok(Self { socket: listener, path: path.to_owned(), identity: (about.dev(), about.ino()) })
    }

    /// Waits until somebody connects.
    pub(crate) fn accept(&self, cancel: &Cancel) -> Result<UnixStream, Problem> {
        loop {
            if cancel.is_cancelled() {
                return Err(Problem::cancelled(&self.path));
            }
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(LOOK)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(Problem::io(&self.path, "wait for a guest", error.into())),
            }
            match self.socket.accept() {
                Ok((stream, _)) => return Ok(stream),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Err(Problem::io(&self.path, "accept a guest", error)),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another one's, under the same name since, is left.
        if fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the name free, if what has it is a socket that was left behind.
fn clear(path: &Path) -> Result<(), Problem> {
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Problem::io(path, "look at what has the socket's name", error)),
    };
    if !about.file_type().is_socket() {
        return Err(Problem::Usage(format!(
            "{} is there and is no socket; it is left alone: name another path",
            path.display()
        )));
    }
    match listens(path) {
        Ok(false) => fs::remove_file(path)
            .map_err(|error| Problem::io(path, "remove a socket that was left behind", error)),
        Ok(true) => {
            Err(Problem::Usage(format!("somebody listens at {} already; name another path", path.display())))
        }
        Err(error) => Err(Problem::io(path, "ask whether somebody listens at the socket", error)),
    }
}

/// Whether a socket is open under the name. Who listens there is not connected to, since they would take that for their guest: asked for
/// is a connection of another kind, which the system refuses by saying what there is.
fn listens(path: &Path) -> io::Result<bool> {
    match UnixDatagram::unbound()?.connect(path) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}
