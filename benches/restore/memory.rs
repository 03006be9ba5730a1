//! The memory that a guest is restored into: private, in huge pages. They are fresh ones where the kernel has them, or come
//! from a pool that was set aside.
//!
//! All the `unsafe` of this bench that touches memory is here.

use std::ffi::c_void;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;
use std::slice;
use std::str::FromStr;
use std::time::Instant;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::Result;

/// Where the memory's pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anonymous: from the kernel, which clears them, and may have to get them from a host first.
    Fresh,
    /// hugetlbfs: from the pool, which the host has given already. The kernel clears them all the same.
    Pool,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Pool => "pool",
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Fresh => "fresh memory",
            Self::Pool => "memory set aside",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "fresh" => Ok(Self::Fresh),
            "pool" => Ok(Self::Pool),
            _ => Err(format!("no memory `{text}`: fresh or pool")),
        }
    }
}

/// Huge pages that are set aside as long as this is.
pub(crate) struct Pool {
    before: String,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl Pool {
    /// A guest's, and a few more: a guest's memory need not begin on a huge page.
    pub(crate) fn of(bytes: u64) -> Result<Self> {
        let pool = Self { before: fs::read_to_string(POOL)? };
        // Beside those that there are, which may be somebody's.
        let before: u64 = pool.before.trim().parse()?;
        let wanted = before + bytes / HUGE as u64 + 16;
        fs::write(POOL, wanted.to_string())
            .map_err(|error| format!("{POOL}: {error}: --memory pool is root's"))?;
        let got: u64 = fs::read_to_string(POOL)?.trim().parse()?;
        if got < wanted {
            return Err(format!("{POOL}: {got} huge pages, not {wanted}: too little memory is free").into());
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = fs::write(POOL, &self.before) {
            eprintln!("restore: {POOL} is not {} again: {error}", self.before.trim());
        }
    }
}

pub(crate) struct Memory {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

/// A huge page: reserved a whole one more, so that the memory begins on one as it does in a guest.
const HUGE: usize = 2 << 20;

impl Memory {
    /// Mapped, not touched.
    pub(crate) fn new(bytes: u64, kind: Kind) -> Result<Self> {
        let len = NonZeroUsize::new(usize::try_from(bytes)? + HUGE).ok_or("no memory was asked for")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // What is of a pool is reserved when it is mapped: so there is an error now and no signal later.
        let flags = match kind {
            Kind::Fresh => MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            Kind::Pool => MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB,
        };
        // SAFETY: a new mapping, at an address that the kernel picks.
        let start = unsafe { mmap_anonymous(None, len, protection, flags) }?;
        Ok(Self { start, len })
    }

    fn start(&self) -> *mut u8 {
        let start = self.start.as_ptr().cast::<u8>();
        start.wrapping_add(start.addr().next_multiple_of(HUGE) - start.addr())
    }

    fn len(&self) -> usize {
        self.len.get() - HUGE
    }

    fn advise(&self, advice: MmapAdvise) -> Result<()> {
        let start = NonNull::new(self.start()).ok_or("a mapping at 0")?;
        // SAFETY: inside our own mapping; neither advice that is given here changes a byte.
        Ok(unsafe { madvise(start.cast(), self.len(), advice) }?)
    }

    /// Asks for huge pages.
    pub(crate) fn want_huge(&self) {
        // A kernel without them does as well as it can.
        let _ = self.advise(MmapAdvise::MADV_HUGEPAGE);
    }

    /// Asks for huge pages and touches them all.
    pub(crate) fn populate(&self) -> Result<()> {
        self.want_huge();
        self.advise(MmapAdvise::MADV_POPULATE_WRITE)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, readable, as long as the borrow lasts.
        unsafe { slice::from_raw_parts(self.start(), self.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped, writable, as long as the exclusive borrow lasts.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping; whoever borrowed it is gone.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// Touches and frees as much as a run will use: a virtual machine gets memory that it has not used for a while from its host
/// first, and at a tenth of the speed.
pub(crate) fn touch(bytes: u64, kind: Kind) -> Result<()> {
    Memory::new(bytes, kind)?.populate()
}

/// One byte of a mapped guest.
///
/// # Safety
/// `at` must be readable.
pub(crate) unsafe fn read(at: *const u8) -> u8 {
    // SAFETY: by this function's contract.
    unsafe { at.read_volatile() }
}

/// What a program does that knows where the pages are: opens, maps without read-ahead, touches the first byte. Seconds.
pub(crate) fn map_and_touch(path: &Path, offset: u64, length: u64) -> Result<f64> {
    let length = NonZeroUsize::new(usize::try_from(length)?).ok_or("an empty guest")?;
    let began = Instant::now();
    let file = File::open(path)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping, at an address that the kernel picks; read once, and unmapped when that is done.
    unsafe {
        let start = mmap(None, length, protection, flags, &file, i64::try_from(offset)?)?;
        madvise(start, length.get(), MmapAdvise::MADV_RANDOM)?;
        let _ = read(start.as_ptr().cast());
        let took = began.elapsed().as_secs_f64();
        munmap(start, length.get())?;
        Ok(took)
    }
}
