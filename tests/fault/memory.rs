//! Guests' memory of every kind, and saved guests with absent and stale pages.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use mapped_ram::{Bridge, RamBlock, Reader, SaveOptions, SyncMode};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

pub(crate) const PAGE: usize = 4096;
pub(crate) const HUGE: usize = 2 << 20;

/// What a page of the saved guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Present(u8),
    Absent,
    /// Its bit is clear, and its room holds this.
    Stale(u8),
}

/// Saves a block whose pages are these; gives what a guest must see.
pub(crate) fn save(path: &Path, blocks: &[(&str, &[Page])]) -> Vec<Vec<u8>> {
    let memories: Vec<Vec<u8>> = blocks
        .iter()
        .map(|(_, pages)| {
            let byte = |page: &Page| match *page {
                Page::Present(byte) | Page::Stale(byte) => byte.max(1),
                Page::Absent => 0,
            };
            pages.iter().flat_map(|page| [byte(page); PAGE]).collect()
        })
        .collect();
    let ram = blocks.iter().zip(&memories).map(|((name, _), memory)| RamBlock::new(*name, memory)).collect();
    SaveOptions::new().bridge(Bridge::None).sync(SyncMode::None).save(path, ram).unwrap();
    let reader = Reader::open(path).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut seen = memories;
    for ((name, pages), memory) in blocks.iter().zip(&mut seen) {
        let bitmap = reader.block(name).unwrap().layout().bitmap_offset();
        for (number, _) in pages.iter().enumerate().filter(|(_, page)| matches!(page, Page::Stale(_))) {
            let mut byte = [0];
            let at = bitmap + number as u64 / 8;
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] & !(1 << (number % 8))], at).unwrap();
            memory[number * PAGE..(number + 1) * PAGE].fill(0);
        }
    }
    seen
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Private,
    Anonymous,
    Memfd,
    Huge,
    /// A memfd in huge pages, shared: what monitors give to vhost-user devices.
    HugeMemfd,
}

/// Memory as a monitor has it for a guest.
pub(crate) struct Memory {
    pub(crate) start: NonNull<u8>,
    pub(crate) length: usize,
    /// What keeps shared memory alive.
    pub(crate) fd: Option<OwnedFd>,
}

// SAFETY: bare addresses of memory that the tests share between threads on purpose, by raw pointers.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(kind: Kind, length: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(length).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let (start, fd) = match kind {
            Kind::Private => {
                // SAFETY: touches no existing mapping.
                (unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }?, None)
            }
            Kind::Anonymous => {
                // SAFETY: touches no existing mapping.
                (unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_SHARED) }?, None)
            }
            Kind::Memfd => {
                let fd = memfd_create("guest", MFdFlags::MFD_CLOEXEC)?;
                nix::unistd::ftruncate(&fd, length.try_into().unwrap())?;
                // SAFETY: touches no existing mapping.
                (unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &fd, 0) }?, Some(fd))
            }
            Kind::HugeMemfd => {
                let fd = memfd_create(
                    "guest",
                    MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
                )?;
                nix::unistd::ftruncate(&fd, length.try_into().unwrap())?;
                // SAFETY: touches no existing mapping.
                (unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &fd, 0) }?, Some(fd))
            }
            Kind::Huge => {
                let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB;
                // SAFETY: touches no existing mapping.
                (unsafe { mmap_anonymous(None, size, protection, flags) }?, None)
            }
        };
        Ok(Self { start: start.cast(), length, fd })
    }

    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.length);
        self.start.as_ptr().wrapping_add(offset)
    }

    pub(crate) fn read(&self, offset: usize) -> u8 {
        // SAFETY: inside the mapping, never a reference.
        unsafe { self.at(offset).read_volatile() }
    }

    pub(crate) fn write(&self, offset: usize, byte: u8) {
        // SAFETY: inside the mapping, never a reference.
        unsafe { self.at(offset).write_volatile(byte) }
    }

    /// All of it, as the guest sees it.
    pub(crate) fn all(&self) -> Vec<u8> {
        let mut all = vec![0; self.length];
        // SAFETY: the mapping is readable for its length; nobody writes it now.
        unsafe { all.as_mut_ptr().copy_from_nonoverlapping(self.start.as_ptr(), self.length) };
        all
    }

    /// Puts a new private mapping in the place of a range.
    ///
    /// # Safety
    /// Nobody uses the range meanwhile.
    pub(crate) unsafe fn map_anew(&self, offset: usize, length: usize) -> io::Result<()> {
        let place = NonZeroUsize::new(self.at(offset).addr()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        // SAFETY: inside of our own mapping, which nobody uses there.
        unsafe { mmap_anonymous(Some(place), NonZeroUsize::new(length).unwrap(), protection, flags) }?;
        Ok(())
    }

    /// Makes a page a mapping of its own, which tells nobody of it.
    pub(crate) fn split_off(&self, offset: usize) {
        // SAFETY: inside the mapping, and changes none of what it holds.
        let done = unsafe { libc::madvise(self.at(offset).cast(), PAGE, libc::MADV_DONTDUMP) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }

    /// Gives up what a range holds.
    pub(crate) fn give_up(&self, offset: usize, length: usize) {
        // SAFETY: inside the mapping, never a reference.
        let done = unsafe { libc::madvise(self.at(offset).cast(), length, libc::MADV_DONTNEED) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { munmap(self.start.cast(), self.length) }.unwrap();
    }
}

/// Fails, without printing it all, if two memories differ.
pub(crate) fn expect_same(one: &[u8], two: &[u8], what: &str) {
    assert_eq!(one.len(), two.len(), "{what}: lengths");
    if let Some(at) = one.iter().zip(two).position(|(one, two)| one != two) {
        panic!("{what}: differs first at {at:#x} (page {}): {} for {}", at / PAGE, one[at], two[at]);
    }
}

/// Huge pages of the kernel's pool, for as long as this lives.
pub(crate) struct HugePages {
    before: String,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// Has at least `count` pages in the pool; fails where that cannot be: these tests are for root, or a pool that is there.
    pub(crate) fn take(count: usize) -> Self {
        let before = std::fs::read_to_string(POOL).expect("this kernel has huge pages");
        if free() < count {
            let all = before.trim().parse::<usize>().unwrap() + count;
            let done = std::fs::write(POOL, all.to_string());
            assert!(
                done.is_ok() && free() >= count,
                "NOT TESTED with huge pages: {count} of 2 MiB cannot be had ({done:?}); as root: echo {all} > {POOL}"
            );
        }
        Self { before }
    }
}

fn free() -> usize {
    let about = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = about.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap();
    line.trim().parse().unwrap()
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(POOL, self.before.trim());
    }
}

/// Whether the kernel can read a byte: it gets an error where a program would get SIGBUS.
pub(crate) fn is_readable(memory: &Memory, offset: usize) -> bool {
    let (_reader, writer) = nix::unistd::pipe().unwrap();
    // SAFETY: the kernel reads one byte of the mapping, or says that it cannot.
    let done = unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&writer), memory.at(offset).cast(), 1) };
    if done < 0 {
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    }
    done == 1
}
