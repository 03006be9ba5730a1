//! One transfer, whole: what to do about calls that are interrupted, short, or transfer nothing.

use std::io;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::channel::Channel;
use crate::error::{Direction, TransferError, WorkError};
use crate::iovec::IoVec;

/// The most iovecs that Linux takes in one call (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// Writes all the memory of `vecs`, in order, to `channel` at `offset`; gives the number of calls it took. `block` is
/// what errors call the memory.
///
/// An interrupted call (`EINTR`) is made again; a short one goes on where it stopped; more than 1024 iovecs take several.
///
/// # Errors
/// [`WorkError::Transfer`] with block and offset when a call fails or writes nothing, [`WorkError::Cancelled`] when
/// `cancel` was used before a call.
///
/// # Safety
/// Each of `vecs` must be readable for its length until the call returns.
pub unsafe fn write_all_at<C: Channel + ?Sized>(
    channel: &mut C,
    block: &Arc<str>,
    vecs: &[IoVec],
    offset: u64,
    cancel: &Cancel,
) -> Result<u64, WorkError> {
    let stop = || cancel.is_cancelled();
    let mut calls = 0;
    // SAFETY: the caller's promise, passed on.
    unsafe { whole(channel, Direction::Write, block, vecs, offset, stop, &mut calls) }?;
    Ok(calls)
}

/// Fills all the memory of `vecs`, in order, from `channel` at `offset`; gives the number of calls it took. `block` is
/// what errors call the memory.
///
/// # Errors
/// As [`write_all_at`]; the file's end is an error of kind [`io::ErrorKind::UnexpectedEof`].
///
/// # Safety
/// Each of `vecs` must be writable for its length until the call returns.
pub unsafe fn read_exact_at<C: Channel + ?Sized>(
    channel: &mut C,
    block: &Arc<str>,
    vecs: &[IoVec],
    offset: u64,
    cancel: &Cancel,
) -> Result<u64, WorkError> {
    let stop = || cancel.is_cancelled();
    let mut calls = 0;
    // SAFETY: the caller's promise, passed on.
    unsafe { whole(channel, Direction::Read, block, vecs, offset, stop, &mut calls) }?;
    Ok(calls)
}

/// What is left of a list of iovecs: `rest[0]` without its first `skip` bytes, then the others.
struct Rest<'v> {
    rest: &'v [IoVec],
    skip: usize,
}

impl Rest<'_> {
    /// Leaves out the next `by` bytes.
    fn advance(&mut self, mut by: usize) {
        while let Some(first) = self.rest.first() {
            let held = first.len() - self.skip;
            if by < held {
                self.skip += by;
                return;
            }
            by -= held;
            self.rest = &self.rest[1..];
            self.skip = 0;
        }
    }
}

/// # Safety
/// Each of `vecs` must be valid for `direction` for its length until the call returns.
pub(crate) unsafe fn whole<C: Channel + ?Sized>(
    channel: &mut C,
    direction: Direction,
    block: &Arc<str>,
    vecs: &[IoVec],
    offset: u64,
    stop: impl Fn() -> bool,
    calls: &mut u64,
) -> Result<(), WorkError> {
    let mut length = 0_u64;
    let fits = vecs.iter().all(|vec| match length.checked_add(vec.len() as u64) {
        Some(sum) => {
            length = sum;
            true
        }
        None => false,
    });
    let mut done = 0;
    let failed = |done, source| {
        WorkError::Transfer(TransferError {
            operation: direction.into(),
            block: Arc::clone(block),
            offset,
            length,
            done,
            source,
        })
    };
    if !fits || offset.checked_add(length).is_none() {
        return Err(failed(0, io::Error::from_raw_os_error(libc::EFBIG)));
    }
    let mut rest = Rest { rest: vecs, skip: 0 };
    rest.advance(0);
    let mut head = Vec::new();
    while done < length {
        if stop() {
            return Err(WorkError::Cancelled);
        }
        // Only a call that begins in the middle of an iovec, or has too many, needs a list of its own.
        let now = &rest.rest[..rest.rest.len().min(IOV_MAX)];
        let list = if rest.skip == 0 {
            now
        } else {
            head.clear();
            head.push(now[0].skip(rest.skip));
            head.extend_from_slice(&now[1..]);
            &head[..]
        };
        *calls += 1;
        let result = match direction {
            // SAFETY: parts of `vecs`, which are valid by this function's contract.
            Direction::Write => unsafe { channel.write_at(list, offset + done) },
            // SAFETY: as above.
            Direction::Read => unsafe { channel.read_at(list, offset + done) },
        };
        let moved = match result {
            Ok(0) => return Err(failed(done, nothing_moved(direction))),
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(done, error)),
        };
        if moved as u64 > length - done {
            let lie = format!("the channel says that it moved {moved} bytes of {}", length - done);
            return Err(failed(done, io::Error::other(lie)));
        }
        rest.advance(moved);
        done += moved as u64;
    }
    Ok(())
}

fn nothing_moved(direction: Direction) -> io::Error {
    match direction {
        Direction::Read => io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here"),
        Direction::Write => io::Error::new(io::ErrorKind::WriteZero, "the system took no bytes"),
    }
}
