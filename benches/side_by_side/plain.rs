//! What a plain program does in a few lines, one thread, through the page cache: the peers that need no library.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::Result;
use crate::common::measure::Sync;
use crate::ram::{Mapped, PAGE};

const LARGE: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A `pwrite` for each page that is not zero.
    Page,
    /// All of the guest, 1 MiB at a time.
    Large,
    /// The same into a file that was allocated first.
    LargePreallocated,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Page, Self::Large, Self::LargePreallocated];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Page => "plain/pwrite-page",
            Self::Large => "plain/dd-like",
            Self::LargePreallocated => "plain/dd-like-fallocate",
        }
    }

    pub(crate) fn is_in_large_writes(self) -> bool {
        self != Self::Page
    }

    pub(crate) fn save(self, memory: &Mapped, out: &Path, sync: Sync) -> Result<()> {
        let memory = memory.bytes();
        let file = File::create(out)?;
        match self {
            Self::Page => {
                file.set_len(memory.len() as u64)?;
                for (index, page) in (0..).zip(memory.chunks(PAGE)) {
                    if page.iter().any(|byte| *byte != 0) {
                        file.write_all_at(page, index * PAGE as u64)?;
                    }
                }
            }
            Self::Large | Self::LargePreallocated => {
                if self == Self::LargePreallocated {
                    fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(memory.len())?)?;
                }
                for (index, chunk) in (0..).zip(memory.chunks(LARGE)) {
                    file.write_all_at(chunk, index * LARGE as u64)?;
                }
            }
        }
        if sync == Sync::Full {
            file.sync_all()?;
        }
        Ok(())
    }
}
