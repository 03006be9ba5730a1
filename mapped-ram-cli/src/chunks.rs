//! Work on a block in pieces, by several threads.

use indicatif::ProgressBar;
use mapped_ram::{Block, Cancel};
use rayon::prelude::*;

use crate::exit::Problem;

/// How much of a block a thread deals with at a time, in bytes.
pub(crate) const CHUNK: u64 = 4 << 20;

/// Runs `work` with (offset, length) for every piece of `length` bytes, on as many threads as there are cores. The first
/// error ends it.
pub(crate) fn for_each(
    length: u64,
    cancel: &Cancel,
    bar: &ProgressBar,
    work: impl Fn(u64, usize) -> Result<(), Problem> + Sync,
) -> Result<(), Problem> {
    let pieces = length.div_ceil(CHUNK);
    (0..pieces).into_par_iter().try_for_each(|piece| {
        if cancel.is_cancelled() {
            return Err(mapped_ram::Error::Cancelled { file: "the work".to_owned() }.into());
        }
        let offset = piece * CHUNK;
        let here = CHUNK.min(length - offset);
        work(offset, usize::try_from(here).expect("a chunk fits memory"))?;
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
