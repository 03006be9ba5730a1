//! A RAM block as the writer sees it: a name, a length, and where its memory is.
//!
//! What is decided here is who may touch the memory while it is saved. A block made from a slice is held by a shared
//! borrow, so nobody writes it. Memory that a guest may still write comes in as a raw pointer and stays one all the
//! way down to `pwritev`; no Rust reference to it is ever made.
//!
//! Lengths are in bytes.

use std::fs::File;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::convert::to_u64;

/// One RAM block that is to be saved.
///
/// ```
/// use mapped_ram::RamBlock;
///
/// let memory = vec![0_u8; 1 << 20];
/// let block = RamBlock::new("pc.ram", &memory);
/// assert_eq!(block.used_length(), 1 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct RamBlock<'m> {
    pub(crate) idstr: Vec<u8>,
    pub(crate) used_length: u64,
    pub(crate) place: Place,
    pub(crate) guest_address: Option<u64>,
    /// The file that is mapped shared where the memory is, and from which of its bytes on.
    pub(crate) backing: Option<(Arc<File>, u64)>,
    /// Whether its page tables are still to be filled.
    pub(crate) is_fresh: bool,
    memory: PhantomData<&'m [u8]>,
}

/// Where the bytes of a block come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Memory of this process, readable for the block's whole length.
    Here(*const u8),
    /// Nowhere in this process: pages are given one range after the other.
    Detached,
    /// In memory that the file does not hold (`x-ignore-shared`).
    LeftOut,
}

// SAFETY: the pointer is only ever read through by system calls and by the zero detector, both of which take any
// thread; that the memory stays readable is the promise of `new` (a borrow) or of `from_raw`'s caller.
unsafe impl Send for RamBlock<'_> {}
// SAFETY: as for `Send`; nothing in a `RamBlock` changes behind a shared reference.
unsafe impl Sync for RamBlock<'_> {}

impl<'m> RamBlock<'m> {
    /// A block whose memory nobody writes while it is saved: the borrow sees to that.
    ///
    /// `idstr` is the block's name in the stream, 1 to 255 bytes without NUL; `memory`'s length must be a multiple of
    /// the page size. Both are checked when the writer is made.
    pub fn new(idstr: impl Into<Vec<u8>>, memory: &'m [u8]) -> Self {
        Self::with_place(idstr, to_u64(memory.len()), Place::Here(memory.as_ptr()))
    }

    /// A block whose memory a guest may go on writing while it is saved.
    ///
    /// What the file holds of a page that was written meanwhile is a mix of old and new bytes: write such pages once
    /// more ([`Writer::write_pages`](crate::Writer::write_pages)) when the guest stands still. One that is left so, and was zero when it
    /// was looked at, may be zeros to whoever loads the file, and the mix to whoever maps it.
    ///
    /// On a file system that checksums what it holds (btrfs, ZFS) such a page, written past the page cache, may have a checksum of other
    /// bytes, and cannot be read then: save there by [`IoMode::Uncached`](crate::storage::IoMode::Uncached), which copies it first.
    ///
    /// # Safety
    /// `start` to `start + length` must stay mapped and readable until the writer made with this block is finished or
    /// dropped. It may be written meanwhile by anyone, in any way.
    pub unsafe fn from_raw(idstr: impl Into<Vec<u8>>, start: *const u8, length: usize) -> Self {
        Self::with_place(idstr, to_u64(length), Place::Here(start))
    }

    /// A block whose memory is not in this process: its pages are handed over by
    /// [`Writer::write_from`](crate::Writer::write_from), and those that never are read as zeros.
    pub fn detached(idstr: impl Into<Vec<u8>>, used_length: u64) -> Self {
        Self::with_place(idstr, used_length, Place::Detached)
    }

    /// A block that the stream names but does not hold, at `guest_address`: its memory outlives the save elsewhere,
    /// in a shared file. The stream then has the capability `x-ignore-shared`.
    pub fn left_out(idstr: impl Into<Vec<u8>>, used_length: u64, guest_address: u64) -> Self {
        Self::with_place(idstr, used_length, Place::LeftOut).guest_address(guest_address)
    }

    fn with_place(idstr: impl Into<Vec<u8>>, used_length: u64, place: Place) -> Self {
        Self {
            idstr: idstr.into(),
            used_length,
            place,
            guest_address: None,
            backing: None,
            is_fresh: false,
            memory: PhantomData,
        }
    }

    /// Where the block stands in the guest's physical memory. Only streams with the capability `x-ignore-shared` say
    /// so; giving an address turns that capability on, and then every block needs one.
    #[must_use]
    pub fn guest_address(mut self, address: u64) -> Self {
        self.guest_address = Some(address);
        self
    }

    /// Says that the memory is a shared mapping (`MAP_SHARED`) of `file` from its byte `offset` on, such as a memfd or QEMU's
    /// `memory-backend-file`. Then the file's holes tell what was never touched, and it is not looked at.
    ///
    /// Of a private mapping this is not true, and must not be said: pages that were written would be passed over. Memory that is still
    /// filled on demand (the module `fault`), of which what is missing is a hole too, is looked at whole: that this process has it
    /// registered is seen in /proc, without which all memory is looked at.
    ///
    /// It matters for shared memory of which little is in use: to read a page of it that was never touched takes a page of memory.
    #[must_use]
    pub fn backed_by(mut self, file: Arc<File>, offset: u64) -> Self {
        self.backing = Some((file, offset));
        self
    }

    /// Says that the memory was mapped only to be saved, and nobody has touched it in this process yet. Then the channels have
    /// its page tables filled a region at a time (`MADV_POPULATE_READ`, Linux 5.14), where else each page costs a fault; and a
    /// file that was cut meanwhile is an error instead of a SIGBUS, as far as that can be known beforehand.
    ///
    /// The memory that a monitor's guest runs in is mapped already, and only loses time by it.
    #[must_use]
    pub fn freshly_mapped(mut self) -> Self {
        self.is_fresh = true;
        self
    }

    /// The block's name, bytes that are not UTF-8 replaced.
    pub fn idstr(&self) -> String {
        String::from_utf8_lossy(&self.idstr).into_owned()
    }

    /// The block's length in bytes.
    pub fn used_length(&self) -> u64 {
        self.used_length
    }
}
