//! A mapped block: where it is, whether its file is still there, and which of its pages were used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::prefetch::Prefetcher;
use super::region::{Region, host_page};
use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::read::Block;
use crate::storage::{FileState, Source};

/// What `/proc/self/pagemap` says of one page: eight bytes, and the bits for "in memory" and "in swap".
const ENTRY: u64 = 8;
const IN_USE: u64 = 0b11 << 62;

/// How much of the pagemap is read at a time, in bytes.
const WINDOW: u64 = 64 << 10;

/// A block's memory, mapped privately: reading it shows the file's pages and zeros for absent ones; writing it changes
/// this memory alone.
///
/// Made by [`MapOptions`](super::MapOptions). Other threads, and the guest's processors, may use the memory while the
/// mapping lives; this type itself neither reads nor writes it, so it may be sent and shared. Dropped, the memory is
/// unmapped; an address range that a caller reserved is left reserved, without access rights.
///
/// # While it is mapped
/// The file must neither be cut nor written in place. A page that is gone, or cannot be read from the disk, ends the
/// process with SIGBUS when it is touched (unless it handles that signal): the kernel has no other way to say so, but to system calls
/// and to KVM, whose `KVM_RUN` fails with EFAULT when a guest touches it. A page that was
/// never written through the mapping may show what is written to the file. Files that this crate saves under a name are
/// replaced, never rewritten, so a newer save under the same name does no harm: the mapping keeps the old file. Only a file that is given
/// up for another ([`SaveOptions::recycle`](crate::SaveOptions::recycle)) is written over: no guest may be mapped from it.
/// [`check_file`](Self::check_file) tells whether the file was cut; nothing short of loading the block protects from it.
pub struct Mapping {
    // In this order: the thread that uses the region ends first.
    prefetcher: Option<Prefetcher>,
    region: Arc<Region>,
    source: Arc<dyn Source>,
    about: About,
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping")
            .field("start", &self.as_ptr())
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// What a mapping says of its block.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) file: String,
    pub(super) block: String,
    pub(super) pages_offset: u64,
    pub(super) length: u64,
    pub(super) page_size: u64,
}

impl Mapping {
    pub(super) fn new(
        prefetcher: Option<Prefetcher>,
        region: Arc<Region>,
        source: Arc<dyn Source>,
        about: About,
    ) -> Self {
        Self { prefetcher, region, source, about }
    }

    /// The first byte of the memory, on a page of the host. Valid for reads and writes of [`len`](Self::len) bytes
    /// until the mapping is dropped.
    pub fn as_ptr(&self) -> *mut u8 {
        self.region.start().as_ptr()
    }

    /// The block's length.
    pub fn len(&self) -> usize {
        to_usize(self.about.length)
    }

    /// Whether the block has no bytes: never so.
    pub fn is_empty(&self) -> bool {
        self.about.length == 0
    }

    /// Waits until what [`Prefetch`](super::Prefetch) asked for is in memory.
    ///
    /// # Errors
    /// When a page could not be read: touching it would end the process with SIGBUS.
    pub fn wait_for_prefetch(&mut self) -> Result<()> {
        let Some(prefetcher) = self.prefetcher.take() else { return Ok(()) };
        prefetcher.wait().map_err(|error| self.about.error("bring its pages in", error))
    }

    /// Whether the file still holds all of the block.
    ///
    /// # Errors
    /// When it was cut, and when its length cannot be asked for.
    pub fn check_file(&self) -> Result<()> {
        self.about.check_length(&*self.source)
    }

    /// Which pages are in this process's memory now: those that were touched since the block was mapped, or prefetched.
    /// Given to [`Prefetch::WorkingSet`](super::Prefetch::WorkingSet), they are brought in at the next start.
    ///
    /// The kernel maps up to 16 pages around a touched one if they are cached already, so there may be more than were touched;
    /// and pages that the kernel took back are missing. Ask when the guest has done what it is restored for.
    ///
    /// # Errors
    /// When `/proc/self/pagemap` cannot be read.
    pub fn touched(&self) -> Result<PageBitmap> {
        self.read_pagemap().map_err(|error| self.about.error("read /proc/self/pagemap for it", error))
    }

    fn read_pagemap(&self) -> io::Result<PageBitmap> {
        let host_page = host_page();
        let pagemap = File::open("/proc/self/pagemap")?;
        let About { length, page_size, .. } = self.about;
        let mut touched = PageBitmap::new(length / page_size);
        let first = to_u64(self.region.start().addr().get()) / host_page;
        let entries = length.div_ceil(host_page);
        let mut bytes = vec![0; to_usize(WINDOW.min(entries * ENTRY))];
        let mut at = 0;
        while at < entries {
            let count = (WINDOW / ENTRY).min(entries - at);
            let window = &mut bytes[..to_usize(count * ENTRY)];
            pagemap.read_exact_at(window, (first + at) * ENTRY)?;
            let (words, _) = window.as_chunks::<8>();
            for (page, word) in (at..).zip(words) {
                if in_use(*word) {
                    // One page of the host may be several of the guest's, or the other way round.
                    touched
                        .insert(page * host_page / page_size..((page + 1) * host_page).div_ceil(page_size));
                }
            }
            at += count;
        }
        Ok(touched)
    }
}

#[expect(clippy::host_endian_bytes, reason = "the kernel speaks the host's order")]
fn in_use(entry: [u8; 8]) -> bool {
    u64::from_ne_bytes(entry) & IN_USE != 0
}

impl About {
    pub(super) fn of(block: &Block) -> Self {
        let layout = block.layout();
        Self {
            file: block.file().to_owned(),
            block: block.idstr().into_owned(),
            pages_offset: layout.pages_offset(),
            length: layout.used_length(),
            page_size: layout.page_size(),
        }
    }

    /// In which state the file is, if the source knows.
    pub(super) fn state(&self, source: &dyn Source) -> Result<Option<FileState>> {
        source.state().map_err(|error| Error::io(&self.file, "ask for the file's length and time", error))
    }

    pub(super) fn check_length(&self, source: &dyn Source) -> Result<()> {
        let length =
            source.len().map_err(|error| Error::io(&self.file, "ask for the file's length", error))?;
        let end = self.pages_offset + self.length;
        if length < end {
            return Err(Error::Damaged {
                file: self.file.clone(),
                what: format!(
                    "block `{}`: the file was cut at offset {length:#x}, and the block's pages reach to {end:#x}; do not touch \
                     the memory behind",
                    self.block
                ),
            });
        }
        Ok(())
    }

    /// The file ends inside `what`.
    pub(super) fn cut(&self, what: &str) -> Error {
        Error::Damaged {
            file: self.file.clone(),
            what: format!(
                "block `{}`: the file was cut while it was read: it ends inside the {what}",
                self.block
            ),
        }
    }

    pub(super) fn error(&self, what: &str, error: io::Error) -> Error {
        Error::io(&self.file, format!("block `{}`: {what}", self.block), error)
    }
}
