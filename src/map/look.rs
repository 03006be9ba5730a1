//! Looks for stale bytes in a block's file: which clear pages have data in their room, and which of that is not zero.
//!
//! Everything is read by `pread`, not through a mapping: a bad disk is an error then.

use std::ops::Range;

use super::ahead::Ahead;
use super::mapping::About;
use super::stale::{Data, Room, stale_runs};
use crate::convert::{to_u64, to_usize};
use crate::error::Result;
use crate::read::Block;
use crate::storage::Source;
use crate::zero::Detector;

/// How much is read at a time, in bytes.
const WINDOW: u64 = 256 << 10;

/// The stretches of absent pages that have data in their room, in bytes from the block's start.
pub(super) fn stale(block: &Block, about: &About, room: Room) -> Result<Vec<Range<u64>>> {
    let mut data = DataOf { source: &**block.source(), about };
    stale_runs(&mut Ahead::new(block, data, room), &mut data, room)
}

/// Hands each page of the host that is inside `range`, or as much of it as is, to `found` if it is not zero, until that says no;
/// returns whether it never did.
pub(super) fn not_zero(
    source: &dyn Source,
    range: Range<u64>,
    about: &About,
    host_page: u64,
    mut found: impl FnMut(Range<u64>) -> bool,
) -> Result<bool> {
    let detector = Detector::best();
    let mut bytes = vec![0; to_usize(WINDOW.min(range.end - range.start))];
    let mut at = range.start;
    while at < range.end {
        let window = &mut bytes[..to_usize(WINDOW.min(range.end - at))];
        let offset = about.pages_offset + at;
        let got = source
            .read_at(window, offset)
            .map_err(|error| about.error(&format!("read stale bytes at offset {offset:#x}"), error))?;
        if got < window.len() {
            about.check_length(source)?;
            // It says that it ends here, and that it does not: what was not read must not show.
            return Err(about.cut(&format!("stale bytes at offset {offset:#x}")));
        }
        let mut from = at;
        let end = at + to_u64(window.len());
        while from < end {
            let to = ((from / host_page + 1) * host_page).min(end);
            if !detector.is_zero_slice(&window[to_usize(from - at)..to_usize(to - at)]) && !found(from..to) {
                return Ok(false);
            }
            from = to;
        }
        at = end;
    }
    Ok(true)
}

/// Where the file of a block holds data.
#[derive(Clone, Copy)]
struct DataOf<'a> {
    source: &'a dyn Source,
    about: &'a About,
}

impl Data for DataOf<'_> {
    fn first(&mut self, offset: u64, end: u64) -> Result<Option<u64>> {
        self.source.first_data(offset, end).map_err(|error| self.about.error("look for data", error))
    }

    fn end(&mut self, offset: u64, end: u64) -> Result<u64> {
        let data = self.source.next_data(offset, end);
        let data = data.map_err(|error| self.about.error("look for holes", error))?;
        // Nothing any more, although there was something just now: then it ended here.
        Ok(data.map_or(offset, |(_, stop)| stop))
    }
}
