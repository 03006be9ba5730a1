//! The thread that is told of faults: it hears what the guest does, serves who waits, and ends when there is nothing left to serve.
//!
//! One thread, so that the order of the first asks is known, and nothing that it has read of the guest's changes is out of order.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Instant;

use multifd_pool::{Cancel, Channel};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use userfaultfd::EventBuffer;

use super::handler::Ending;
use super::pages::Scratch;
use super::places::Places;
use super::shared::{Failure, PATIENCE, Put, Shared};
use super::uffd::{Descriptor, Stop, Told};
use crate::bitmap::PageBitmap;

/// Events read at a time: more threads than a guest has processors, as a rule.
const EVENTS: usize = 64;

/// How often the thread looks whether it was cancelled and whether the guest still lives, in milliseconds.
const LOOK: u16 = 100;

/// Somebody waits for a page.
#[derive(Clone, Copy, Debug)]
struct Fault {
    address: u64,
    place: Option<(usize, u64)>,
    since: Instant,
}

pub(super) struct Server {
    shared: Arc<Shared>,
    channel: Box<dyn Channel>,
    scratch: Scratch,
    host_page: u64,
    /// Which units were asked for, where that is recorded.
    asked: Option<Vec<PageBitmap>>,
    /// Ends when the guest's process does.
    watched: Option<UnixStream>,
    was_watched: bool,
    cancel: Cancel,
    events: EventBuffer,
    faults: Vec<Fault>,
    again: Vec<Fault>,
    /// How often the kernel told of memory that was unmapped.
    unmappings: u64,
    /// The kernel would not take the range back: it is served to the end.
    kept: bool,
    /// What was taken back by the kernel, of which nothing is heard any more.
    returned: Vec<std::ops::Range<u64>>,
    /// The memory is this process's: missing pages are poisoned at the end.
    is_ours: bool,
}

/// How a server is made.
pub(super) struct Setup {
    pub(super) channel: Box<dyn Channel>,
    pub(super) host_page: u64,
    pub(super) record: bool,
    pub(super) watched: Option<UnixStream>,
    pub(super) cancel: Cancel,
    pub(super) is_ours: bool,
}

impl Server {
    pub(super) fn new(shared: &Arc<Shared>, setup: Setup) -> Self {
        let asked = setup
            .record
            .then(|| shared.regions.iter().map(|region| PageBitmap::new(region.units())).collect());
        let largest = shared.regions.iter().map(|region| region.unit).max().unwrap_or(0);
        Self {
            shared: Arc::clone(shared),
            channel: setup.channel,
            scratch: Scratch::new(largest),
            host_page: setup.host_page,
            asked,
            was_watched: setup.watched.is_some(),
            watched: setup.watched,
            cancel: setup.cancel,
            events: EventBuffer::new(EVENTS),
            faults: Vec::new(),
            again: Vec::new(),
            unmappings: 0,
            kept: false,
            returned: Vec::new(),
            is_ours: setup.is_ours,
        }
    }

    /// Serves until all is there, the guest's process has ended, or the bell says so.
    pub(super) fn run(mut self) {
        // However this thread ends, who waits for the handler is told.
        let shared = Arc::clone(&self.shared);
        let _over = Over(&shared);
        let ending = self.serve_all().unwrap_or_else(|error| {
            shared.note(Failure { what: "hear of faults".into(), error });
            Ending::Stopped
        });
        let ending =
            if ending == Ending::GuestGone && shared.is_complete() { Ending::Complete } else { ending };
        if ending == Ending::Stopped && self.is_ours && !self.poison_what_is_missing() {
            let kept = Arc::clone(&shared);
            let heard = thread::Builder::new().name("mapped-ram-rest".into()).spawn(move || self.hear_on());
            if heard.is_err() {
                // Without a thread for it, who unmaps the memory waits too.
                keep_open(kept);
            }
        }
        shared.halt.cancel();
        shared.tell(|status| status.ending = Some(ending));
    }

