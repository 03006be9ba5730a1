//! The guest: one file in memory that every contender maps, filled the same way each time.
//!
//! The file lies in a tmpfs of huge pages where mounting is allowed, else under /dev/shm. All of it is resident, zero
//! pages too, as a guest's memory is that has run for a while; [`Fill::Resident`] alone leaves holes.
//!
//! All the `unsafe` of this bench that touches memory is here: the mapping.

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::unistd::{Whence, lseek};
use qemu_harness::SmallDisk;
use qemu_harness::pattern;
use tempfile::TempDir;

use crate::Result;
use crate::common::guest::Pattern;

pub(crate) const PAGE: usize = 4096;

/// What a guest with holes has in use, and in runs of which length: what an allocator of huge pages leaves.
const RESIDENT: usize = 1 << 30;
const RUN: usize = 8 << 20;

/// Which pages hold data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Everywhere the same; no holes.
    Pattern(Pattern),
    /// 1 GiB in runs of 8 MiB, evenly spread; the rest was never touched.
    Resident,
}

impl Fill {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Pattern(pattern) => pattern.describe(),
            Self::Resident => "1 GiB in use, the rest holes",
        }
    }
}

/// The file, while it lasts.
pub(crate) struct RamFile {
    path: PathBuf,
    bytes: u64,
    data_bytes: u64,
    fill: Fill,
    place: Place,
}

enum Place {
    HugePages(#[expect(dead_code, reason = "mounted as long as it is held")] SmallDisk),
    Shm(#[expect(dead_code, reason = "there as long as it is held")] TempDir),
}

impl RamFile {
    /// Makes and fills one of `bytes` bytes.
    pub(crate) fn new(bytes: u64, fill: Fill) -> Result<Self> {
        // Who reads holes fills them: with this limit that is a signal to one process, and not the end of all memory.
        let resident = if fill == Fill::Resident { 2 * RESIDENT as u64 } else { bytes + (64 << 20) };
        let (path, place) = match SmallDisk::of_huge_pages(resident) {
            Ok(disk) => (disk.path().join("ram"), Place::HugePages(disk)),
            Err(error) => {
                eprintln!("the guest lies under /dev/shm, in small pages: {error}");
                let dir = tempfile::tempdir_in("/dev/shm")?;
                (dir.path().join("ram"), Place::Shm(dir))
            }
        };
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(bytes)?;
        let mut memory = Mapped::new(&file)?;
        let data_bytes = memory.fill(fill)?;
        Ok(Self { path, bytes, data_bytes, fill, place })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes the pages have that are not zero.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// How many bytes are not holes: some write all of them, zeros too.
    pub(crate) fn resident_bytes(&self) -> u64 {
        if self.has_holes() { self.data_bytes } else { self.bytes }
    }

    pub(crate) fn fill(&self) -> Fill {
        self.fill
    }

    pub(crate) fn has_holes(&self) -> bool {
        self.fill == Fill::Resident
    }

    pub(crate) fn place(&self) -> &'static str {
        match self.place {
            Place::HugePages(_) => "tmpfs, huge pages",
            Place::Shm(_) => "/dev/shm, small pages",
        }
    }
}

/// A RAM file mapped, shared.
pub(crate) struct Mapped {
    start: NonNull<c_void>,
    len: NonZeroUsize,
    file: Arc<File>,
}

impl Mapped {
    fn new(file: &File) -> Result<Self> {
        let len = NonZeroUsize::new(usize::try_from(file.metadata()?.len())?).ok_or("an empty RAM file")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel picks.
        let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, len, file: Arc::new(file.try_clone()?) })
    }

    /// Maps the file at `path`, its data in the page tables already, as a monitor has its guest's. Holes stay holes.
    pub(crate) fn populated(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let memory = Self::new(&file)?;
        let mut at = 0;
        while let Some((start, end)) = next_data(&file, at)? {
            memory.advise(start, end, MmapAdvise::MADV_POPULATE_WRITE)?;
            at = end;
        }
        Ok(memory)
    }

    /// The file that is mapped.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(crate) fn has_holes(&self) -> Result<bool> {
        Ok(next_data(&self.file, 0)? != Some((0, self.len.get())))
    }

    /// The guest. Nobody writes it while it is measured.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, readable, as long as the borrow lasts; the process that filled it is done before others map
        // it, and no contender writes its guest.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len.get()) }
    }

    fn advise(&self, start: usize, end: usize, advice: MmapAdvise) -> Result<()> {
        if end > self.len.get() || start >= end {
            return Err("a range outside the guest".into());
        }
        let at = self.start.as_ptr().wrapping_byte_add(start);
        let at = NonNull::new(at).ok_or("a mapping at 0")?;
        // SAFETY: inside our own mapping, by the check above; populating changes no byte.
        Ok(unsafe { madvise(at, end - start, advice) }?)
    }

    /// Fills the guest and returns how many bytes of pages hold data.
    fn fill(&mut self, fill: Fill) -> Result<u64> {
        let len = self.len.get();
        if fill != Fill::Resident {
            self.advise(0, len, MmapAdvise::MADV_POPULATE_WRITE)?;
        }
        // SAFETY: mapped, writable, exclusively borrowed through `self`; no other process knows the file yet.
        let memory: &mut [u8] = unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), len) };
        match fill {
            Fill::Pattern(pattern) => {
                let mut data = 0;
                pattern.fill(memory, |part| {
                    data += part.chunks(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)).count();
                });
                Ok((data * PAGE) as u64)
            }
            Fill::Resident => {
                let runs = (RESIDENT / RUN).min(len / RUN);
                let apart = len / runs / RUN * RUN;
                for (seed, part) in (0..).zip(memory.chunks_mut(apart).take(runs)) {
                    pattern::Pattern::Dense.fill(&mut part[..RUN], seed);
                }
                Ok((runs * RUN) as u64)
            }
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping; whoever borrowed it is gone.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// The first stretch of data at `from` or behind it.
fn next_data(file: impl AsFd, from: usize) -> Result<Option<(usize, usize)>> {
    let file = file.as_fd();
    let start = match lseek(file, i64::try_from(from)?, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    Ok(Some((usize::try_from(start)?, usize::try_from(end)?)))
}
