//! Work on a block in pieces, by several threads.

use indicatif::ProgressBar;
use mapped_ram::{Block, Cancel};
use rayon::prelude::*;

use crate::exit::Problem;

/// How much of a block a thread deals with at a time, in bytes.
pub(crate) const CHUNK: usize = 4 << 20;

/// The same for offsets.
const STEP: u64 = CHUNK as u64;

/// Runs `work` with (offset, length) for every piece of `length` bytes, on as many threads as there are cores. The first
/// error ends it; `cancelled` makes the one for an interruption.
pub(crate) fn for_each(
    length: u64,
    cancel: &Cancel,
    bar: &ProgressBar,
    cancelled: impl Fn() -> Problem + Sync,
    work: impl Fn(u64, usize) -> Result<(), Problem> + Sync,
) -> Result<(), Problem> {
    (0..length.div_ceil(STEP)).into_par_iter().try_for_each(|piece| {
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let offset = piece * STEP;
        let here = STEP.min(length - offset);
        work(offset, usize::try_from(here).unwrap_or(CHUNK))?;
        bar.inc(here);
        Ok(())
    })
}

/// Whether any page of `length` bytes from `offset` on stands in the file.
pub(crate) fn any_present(block: &Block, offset: u64, length: u64) -> Result<bool, Problem> {
    let page_size = block.page_size();
    let pages = offset / page_size..(offset + length).div_ceil(page_size);
    Ok(block.runs_within(pages)?.next().is_some())
}
