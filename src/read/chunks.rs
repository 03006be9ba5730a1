//! How a block is cut into what one channel reads at a time.

use std::ops::Range;

use super::Block;
use crate::error::Result;

/// How much of a block a channel deals with at a time, in bytes: the largest read that still gained something
/// (docs/performance.md).
pub(super) const CHUNK: u64 = 4 << 20;

/// What direct I/O may ask of memory's addresses and lengths, in bytes: no disk in use has larger blocks.
pub(crate) const DIRECT_ALIGNMENT: usize = 4096;

/// Channels unless asked otherwise: one for each core, but more than a few only wait for the same disk.
pub(crate) fn default_channels() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(1, 8))
}

/// Hands out all pages of `block`, `chunk` bytes at a time, in order.
pub(super) fn for_each_chunk(
    block: &Block,
    chunk: u64,
    mut each: impl FnMut(Range<u64>) -> Result<()>,
) -> Result<()> {
    let chunk = (chunk / block.page_size()).max(1);
    let mut at = 0;
    while at < block.pages() {
        let pages = at..at.saturating_add(chunk).min(block.pages());
        at = pages.end;
        each(pages)?;
    }
    Ok(())
}
