//! rust-vmm's guest memory (`vm_memory`), saved and brought back: regions become RAM blocks, its dirty bitmaps ours.
//!
//! Decided here: region `i`, in the order of guest addresses, is block `ram{i}`. What is saved when, and in how many rounds, is
//! the writer's and the monitor's business.
//!
//! Only memory that `vm_memory` itself mapped ([`GuestMemoryMmap`]) is taken: for another implementation of its traits, which are
//! safe to implement, nobody promises that a region's address leads to memory.

use std::sync::Arc;

use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::ram_block::RamBlock;
use crate::read::{Destination, LoadTarget, Reader};

/// The regions of `memory` as blocks for a save: `ram0`, `ram1` and so on, in the order of guest addresses. The guest may
/// go on writing while they are saved, as with [`RamBlock::from_raw`]. Of shared memory with a file the file's holes are passed over
/// ([`RamBlock::backed_by`]).
///
/// ```
/// # fn main() -> mapped_ram::Result<()> {
/// use mapped_ram::guest_memory::{load_targets, ram_blocks};
/// use mapped_ram::{Destination, LoadOptions, Reader, SaveOptions};
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("guest.mram");
///
/// let layout = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 1 << 20)];
/// let guest = GuestMemoryMmap::<()>::from_ranges(&layout).unwrap();
/// guest.write_obj(7_u64, GuestAddress(4 << 30)).unwrap();
/// SaveOptions::new().save(&path, ram_blocks(&guest)?)?;
///
/// let again = GuestMemoryMmap::<()>::from_ranges(&layout).unwrap();
/// let reader = Reader::open(&path)?;
/// LoadOptions::new().load(&mut load_targets(&reader, &again, Destination::Zeroed)?)?;
/// assert_eq!(again.read_obj::<u64>(GuestAddress(4 << 30)).unwrap(), 7);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A region that is mapped without the right to read it.
pub fn ram_blocks<B: Bitmap>(memory: &GuestMemoryMmap<B>) -> Result<Vec<RamBlock<'_>>> {
    memory
        .iter()
        .enumerate()
        .map(|(index, region)| {
            expect_right(region, index, nix::libc::PROT_READ, "read")?;
            let start = region.as_ptr().cast_const();
            // SAFETY: `vm_memory` mapped the region, readable as was just asked, and keeps it mapped while it is borrowed,
            // which the block's lifetime says it is.
            let block = unsafe { RamBlock::from_raw(name(index), start, length(region)) };
            Ok(match region.file_offset().filter(|_| region.flags() & nix::libc::MAP_SHARED != 0) {
                Some(place) => block.backed_by(Arc::clone(place.arc()), place.start()),
                None => block,
            })
        })
        .collect()
}

/// Where the blocks of a file go in `memory`: block `ram{i}` into region `i`, in the order of guest addresses, as
/// [`ram_blocks`] saved them. `destination` speaks of all regions.
///
/// What is loaded is not marked in the regions' dirty bitmaps. The guest must not run meanwhile: what it reads and writes then is
/// its own confusion, though nobody else's.
///
/// # Errors
/// A region for which the file has no block, a block that is left over, and a region that is mapped without the right to
/// write it. That lengths agree is checked by [`LoadOptions::load`](crate::LoadOptions::load).
pub fn load_targets<'m, B: Bitmap>(
    reader: &'m Reader,
    memory: &'m GuestMemoryMmap<B>,
    destination: Destination,
) -> Result<Vec<LoadTarget<'m>>> {
    let regions = memory.num_regions();
    if reader.blocks().len() != regions {
        return Err(Error::Usage(format!(
            "{} has {} blocks, and the guest's memory {regions} regions; make the regions that the guest was saved with",
            reader.file(),
            reader.blocks().len()
        )));
    }
    memory
        .iter()
        .enumerate()
        .map(|(index, region)| {
            let name = name(index);
            let Some(block) = reader.block(&name) else {
                return Err(Error::Usage(format!(
                    "{} has no block `{name}` for the guest's memory at {:#x}; blocks of other names go in by LoadTarget::from_raw",
                    reader.file(),
                    region.start_addr().0
                )));
            };
            expect_right(region, index, nix::libc::PROT_WRITE, "write")?;
            // SAFETY: `vm_memory` mapped the region, writable as was just asked, and keeps it mapped while it is borrowed; the
            // references into it that it gives out are to atomic integers, or by functions that are unsafe themselves.
            Ok(unsafe { LoadTarget::from_raw(block, region.as_ptr(), length(region), destination) })
        })
        .collect()
}

/// The pages that `bitmap` has marked since it was last asked, and takes the marks away: what
/// [`Writer::write_pages`](crate::Writer::write_pages) wants of a region. Marks that come meanwhile are seen now or next time.
///
/// It has what was written by way of `vm_memory`, by the monitor's own devices that is. **What the guest's processors write is in KVM's dirty
/// log**, and what vhost and VFIO devices write in theirs: add them ([`PageBitmap::union`]), or these pages are saved as they were in an
/// earlier round. And save all once before the first of these ([`Writer::write_all`](crate::Writer::write_all)): of what was written before
/// the bitmap was made nobody knows.
///
/// # Errors
/// A bitmap whose pages are not of `page_size`, the writer's; its marks are then still there.
pub fn take_dirty_pages(bitmap: &AtomicBitmap, page_size: u64) -> Result<PageBitmap> {
    let bytes = to_u64(bitmap.byte_size());
    let pages = bytes.checked_div(page_size).unwrap_or(0);
    if pages != to_u64(bitmap.len()) || pages.checked_mul(page_size) != Some(bytes) {
        return Err(Error::Usage(format!(
            "a dirty bitmap of {} bits for {bytes} bytes is not one of pages of {page_size} bytes; make it with the page size \
             that the guest is saved with",
            bitmap.len()
        )));
    }
    Ok(PageBitmap::from_words(bitmap.get_and_reset(), pages))
}

fn name(index: usize) -> String {
    format!("ram{index}")
}

fn length<B: Bitmap>(region: &GuestRegionMmap<B>) -> usize {
    to_usize(region.len())
}

fn expect_right<B: Bitmap>(region: &GuestRegionMmap<B>, index: usize, right: i32, what: &str) -> Result<()> {
    if region.prot() & right == right {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the guest's memory at {:#x} (block `{}`) is mapped without the right to {what} it",
        region.start_addr().0,
        name(index)
    )))
}
