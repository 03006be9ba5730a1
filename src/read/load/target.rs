//! What a load fills: which block goes to which memory, and what that memory holds before.
//!
//! Unsafe code is here because the memory may be seen by others while it is filled: it is only ever a raw pointer.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MmapAdvise, madvise};

use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::read::Block;

/// Advice is given from here on in memory that does not begin on a page, in bytes: the largest page size of a Linux host.
const ADVICE_ALIGNMENT: u64 = 64 << 10;

/// What memory holds before a block is loaded into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Anonymous memory that was mapped for this and never touched: as [`Zeroed`](Self::Zeroed), and filled in huge pages where
    /// the kernel has them (`MADV_HUGEPAGE`), which is several times faster than page by page. Absent pages take memory then
    /// where a present one is in the same huge page, usually 2 MiB, and past the page cache in gaps of up to 32 KiB. The advice stays
    /// when the load is over. While it runs, absent pages may hold what the file holds in short gaps between present ones; at its
    /// end, also a bad one, they are zeros. In memory that was touched after all, other absent pages keep what they held, and nothing
    /// says so but [`LoadOptions::check_zeroed`](crate::LoadOptions::check_zeroed).
    Fresh,
    /// Zeros, and it was perhaps never touched: absent pages are left alone, so that they cost no memory.
    /// [`LoadOptions::check_zeroed`](crate::LoadOptions::check_zeroed) checks the promise.
    Zeroed,
    /// Anything: absent pages are cleared, those of short gaps at the end, as with [`Fresh`](Self::Fresh).
    Used,
}

/// A block, and the memory that is to hold it.
#[derive(Debug)]
pub struct LoadTarget<'m> {
    pub(super) block: &'m Block,
    pub(super) start: *mut u8,
    pub(super) length: u64,
    pub(super) destination: Destination,
    memory: PhantomData<&'m mut [u8]>,
}

// SAFETY: a loan of memory that is nobody else's meanwhile, by `new` (a unique borrow) or by `from_raw`'s caller.
unsafe impl Send for LoadTarget<'_> {}

impl<'m> LoadTarget<'m> {
    /// `block` into `memory`, which must be exactly as long.
    pub fn new(block: &'m Block, memory: &'m mut [u8], destination: Destination) -> Self {
        let length = to_u64(memory.len());
        Self { block, start: memory.as_mut_ptr(), length, destination, memory: PhantomData }
    }

    /// As [`new`](Self::new), for memory that others may see.
    ///
    /// # Safety
    /// `start` to `start + length` must be valid for writes until the load has returned, and no Rust reference to it
    /// may exist meanwhile.
    pub unsafe fn from_raw(
        block: &'m Block,
        start: *mut u8,
        length: usize,
        destination: Destination,
    ) -> Self {
        Self { block, start, length: to_u64(length), destination, memory: PhantomData }
    }

    /// Tells the kernel that the memory will be filled as a whole.
    pub(super) fn advise(&self) {
        // Whole pages only: the kernel would round up, and speak of memory that is not ours.
        let address = to_u64(self.start.addr());
        let skip = address.next_multiple_of(ADVICE_ALIGNMENT) - address;
        let Some(length) = self.length.checked_sub(skip) else { return };
        let length = to_usize(length / ADVICE_ALIGNMENT * ADVICE_ALIGNMENT);
        let Some(start) = NonNull::new(self.start.wrapping_add(to_usize(skip))) else { return };
        // Advice: a kernel without huge pages fills the memory as well.
        // SAFETY: inside the memory that the load has on loan, and what it holds does not change.
        let _ = unsafe { madvise(start.cast(), length, MmapAdvise::MADV_HUGEPAGE) };
    }

    pub(super) fn check(&self, first: &Block) -> Result<()> {
        self.block.check_held()?;
        if !Arc::ptr_eq(self.block.shared(), first.shared()) {
            return Err(Error::Usage(
                "one load fills memory from one file only; load each file by itself".into(),
            ));
        }
        if self.length != self.block.used_length() {
            return Err(Error::Usage(format!(
                "block `{}` has {} bytes, the memory for it {}; they must be the same",
                self.block.idstr(),
                self.block.used_length(),
                self.length
            )));
        }
        Ok(())
    }
}
