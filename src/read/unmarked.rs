//! Pages that stand in the file although no bit says so.
//!
//! By the format a clear bit means zeros, whatever the file holds in the page's room, and a live save leaves stale bytes there. But a
//! block of which *no* page is present, with bytes in its rooms, is more likely a bitmap that was never written: QEMU's
//! `background-snapshot` leaves such files (10.0.2, seen by running it), all of whose memory is lost to whoever loads them. Decided
//! here: which blocks look like that. What to do about it is for the caller.

use multifd_pool::Cancel;

use super::{Block, Reader};
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::zero::Detector;

/// How much is read at a time, in bytes: a multiple of [`PIECE`].
const WINDOW: u64 = 256 << 10;

/// What is counted as one, in bytes, unless pages are smaller.
const PIECE: u64 = 4 << 10;

/// A block of which no page is marked present, although bytes that are not zeros stand in its pages' rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnmarkedBlock {
    /// The block's name.
    pub idstr: String,
    /// Where in the file the first page stands that is not zeros, or the first 4 KiB of a larger page.
    pub offset: u64,
    /// How many bytes the pages have that are not zeros; of pages larger than 4 KiB, the pieces of that size.
    pub bytes: u64,
}

impl std::fmt::Display for UnmarkedBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block `{}`, offset {:#x}: {}", self.idstr, self.offset, self.what())
    }
}

impl UnmarkedBlock {
    pub(super) fn what(&self) -> String {
        format!(
            "no page is marked present, but {} bytes of pages that are not zeros stand in the file: whoever loads it gets zeros. \
             QEMU's background-snapshot writes such files, and a live save where the guest made all of the block zero",
            self.bytes
        )
    }
}

impl Reader {
    /// The blocks of which no page is marked present although bytes that are not zeros stand in their pages' rooms, in the file's
    /// order.
    ///
    /// Only such blocks' rooms are read, and of them no holes. A file with a note that it has no stale bytes
    /// ([`is_noted_clean`](Self::is_noted_clean)) has no such blocks.
    ///
    /// # Errors
    /// When a bitmap or what stands in the rooms cannot be read, and when `cancel` is used.
    pub fn unmarked_blocks(&self, cancel: &Cancel) -> Result<Vec<UnmarkedBlock>> {
        Ok(self.unmarked_by_index(cancel)?.into_iter().map(|(_, block)| block).collect())
    }

    /// The same, with each block's number in the file.
    pub(super) fn unmarked_by_index(&self, cancel: &Cancel) -> Result<Vec<(usize, UnmarkedBlock)>> {
        let mut found = Vec::new();
        if self.is_noted_clean() {
            return Ok(found);
        }
        for (index, block) in self.blocks().iter().enumerate().filter(|(_, block)| !block.is_left_out()) {
            if block.present_pages()? == 0
                && let Some(unmarked) = data_of(block, cancel)?
            {
                found.push((index, unmarked));
            }
        }
        Ok(found)
    }
}

/// Looks through the rooms of a block's pages, all of them absent.
fn data_of(block: &Block, cancel: &Cancel) -> Result<Option<UnmarkedBlock>> {
    let (start, end) = (block.layout().pages_offset(), block.layout().end());
    let piece = block.page_size().min(PIECE);
    let detector = Detector::best();
    let mut buffer = Vec::new();
    let (mut first, mut bytes) = (None, 0);
    let mut at = start;
    while at < end {
        let data = block.source().next_data(at, end);
        let data =
            data.map_err(|error| Error::io(block.file(), format!("look for data at {at:#x}"), error))?;
        let Some((data, stop)) = data else { break };
        // Data may begin and end inside a piece. Behind `at` nothing was counted yet.
        at = start + (data.max(at) - start) / piece * piece;
        while at < stop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { file: block.file().to_owned() });
            }
            buffer.resize(to_usize(WINDOW.min(end - at)), 0);
            block.shared().read_exactly(at, &mut buffer)?;
            for bytes_of_piece in buffer.chunks(to_usize(piece)) {
                if !detector.is_zero_slice(bytes_of_piece) {
                    first.get_or_insert(at);
                    bytes += to_u64(bytes_of_piece.len());
                }
                at += to_u64(bytes_of_piece.len());
            }
        }
    }
    Ok(first.map(|offset| UnmarkedBlock { idstr: block.idstr().into_owned(), offset, bytes }))
}
