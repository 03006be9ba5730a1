//! The channels: what they fill, in which order, and how much at a time.
//!
//! First what an earlier guest asked for, in its order; then, if asked to, the rest from each region's start on. They claim a few units,
//! read them, put them, and pass over what somebody else has claimed. What they cannot read they leave to who touches it.

use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use multifd_pool::{Channel, ChannelContext, Pool, PoolError, WorkError, Worker};

use super::pages::Scratch;
use super::shared::{Failure, Put, Shared};
use crate::convert::to_usize;
use crate::error::{Error, Result};
use crate::storage::IoMode;
use crate::working_set::WorkingSet;

/// How much a channel claims, reads and puts at a time, in bytes: who touches a page of it waits for all.
const PIECE: u64 = 256 << 10;

/// How much a batch has, in bytes: enough that handing it over costs nothing.
const BATCH: u64 = 4 << 20;

/// What the channels are to do.
pub(super) struct Plan {
    pub(super) channels: usize,
    pub(super) io_mode: IoMode,
    pub(super) first: Vec<WorkingSet>,
    pub(super) rest: bool,
}

struct Batch {
    region: usize,
    units: Range<u64>,
}

struct Filler {
    shared: Arc<Shared>,
    channel: Box<dyn Channel>,
    scratch: Scratch,
}

/// Starts the channels and the thread that feeds them.
pub(super) fn begin(shared: &Arc<Shared>, plan: Plan) -> Result<JoinHandle<()>> {
    let file = &shared.regions[0].pages.file;
    let source = &shared.regions[0].pages.source;
    let largest = shared.regions.iter().map(|region| region.unit).max().unwrap_or(0).max(PIECE);
    let pool = Pool::builder()
        .channels(plan.channels)
        .name("mapped-ram-fill")
        .cancel(shared.halt.clone())
        .spawn(|index| {
            let channel = source.channel(index, plan.io_mode)?;
            Ok(Filler { shared: Arc::clone(shared), channel, scratch: Scratch::new(largest) })
        })
        .map_err(|error| Error::pool(file, error))?;
    let feeding = Arc::clone(shared);
    thread::Builder::new()
        .name("mapped-ram-feed".into())
        .spawn(move || {
            feed(&feeding, &pool, &plan);
            match pool.finish() {
                // They were told to end, or the guest's process has ended: no failure of theirs.
                Ok(_) | Err(PoolError::Cancelled) => {}
                Err(error) => {
                    let error = std::io::Error::other(error.to_string());
                    feeding.note(Failure { what: "fill memory in the background".into(), error });
                }
            }
            feeding.tell(|status| status.background_over = true);
        })
        .map_err(|error| Error::io(file, "start a thread that fills memory", error))
}

/// Hands out all that is to be filled; ends early when the pool does.
fn feed(shared: &Shared, pool: &Pool<Batch>, plan: &Plan) {
    for set in &plan.first {
        for bytes in set.ranges() {
            for (index, region) in shared.regions.iter().enumerate() {
                let from = bytes.start.max(region.offset);
                let to = bytes.end.min(region.offset + region.length);
                if *region.pages.name == *set.block()
                    && from < to
                    && !submit(shared, pool, index, region.units_of(from - region.offset..to - region.offset))
                {
                    return;
                }
            }
        }
    }
    if plan.rest {
        for (index, region) in shared.regions.iter().enumerate() {
            if !submit(shared, pool, index, 0..region.units()) {
                return;
            }
        }
    }
}

/// Hands out what is present in `units`, a batch at a time; `false` when the pool takes no more.
fn submit(shared: &Shared, pool: &Pool<Batch>, region: usize, units: Range<u64>) -> bool {
    let about = &shared.regions[region];
    let step = (BATCH / about.unit).max(1);
    let mut at = units.start;
    while at < units.end {
        let end = at.saturating_add(step).min(units.end);
        // A long absent stretch is passed over at once.
        let Some(run) = about.present_units(at..units.end).next() else { return true };
        if run.start >= end {
            at = run.start;
            continue;
        }
        if pool.submit(Batch { region, units: at..end }).is_err() {
            return false;
        }
        at = end;
    }
    true
}

impl Worker for Filler {
    type Batch = Batch;

    fn run(&mut self, batch: Batch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let shared = Arc::clone(&self.shared);
        let region = &shared.regions[batch.region];
        let longest = (PIECE / region.unit).max(1);
        for run in region.present_units(batch.units) {
            let mut at = run.start;
            while at < run.end {
                if context.is_stopped() {
                    return Err(WorkError::Cancelled);
                }
                if !region.claims.claim(at) {
                    at += 1;
                    continue;
                }
                let mut end = at + 1;
                while end < run.end && end - at < longest && region.claims.claim(end) {
                    end += 1;
                }
                self.fill(batch.region, at..end)?;
                at = end;
            }
        }
        Ok(())
    }
}

impl Filler {
    /// Fills units that are claimed.
    fn fill(&mut self, index: usize, units: Range<u64>) -> Result<(), WorkError> {
        let Self { shared, channel, scratch } = self;
        let region = &shared.regions[index];
        let count = units.end - units.start;
        let bytes = scratch.part(count * region.unit);
        let from = region.offset + units.start * region.unit;
        match region.pages.read(&mut **channel, from, bytes, &shared.halt) {
            Ok(()) => {}
            Err(WorkError::Cancelled) => {
                shared.give_back(index, units.start, count, None);
                return Err(WorkError::Cancelled);
            }
            Err(error) => {
                shared.give_back(index, units.start, count, Some(error));
                return Ok(());
            }
        }
        debug_assert_eq!(bytes.len(), to_usize(count * region.unit));
        match shared.put_patiently(index, units.start, bytes, &shared.counters.in_background) {
            Put::Done => Ok(()),
            Put::Ended => {
                // The thread of faults looks whether that is so, and ends.
                shared.ring();
                Err(WorkError::Cancelled)
            }
            Put::Again(done) => {
                shared.give_back(index, units.start + done, count - done, None);
                Err(WorkError::Cancelled)
            }
        }
    }
}
