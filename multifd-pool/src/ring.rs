//! Entries of an io_uring that are in flight together: as many as there is room for, until they are waited for.
//!
//! Decided here is only when the kernel is asked. What an entry is, and what its result means, is its maker's business.

use std::io;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe};

/// How many entries are in flight at most: twice the writes of a region that is all data. With more to do, room is waited for.
const DEPTH: u32 = 32;

pub(crate) struct Ring {
    io: IoUring,
    /// Entries that the kernel has not taken yet.
    queued: usize,
    /// Entries that it has taken, and that have not ended.
    running: usize,
    /// Whether it refused a call: then it still holds entries that it has not taken, and is not asked again.
    is_broken: bool,
    /// How many more calls the kernel answers; then it refuses them all, as a ring that broke.
    #[cfg(test)]
    pub(crate) calls_left: Option<u64>,
}

impl Ring {
    /// # Errors
    /// What `io_uring_setup(2)` says.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            io: IoUring::new(DEPTH)?,
            queued: 0,
            running: 0,
            is_broken: false,
            #[cfg(test)]
            calls_left: None,
        })
    }

    /// Whether the kernel lets this process have a ring that knows the operations of `codes`.
    pub(crate) fn knows(codes: &[u8]) -> bool {
        let mut probe = Probe::new();
        IoUring::new(1)
            .and_then(|ring| ring.submitter().register_probe(&mut probe))
            .is_ok_and(|()| codes.iter().all(|code| probe.is_supported(*code)))
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Hands `entries` to the kernel, waiting only where there is no room for more, and tells `ended` what came of each that has ended,
    /// these or earlier ones: its user data and its result. Gives the number of system calls.
    ///
    /// Of an entry that `ended` was not told of when [`finish`](Self::finish) has returned, nothing was done.
    ///
    /// # Safety
    /// What the entries name, memory and descriptors, must stay valid until [`finish`](Self::finish) has returned, or the ring is
    /// dropped. `ended` must not panic.
    pub(crate) unsafe fn begin(&mut self, entries: &[Entry], mut ended: impl FnMut(u64, i32)) -> u64 {
        let mut calls = 0;
        let mut next = entries.iter();
        while !self.is_broken {
            while self.queued + self.running < DEPTH as usize
                && let Some(entry) = next.as_slice().first()
            {
                // SAFETY: valid until the entry has ended, by this function's contract: `finish` waits for it.
                if unsafe { self.io.submission().push(entry) }.is_err() {
                    break;
                }
                next.next();
                self.queued += 1;
            }
            let waits = !next.as_slice().is_empty();
            if self.queued == 0 && !waits {
                break;
            }
            self.enter(usize::from(waits), &mut ended);
            calls += 1;
        }
        calls
    }

    /// Waits until the kernel has nothing of what was begun any more, and tells `ended` as [`begin`](Self::begin) does. Gives the
    /// number of system calls.
    pub(crate) fn finish(&mut self, mut ended: impl FnMut(u64, i32)) -> u64 {
        let mut calls = 0;
        while self.queued + self.running > 0 {
            self.enter(1, &mut ended);
            calls += 1;
        }
        calls
    }

    /// Gives the kernel what is queued, waits until so many entries have ended, and tells of those that have.
    fn enter(&mut self, wait: usize, ended: &mut impl FnMut(u64, i32)) {
        match self.submit(wait) {
            Ok(taken) => {
                let taken = taken.min(self.queued);
                self.queued -= taken;
                self.running += taken;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The kernel has nothing of ours.
            Err(_) if self.running == 0 => {
                self.is_broken = true;
                self.queued = 0;
            }
            // Out of room for the moment, or broken. What is running ends by itself.
            Err(_) => std::thread::yield_now(),
        }
        for done in self.io.completion() {
            self.running = self.running.saturating_sub(1);
            ended(done.user_data(), done.result());
        }
    }

    /// Says how many entries the kernel took.
    fn submit(&mut self, wait: usize) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(left) = &mut self.calls_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        }
        self.io.submit_and_wait(wait)
    }
}

impl Drop for Ring {
    /// To close a ring does not wait for what it has in flight.
    fn drop(&mut self) {
        self.finish(|_, _| ());
    }
}
