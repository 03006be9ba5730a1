//! How a load goes about it: through the page cache or past it, and what a channel reads at a time.

use multifd_pool::FileChannel;

use super::calls::Calls;
use super::target::LoadTarget;
use crate::error::Result;
use crate::read::chunks::{CHUNK, DIRECT_ALIGNMENT};
use crate::storage::{IoMode, Source};

/// The longest gap that is read through past the page cache, in bytes.
///
/// One call after the other, by a program made to find it out, on a busy machine (one thread, ext4 on a virtio disk, runs of one page):
/// with gaps of 1, 4 and 8 pages one call for all was 14, 6 and 3.7 times as fast as a call for each run, of 16 pages 1.4 times, of 32
/// pages 0.6; several threads wait side by side and gain less. With many reads in flight (two channels, a GiB in runs
/// of 1 to 16 pages and gaps as long, medians of 5 to 7 rounds, a busy machine, three times): bridging 32 KiB made a load 1.8, 1.3 and 1.3
/// times as fast as one call after the other, 16 KiB 1.8 and 1.4, no gap at all 1.3 and 1.6, 64 KiB 1.4, 1.05 and 0.96.
///
/// Through the page cache a call costs less than copying its gap, and reading a hole fills the cache with zeros: with a gap of one page
/// half as fast or worse, so nothing is bridged.
const BRIDGE: u64 = 32 << 10;

/// The most that one of many reads in flight has, in bytes: a dense guest needs several, too, for the disk to be busy while one ends.
/// On a busy machine, a dense GiB in several rounds: with 1 MiB 1.02 to 1.65 s, with 256 KiB 1.25 to 1.87 s, since each costs
/// processor time; one call of 4 MiB after the other 1.15 to 1.65 s.
const RING_LONGEST: u64 = 1 << 20;

/// How much of a block a channel with many reads in flight takes at a time, in bytes. All of it is waited for before it takes the next,
/// while the other channels' are in flight: with 4 MiB, runs of 1 to 16 pages were 1.2 to 1.5 times as fast as one call after the other,
/// with 16 MiB 1.3 to 1.8 times.
const RING_CHUNK: u64 = 4 * CHUNK;

/// How many places are looked at to tell whether a file is in the page cache.
const LOOKS: u64 = 16;

/// How a load goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// The mode that the channels really get; never [`IoMode::Auto`].
    pub(super) io_mode: IoMode,
    pub(super) calls: Calls,
    /// How much of a block a channel takes at a time, in bytes.
    pub(super) chunk: u64,
}

impl Way {
    /// The way that was `asked` for, as far as `source` has it; [`IoMode::Auto`] by whether `targets` are cached.
    pub(super) fn choose(asked: IoMode, source: &dyn Source, targets: &[LoadTarget<'_>]) -> Result<Self> {
        let wanted = match asked {
            IoMode::Auto if !is_aligned(targets) || is_cached(targets)? => IoMode::Buffered,
            IoMode::Auto => IoMode::Uring,
            other => other,
        };
        let io_mode = source.effective_mode(wanted);
        let (bridge, longest, chunk) = match io_mode {
            // It goes through the page cache after all.
            _ if !is_aligned(targets) => (0, u64::MAX, CHUNK),
            IoMode::Direct => (BRIDGE, u64::MAX, CHUNK),
            IoMode::Uring => (BRIDGE, RING_LONGEST, RING_CHUNK),
            _ => (0, u64::MAX, CHUNK),
        };
        Ok(Self { io_mode, calls: Calls { bridge, longest }, chunk })
    }
}

/// Whether the memory is where direct I/O can read into it.
fn is_aligned(targets: &[LoadTarget<'_>]) -> bool {
    let is_aligned = |target: &LoadTarget<'_>| {
        target.start.addr().is_multiple_of(DIRECT_ALIGNMENT)
            && target.block.page_size().is_multiple_of(DIRECT_ALIGNMENT as u64)
    };
    targets.iter().all(is_aligned)
}

/// Whether most of what `targets` ask for is in the page cache, as far as a few looks tell.
fn is_cached(targets: &[LoadTarget<'_>]) -> Result<bool> {
    let (mut all, mut cached) = (0, 0);
    for target in targets {
        let block = target.block;
        let Some(file) = block.source().file() else { return Ok(true) };
        let present = block.bitmap()?;
        let apart = block.pages().div_ceil(LOOKS);
        let (mut looks, mut found) = (0, 0);
        for at in (0..LOOKS).map(|look| look * apart) {
            let Some(run) = present.runs_within(at..at + apart).next() else { continue };
            let offset = block.layout().pages_offset() + run.start * block.page_size();
            looks += 1;
            found += u64::from(FileChannel::holds_cached(file, offset));
        }
        // Small blocks, of which a guest has many, say nothing of the large one.
        let bytes = present.count() * block.page_size();
        all += bytes;
        cached += bytes / looks.max(1) * found;
    }
    Ok(cached >= all / 2)
}
