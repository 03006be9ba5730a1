//! One RAM block's record, and whether what it says fits between the bytes before it and the end of the stream.
//!
//! ```text
//! u8 length, idstr
//! u64 used_length
//! [u64 guest address]           with x-ignore-shared
//! u32 version = 1, u64 page_size, u64 bitmap_offset, u64 pages_offset
//! ```
//!
//! What later arithmetic divides by or adds up is checked first: the page size before lengths, lengths before offsets.
//!
//! A stream whose blocks have different page sizes is refused: the page size is the target's, of which a machine has
//! one.

use alloc::vec::Vec;

use crate::bitmap::{WordSize, encoded_len};
use crate::configuration::Configuration;
use crate::error::{DecodeError, Defect};
use crate::input::{Input, Stop};
use crate::layout::{BlockLayout, Head, TOTAL_LEN};
use crate::wire::{HEADER_LEN, HEADER_VERSION, MIN_PAGE_SIZE, flag};

use super::{Refusal, Step};

/// The blocks so far, and what the next ones must agree with.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) blocks: Vec<BlockLayout>,
    total: u64,
    left: u64,
    ignores_shared: bool,
    page_bits: Option<u32>,
    /// Nothing before the records said that this is a mapped-ram stream.
    unannounced: bool,
}

impl Records {
    pub(super) fn new(total: u64, head: &Head) -> Self {
        let configuration = head.configuration.as_ref();
        Self {
            blocks: Vec::new(),
            total,
            left: total,
            ignores_shared: head.ignores_shared(),
            page_bits: configuration.and_then(Configuration::target_page_bits),
            unannounced: configuration.is_some_and(|configuration| configuration.capabilities().is_empty()),
        }
    }

    /// Takes one record, and moves the cursor to the first byte behind the block.
    pub(super) fn take(
        &mut self,
        input: &mut Input<'_>,
        cursor: &mut u64,
        stream_end: u64,
        step: &mut Step,
    ) -> Result<(), Refusal> {
        let name = input.clone().short_name().map_err(|stop| refuse(stop, *cursor, b""))?;
        let block = self.record(input, *cursor, stream_end).map_err(|stop| refuse(stop, *cursor, name))?;
        // A whole number of pages plus flags: now that the page size is known, so are the flags.
        let flags = self.total % block.page_size;
        if self.blocks.is_empty() && flags != 0 {
            let what = Defect::RamFlags(flags | flag::MEM_SIZE);
            return Err(Refusal::Error(DecodeError::new(what, *cursor - TOTAL_LEN)));
        }
        self.left -= block.used_length;
        *cursor = block.end();
        self.blocks.push(block);
        if self.left == 0 {
            *step = Step::End;
        }
        Ok(())
    }

    fn record(
        &self,
        input: &mut Input<'_>,
        record_offset: u64,
        stream_end: u64,
    ) -> Result<BlockLayout, Stop> {
        let idstr = input.short_name()?;
        if idstr.is_empty() || idstr.contains(&0) {
            return input.bad(Defect::Name, idstr.len());
        }
        let used_length = input.u64()?;
        let guest_address = if self.ignores_shared { Some(input.u64()?) } else { None };
        let header = input.at();
        // All of it at once: a header that was cut must not look like one of another version.
        input.clone().take(usize::try_from(HEADER_LEN).unwrap_or(usize::MAX))?;
        let version = input.u32()?;
        let page_size = input.u64()?;
        let bitmap_offset = input.u64()?;
        let pages_offset = input.u64()?;
        let fields = Fields { header, used_length, page_size, bitmap_offset, pages_offset };

        self.check_version(&fields, version)?;
        self.check_lengths(&fields)?;
        let header_end = record_offset + input.at() as u64;
        if self.ignores_shared && bitmap_offset == 0 && pages_offset == 0 {
            // Left out: takes no room.
        } else {
            Self::check_ranges(&fields, header_end, stream_end)?;
        }
        let idstr = idstr.into();
        Ok(BlockLayout {
            idstr,
            used_length,
            guest_address,
            page_size,
            record_offset,
            bitmap_offset,
            pages_offset,
        })
    }

