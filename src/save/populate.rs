//! Page tables filled a region at a time, for memory that was mapped only to be saved.
//!
//! Where a file is mapped and then read from one end to the other, each of its pages costs a page fault: half a second a GiB, some
//! ten times what the look at it costs. `MADV_POPULATE_READ` (Linux 5.14) does it a region at a time. And where the file was
//! cut, or its disk fails, it is an error that can be told; the fault would be a SIGBUS.
//!
//! Measured with `mapped-ram save --sync none` to a tmpfs, a RAM file of 1 GiB under /dev/shm in pages of 4 KiB, 5 percent of
//! them not zero, 2 channels: see docs/performance.md.
//!
//! Unsafe code is here for the system call.

use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, madvise};

use crate::convert::{to_u64, to_usize};

/// The memory that was to be saved is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "the memory of block `{block}` cannot be read between its offsets {from:#x} and {to:#x} (was the file that it is mapped from cut?): {source}"
)]
pub(crate) struct Unreadable {
    block: Arc<str>,
    from: u64,
    to: u64,
    source: Errno,
}

/// Fills the page tables for `length` bytes from `start` on, which are those of `block` from `offset` on. A kernel that does not know
/// the call leaves it to the faults.
///
/// # Safety
/// `start` must be mapped and readable for `length`; the pages that it begins and ends in are the caller's.
pub(crate) unsafe fn populate(
    block: &Arc<str>,
    offset: u64,
    start: *const u8,
    length: usize,
) -> Result<(), Unreadable> {
    let past = start.addr() % to_usize(crate::map::host_page());
    let Some(first) = NonNull::new(start.wrapping_sub(past).cast_mut()) else { return Ok(()) };
    loop {
        // SAFETY: mapped by this function's contract; populating for reading changes no byte.
        match unsafe { madvise(first.cast(), past + length, MmapAdvise::MADV_POPULATE_READ) } {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(source @ (Errno::EFAULT | Errno::EHWPOISON)) => {
                let (block, to) = (Arc::clone(block), offset + to_u64(length));
                return Err(Unreadable { block, from: offset, to, source });
            }
            // Done, or not to be done: an older kernel, or memory that is no page cache.
            _ => return Ok(()),
        }
    }
}
