//! The address range of one mapped block, and every system call that changes it.
//!
//! A range is a bare stretch of addresses: nothing here reads it, and it is written only before it is handed out
//! ([`Region::wipe`]). That is why it may be sent and shared between threads: the calls are the kernel's to order, and what the
//! memory is used for is its user's business, through raw pointers.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::convert::to_usize;

/// What a range is when its block is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    /// Nobody's: the kernel chose it for the block.
    Free,
    /// Reserved by a caller, who has it back without access rights.
    Reserved,
}

/// The address range of a mapped block.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<u8>,
    /// Whole pages of the host.
    length: NonZeroUsize,
    afterwards: Afterwards,
}

// SAFETY: see the module's header: the range belongs to no thread, and its methods only ask the kernel to change it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// The size of the host's pages, in bytes.
pub(crate) fn host_page() -> u64 {
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).expect("every Linux knows its page size")
}

impl Region {
    /// Maps `length` bytes of `file` from `offset` on, privately, wherever the kernel likes.
    pub(super) fn anywhere(file: &File, offset: u64, length: NonZeroUsize) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED no existing mapping is touched.
        let start = unsafe { map(None, length, MapFlags::empty(), file, offset) }?;
        Ok(Self { start, length, afterwards: Afterwards::Free })
    }

    /// The same at `start`, in place of what is mapped there.
    ///
    /// # Safety
    /// `start` to `start + length` must be reserved by the caller for this, and used by nobody else until the region is
    /// dropped. Where it cannot be mapped it is reserved again.
    pub(super) unsafe fn at(
        start: NonNull<u8>,
        file: &File,
        offset: u64,
        length: NonZeroUsize,
    ) -> io::Result<Self> {
        // SAFETY: what is replaced is the caller's reservation, by this function's contract.
        let mapped = unsafe { map(Some(start), length, MapFlags::MAP_FIXED, file, offset) };
        let start = mapped.inspect_err(|_| {
            // The kernel may have unmapped what was there before it failed; if it has not, this does nothing.
            let flags = flags(MapFlags::MAP_FIXED_NOREPLACE);
            // SAFETY: puts a mapping only where there is none.
            let _ = unsafe { mmap_anonymous(Some(start.addr()), length, ProtFlags::PROT_NONE, flags) };
        })?;
        Ok(Self { start, length, afterwards: Afterwards::Reserved })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Puts anonymous zero memory in place of `range`, which is whole pages of the host.
    pub(super) fn cover(&mut self, range: Range<u64>) -> io::Result<()> {
        let (start, length) = self.part(range);
        let Some(length) = NonZeroUsize::new(length) else { return Ok(()) };
        // SAFETY: the part is inside this region, which nobody else knows yet: it is borrowed mutably.
        unsafe {
            mmap_anonymous(
                Some(start.addr()),
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                flags(MapFlags::MAP_FIXED),
            )
        }?;
        Ok(())
    }

    /// Makes `range` zeros, in private copies of its pages. A page that cannot be read for that is an error, and not a signal, from Linux
    /// 5.14 on.
    pub(super) fn wipe(&mut self, range: Range<u64>) -> io::Result<()> {
        let host_page = host_page();
        let (pages, length) = self.part(range.start / host_page * host_page..range.end);
        // SAFETY: makes private copies of pages that nobody else knows yet, and changes none of what they hold.
        match unsafe { madvise(pages.cast(), length, MmapAdvise::MADV_POPULATE_WRITE) } {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let (start, length) = self.part(range);
        // SAFETY: inside this region, which is writable and which nobody else knows yet: it is borrowed mutably.
        unsafe { start.as_ptr().write_bytes(0, length) };
        Ok(())
    }

    /// No read-ahead: who touches a page waits for that page only.
    pub(super) fn expect_random_access(&self) {
        // Advice: without it the memory is the same.
        // SAFETY: changes how pages are read, not what they hold.
        let _ = unsafe { madvise(self.start.cast(), self.length.get(), MmapAdvise::MADV_RANDOM) };
    }

    /// Has what `range` shows of the file read, without waiting for it.
    pub(super) fn ask_for(&self, range: Range<u64>) {
        let host_page = host_page();
        let (start, length) = self.part(range.start / host_page * host_page..range.end);
        // A hint: who is not heard reads later.
        // SAFETY: changes nothing of what the memory holds.
        let _ = unsafe { madvise(start.cast(), length, MmapAdvise::MADV_WILLNEED) };
    }

    /// Reads what `range` shows of the file and maps it, so that nobody waits for it later.
    pub(super) fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let host_page = host_page();
        let (start, length) = self.part(range.start / host_page * host_page..range.end);
        // SAFETY: does not change what the memory holds; a page that cannot be read is an error here, not a signal.
        unsafe {
            match madvise(start.cast(), length, MmapAdvise::MADV_POPULATE_READ) {
                // Linux before 5.14: what is in the page cache is nearly there.
                Ok(()) | Err(Errno::EINVAL) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
    }

    fn part(&self, range: Range<u64>) -> (NonNull<u8>, usize) {
        let (from, to) = (to_usize(range.start), to_usize(range.end));
        assert!(from <= to && to <= self.length.get(), "{range:?} is inside the region");
        // SAFETY: inside the mapping that begins at `start`, by the line above.
        (unsafe { self.start.add(from) }, to - from)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Neither can fail for a range that is mapped, but for want of memory for the kernel's own lists; then the range stays
        // mapped, which harms nobody.
        let _ = match self.afterwards {
            // SAFETY: the whole of what `anywhere` mapped, which nobody may use any more.
            Afterwards::Free => unsafe { munmap(self.start.cast(), self.length.get()) },
            // Unmapping would let the kernel put something else into the caller's reservation.
            // SAFETY: the whole of what `at` mapped, which is the caller's to use again.
            Afterwards::Reserved => unsafe {
                mmap_anonymous(
                    Some(self.start.addr()),
                    self.length,
                    ProtFlags::PROT_NONE,
                    flags(MapFlags::MAP_FIXED),
                )
            }
            .map(drop),
        };
    }
}

/// A guest's memory is private, and most of it is never written: it is not counted before that.
fn flags(further: MapFlags) -> MapFlags {
    MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | further
}

/// # Safety
/// With `MAP_FIXED`, what is mapped at `start` must be the caller's to replace.
unsafe fn map(
    start: Option<NonNull<u8>>,
    length: NonZeroUsize,
    further: MapFlags,
    file: &File,
    offset: u64,
) -> io::Result<NonNull<u8>> {
    let offset = i64::try_from(offset).map_err(|_| io::Error::from(Errno::EOVERFLOW))?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: by this function's contract.
    let start = unsafe { mmap(start.map(NonNull::addr), length, protection, flags(further), file, offset) }?;
    Ok(start.cast())
}
