//! What the threads of a handler share, and how a page is put where it belongs, counted and lost.
//!
//! Offsets are in bytes from a region's start, units are pages of the memory.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use multifd_pool::{Cancel, WorkError};
use nix::sys::eventfd::EventFd;

use super::counters::Counters;
use super::handler::Ending;
use super::places::Places;
use super::region::Region;
use super::uffd::{Descriptor, Stop};
use crate::convert::{to_u64, to_usize};

/// How long a channel waits while the guest changes its mappings: about as long as the handler takes to hear of it.
pub(super) const PATIENCE: Duration = Duration::from_micros(50);

/// How much a channel puts while the thread that hears of faults has to wait, in bytes. Calls of 64 KiB came to 6.1 GiB/s where those of
/// 2 MiB came to 6.9 (two threads, bare UFFDIO_COPY).
const LOCKED: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) uffd: Descriptor,
    pub(super) regions: Vec<Region>,
    pub(super) places: RwLock<Places>,
    pub(super) counters: Counters,
    /// Ends the channels, and reads that wait.
    pub(super) halt: Cancel,
    /// Wakes the thread that is told of faults.
    pub(super) bell: EventFd,
    pub(super) order: Mutex<Vec<(usize, u64)>>,
    /// The units that could not be filled and that the guest has not given up: few, or all fail.
    lost: Mutex<BTreeSet<(usize, u64)>>,
    status: Mutex<Status>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) ending: Option<Ending>,
    pub(super) background_over: bool,
    /// The first.
    pub(super) failure: Option<Failure>,
    /// The failure is of memory that is not counted, so that no count will tell that it is well again.
    pub(super) is_for_good: bool,
}

/// Why a page could not be filled.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) error: io::Error,
}

impl Failure {
    pub(super) fn again(&self) -> io::Error {
        match self.error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.error.kind(), self.error.to_string()),
        }
    }

    fn of_read(region: &Region, unit: u64, error: WorkError) -> Self {
        let (what, error) = match error {
            WorkError::Transfer(error) => (
                format!(
                    "read of block `{}` failed at file offset {:#x}",
                    error.block,
                    error.offset + error.done
                ),
                error.source,
            ),
            other => (
                format!(
                    "read of block `{}` failed at offset {:#x} of the block",
                    region.pages.name,
                    region.offset + unit * region.unit
                ),
                io::Error::other(other.to_string()),
            ),
        };
        Self { what, error }
    }
}

/// How far a run of units was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Done,
    /// The guest is changing its mappings, and so many units are dealt with.
    Again(u64),
    /// The guest's process has ended.
    Ended,
}

impl Shared {
    pub(super) fn new(
        uffd: Descriptor,
        regions: Vec<Region>,
        places: Places,
        background_over: bool,
    ) -> io::Result<Self> {
        let present = regions
            .iter()
            .flat_map(|region| region.present_units(0..region.units()))
            .map(|run| run.end - run.start);
        let counters = Counters::new(present.sum());
        Ok(Self {
            uffd,
            regions,
            places: RwLock::new(places),
            counters,
            halt: Cancel::new(),
            bell: EventFd::from_flags(
                nix::sys::eventfd::EfdFlags::EFD_CLOEXEC | nix::sys::eventfd::EfdFlags::EFD_NONBLOCK,
            )?,
            order: Mutex::default(),
            lost: Mutex::default(),
            status: Mutex::new(Status { background_over, ..Status::default() }),
            changed: Condvar::new(),
        })
    }

