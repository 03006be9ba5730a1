//! A guest's memory, and the three ways in which it comes back from a file. Never behind a Rust reference: a processor may write it
//! at any time.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

#[cfg(feature = "userfaultfd")]
use mapped_ram::fault::{FaultHandler, FaultOptions, FaultTarget};
use mapped_ram::{Block, Destination, LoadOptions, LoadTarget, Mapping};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

pub(crate) const PAGE: usize = 4096;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Where a guest's memory is, and what must live as long as it.
pub(crate) enum Ram {
    Own(Pages),
    Mapped(Mapping),
    /// The handler ends before its memory does.
    #[cfg(feature = "userfaultfd")]
    OnDemand(FaultHandler, Pages),
}

/// Memory that was mapped for a guest.
pub(crate) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: an address of memory that all may use, by raw pointers; it is unmapped when nobody has it any more.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Zeros: private, or shared as a memfd.
    pub(crate) fn new(length: usize, shared: bool) -> Result<Self, Error> {
        let size = NonZeroUsize::new(length).ok_or("a guest without memory")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let start = if shared {
            let memfd = memfd_create("guest", MFdFlags::MFD_CLOEXEC)?;
            nix::unistd::ftruncate(&memfd, length.try_into()?)?;
            // SAFETY: touches no existing mapping.
            unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &memfd, 0) }?
        } else {
            // SAFETY: touches no existing mapping.
            unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }?
        };
        Ok(Self { start: start.cast(), length })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and whoever used it held this.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

impl Ram {
    /// All of the block, read into fresh memory.
    pub(crate) fn load(block: &Block) -> Result<Self, Error> {
        let pages = Pages::new(block.used_length().try_into()?, false)?;
        // SAFETY: mapped just now, and nobody else knows it.
        let target =
            unsafe { LoadTarget::from_raw(block, pages.start.as_ptr(), pages.length, Destination::Fresh) };
        LoadOptions::new().load(&mut [target])?;
        Ok(Self::Own(pages))
    }

    /// The file's own pages, copied when they are written.
    pub(crate) fn map(block: &Block) -> Result<Self, Error> {
        Ok(Self::Mapped(block.map()?))
    }

    /// Memory that is filled as it is touched.
    #[cfg(feature = "userfaultfd")]
    pub(crate) fn on_demand(block: &Block, options: FaultOptions, shared: bool) -> Result<Self, Error> {
        let pages = Pages::new(block.used_length().try_into()?, shared)?;
        let target = FaultTarget::new(block, pages.start.as_ptr(), pages.length);
        // SAFETY: mapped for this, never touched, and only used through raw pointers.
        let handler = unsafe { options.start(&[target]) }?;
        Ok(Self::OnDemand(handler, pages))
    }

    pub(crate) fn start(&self) -> *mut u8 {
        match self {
            Self::Own(pages) => pages.start.as_ptr(),
            Self::Mapped(mapping) => mapping.as_ptr(),
            #[cfg(feature = "userfaultfd")]
            Self::OnDemand(_, pages) => pages.start.as_ptr(),
        }
    }

    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Own(pages) => pages.length,
            Self::Mapped(mapping) => mapping.len(),
            #[cfg(feature = "userfaultfd")]
            Self::OnDemand(_, pages) => pages.length,
        }
    }

    pub(crate) fn write(&self, at: usize, byte: u8) {
        assert!(at < self.length());
        // SAFETY: inside the memory, which is never a reference.
        unsafe { self.start().add(at).write_volatile(byte) }
    }

    /// All of it, word by word. Means something only while the guest stands still.
    pub(crate) fn words(&self) -> Vec<u32> {
        let start = self.start().cast::<[u8; 4]>();
        // SAFETY: inside the memory, which is never a reference.
        (0..self.length() / 4)
            .map(|word| unsafe { start.add(word).read_volatile() })
            .map(u32::from_le_bytes)
            .collect()
    }
}