    fn serve_all(&mut self) -> std::io::Result<Ending> {
        loop {
            if self.shared.is_complete() && !self.kept {
                if self.is_all_elsewhere() {
                    let what = "find the memory that was told of".into();
                    let why = "none of it is registered with the descriptor: its addresses are wrong, or it was all filled before";
                    let error = std::io::Error::new(std::io::ErrorKind::NotFound, why);
                    self.shared.note_for_good(Failure { what, error });
                    return Ok(Ending::Stopped);
                }
                if self.give_range_back()? {
                    return Ok(Ending::Complete);
                }
                self.kept = true;
            }
            let (is_told, is_rung) = self.wait()?;
            if is_rung && self.shared.status().ending.is_some() {
                return Ok(Ending::Stopped);
            }
            if is_told {
                self.listen()?;
            }
            let mut faults = std::mem::take(&mut self.again);
            faults.append(&mut self.faults);
            for fault in faults {
                if !self.serve(fault) {
                    return Ok(Ending::GuestGone);
                }
            }
            if self.cancel.is_cancelled() && !self.shared.halt.is_cancelled() {
                self.shared.halt.cancel();
                self.shared.tell(|status| status.background_over = true);
            }
            let may_be_gone = is_rung || (self.was_watched && self.watched.is_none());
            if may_be_gone && matches!(self.shared.uffd.state(), Stop::Ended) {
                return Ok(Ending::GuestGone);
            }
        }
    }

