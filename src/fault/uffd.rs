//! A userfaultfd: every system call on it, and what the answers mean.
//!
//! Addresses are those of the guest's process, which may be this one or another; nothing here follows them. The kernel puts a page only
//! where none is, and only inside of what was registered, so that no address can overwrite memory that is in use.
//!
//! Every address and length is in bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{self, c_void};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use userfaultfd::{Error, Event, EventBuffer, FeatureFlags, Uffd, UffdBuilder};

use crate::convert::{to_u64, to_usize};

/// From `linux/userfaultfd.h`, where the kernel promises that they stay.
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xAA;

/// An address that no program has anything at: below it the kernel maps nothing by default, and nothing of a guest is there.
const NOWHERE: u64 = 0x1_0000;

/// As long as the largest usual page of a host.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What `UFFDIO_API` takes.
#[repr(C)]
struct ApiCall {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// What `UFFDIO_POISON` takes (Linux 6.6).
#[repr(C)]
struct PoisonCall {
    start: u64,
    length: u64,
    mode: u64,
    updated: i64,
}

nix::ioctl_readwrite!(api_call, API, 0x3F, ApiCall);
nix::ioctl_readwrite!(poison_call, API, 0x08, PoisonCall);

/// Why not all was put.
#[derive(Debug)]
pub(super) enum Stop {
    /// A page is there already.
    Exists,
    /// The guest is changing its mappings: the event must be read first.
    Changing,
    /// Not all of it is registered and in one mapping. A single page, then: unmapped.
    Nothing,
    /// The guest's process has ended.
    Ended,
    /// Anything else.
    Failed(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EEXIST => Self::Exists,
            Errno::EAGAIN => Self::Changing,
            Errno::ENOENT => Self::Nothing,
            Errno::ESRCH => Self::Ended,
            other => Self::Failed(other),
        }
    }
}

/// What the kernel tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Somebody waits for the page at this address.
    Fault(u64),
    /// The bytes from the first address to the second were given up, and are zeros from now on.
    Removed(u64, u64),
    /// The same, and nobody may use the addresses any more.
    Unmapped(u64, u64),
    /// So many bytes moved from the first address to the second.
    Moved(u64, u64, u64),
}

/// A userfaultfd that is never waited on.
#[derive(Debug)]
pub(super) struct Descriptor {
    uffd: Uffd,
}

impl Descriptor {
    /// Makes one for this process.
    pub(super) fn create(user_mode_only: bool) -> io::Result<Self> {
        let features = FeatureFlags::EVENT_REMAP
            | FeatureFlags::EVENT_REMOVE
            | FeatureFlags::EVENT_UNMAP
            | FeatureFlags::MISSING_SHMEM
            | FeatureFlags::MISSING_HUGETLBFS;
        let made = UffdBuilder::new()
            .close_on_exec(true)
            .non_blocking(true)
            .user_mode_only(user_mode_only)
            .require_features(features)
            .create();
        let uffd = match made {
            Ok(uffd) => uffd,
            // The device is there and not for us: the system call may be.
            Err(Error::OpenDevUserfaultfd(_)) => by_system_call(user_mode_only, features.bits())?,
            Err(error) => return Err(to_io(error)),
        };
        Ok(Self { uffd })
    }

