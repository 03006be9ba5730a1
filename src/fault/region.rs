//! What is to be filled: which memory holds which part of which block, and whether that can be.
//!
//! All that a caller, or a stranger's message, says about memory is checked here, before anything is reserved for it or asked of the
//! kernel. A *unit* is a page of the memory, that is of the host: 4 KiB, or 2 MiB in huge pages; the file's pages may be smaller or
//! larger.
//!
//! Every address, offset and length is in bytes; units are counted from the region's start.

use std::ops::Range;

use super::claims::Claims;
use super::pages::BlockPages;
use super::places::{Piece, Places};
use crate::error::{Error, Result};

/// The largest page of the memory: one of these is read as a whole. Larger ones would have a fault wait for most of a second.
const LARGEST_UNIT: u64 = 2 << 20;

/// Where addresses of programs end; what lies behind is the kernel's.
const HIGHEST: u64 = 1 << 63;

/// What somebody wants to have filled.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) pages: BlockPages,
    pub(super) offset: u64,
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) unit: u64,
}

/// Memory that is filled from a part of a block.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) pages: BlockPages,
    /// Of the memory's first byte in the block.
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) unit: u64,
    pub(super) claims: Claims,
}

impl Region {
    pub(super) fn units(&self) -> u64 {
        self.length / self.unit
    }

    /// Whether the file holds anything of a unit.
    pub(super) fn is_present(&self, unit: u64) -> bool {
        let start = self.offset + unit * self.unit;
        self.pages.is_present(start..start + self.unit)
    }

    /// The runs of units in `units` that the file holds anything of.
    pub(super) fn present_units(&self, units: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.pages.present_units(self.offset, self.unit, units)
    }

    /// The units that a range of bytes of the region touches.
    pub(super) fn units_of(&self, bytes: Range<u64>) -> Range<u64> {
        bytes.start / self.unit..bytes.end.div_ceil(self.unit).min(self.units())
    }
}

/// Checks all that is wanted, and makes regions of it.
pub(super) fn check(wanted: Vec<Wanted>, host_page: u64) -> Result<(Vec<Region>, Places)> {
    if wanted.is_empty() {
        return Err(Error::Usage("there is no memory to fill".into()));
    }
    let mut addresses = Vec::new();
    let mut parts = Vec::new();
    for want in &wanted {
        let end = check_one(want, host_page).map_err(|what| {
            Error::Usage(format!(
                "{}: memory of {:#x} bytes at {:#x} for block `{}` from offset {:#x} on: {what}",
                want.pages.file, want.length, want.start, want.pages.name, want.offset
            ))
        })?;
        addresses.push(want.start..end);
        parts.push((&want.pages.name, want.offset..want.offset + want.length));
    }
    addresses.sort_by_key(|range| range.start);
    if let Some((one, two)) = addresses.iter().zip(&addresses[1..]).find(|(one, two)| two.start < one.end) {
        return Err(Error::Usage(format!(
            "memory to be filled overlaps: {:#x} to {:#x}, and {:#x} to {:#x}",
            one.start, one.end, two.start, two.end
        )));
    }
    parts.sort_by_key(|(name, range)| (*name, range.start));
    let mut neighbours = parts.iter().zip(&parts[1..]);
    if let Some(((name, one), (_, two))) =
        neighbours.find(|((one, first), (two, second))| one == two && second.start < first.end)
    {
        return Err(Error::Usage(format!(
            "block `{name}` is to be filled in twice: {:#x} to {:#x}, and {:#x} to {:#x}",
            one.start, one.end, two.start, two.end
        )));
    }
    let mut regions = Vec::with_capacity(wanted.len());
    let mut places = Places::default();
    for Wanted { pages, offset, start, length, unit } in wanted {
        let claims = Claims::new(length / unit).ok_or_else(|| Error::Unsupported {
            file: pages.file.to_string(),
            what: format!(
                "block `{}`: no memory for two bits for each of its {} pages",
                pages.name,
                length / unit
            ),
        })?;
        places.insert(Piece { addresses: start..start + length, region: regions.len(), offset: 0 });
        regions.push(Region { pages, offset, length, unit, claims });
    }
    Ok((regions, places))
}

/// Where the memory ends.
fn check_one(want: &Wanted, host_page: u64) -> Result<u64, String> {
    let Wanted { pages, offset, start, length, unit } = want;
    if !unit.is_power_of_two() || !(host_page..=LARGEST_UNIT.max(host_page)).contains(unit) {
        return Err(format!(
            "pages of {unit} bytes; they have a power of two, {host_page} to {LARGEST_UNIT}"
        ));
    }
    if *length == 0 || !length.is_multiple_of(*unit) {
        return Err(format!("its length is no multiple of its page size {unit}"));
    }
    if !start.is_multiple_of(*unit) || *start == 0 {
        return Err(format!("its address is no multiple of its page size {unit}"));
    }
    if !offset.is_multiple_of(host_page) {
        return Err(format!("its offset is no multiple of the host's page size {host_page}"));
    }
    let end = start.checked_add(*length).filter(|end| *end <= HIGHEST);
    let end = end.ok_or("it runs past the end of all addresses")?;
    // A block of the file may end inside of a page of the host; the rest of that page is zeros.
    let longest = pages.length.checked_next_multiple_of(host_page).unwrap_or(pages.length);
    if offset.checked_add(*length).is_none_or(|last| last > longest) {
        return Err(format!("it runs past the block's end at {:#x}", pages.length));
    }
    Ok(end)
}
