//! What a save can be asked for, and the defaults.

use std::fs::File;
use std::path::Path;

use mapped_ram_format::Layout;
use multifd_pool::Cancel;

use super::{SaveReport, Tail, Writer};
use crate::error::{Error, Result};
use crate::progress::{Callback, Progress};
use crate::ram_block::RamBlock;
use crate::storage::{AtomicFile, InPlaceFile, IoMode, Storage};

/// The most channels that QEMU knows, and so do we.
pub(crate) const MAX_CHANNELS: usize = 255;

/// Channels unless asked otherwise. Two saturate the disks and page caches measured so far; on machines with more
/// cores a few more hide the zero scan of one behind the write of another.
fn default_channels() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// How a guest is saved. Made by [`new`](Self::new), changed by its methods, consumed by [`create`](Self::create) and
/// its relatives.
///
/// ```
/// # fn main() -> mapped_ram::Result<()> {
/// use mapped_ram::{RamBlock, SaveOptions};
///
/// let mut memory = vec![0_u8; 1 << 20];
/// memory[4096..8192].fill(7);
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("guest.mram");
///
/// let report = SaveOptions::new().channels(2).save(&path, vec![RamBlock::new("ram0", &memory)])?;
/// assert_eq!(report.pages_written(), 1);
/// assert_eq!(report.zero_pages(), 255);
/// # Ok(())
/// # }
/// ```
#[must_use = "options do nothing until `create` or `save` is called"]
pub struct SaveOptions<'a> {
    pub(crate) channels: usize,
    pub(crate) io_mode: IoMode,
    pub(crate) zero_detection: bool,
    pub(crate) page_size: u64,
    pub(crate) machine: Option<String>,
    pub(crate) stream_offset: u64,
    pub(crate) alignment: Option<u64>,
    pub(crate) head: Option<Layout>,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Callback<'a>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> SaveOptions<'a> {
    /// Buffered, with zero detection, pages of 4096 bytes, machine `none`, at offset 0, as QEMU lays files out.
    pub fn new() -> Self {
        Self {
            channels: default_channels(),
            io_mode: IoMode::Buffered,
            zero_detection: true,
            page_size: 4096,
            machine: Some("none".to_owned()),
            stream_offset: 0,
            alignment: None,
            head: None,
            cancel: Cancel::new(),
            progress: None,
        }
    }

    /// How many threads write, 1 to 255. The number leaves no trace in the file.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Through the page cache or past it.
    pub fn io_mode(mut self, mode: IoMode) -> Self {
        self.io_mode = mode;
        self
    }

    /// Whether pages of zeros are looked for and left out. Without it, every page that is written takes room.
    pub fn zero_detection(mut self, on: bool) -> Self {
        self.zero_detection = on;
        self
    }

    /// The target's page size in bytes, a power of two; 4096 unless said otherwise. QEMU refuses a file whose page
    /// size is not its target's.
    pub fn page_size(mut self, bytes: u64) -> Self {
        self.page_size = bytes;
        self
    }

    /// The machine name in the configuration section; QEMU loads the file only into a machine of that name.
    pub fn machine(mut self, name: impl Into<String>) -> Self {
        self.machine = Some(name.into());
        self
    }

    /// Leaves the configuration section out, as very old machine types do.
    pub fn no_configuration(mut self) -> Self {
        self.machine = None;
        self
    }

    /// Where in the file the stream begins. Only for saves in place; the bytes before it are kept.
    pub fn stream_offset(mut self, offset: u64) -> Self {
        self.stream_offset = offset;
        self
    }

    /// What the pages of each block are aligned to in the file: a power of two, at least the page size; 1 MiB unless
    /// said otherwise, as QEMU does.
    pub fn alignment(mut self, bytes: u64) -> Self {
        self.alignment = Some(bytes);
        self
    }

    /// Takes over all that stands before the first RAM block in `layout`'s stream (machine, capabilities, uuid), and
    /// its page size: for writing a file once more.
    pub fn head_of(mut self, layout: &Layout) -> Self {
        self.page_size = layout.page_size();
        self.head = Some(layout.clone());
        self
    }

    /// A handle that ends the save from outside; the operation that runs returns
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Calls `callback` now and then while pages are written.
    pub fn progress(mut self, callback: impl FnMut(&Progress) + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// Saves `blocks` whole into a new file at `path`: [`create`](Self::create), [`Writer::write_all`], and
    /// [`Writer::finish`] with the smallest tail that QEMU loads.
    ///
    /// # Errors
    /// As those three. A file that was there before is then still there, untouched.
    pub fn save(self, path: impl AsRef<Path>, blocks: Vec<RamBlock<'a>>) -> Result<SaveReport> {
        let mut writer = self.create(path, blocks)?;
        writer.write_all()?;
        writer.finish(&Tail::minimal())
    }

    /// Begins a new file that appears at `path`, whole, when the writer is finished; an older file stays there until
    /// then. Its mode is 0600.
    ///
    /// # Errors
    /// Bad options or blocks, and what the system says to creating a file in `path`'s directory.
    pub fn create(self, path: impl AsRef<Path>, blocks: Vec<RamBlock<'a>>) -> Result<Writer<'a>> {
        let path = path.as_ref();
        if self.stream_offset != 0 {
            return Err(Error::Usage(format!(
                "a new file has nothing before its stream; use a save in place for offset {}",
                self.stream_offset
            )));
        }
        let storage = AtomicFile::create(path)
            .map_err(|source| Error::io(&path.display().to_string(), "create the file", source))?;
        self.with_storage(Box::new(storage), blocks)
    }

    /// Begins to write into the file at `path` from the stream offset on: what stands before is kept, what stands
    /// behind is given up at once, and until the writer is finished every reader calls the stream incomplete.
    ///
    /// # Errors
    /// Bad options or blocks, and what the system says to opening or writing the file.
    pub fn in_place(self, path: impl AsRef<Path>, blocks: Vec<RamBlock<'a>>) -> Result<Writer<'a>> {
        let path = path.as_ref();
        let storage = InPlaceFile::open(path)
            .map_err(|source| Error::io(&path.display().to_string(), "open the file for writing", source))?;
        self.with_storage(Box::new(storage), blocks)
    }

    /// As [`in_place`](Self::in_place), into a descriptor that is open for reading and writing; `name` is what errors
    /// call it.
    ///
    /// # Errors
    /// As [`in_place`](Self::in_place), and when the descriptor is no regular file.
    pub fn in_file(self, file: File, name: &str, blocks: Vec<RamBlock<'a>>) -> Result<Writer<'a>> {
        let storage = InPlaceFile::from_file(file, name)
            .map_err(|source| Error::io(name, "use the descriptor", source))?;
        self.with_storage(Box::new(storage), blocks)
    }

    /// Begins to write into a storage of the caller's own.
    ///
    /// # Errors
    /// Bad options or blocks, and what the storage says to its first writes.
    pub fn with_storage(self, storage: Box<dyn Storage>, blocks: Vec<RamBlock<'a>>) -> Result<Writer<'a>> {
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            return Err(Error::Usage(format!("{} channels; use 1 to {MAX_CHANNELS}", self.channels)));
        }
        Writer::begin(self, storage, blocks)
    }
}
