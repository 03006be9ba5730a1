//! Our own saves: which modes take part and how each is asked for. All that this bench knows of the library's options
//! is in [`Way::options`].

use std::path::Path;

use mapped_ram::storage::IoMode;
use mapped_ram::{RamBlock, SaveOptions, SyncMode};

use crate::Result;
use crate::common::measure::Sync;
use crate::ram::Mapped;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Direct,
    Buffered,
    Uncached,
    Mixed,
    Auto,
    /// As it is picked, over an old snapshot of the same guest.
    Recycle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    mode: Mode,
    channels: usize,
}

impl Way {
    pub(crate) fn all() -> Vec<Self> {
        let two = [Mode::Direct, Mode::Buffered, Mode::Uncached, Mode::Mixed, Mode::Auto, Mode::Recycle];
        let two = two.map(|mode| Self { mode, channels: 2 });
        let direct = [1, 4].map(|channels| Self { mode: Mode::Direct, channels });
        two.into_iter().chain(direct).collect()
    }

    pub(crate) fn name(self) -> String {
        let mode = match self.mode {
            Mode::Direct => "direct",
            Mode::Buffered => "buffered",
            Mode::Uncached => "uncached",
            Mode::Mixed => "mixed",
            Mode::Auto => "auto",
            Mode::Recycle => "auto+recycle",
        };
        format!("ours/{mode}-{}ch", self.channels)
    }

    /// What the library is asked for.
    fn options<'a>(self, sync: Sync, old: &Path) -> SaveOptions<'a> {
        let sync = if sync == Sync::None { SyncMode::None } else { SyncMode::Full };
        let options = SaveOptions::new().channels(self.channels).sync(sync);
        match self.mode {
            Mode::Direct => options.io_mode(IoMode::Direct),
            Mode::Buffered => options.io_mode(IoMode::Buffered),
            Mode::Uncached => options.io_mode(IoMode::Uncached),
            Mode::Mixed => options.io_mode(IoMode::Mixed),
            Mode::Auto => options.io_mode(IoMode::Auto),
            Mode::Recycle => options.recycle(old),
        }
    }

    /// Makes the old snapshot that is written over: all pages in use, or those that this guest has in use where it has holes, since to
    /// write a hole's page is to read it, which would fill the memory. Synced; not timed.
    pub(crate) fn prepare(self, memory: &Mapped, old: &Path) -> Result<()> {
        if self.mode == Mode::Recycle {
            SaveOptions::new()
                .io_mode(IoMode::Direct)
                .zero_detection(memory.has_holes()?)
                .save(old, vec![block(memory)])?;
        }
        Ok(())
    }

    /// Saves.
    pub(crate) fn save(self, memory: &Mapped, old: &Path, out: &Path, sync: Sync) -> Result<()> {
        self.options(sync, old).save(out, vec![block(memory)])?;
        Ok(())
    }
}

/// The guest as the library is given it: with the file whose holes say what was never touched.
fn block(memory: &Mapped) -> RamBlock<'_> {
    RamBlock::new("ram0", memory.bytes()).backed_by(memory.file(), 0)
}
