//! What a save is to be good at: how durable, and whether short gaps of zero pages are written to make writes large.

use std::fmt;

/// What is on stable storage when a save has finished. The price is told apart in
/// [`SaveReport::sync_time`](crate::SaveReport::sync_time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncMode {
    /// Nothing need be: the file is whole for every reader as long as the machine runs, and whatever a power cut makes of it
    /// after one.
    None,
    /// The file's bytes (`fdatasync(2)`). A power cut may still take the new name back: then the old file is there.
    Data,
    /// The file's bytes, its metadata and its name (`fsync(2)` of the file and of its directory).
    #[default]
    Full,
}

impl SyncMode {
    /// A short name in lower case: `none`, `data` or `full`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Data => "data",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for SyncMode {
    /// Writes [`SyncMode::name`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether short gaps of zero pages are written with what lies on either side of them. Their bits stay clear: it changes how
/// much room the file takes, and nothing that a reader sees.
///
/// Few large writes go several times as fast as many small ones with gaps between them (docs/performance.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bridge {
    /// Gaps of at most [`AUTO_BRIDGE`](Self::AUTO_BRIDGE) bytes.
    #[default]
    Auto,
    /// No gap: each zero page is a hole of the file, as QEMU writes it.
    None,
    /// Gaps of at most so many pages.
    Pages(u64),
}

impl Bridge {
    /// The largest gap that [`Auto`](Self::Auto) bridges, in bytes: 16 pages of 4 KiB.
    ///
    /// Writing the gap costs what its bytes cost, which past some length is more than beginning another write. What bridging
    /// this much comes to on fragmented guests, and how much room it takes, is in docs/performance.md; other lengths were not
    /// compared there.
    pub const AUTO_BRIDGE: u64 = 64 << 10;

    /// The largest gap, in pages of `page_size` bytes.
    pub(super) fn pages(self, page_size: u64) -> u64 {
        match self {
            Self::Auto => Self::AUTO_BRIDGE / page_size,
            Self::None => 0,
            Self::Pages(pages) => pages,
        }
    }
}
