//! How a block is mapped: what must hold for it, and in which order it is done.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use super::look::{not_zero, stale};
use super::mapping::{About, Mapping};
use super::prefetch::{Prefetch, Prefetcher};
use super::region::{Region, host_page};
use super::stale::{COVERS, Plan, Room, plan};
use crate::convert::to_u64;
use crate::error::{Error, Result};
use crate::read::Block;

/// How a block is mapped into memory.
///
/// ```
/// # fn main() -> mapped_ram::Result<()> {
/// use mapped_ram::{MapOptions, Reader};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("guest.mram");
/// # let saved = vec![3_u8; 1 << 16];
/// # mapped_ram::SaveOptions::new().save(&path, vec![mapped_ram::RamBlock::new("ram0", &saved)])?;
///
/// let reader = Reader::open(&path)?;
/// let mapping = MapOptions::new().map(reader.block("ram0").unwrap())?;
/// // SAFETY: inside the mapping, which nobody else uses.
/// let first = unsafe { mapping.as_ptr().read_volatile() };
/// assert_eq!(first, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until `map` is called"]
pub struct MapOptions {
    prefetch: Prefetch,
}

impl MapOptions {
    /// Nothing is read before it is touched.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which pages are read before they are touched.
    pub fn prefetch(mut self, prefetch: Prefetch) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Maps `block` at an address that the kernel chooses.
    ///
    /// The time it takes does not depend on the block's length. Of a file that is [noted to be clean](crate::Reader::is_noted_clean), as
    /// saves of this crate are, it depends on nothing. In any other, stale bytes are looked for in each run of pages, about a
    /// microsecond for each, and hidden, which takes as long again for each stretch of them; beyond two thousand stretches the short
    /// ones are read. What was found is kept for the next mapping by the same [`Reader`](crate::Reader).
    ///
    /// # Errors
    /// - A block that the file leaves out, and a source that is no file.
    /// - Pages that do not begin at a multiple of the host's page size in the file, as who aligns them to smaller pages leaves them: load
    ///   such a block, or write the file anew. QEMU and libvirt align them to 1 MiB, wherever the stream begins.
    /// - A file that was cut since it was opened.
    /// - A working set that was recorded with a block of another name or length.
    /// - What the system says: too little address space, too many mappings (`vm.max_map_count`), stale pages that
    ///   cannot be read.
    pub fn map(&self, block: &Block) -> Result<Mapping> {
        self.map_with(block, Region::anywhere)
    }

    /// Maps `block` at `start`, into an address range that the caller reserved, by `mmap(2)` with `PROT_NONE` for
    /// instance. `length` must be the block's.
    ///
    /// When the mapping is dropped, and when mapping fails half-way, the range is reserved again: anonymous memory
    /// without access rights.
    ///
    /// # Errors
    /// As [`map`](Self::map); a length that is not the block's, and a start that is not on a page of the host.
    ///
    /// # Safety
    /// `start` to `start + length`, rounded up to whole pages of the host, must be one range that the caller has mapped
    /// for this purpose: what is in it is replaced. Nobody may use it, unmap it or map anything else into it until the
    /// mapping is dropped, but through the mapping.
    pub unsafe fn map_into(&self, block: &Block, start: *mut u8, length: usize) -> Result<Mapping> {
        if to_u64(length) != block.used_length() {
            return Err(Error::Usage(format!(
                "block `{}` has {} bytes, the address range for it {length}; they must be the same",
                block.idstr(),
                block.used_length()
            )));
        }
        let host_page = host_page();
        let start = NonNull::new(start).filter(|start| to_u64(start.addr().get()).is_multiple_of(host_page));
        let Some(start) = start else {
            return Err(Error::Usage(format!(
                "block `{}` cannot be mapped at an address that is null or no multiple of the host's page size {host_page}; \
                 reserve the range with mmap",
                block.idstr()
            )));
        };
        self.map_with(block, |file, offset, length| {
            // SAFETY: the range is the caller's to give, by this function's contract.
            unsafe { Region::at(start, file, offset, length) }
        })
    }

    fn map_with(
        &self,
        block: &Block,
        map: impl FnOnce(&File, u64, NonZeroUsize) -> io::Result<Region>,
    ) -> Result<Mapping> {
        block.check_held()?;
        self.prefetch.check(&block.idstr(), block.used_length())?;
        let source = block.source();
        let about = About::of(block);
        let host_page = host_page();
        let Some(file) = source.file() else {
            return Err(Error::Usage(format!(
                "{}: block `{}` cannot be mapped, since its source is no file of the system's; load it",
                about.file, about.block
            )));
        };
        if !about.pages_offset.is_multiple_of(host_page) {
            return Err(Error::Unsupported {
                file: about.file,
                what: format!(
                    "block `{}`: its pages begin at offset {:#x}, no multiple of the host's page size {host_page}, and cannot be \
                     mapped; load them, or write the file anew (Tail::copied_from, or the command's `copy`)",
                    about.block, about.pages_offset
                ),
            });
        }
        about.check_length(&**source)?;
        let state = about.state(&**source)?;
        block.expect_state(state)?;
        let room =
            Room { pages_offset: about.pages_offset, length: about.length, page_size: about.page_size };
        let plan = block.hidden(state, || {
            if source.is_noted_clean(block.stream_offset()) {
                return Ok(Plan::default());
            }
            let found = plan(&stale(block, &about, room)?, host_page, COVERS);
            let mut wipe = Vec::new();
            for range in found.wipe {
                not_zero(&**source, range, &about, host_page, |piece| {
                    wipe.push(piece);
                    true
                })?;
            }
            Ok(Plan { wipe, ..found })
        })?;

        let length =
            about.length.checked_next_multiple_of(host_page).and_then(|length| length.try_into().ok());
        let length: Option<NonZeroUsize> = length.and_then(NonZeroUsize::new);
        let length = length.ok_or_else(|| about.error("map it", io::ErrorKind::OutOfMemory.into()))?;
        let mut region =
            map(file, about.pages_offset, length).map_err(|error| about.error("map it", error))?;
        for range in &plan.cover {
            region
                .cover(range.clone())
                .map_err(|error| about.error("cover stale pages (is vm.max_map_count too low?)", error))?;
        }
        for range in &plan.wipe {
            region.wipe(range.clone()).map_err(|error| {
                about.error(&format!("read the stale page at offset {:#x} of the block", range.start), error)
            })?;
        }
        if !self.prefetch.reads_ahead() {
            region.expect_random_access();
        }
        let region = Arc::new(region);
        let prefetcher = match &self.prefetch {
            Prefetch::Nothing => None,
            prefetch => {
                let present = Arc::clone(block.bitmap()?);
                Prefetcher::begin(prefetch.clone(), Arc::clone(&region), present, about.page_size)
                    .map(Some)
                    .map_err(|error| about.error("start a thread that brings its pages in", error))?
            }
        };
        Ok(Mapping::new(prefetcher, region, Arc::clone(source), about))
    }
}

impl Block {
    /// Maps the block with the default [`MapOptions`].
    ///
    /// # Errors
    /// As [`MapOptions::map`].
    pub fn map(&self) -> Result<Mapping> {
        MapOptions::new().map(self)
    }
}