    pub(super) fn ring(&self) {
        // A bell that rang and was not heard yet is as good.
        let _ = self.bell.write(1);
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status and tells who waits for that.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status());
        self.changed.notify_all();
    }

    pub(super) fn wait_until(&self, done: impl Fn(&Status) -> bool) -> MutexGuard<'_, Status> {
        self.changed.wait_while(self.status(), |status| !done(status)).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, failure: Failure) {
        self.tell(|status| {
            status.failure.get_or_insert(failure);
        });
    }

    /// As [`note`](Self::note), of memory that holds nothing of the file: told also when all that does is there.
    pub(super) fn note_for_good(&self, failure: Failure) {
        self.tell(|status| {
            if !status.is_for_good {
                (status.failure, status.is_for_good) = (Some(failure), true);
            }
        });
    }

    pub(super) fn is_complete(&self) -> bool {
        self.counters.missing.load(Ordering::Acquire) == 0
    }

    /// Nothing of the file has to go to a present unit any more, by what `count` counts.
    pub(super) fn resolve(&self, region: usize, unit: u64, count: &AtomicU64) {
        if self.regions[region].claims.finish(unit) {
            // A lost page that the guest gives up is no loss any more.
            if self.lost_units().remove(&(region, unit)) {
                self.counters.lost.fetch_sub(1, Ordering::AcqRel);
            }
            count.fetch_add(1, Ordering::AcqRel);
            if self.counters.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.ring();
            }
        }
    }

    fn lost_units(&self) -> MutexGuard<'_, BTreeSet<(usize, u64)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts claimed units, from `first` on; `bytes` is all of them. Those that the guest gave up meanwhile are left out.
    pub(super) fn put(&self, region: usize, first: u64, bytes: &[u8], count: &AtomicU64) -> Put {
        let Region { unit: size, ref claims, .. } = self.regions[region];
        let units = to_u64(bytes.len()) / size;
        let mut at = 0;
        // The kernel takes nothing that is not wholly in one mapping, and a mapping may have been split without a word (`mprotect(2)`,
        // `madvise(2)`): only of a single unit is it known that nothing is there.
        let mut most = units.max(1);
        // Held from the look at a unit until it is put: who hears that it was given up waits.
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        while at < units {
            let Some((address, room)) = places.at(region, (first + at) * size) else {
                self.resolve(region, first + at, &self.counters.unmapped);
                at += 1;
                continue;
            };
            let run =
                (at..units.min(at + room / size)).take_while(|unit| !claims.is_done(first + unit)).count();
            let run = to_u64(run).min(most);
            if run == 0 {
                // Given up, and left out here: who waits for it is to touch it again.
                self.uffd.wake(address, size);
                at += 1;
                continue;
            }
            let part = &bytes[to_usize(at * size)..to_usize((at + run) * size)];
            let (done, stop) = self.uffd.copy(part, address);
            for unit in at..at + done / size {
                self.resolve(region, first + unit, count);
            }
            at += done / size;
            let address = address + done / size * size;
            match stop {
                None if done == 0 => return Put::Again(at),
                None => most *= 2,
                Some(Stop::Exists) => {
                    self.resolve(region, first + at, &self.counters.already_there);
                    self.uffd.wake(address, size);
                    at += 1;
                }
                // It was a part that was put: the next call says why.
                Some(Stop::Changing) if done > 0 => {}
                Some(Stop::Changing) => return Put::Again(at),
                Some(Stop::Nothing) if run > 1 => most = run / 2,
                Some(Stop::Nothing) => {
                    self.resolve(region, first + at, &self.counters.unmapped);
                    self.uffd.wake(address, size);
                    at += 1;
                }
                Some(Stop::Ended) => return Put::Ended,
                Some(Stop::Failed(errno)) => {
                    let what = format!(
                        "put a page of block `{}`, offset {:#x} of the block",
                        self.regions[region].pages.name,
                        self.regions[region].offset + (first + at) * size
                    );
                    if !self.lose_at(region, first + at, address, Failure { what, error: errno.into() }) {
                        return Put::Again(at);
                    }
                    at += 1;
                }
            }
        }
        Put::Done
    }

    /// Gives up a claimed unit that could not be read. `false` if the guest is changing its mappings: then nothing was done.
    pub(super) fn lose(&self, region: usize, unit: u64, error: WorkError) -> bool {
        let about = &self.regions[region];
        let failure = Failure::of_read(about, unit, error);
        let place = self.places.read().unwrap_or_else(PoisonError::into_inner).at(region, unit * about.unit);
        let Some((address, _)) = place else {
            self.resolve(region, unit, &self.counters.unmapped);
            return true;
        };
        self.lose_at(region, unit, address, failure)
    }

    fn lose_at(&self, region: usize, unit: u64, address: u64, failure: Failure) -> bool {
        let length = self.regions[region].unit;
        // Where the kernel cannot poison (before 6.6) who waits is left waiting.
        if let (_, Some(Stop::Changing)) = self.uffd.poison(address, length) {
            return false;
        }
        if self.lost_units().insert((region, unit)) {
            self.counters.lost.fetch_add(1, Ordering::AcqRel);
        }
        self.note(failure);
        true
    }

    /// The channels could not read some units: others may try.
    pub(super) fn give_back(&self, region: usize, first: u64, units: u64, error: Option<WorkError>) {
        let about = &self.regions[region];
        for unit in first..first + units {
            if !about.claims.is_done(unit) {
                about.claims.release(unit);
            }
        }
        // Noted first: who is woken may ask.
        if let Some(error) = error {
            self.note(Failure::of_read(about, first, error));
        }
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        for unit in first..first + units {
            if let Some((address, _)) = places.at(region, unit * about.unit) {
                self.uffd.wake(address, about.unit);
            }
        }
    }

    /// As [`put`](Self::put), and waits while the guest changes its mappings: not for the thread that hears of it.
    pub(super) fn put_patiently(&self, region: usize, first: u64, bytes: &[u8], count: &AtomicU64) -> Put {
        let size = self.regions[region].unit;
        let units = to_u64(bytes.len()) / size;
        let step = (LOCKED / size).max(1);
        let mut at = 0;
        while at < units {
            let end = (at + step).min(units);
            match self.put(region, first + at, &bytes[to_usize(at * size)..to_usize(end * size)], count) {
                Put::Done => at = end,
                Put::Again(_) if self.halt.is_cancelled() => return Put::Again(at),
                Put::Again(done) => {
                    at += done;
                    thread::sleep(PATIENCE);
                }
                Put::Ended => return Put::Ended,
            }
        }
        Put::Done
    }
}
