//! What a channel has done.
//!
//! A worker counts in a [`ChannelCounters`] of its own while it runs a batch; what it counted is added to the shared ones, which
//! anybody may read, when the batch has ended, in success or failure.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a channel has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelCounters {
    /// Bytes transferred.
    pub bytes: u64,
    /// Pages transferred, as the worker counts them.
    pub pages: u64,
    /// System calls made, those that were interrupted or short included.
    pub calls: u64,
    /// Pages that were not transferred because they are zero, as the worker counts them.
    pub zero_pages: u64,
}

impl AddAssign for ChannelCounters {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.pages += other.pages;
        self.calls += other.calls;
        self.zero_pages += other.zero_pages;
    }
}

/// The counters as others see them while the channel runs: written by the channel alone, after each batch.
#[derive(Debug, Default)]
pub(crate) struct SharedCounters {
    bytes: AtomicU64,
    pages: AtomicU64,
    calls: AtomicU64,
    zero_pages: AtomicU64,
}

impl SharedCounters {
    pub(crate) fn add(&self, counters: &ChannelCounters) {
        self.bytes.fetch_add(counters.bytes, Ordering::Relaxed);
        self.pages.fetch_add(counters.pages, Ordering::Relaxed);
        self.calls.fetch_add(counters.calls, Ordering::Relaxed);
        self.zero_pages.fetch_add(counters.zero_pages, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> ChannelCounters {
        ChannelCounters {
            bytes: self.bytes.load(Ordering::Relaxed),
            pages: self.pages.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            zero_pages: self.zero_pages.load(Ordering::Relaxed),
        }
    }
}
