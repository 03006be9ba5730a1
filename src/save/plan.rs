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

/// How much of a block a channel scans, and has room reserved for, at a time, in bytes.
///
/// Of 16, 64 and 256 MiB (1 GiB dense, synced, `cargo bench --bench side_by_side -- --only ours/auto`, medians of 5 to 7): 0.58,
/// 0.52 and 0.54 s; 5 percent in use: 0.068, 0.063 and 0.065 s.
const REGION: u64 = 64 << 20;

/// How many pages a region has: whole words of the bitmap, so that no two channels ever share one; at most [`REGION`] bytes,
/// but so few that each of `channels` gets some regions of the `total` bytes.
pub(super) fn region_pages(page_size: u64, total: u64, channels: u64) -> u64 {
    let fair = total / (4 * channels);
    (REGION.min(fair.max(CHUNK)) / page_size / 64).max(1) * 64
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
