//! What a save comes down to before anything is written: the layout of the file, and the chunks of a block.

use std::ops::Range;

use mapped_ram_format::{BlockPlan, Configuration, IGNORE_SHARED, Layout, LayoutPlan};

use super::options::SaveOptions;
use crate::error::Result;
use crate::ram_block::{Place, RamBlock};
use crate::storage::IoMode;

/// The most that one write past the page cache takes, in bytes. Larger ones gained nothing on the disks measured.
pub(super) const CHUNK: u64 = 4 << 20;

/// The most that one write through the page cache takes, in bytes. The file system lets one write in at a time, so a long one
/// only keeps the other channels waiting; and it asks the kernel for larger pieces of memory, which are slower to come by.
const CHUNK_BUFFERED: u64 = 1 << 20;

/// The most that one write takes unless asked otherwise, in bytes.
pub(super) fn chunk(mode: IoMode) -> u64 {
    if matches!(mode, IoMode::Direct | IoMode::Mixed | IoMode::Uring) { CHUNK } else { CHUNK_BUFFERED }
}

/// Whether channels write one after the other, a region at a time. Through the page cache they do so in any case: every file system
/// of Linux takes the file's lock for such a write; to wait for it in turn call by call only costs both (docs/performance.md has by how
/// much). Turns for the short writes of a save with a ring were tried: no gain that shows through the noise.
pub(super) fn takes_turns(mode: IoMode, is_slowed: bool) -> bool {
    matches!(mode, IoMode::Buffered | IoMode::Uncached) && !is_slowed
}

/// How much of a block a channel has room made for at a time, in bytes, and scans, but where there is a ring.
///
/// Of 16, 64 and 256 MiB (1 GiB dense, synced, `cargo bench --bench side_by_side -- --only ours/auto`, medians of 5 to 7): 0.58,
/// 0.52 and 0.54 s.
const REGION: u64 = 64 << 20;

/// How much of a block a channel with a ring scans at a time, in bytes: what it finds is written while it scans on.
///
/// 1 GiB with 5 percent in use, synced, medians of 11 in turn (`mapped-ram save --stats json`): 0.077 s and 0.12 s of processor time
/// when regions were scanned whole and waited for, 0.063 and 0.09 s with strides of 16 MiB, 0.061 and 0.09 s with 8. It is of no use
/// to dense memory, which has room made for whole regions, nor through the page cache, which keeps nothing in flight.
const STRIDE: u64 = 8 << 20;

/// How much of a block a channel with a ring is given at a time, in bytes: at its end all writes are waited for.
///
/// Of 64 and 256 MiB, as above with strides of 16 MiB: 0.073 and 0.068 s.
const RING_BATCH: u64 = 256 << 20;

/// How many of the pages of a block are dealt with together: whole words of the bitmap, so that no two channels ever share one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portions {
    /// Scanned together.
    pub(super) stride: u64,
    /// Have room made for them together; more than one stride, if it is made at all.
    pub(super) region: u64,
    /// Handed to a channel, at most.
    most: u64,
    /// Into how many batches each channel's share is cut at least, so that none is left waiting for another for long.
    shares: u64,
    page_size: u64,
}

impl Portions {
    /// Where the save `is_slowed` down, nothing is gained by large batches, and progress is told batch by batch.
    pub(super) fn new(mode: IoMode, page_size: u64, is_slowed: bool) -> Self {
        let (stride, most, shares) = match mode {
            IoMode::Uring if !is_slowed => (STRIDE, RING_BATCH, 2),
            _ => (REGION, REGION, 4),
        };
        let pages = |bytes| whole_words(bytes, page_size);
        Self { stride: pages(stride), region: pages(REGION), most, shares, page_size }
    }

    /// How many pages are handed to one of `channels` at a time, if there are `total` bytes in all.
    pub(super) fn batch(&self, total: u64, channels: u64) -> u64 {
        let fair = total / (self.shares * channels);
        whole_words(self.most.min(fair.max(CHUNK)), self.page_size)
    }
}

/// How many pages have so many bytes: a multiple of 64, and not 0.
fn whole_words(bytes: u64, page_size: u64) -> u64 {
    (bytes / page_size / 64).max(1) * 64
}

/// Cuts `pages` at every multiple of `chunk`.
pub(super) fn chunks(pages: Range<u64>, chunk: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = pages.start;
    std::iter::from_fn(move || {
        (at < pages.end).then(|| {
            let end = ((at / chunk + 1) * chunk).min(pages.end);
            let piece = at..end;
            at = end;
            piece
        })
    })
}

/// Where everything will stand in the file.
pub(super) fn plan(options: &SaveOptions<'_>, blocks: &[RamBlock<'_>]) -> Result<Layout> {
    let addressed = blocks.iter().any(|block| block.guest_address.is_some());
    let mut plan = LayoutPlan::new().stream_offset(options.stream_offset).page_size(options.page_size);
    if let Some(alignment) = options.alignment {
        plan = plan.alignment(alignment);
    }
    plan = match (&options.head, &options.machine) {
        (Some(head), _) => plan.head_of(head),
        (None, Some(machine)) => {
            let mut configuration = Configuration::new(machine.as_str());
            if addressed {
                configuration = configuration.with_capability(IGNORE_SHARED);
            }
            plan.configuration(configuration)
        }
        (None, None) => plan.no_configuration(),
    };
    for block in blocks {
        let mut planned = BlockPlan::new(block.idstr.clone(), block.used_length);
        if let Some(address) = block.guest_address {
            planned = planned.guest_address(address);
        }
        if block.place == Place::LeftOut {
            planned = planned.left_out();
        }
        plan = plan.block(planned);
    }
    Ok(plan.build()?)
}
