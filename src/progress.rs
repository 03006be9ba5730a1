//! How far a save or a restore has come.
//!
//! The callback runs in the thread that saves or restores, between two chunks that it hands to the channels; nobody
//! counts anything for it when there is none.

use multifd_pool::ChannelCounters;

/// How far an operation has come. All figures are bytes of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What the operation will look at in all.
    pub total_bytes: u64,
    /// What the channels have dealt with: transferred, or found to be zero.
    pub done_bytes: u64,
    /// What was really written or read.
    pub transferred_bytes: u64,
}

/// Where progress goes.
pub(crate) type Callback<'a> = Option<Box<dyn FnMut(&Progress) + Send + 'a>>;

/// Tells a callback how far the channels are, by their counters.
pub(crate) struct Meter<'m, 'a> {
    callback: &'m mut Callback<'a>,
    page_size: u64,
    total_bytes: u64,
    /// What the counters said before this operation.
    before: Progress,
    /// What was dealt with without any channel, in bytes.
    skipped: u64,
}

impl<'m, 'a> Meter<'m, 'a> {
    pub(crate) fn new(
        callback: &'m mut Callback<'a>,
        total_bytes: u64,
        page_size: u64,
        counters: impl FnOnce() -> Vec<ChannelCounters>,
    ) -> Self {
        let mut meter = Self { callback, page_size, total_bytes, before: Progress::default(), skipped: 0 };
        if meter.callback.is_some() {
            meter.before = meter.read(&counters());
        }
        meter
    }

    fn read(&self, counters: &[ChannelCounters]) -> Progress {
        let mut progress = Progress { total_bytes: self.total_bytes, ..Progress::default() };
        for channel in counters {
            progress.done_bytes += (channel.pages + channel.zero_pages) * self.page_size;
            progress.transferred_bytes += channel.bytes;
        }
        progress
    }

    /// Counts bytes that no channel has to deal with.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.skipped += bytes;
    }

    pub(crate) fn tell(&mut self, counters: impl FnOnce() -> Vec<ChannelCounters>) {
        if self.callback.is_none() {
            return;
        }
        let mut progress = self.read(&counters());
        progress.done_bytes = progress.done_bytes - self.before.done_bytes + self.skipped;
        progress.transferred_bytes -= self.before.transferred_bytes;
        if let Some(callback) = self.callback {
            callback(&progress);
        }
    }
}
