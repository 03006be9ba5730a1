//! Our own saves: which modes take part and how each is asked for. All that this bench knows of the library's options
//! is in [`Way::options`].

use std::path::Path;
use std::time::Duration;

use mapped_ram::storage::IoMode;
use mapped_ram::{RamBlock, SaveOptions};

use crate::Result;
use crate::measure::Sync;
use crate::ram::Mapped;

/// Whether the library is told where the guest's holes are, and leaves them unread.
pub(crate) const SKIPS_HOLES: bool = false;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Direct,
    Buffered,
    Uncached,
    Auto,
    /// Direct, over an old snapshot of the same guest.
    DirectRecycle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    mode: Mode,
    channels: usize,
}

impl Way {
    pub(crate) fn all() -> Vec<Self> {
        let two = [Mode::Direct, Mode::Buffered, Mode::Uncached, Mode::Auto, Mode::DirectRecycle];
        let two = two.map(|mode| Self { mode, channels: 2 });
        let direct = [1, 4].map(|channels| Self { mode: Mode::Direct, channels });
        two.into_iter().chain(direct).collect()
    }

    pub(crate) fn name(self) -> String {
        let mode = match self.mode {
            Mode::Direct => "direct",
            Mode::Buffered => "buffered",
            Mode::Uncached => "uncached",
            Mode::Auto => "auto",
            Mode::DirectRecycle => "direct+recycle",
        };
        format!("ours/{mode}-{}ch", self.channels)
    }

    /// The options of this mode; `None` where the library has no such mode.
    ///
    /// **Extend here**: a mode that the library gains is one more arm, and `sync` one more call behind the match; with
    /// that, [`Self::not_counted`] is always zero.
    fn options<'a>(self, _sync: Sync, _old: &Path) -> Option<SaveOptions<'a>> {
        let options = SaveOptions::new().channels(self.channels);
        Some(match self.mode {
            Mode::Direct => options.io_mode(IoMode::Direct),
            Mode::Buffered => options.io_mode(IoMode::Buffered),
            Mode::Uncached | Mode::Auto | Mode::DirectRecycle => return None,
        })
    }

    /// The library always syncs; where that is not asked for, its own account of it is left out.
    fn not_counted(sync: Sync, sync_time: Duration) -> Duration {
        if sync == Sync::None { sync_time } else { Duration::ZERO }
    }

    pub(crate) fn missing(self, sync: Sync) -> Option<String> {
        self.options(sync, Path::new("")).is_none().then(|| "the library has no such mode".to_owned())
    }

    /// Makes the old snapshot that is written over: all pages in use, synced. Not timed.
    pub(crate) fn prepare(self, memory: &Mapped, old: &Path) -> Result<()> {
        if self.mode == Mode::DirectRecycle {
            SaveOptions::new()
                .io_mode(IoMode::Direct)
                .zero_detection(false)
                .save(old, vec![block(memory)])?;
        }
        Ok(())
    }

    /// Saves, and returns how much of the time does not count.
    pub(crate) fn save(self, memory: &Mapped, old: &Path, out: &Path, sync: Sync) -> Result<Duration> {
        let options = self.options(sync, old).ok_or("the library has no such mode")?;
        let report = options.save(out, vec![block(memory)])?;
        Ok(Self::not_counted(sync, report.sync_time))
    }
}

/// The guest as the library is given it; a hint about its holes belongs here.
fn block(memory: &Mapped) -> RamBlock<'_> {
    RamBlock::new("ram0", memory.bytes())
}