    /// Takes one that somebody else made.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        // All of it: a file's name can end in anything, and what is read of the descriptor would be taken for the kernel's word.
        if link.as_os_str() != "anon_inode:[userfaultfd]" {
            let what = format!("the descriptor is no userfaultfd but {}", link.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is open, and nobody else's from here on.
        Ok(Self { uffd: unsafe { Uffd::from_raw_fd(fd.into_raw_fd()) } })
    }

    /// Has faults of pages that are not there told.
    pub(super) fn register(&self, start: u64, length: u64) -> io::Result<()> {
        self.uffd.register(pointer(start), to_usize(length)).map(drop).map_err(to_io)
    }

    /// Gives a range back to the kernel, which makes zeros of what is not there.
    pub(super) fn unregister(&self, start: u64, length: u64) -> io::Result<()> {
        self.uffd.unregister(pointer(start), to_usize(length)).map_err(to_io)
    }

    /// Puts `bytes` at `to` and wakes who waits for them. Gives how many were put, and why not all.
    pub(super) fn copy(&self, bytes: &[u8], to: u64) -> (u64, Option<Stop>) {
        // SAFETY: the kernel only reads `bytes`, which is borrowed meanwhile, and writes pages that nobody has seen yet.
        let done = unsafe { self.uffd.copy(bytes.as_ptr().cast(), pointer(to), bytes.len(), true) };
        match done {
            Ok(done) => (to_u64(done), None),
            // The crate hands on what the kernel wrote: how many bytes, or an error number below zero.
            Err(Error::PartiallyCopied(done)) if done > bytes.len() => (0, Some(Stop::Changing)),
            Err(Error::PartiallyCopied(done)) => (to_u64(done), Some(Stop::Changing)),
            Err(Error::CopyFailed(errno)) => (0, Some(Errno::from_raw(errno as i32).into())),
            Err(_) => (0, Some(Stop::Failed(Errno::EIO))),
        }
    }

    /// Puts a page of zeros at `to` and wakes who waits for it.
    pub(super) fn zero(&self, to: u64, length: u64) -> Result<(), Stop> {
        // SAFETY: writes a page that nobody has seen yet.
        match unsafe { self.uffd.zeropage(pointer(to), to_usize(length), true) } {
            Ok(_) => Ok(()),
            Err(Error::ZeropageFailed(errno)) => Err(Errno::from_raw(errno as i32).into()),
            Err(_) => Err(Stop::Failed(Errno::EIO)),
        }
    }

    /// Makes whoever touches the missing pages of a range get SIGBUS, and wakes who waits for them. Stops at a page that is there.
    pub(super) fn poison(&self, start: u64, length: u64) -> (u64, Option<Stop>) {
        let mut call = PoisonCall { start, length, mode: 0, updated: 0 };
        // SAFETY: the call is as the kernel defines it; no page that is there changes.
        let answer = unsafe { poison_call(self.uffd.as_raw_fd(), &raw mut call) };
        let done = u64::try_from(call.updated).unwrap_or(0).min(length);
        match answer {
            Ok(_) => (length, None),
            Err(errno) => (done, Some(errno.into())),
        }
    }

    /// Wakes who waits for a page of the range: it touches it again.
    pub(super) fn wake(&self, start: u64, length: u64) {
        // It fails for a range that is none, and there nobody waits.
        let _ = self.uffd.wake(pointer(start), to_usize(length));
    }

    /// What the guest's process is doing, by a call that changes nothing.
    pub(super) fn state(&self) -> Stop {
        let (_, stop) = self.copy(&ZEROS, NOWHERE);
        stop.unwrap_or(Stop::Nothing)
    }

    /// Whether there is something to tell, from what `poll(2)` found.
    ///
    /// # Errors
    /// The kernel says so of a descriptor that would be waited on: whoever else has it open, as the guest has, can make it one, and to read
    /// it would then end nothing.
    pub(super) fn has_something(found: Option<PollFlags>) -> io::Result<bool> {
        let found = found.unwrap_or(PollFlags::empty());
        if found.contains(PollFlags::POLLERR) {
            return Err(io::Error::other("somebody has taken O_NONBLOCK off the userfaultfd"));
        }
        Ok(found.contains(PollFlags::POLLIN))
    }

    /// As [`told`](Self::told), where nobody knows whether there is something.
    pub(super) fn told_if_any(&self, buffer: &mut EventBuffer, each: impl FnMut(Told)) -> io::Result<()> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) if Self::has_something(fds[0].revents())? => self.told(buffer, each),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What there is to tell, without waiting. What is told was heard: the guest goes on.
    pub(super) fn told(&self, buffer: &mut EventBuffer, mut each: impl FnMut(Told)) -> io::Result<()> {
        let events = match self.uffd.read_events(buffer) {
            // A signal: there will be something the next time too.
            Err(Error::SystemError(errno)) if errno as i32 == Errno::EINTR as i32 => return Ok(()),
            events => events.map_err(to_io)?,
        };
        for event in events {
            match event {
                Ok(Event::Pagefault { addr, .. }) => each(Told::Fault(address(addr))),
                Ok(Event::Remove { start, end }) => each(Told::Removed(address(start), address(end))),
                Ok(Event::Unmap { start, end }) => each(Told::Unmapped(address(start), address(end))),
                Ok(Event::Remap { from, to, len }) => {
                    each(Told::Moved(address(from), address(to), to_u64(len)));
                }
                // A fork's descriptor is closed: a child has no handler. What is not known was not asked for.
                Ok(Event::Fork { .. }) | Err(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn into_owned(self) -> OwnedFd {
        // The crate's own `into_raw_fd` (0.9.0) closes the descriptor that it gives.
        let uffd = std::mem::ManuallyDrop::new(self.uffd);
        // SAFETY: the descriptor is open, and nobody else's from here on: its owner is never dropped.
        unsafe { OwnedFd::from_raw_fd(uffd.as_raw_fd()) }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

fn by_system_call(user_mode_only: bool, features: u64) -> io::Result<Uffd> {
    let mode = if user_mode_only { USER_MODE_ONLY } else { 0 };
    // SAFETY: makes a descriptor, and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | mode) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: just made, and nobody else's.
    let uffd = unsafe { Uffd::from_raw_fd(fd) };
    let mut call = ApiCall { api: API, features, ioctls: 0 };
    // SAFETY: the call is as the kernel defines it.
    unsafe { api_call(fd, &raw mut call) }?;
    Ok(uffd)
}

/// The crate's errors as the system's.
fn to_io(error: Error) -> io::Error {
    match error {
        Error::SystemError(errno) | Error::CopyFailed(errno) | Error::ZeropageFailed(errno) => {
            io::Error::from_raw_os_error(errno as i32)
        }
        Error::OpenDevUserfaultfd(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// An address of the guest's process as the crate takes it; never followed here.
fn pointer(address: u64) -> *mut c_void {
    ptr::without_provenance_mut(to_usize(address))
}

fn address(pointer: *mut c_void) -> u64 {
    to_u64(pointer.addr())
}
