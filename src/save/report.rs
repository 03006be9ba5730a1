//! What a finished save did: pages by what became of them, each channel's bytes and calls, and how long it took.

use std::time::Duration;

use multifd_pool::ChannelCounters;

use super::SyncMode;
use crate::storage::IoMode;

/// What a finished save did, by its counters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SaveReport {
    /// What each channel did.
    pub channels: Vec<ChannelCounters>,
    /// The length of all blocks together, in bytes.
    pub guest_bytes: u64,
    /// Where the stream ends in the file, in bytes.
    pub file_length: u64,
    /// How much room the file takes on its file system, in bytes, as that tells when the save ends: it may still regroup
    /// its own bookkeeping by some blocks, most of all after a save that is not synced. `None` where it is not known.
    pub disk_bytes: Option<u64>,
    /// How the channels wrote: never [`IoMode::Auto`], and [`IoMode::Buffered`] where the file system has not what was asked
    /// for.
    pub io_mode: IoMode,
    /// What was made durable.
    pub sync: SyncMode,
    /// Pages that were never touched, and so neither looked at nor written. Each round counts them anew.
    pub untouched_pages: u64,
    /// How many pages of each block stand in the file, in the order of the blocks; 0 for one that is left out. A block that was never
    /// written, or whose pages are all zero, has none.
    pub present_pages: Vec<u64>,
    /// What was picked, and what was asked for and could not be had, in words for people.
    pub notes: Vec<String>,
    /// In how many small pieces the [recycled](crate::SaveOptions::recycle) file was, with holes between them as a rule, if they were so
    /// many that its room was given back, and new room taken. `None` if it was written over, or nothing was recycled.
    pub pieces_given_back: Option<u64>,
    /// The time from the start of the save until all was handed to the system.
    pub write_time: Duration,
    /// The time that making it durable took.
    pub sync_time: Duration,
}

impl SaveReport {
    /// The counters of all channels added up.
    pub fn totals(&self) -> ChannelCounters {
        let mut totals = ChannelCounters::default();
        for channel in &self.channels {
            totals += *channel;
        }
        totals
    }

    /// How many pages were written; a page that was written twice counts twice.
    pub fn pages_written(&self) -> u64 {
        self.totals().pages
    }

    /// How many pages were found to be zero and not written, those that were never touched among them.
    pub fn zero_pages(&self) -> u64 {
        self.totals().zero_pages + self.untouched_pages
    }
}
