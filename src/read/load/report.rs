//! What a load says of itself: what it did, or how far each block had come when it failed.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use multifd_pool::ChannelCounters;

use crate::read::Block;
use crate::storage::IoMode;

/// What a load did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// What each channel did; `zero_pages` counts absent pages, cleared or left alone. Gaps that were read through count among
    /// the bytes.
    pub channels: Vec<ChannelCounters>,
    /// How the channels read: in place of [`IoMode::Auto`] the mode that was chosen, and where kernel or file system have not what was
    /// asked for, what took its place.
    pub io_mode: IoMode,
}

impl LoadReport {
    /// The counters of all channels added up.
    pub fn totals(&self) -> ChannelCounters {
        let mut totals = ChannelCounters::default();
        for channel in &self.channels {
            totals += *channel;
        }
        totals
    }
}

/// What a load that failed has left in the memory for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadState {
    /// All of the saved guest's.
    Whole,
    /// Some of its pages; others are as they were, or half read.
    Partly,
    /// What was there before.
    Untouched,
}

/// How far one block of a load that failed had come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedBlock {
    /// The block's name.
    pub idstr: String,
    /// How many pages the block has.
    pub pages: u64,
    /// How many of them are certain to be as they were saved: absent ones counted, chunks that were begun and not finished
    /// left out.
    pub loaded: u64,
    /// The same in a word.
    pub state: LoadState,
}

impl fmt::Display for LoadedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idstr, pages, loaded, state } = self;
        match state {
            LoadState::Whole => write!(f, "block `{idstr}` is wholly loaded"),
            LoadState::Partly => {
                write!(f, "block `{idstr}` partly (at least {loaded} of its {pages} pages)")
            }
            LoadState::Untouched => write!(f, "block `{idstr}` is untouched"),
        }
    }
}

/// How far a block has come.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) is_begun: AtomicBool,
    pub(super) loaded: AtomicU64,
}

impl State {
    pub(super) fn of(&self, block: &Block) -> LoadedBlock {
        // Whoever wrote these has ended, and was waited for.
        let loaded = self.loaded.load(Ordering::Relaxed);
        LoadedBlock {
            idstr: block.idstr().into_owned(),
            pages: block.pages(),
            loaded,
            state: if loaded == block.pages() {
                LoadState::Whole
            } else if self.is_begun.load(Ordering::Relaxed) {
                LoadState::Partly
            } else {
                LoadState::Untouched
            },
        }
    }
}
