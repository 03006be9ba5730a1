//! A handler at work, as its owner sees it: how far it is, how it ended, what was asked for.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::counters::FaultCounters;
use super::shared::{Shared, Status};
use crate::error::{Error, Result};
use crate::working_set::WorkingSet;

/// How a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All that the file holds is there, and the memory is the kernel's again.
    Complete,
    /// The guest's process has ended.
    GuestGone,
    /// Its owner stopped it.
    Stopped,
}

/// What a handler did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FaultReport {
    /// How it ended.
    pub ending: Ending,
    /// What it did until then.
    pub counters: FaultCounters,
}

/// A handler at work: its threads fill memory until all is there. Made by [`FaultOptions`](super::FaultOptions).
///
/// Dropped, it ends: see [When it goes wrong](super#when-it-goes-wrong) for what is then seen of pages that are missing.
#[derive(Debug)]
pub struct FaultHandler {
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
    feeder: Option<JoinHandle<()>>,
    cancel: multifd_pool::Cancel,
}

impl FaultHandler {
    pub(super) fn new(shared: Arc<Shared>, cancel: multifd_pool::Cancel) -> Self {
        Self { shared, server: None, feeder: None, cancel }
    }

    pub(super) fn serve(&mut self, server: JoinHandle<()>) {
        self.server = Some(server);
    }

    pub(super) fn feed(&mut self, feeder: JoinHandle<()>) {
        self.feeder = Some(feeder);
    }

    /// What it has done so far.
    pub fn counters(&self) -> FaultCounters {
        self.shared.counters.read()
    }

    /// Whether it has ended by itself.
    pub fn is_over(&self) -> bool {
        self.shared.status().ending.is_some()
    }

    /// What was asked for so far, in order, if that is recorded: one list for each block of which anything was.
    ///
    /// # Errors
    /// A block whose name is none that a list can have.
    pub fn working_sets(&self) -> Result<Vec<WorkingSet>> {
        let order = self.shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sets: Vec<(Arc<str>, u64, u64, Vec<u64>)> = Vec::new();
        for (index, unit) in order.iter() {
            let region = &self.shared.regions[*index];
            let at = sets.iter().position(|(name, ..)| *name == region.pages.name).unwrap_or_else(|| {
                // The largest page that all of the block's regions are whole pages of.
                let regions =
                    self.shared.regions.iter().filter(|other| other.pages.name == region.pages.name);
                let shift = regions.map(|region| (region.offset | region.unit).trailing_zeros()).min();
                let page = 1_u64 << shift.unwrap_or(12);
                sets.push((
                    Arc::clone(&region.pages.name),
                    page,
                    region.pages.length.div_ceil(page),
                    Vec::new(),
                ));
                sets.len() - 1
            });
            let (_, page, pages, list) = &mut sets[at];
            let start = region.offset + unit * region.unit;
            list.extend((start / *page..(start + region.unit) / *page).filter(|at| at < pages));
        }
        sets.into_iter().map(|(name, page, pages, list)| WorkingSet::new(&*name, page, pages, list)).collect()
    }

    /// Waits until all is there, or the guest's process has ended. Without channels that fill the rest ([`Fill`](super::Fill)) that is
    /// when the guest has touched every page of the file, or never.
    ///
    /// # Errors
    /// - When the channels are through and pages are missing because they could not be read: which one was first, and how many are there.
    ///   The handler serves on until it is dropped.
    /// - When the guest's process has ended and a page could not be filled before: it may have ended of that, by SIGBUS.
    /// - When memory was poisoned that holds nothing of the file: it is registered, and the layout does not tell of it; or the system had
    ///   no page of zeros for it. Also if all that the file holds is there.
    /// - When none of the memory that another process told of is registered with its descriptor.
    /// - When it was cancelled.
    pub fn wait(&self) -> Result<FaultReport> {
        let is_stuck = |status: &Status| status.background_over && status.failure.is_some();
        let status = self.shared.wait_until(|status| {
            status.ending.is_some()
                || (is_stuck(status) && !self.shared.is_complete())
                || self.cancel.is_cancelled()
        });
        let ending = status.ending;
        let counters = self.counters();
        // If all is there, what could not be read at first was read later, or given up.
        let is_well = status.failure.is_none() || (self.shared.is_complete() && !status.is_for_good);
        if let Some(ending @ (Ending::Complete | Ending::GuestGone)) = ending
            && is_well
        {
            return Ok(FaultReport { ending, counters });
        }
        let file = self.shared.regions[0].pages.file.to_string();
        if let Some(failure) = &status.failure {
            let there = counters.on_demand + counters.in_background + counters.already_there;
            let operation = format!(
                "{}; of {} pages {there} are there, {} are lost (touching them raises SIGBUS), {} are missing and tried again when \
                 they are touched",
                failure.what, counters.present, counters.lost, counters.missing
            );
            let source = failure.again();
            return Err(if source.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::Damaged { file, what: format!("{operation}: {source}") }
            } else {
                Error::Io { file, operation, source }
            });
        }
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled { file });
        }
        Ok(FaultReport { ending: ending.unwrap_or(Ending::Stopped), counters })
    }

    /// Ends it, whether all is there or not, as dropping it does, and says what it did.
    pub fn stop(mut self) -> FaultReport {
        self.end();
        let ending = self.shared.status().ending.unwrap_or(Ending::Stopped);
        // The last pages may have been counted after the guest was found gone.
        let is_over = ending == Ending::GuestGone && self.shared.is_complete();
        FaultReport { ending: if is_over { Ending::Complete } else { ending }, counters: self.counters() }
    }

    fn end(&mut self) {
        // The channels first, so that nobody fills while what is missing is counted.
        self.shared.halt.cancel();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        if let Some(server) = self.server.take() {
            self.shared.tell(|status| {
                status.ending.get_or_insert(Ending::Stopped);
            });
            self.shared.ring();
            // A panic was told by the thread's end; there is nobody else to tell.
            let _ = server.join();
        }
    }
}

impl Drop for FaultHandler {
    fn drop(&mut self) {
        self.end();
    }
}