    fn check_version(&self, fields: &Fields, version: u32) -> Result<(), Stop> {
        if version == HEADER_VERSION {
            return Ok(());
        }
        let what = if self.unannounced && self.blocks.is_empty() {
            Defect::NotMappedRam
        } else {
            Defect::Version { of: "a block's header", found: version }
        };
        Err(Stop::Bad { what, at: fields.header })
    }

    fn check_lengths(&self, fields: &Fields) -> Result<(), Stop> {
        let Fields { header, used_length: length, page_size, .. } = *fields;
        let page_size_at = header + 4;
        if !page_size.is_power_of_two() || page_size < MIN_PAGE_SIZE {
            return Err(Stop::Bad { what: Defect::PageSize(page_size), at: page_size_at });
        }
        if let Some(bits) = self.page_bits.filter(|bits| page_size.trailing_zeros() != *bits) {
            let what = Defect::PageSizeContradiction { bits, found: page_size };
            return Err(Stop::Bad { what, at: page_size_at });
        }
        match self.blocks.first() {
            Some(first) if first.page_size != page_size => {
                let what = Defect::MixedPageSizes { first: first.page_size, found: page_size };
                return Err(Stop::Bad { what, at: page_size_at });
            }
            _ => {}
        }
        let length_at = header - if self.ignores_shared { 16 } else { 8 };
        if length == 0 || !length.is_multiple_of(page_size) {
            return Err(Stop::Bad { what: Defect::UsedLength { length, page_size }, at: length_at });
        }
        if length > self.left {
            return Err(Stop::Bad { what: Defect::Total { length, left: self.left }, at: length_at });
        }
        Ok(())
    }

    fn check_ranges(fields: &Fields, header_end: u64, stream_end: u64) -> Result<(), Stop> {
        let Fields { header, used_length, page_size, bitmap_offset, pages_offset } = *fields;
        let (bitmap_at, pages_at) = (header + 12, header + 20);
        if bitmap_offset == 0 && pages_offset == 0 {
            return Err(Stop::Bad { what: Defect::LeftOut, at: bitmap_at });
        }
        if bitmap_offset < header_end {
            let what = Defect::BitmapInsideHeader { offset: bitmap_offset, header_end };
            return Err(Stop::Bad { what, at: bitmap_at });
        }
        // The smaller of the two sizes that the bitmap can have: which one it has, nothing says.
        let bitmap_len = encoded_len(used_length / page_size, WordSize::W32);
        if bitmap_offset.checked_add(bitmap_len).is_none_or(|end| end > pages_offset) {
            let what = Defect::BitmapIntoPages { bitmap_offset, pages_offset };
            return Err(Stop::Bad { what, at: bitmap_at });
        }
        if !pages_offset.is_multiple_of(page_size) {
            return Err(Stop::Bad { what: Defect::PagesUnaligned(pages_offset), at: pages_at });
        }
        let Some(end) = pages_offset.checked_add(used_length) else {
            let what = Defect::Wraps { offset: pages_offset, length: used_length };
            return Err(Stop::Bad { what, at: pages_at });
        };
        if end > stream_end {
            return Err(Stop::Bad { what: Defect::EndsInside("a block's pages"), at: pages_at });
        }
        Ok(())
    }
}

/// What the checks look at; `header` is where the header begins in the item.
struct Fields {
    header: usize,
    used_length: u64,
    page_size: u64,
    bitmap_offset: u64,
    pages_offset: u64,
}

fn refuse(stop: Stop, cursor: u64, name: &[u8]) -> Refusal {
    match stop {
        Stop::Short(len) => Refusal::Short(len),
        Stop::Bad { what, at } => {
            let error = DecodeError::new(what, cursor + at as u64);
            Refusal::Error(if name.is_empty() { error } else { error.in_block(name) })
        }
    }
}