    /// Waits for something to do; says whether there is something to hear, and whether the bell rang.
    fn wait(&mut self) -> std::io::Result<(bool, bool)> {
        let timeout = if self.again.is_empty() { PollTimeout::from(LOOK) } else { PollTimeout::from(1_u8) };
        let mut fds = vec![
            PollFd::new(self.shared.uffd.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(stream) = &self.watched {
            fds.push(PollFd::new(stream.as_fd(), PollFlags::empty()));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |fd: &PollFd| fd.any().unwrap_or(false);
        let is_told = Descriptor::has_something(fds[0].revents())?;
        let (is_rung, has_hung_up) = (any(&fds[1]), fds.get(2).is_some_and(any));
        if is_rung {
            let _ = self.shared.bell.read();
        }
        if has_hung_up {
            // The process may live on without its socket: from here on it is asked now and then.
            self.watched = None;
        }
        Ok((is_told, is_rung))
    }

    /// Hears what there is to hear. Nobody puts a page meanwhile: see [`super::places`].
    fn listen(&mut self) -> std::io::Result<()> {
        let Self { shared, events, faults, unmappings, .. } = self;
        let mut places = shared.places.write().unwrap_or_else(PoisonError::into_inner);
        let since = Instant::now();
        shared.uffd.told_if_any(events, |told| match told {
            Told::Fault(address) => {
                shared.counters.faults.fetch_add(1, Ordering::Relaxed);
                faults.push(Fault { address, place: places.find(address), since });
            }
            Told::Removed(start, end) => {
                given_up(shared, places.within(start..end), &shared.counters.given_up);
            }
            Told::Unmapped(start, end) => {
                *unmappings += 1;
                given_up(shared, places.cut(&(start..end)).into_iter(), &shared.counters.unmapped);
            }
            Told::Moved(from, to, length) => Places::moved(&mut places, from, to, length),
        })
    }

    /// Serves one fault; `false` if the guest's process has ended.
    fn serve(&mut self, fault: Fault) -> bool {
        let Some((index, offset)) = fault.place else { return self.serve_nobodys(fault) };
        let shared = Arc::clone(&self.shared);
        let region = &shared.regions[index];
        let unit = offset / region.unit;
        self.record(index, unit);
        if region.claims.is_done(unit) || !region.is_present(unit) {
            return self.serve_zeros(fault, index, unit);
        }
        if !region.claims.claim(unit) {
            // Who has claimed it wakes who waits for it.
            return true;
        }
        let bytes = self.scratch.part(region.unit);
        // What was asked for is served even when the channels are to stop.
        let read =
            region.pages.read(&mut *self.channel, region.offset + unit * region.unit, bytes, &Cancel::new());
        let put = match read {
            Ok(()) => shared.put(index, unit, bytes, &shared.counters.on_demand),
            Err(error) => {
                if shared.lose(index, unit, error) {
                    return true;
                }
                Put::Again(0)
            }
        };
        match put {
            Put::Ended => return false,
            Put::Again(_) => {
                region.claims.release(unit);
                self.again.push(fault);
            }
            Put::Done => shared.counters.service.record(fault.since.elapsed()),
        }
        true
    }

    /// A page of zeros for one that is absent, or was given up.
    fn serve_zeros(&mut self, fault: Fault, index: usize, unit: u64) -> bool {
        let shared = Arc::clone(&self.shared);
        let size = shared.regions[index].unit;
        let place = shared.places.read().unwrap_or_else(PoisonError::into_inner).at(index, unit * size);
        let Some((address, _)) = place else {
            shared.uffd.wake(fault.address / self.host_page * self.host_page, self.host_page);
            return true;
        };
        // Huge pages, and some older kernels' shared memory, have no zeros of the kernel's.
        let mut answer = Err(Stop::Failed(Errno::EINVAL));
        if size == self.host_page {
            answer = shared.uffd.zero(address, size);
        }
        if let Err(Stop::Failed(_)) = answer {
            let zeros = self.scratch.part(size);
            zeros.fill(0);
            answer = match shared.uffd.copy(zeros, address) {
                (_, None) => Ok(()),
                (_, Some(stop)) => Err(stop),
            };
        }
        match answer {
            Ok(()) => {
                shared.counters.zero_pages.fetch_add(1, Ordering::Relaxed);
                shared.counters.service.record(fault.since.elapsed());
            }
            Err(Stop::Exists | Stop::Nothing) => shared.uffd.wake(address, size),
            Err(Stop::Changing) => self.again.push(fault),
            Err(Stop::Ended) => return false,
            Err(Stop::Failed(errno)) => {
                let what = format!("put zeros for block `{}`", shared.regions[index].pages.name);
                shared.note_for_good(Failure { what, error: errno.into() });
                shared.uffd.poison(address, size);
            }
        }
        true
    }

    /// A fault in memory that is registered and that nobody spoke of: what it should hold is not known.
    fn serve_nobodys(&mut self, fault: Fault) -> bool {
        let page = fault.address / self.host_page * self.host_page;
        match self.shared.uffd.poison(page, self.host_page) {
            (_, Some(Stop::Changing)) => self.again.push(fault),
            (_, Some(Stop::Ended)) => return false,
            _ => {
                let what = format!("a page was touched at {page:#x}, which is in no memory that was told of");
                let error = std::io::Error::new(std::io::ErrorKind::NotFound, "it is poisoned");
                self.shared.note_for_good(Failure { what, error });
            }
        }
        true
    }

    fn record(&mut self, region: usize, unit: u64) {
        if let Some(asked) = &mut self.asked
            && !asked[region].contains(unit)
        {
            asked[region].insert(unit..unit + 1);
            self.shared.order.lock().unwrap_or_else(PoisonError::into_inner).push((region, unit));
        }
    }

    /// Whether the kernel knew nothing of any page that was put, without having told of any that was unmapped.
    fn is_all_elsewhere(&self) -> bool {
        let counters = self.shared.counters.read();
        !self.is_ours && self.unmappings == 0 && counters.present > 0 && counters.unmapped == counters.present
    }

    /// Gives all memory back to the kernel, which makes zeros of what is missing; `false` if it would not have it.
    fn give_range_back(&mut self) -> std::io::Result<bool> {
        let pieces = self.shared.places.read().unwrap_or_else(PoisonError::into_inner).pieces().to_vec();
        for piece in pieces {
            let length = piece.addresses.end - piece.addresses.start;
            if self.shared.uffd.unregister(piece.addresses.start, length).is_err() {
                return Ok(false);
            }
            // The kernel wakes who waits, but before it locks out those whose fault is on its way (seen on Linux 6.18, where faults
            // hold a lock of their own): such a one would wait for good.
            self.shared.uffd.wake(piece.addresses.start, length);
            self.returned.push(piece.addresses);
        }
        // Who was about to tell of a change waits until it is heard.
        loop {
            self.listen()?;
            if !matches!(self.shared.uffd.state(), Stop::Changing) {
                return Ok(true);
            }
            thread::sleep(PATIENCE);
        }
    }

    /// So that nobody takes for zeros what was never filled. `false` where the kernel could not (before Linux 6.6), or would not have its
    /// memory back.
    fn poison_what_is_missing(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut is_poisoned = true;
        for (index, region) in shared.regions.iter().enumerate() {
            for run in region.present_units(0..region.units()) {
                let mut unit = run.start;
                while unit < run.end {
                    if region.claims.is_done(unit) {
                        unit += 1;
                        continue;
                    }
                    let end = (unit..run.end).find(|unit| region.claims.is_done(*unit)).unwrap_or(run.end);
                    let dealt_with = self.poison(index, unit..end);
                    is_poisoned &= dealt_with.is_some();
                    unit += dealt_with.unwrap_or(end - unit);
                }
            }
        }
        is_poisoned && matches!(self.give_range_back(), Ok(true))
    }

    /// Poisons the start of a run of units; gives how many are dealt with, or nothing where the kernel cannot.
    fn poison(&mut self, index: usize, units: std::ops::Range<u64>) -> Option<u64> {
        let size = self.shared.regions[index].unit;
        let places = self.shared.places.read().unwrap_or_else(PoisonError::into_inner);
        let Some((address, room)) = places.at(index, units.start * size) else { return Some(1) };
        drop(places);
        let run = (units.end - units.start).min(room / size);
        Some(match self.shared.uffd.poison(address, run * size) {
            (done, None) => (done / size).max(1),
            (0, Some(Stop::Changing)) => {
                let _ = self.listen();
                thread::sleep(PATIENCE);
                0
            }
            (done, Some(Stop::Changing)) => done / size,
            // Perhaps in more mappings than one: see `Shared::put`.
            (0, Some(Stop::Nothing)) if run > 1 => {
                return self.poison(index, units.start..units.start + run / 2);
            }
            (done, Some(Stop::Exists | Stop::Nothing)) => done / size + 1,
            (_, Some(_)) => return None,
        })
    }

    /// Hears of memory that is unmapped, until all of it is, and serves nobody any more.
    fn hear_on(mut self) {
        for addresses in std::mem::take(&mut self.returned) {
            self.shared.places.write().unwrap_or_else(PoisonError::into_inner).cut(&addresses);
        }
        loop {
            if self.shared.places.read().unwrap_or_else(PoisonError::into_inner).pieces().is_empty() {
                return;
            }
            let mut fds = [PollFd::new(self.shared.uffd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return keep_open(self.shared),
            }
            if self.listen().is_err() {
                return keep_open(self.shared);
            }
            self.faults.clear();
        }
    }
}

/// The kernel keeps who touches missing memory waiting as long as the descriptor is open: it is, for good.
fn keep_open(shared: Arc<Shared>) {
    std::mem::forget(shared);
}

/// Parts of the memory whose content nobody wants any more.
fn given_up(
    shared: &Shared,
    pieces: impl Iterator<Item = super::places::Piece>,
    count: &std::sync::atomic::AtomicU64,
) {
    for piece in pieces {
        let region = &shared.regions[piece.region];
        let length = piece.addresses.end - piece.addresses.start;
        for run in region.present_units(region.units_of(piece.offset..piece.offset + length)) {
            for unit in run {
                shared.resolve(piece.region, unit, count);
            }
        }
    }
}

struct Over<'s>(&'s Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.halt.cancel();
        self.0.tell(|status| {
            status.ending.get_or_insert(Ending::Stopped);
        });
    }
}
