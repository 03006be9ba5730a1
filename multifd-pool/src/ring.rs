//! Entries of an io_uring that are carried out together: as many in flight as there is room for, until the last one has ended.
//!
//! Decided here is only when the kernel is asked. What an entry is, and what its result means, is its maker's business.

use std::io;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe};

/// How many entries are in flight at most: more than a region of a save has.
const DEPTH: u32 = 32;

pub(crate) struct Ring {
    ring: IoUring,
    /// How many more calls the kernel answers; then it refuses them all, as a ring that broke.
    #[cfg(test)]
    pub(crate) calls_left: Option<u64>,
}

/// What came of [`Ring::carry_out`].
pub(crate) struct CarriedOut {
    /// The system calls that it took.
    pub(crate) calls: u64,
    /// Whether the ring can be used again: it still holds entries where it cannot.
    pub(crate) is_empty: bool,
}

impl Ring {
    /// # Errors
    /// What `io_uring_setup(2)` says.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::new(DEPTH)?,
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

    /// Hands `entries` to the kernel, and to `ended` what came of each that it took: its user data and its result. When it
    /// returns, the kernel has nothing of them any more.
    ///
    /// Entries that it did not take, since it refused a call, are left out; then the ring is not to be used again.
    ///
    /// # Safety
    /// What the entries name, memory and descriptors, must stay valid until the call returns. `ended` must not panic.
    pub(crate) unsafe fn carry_out(
        &mut self,
        entries: &[Entry],
        mut ended: impl FnMut(u64, i32),
    ) -> CarriedOut {
        let mut calls = 0;
        let mut next = entries.iter();
        // Entries that the kernel has not taken yet, and those that it has and is not done with.
        let (mut queued, mut running) = (0_usize, 0_usize);
        loop {
            while queued + running < DEPTH as usize
                && let Some(entry) = next.as_slice().first()
            {
                // SAFETY: valid until this function returns, by its contract, and it does not return before the entry has ended.
                if unsafe { self.ring.submission().push(entry) }.is_err() {
                    break;
                }
                next.next();
                queued += 1;
            }
            if queued + running == 0 {
                return CarriedOut { calls, is_empty: true };
            }
            calls += 1;
            match self.enter() {
                Ok(taken) => {
                    let taken = taken.min(queued);
                    queued -= taken;
                    running += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel has nothing of ours.
                Err(_) if running == 0 => return CarriedOut { calls, is_empty: false },
                // Out of room for the moment, or broken. What is running ends by itself.
                Err(_) => std::thread::yield_now(),
            }
            for done in self.ring.completion() {
                running = running.saturating_sub(1);
                ended(done.user_data(), done.result());
            }
        }
    }

    /// Gives the kernel what is queued, and waits until something has ended; says how many it took.
    fn enter(&mut self) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(left) = &mut self.calls_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        }
        self.ring.submit_and_wait(1)
    }
}
