//! A descriptor and a layout over a Unix socket: one message, the userfaultfd beside the JSON, as Firecracker sends them.
//!
//! What comes is a stranger's: bounded in size and time, every descriptor that is not the one wanted is closed.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use multifd_pool::Cancel;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::message::{GuestRegion, LONGEST_MESSAGE, Parsed, parse};
use crate::error::{Error, Result};

/// What errors call the other side.
const PEER: &str = "the guest's socket";

/// Descriptors that one message may carry before it is refused by the kernel: its own limit.
const MOST_DESCRIPTORS: usize = 253;

/// How often a wait looks whether it was cancelled, in milliseconds.
const LOOK: u8 = 100;

/// What a guest handed over.
#[derive(Debug)]
pub struct Received {
    pub(super) fd: OwnedFd,
    pub(super) regions: Vec<GuestRegion>,
    pub(super) stream: Option<UnixStream>,
}

impl Received {
    /// A descriptor and a layout that came some other way. A guest's end is then noticed only when a page is put.
    pub fn new(fd: OwnedFd, regions: Vec<GuestRegion>) -> Self {
        Self { fd, regions, stream: None }
    }

    /// The layout.
    pub fn regions(&self) -> &[GuestRegion] {
        &self.regions
    }
}

/// Hands a userfaultfd, in which the regions are registered ([`register`](super::register)), and their layout to a handler.
///
/// Both `stream` and `fd` should be kept open: the first tells each side of the other's end, without the second a handler that is gone
/// leaves zeros where pages are missing.
///
/// # Errors
/// What the system says; a layout that is longer than [`LONGEST_MESSAGE`].
pub fn send(stream: &UnixStream, fd: BorrowedFd<'_>, regions: &[GuestRegion]) -> Result<()> {
    let text = GuestRegion::to_json(regions);
    if text.len() > LONGEST_MESSAGE {
        return Err(Error::Usage(format!("a layout of {} bytes is too long to be sent", text.len())));
    }
    let failed = |error| Error::io(PEER, "send the layout of the memory", error);
    let descriptors = [fd];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    // There is room for one.
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = loop {
        match sendmsg(stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Ok(sent) => break sent,
            Err(error) => return Err(failed(error.into())),
        }
    };
    let mut stream = stream;
    stream.write_all(&text.as_bytes()[sent..]).map_err(failed)
}

/// Takes what [`send`], or Firecracker, sends; waits for it at most `patience`. The socket is kept and watched: its end is taken for a
/// hint that the guest's process has ended.
///
/// # Errors
/// A message that is no layout or too long, that carries no descriptor or more than one; a socket that ends too early or does not say
/// all in time; cancellation. What the descriptor is only [`serve`](super::FaultOptions::serve) looks at.
pub fn receive(stream: UnixStream, patience: Duration, cancel: &Cancel) -> Result<Received> {
    let damaged = |what: String| Error::Damaged { file: PEER.into(), what };
    let failed = |error: io::Error| Error::io(PEER, "receive the layout of the memory", error);
    let end = Instant::now() + patience;
    let mut text = Vec::new();
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let regions = loop {
        wait(&stream, end, cancel)?;
        let (count, more) = receive_part(&stream, &mut buffer).map_err(|error| match error {
            Refused::Cut => damaged(
                "a message that carries more descriptors than one, or than this process may have (ulimit -n)"
                    .into(),
            ),
            Refused::System(error) => failed(error),
        })?;
        fds.extend(more);
        if fds.len() > 1 {
            return Err(damaged(format!("{} descriptors; one is wanted, a userfaultfd", fds.len())));
        }
        if count == 0 {
            return Err(damaged(format!(
                "it was closed behind {} bytes, before the layout was whole",
                text.len()
            )));
        }
        text.extend_from_slice(&buffer[..count]);
        match parse(&text).map_err(damaged)? {
            Parsed::Whole(regions) => break regions,
            Parsed::Part if text.len() > LONGEST_MESSAGE => {
                return Err(damaged(format!("the layout is longer than {LONGEST_MESSAGE} bytes")));
            }
            // Who sends a byte now and then is never waited for, and would never be late.
            Parsed::Part if Instant::now() >= end => return Err(late()),
            Parsed::Part => {}
        }
    };
    let fd =
        fds.pop().ok_or_else(|| damaged("a layout without a descriptor; a userfaultfd is wanted".into()))?;
    Ok(Received { fd, regions, stream: Some(stream) })
}

enum Refused {
    Cut,
    System(io::Error),
}

/// What one call gives: how many bytes, and the descriptors that came with them.
fn receive_part(stream: &UnixStream, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Refused> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    // What of it is not taken out is closed when it is dropped.
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = match recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
        Ok(message) => message,
        // Waited for already; somebody else's look at it, or a signal.
        Err(Errno::AGAIN | Errno::INTR) => return Err(Refused::System(io::ErrorKind::Interrupted.into())),
        Err(error) => return Err(Refused::System(error.into())),
    };
    // Those that there was no room for are gone, and those that came are closed.
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Refused::Cut);
    }
    let rights = control.drain().filter_map(|control| match control {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((message.bytes, rights.flatten().collect()))
}

/// Waits until there is something to receive.
fn wait(stream: &UnixStream, end: Instant, cancel: &Cancel) -> Result<()> {
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled { file: PEER.into() });
        }
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(LOOK)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(Error::io(PEER, "wait for the layout of the memory", error.into())),
        }
        if Instant::now() >= end {
            return Err(late());
        }
    }
}

fn late() -> Error {
    Error::io(PEER, "wait for the layout of the memory", io::ErrorKind::TimedOut.into())
}
