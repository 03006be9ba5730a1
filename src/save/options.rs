//! What a save can be asked for, and the defaults.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use mapped_ram_format::Layout;
use mapped_ram_format::bitmap::BitmapEncoding;
use multifd_pool::Cancel;

use super::copied::Copied;
use super::{Bridge, SaveReport, SyncMode, Tail, Writer};
use crate::error::{Error, Result};
use crate::progress::{Callback, Progress};
use crate::ram_block::RamBlock;
use crate::read::Reader;
use crate::storage::{AtomicFile, InPlaceFile, IoMode, RecycledFile, Storage};
use crate::touched::Method;

/// The most channels that QEMU knows, and so do we.
pub(crate) const MAX_CHANNELS: usize = 255;

/// The largest chunk, in bytes: what one system call takes is a little less than twice that.
const MAX_CHUNK: u64 = 1 << 30;

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
/// assert_eq!(report.present_pages, [1]);
/// # Ok(())
/// # }
/// ```
#[must_use = "options do nothing until `create` or `save` is called"]
pub struct SaveOptions<'a> {
    pub(crate) channels: usize,
    pub(crate) io_mode: IoMode,
    pub(crate) sync: SyncMode,
    pub(crate) bridge: Bridge,
    pub(crate) chunk: Option<u64>,
    pub(crate) max_bandwidth: Option<NonZeroU64>,
    pub(crate) zero_detection: bool,
    pub(crate) skip_untouched: bool,
    pub(crate) touched_method: Method,
    recycle: Option<PathBuf>,
    pub(crate) page_size: u64,
    pub(crate) machine: Option<String>,
    pub(crate) stream_offset: u64,
    pub(crate) alignment: Option<u64>,
    pub(crate) head: Option<Layout>,
    pub(super) preamble: Option<Copied>,
    /// What the bitmaps are written in: this host's, unless what stands before the stream tells of another.
    pub(super) bitmap_encoding: BitmapEncoding,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Callback<'a>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> SaveOptions<'a> {
    /// Durable, by the mode that suits that, with zero detection and short gaps bridged; pages of 4096 bytes, machine
    /// `none`, at offset 0, as QEMU lays files out.
    pub fn new() -> Self {
        Self {
            channels: default_channels(),
            io_mode: IoMode::Auto,
            sync: SyncMode::Full,
            bridge: Bridge::Auto,
            chunk: None,
            max_bandwidth: None,
            zero_detection: true,
            skip_untouched: true,
            touched_method: Method::Best,
            recycle: None,
            page_size: 4096,
            machine: Some("none".to_owned()),
            stream_offset: 0,
            alignment: None,
            head: None,
            preamble: None,
            bitmap_encoding: BitmapEncoding::NATIVE,
            cancel: Cancel::new(),
            progress: None,
        }
    }

    /// How many threads write, 1 to 255. The number leaves no trace in the file.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Through the page cache or past it; which of them it became is in [`SaveReport::io_mode`].
    pub fn io_mode(mut self, mode: IoMode) -> Self {
        self.io_mode = mode;
        self
    }

    /// What must be on stable storage when the save has finished; [`SyncMode::Full`] unless said otherwise.
    pub fn sync(mut self, sync: SyncMode) -> Self {
        self.sync = sync;
        self
    }

    /// Which gaps of zero pages are written to make writes larger; [`Bridge::Auto`] unless said otherwise.
    pub fn bridge(mut self, bridge: Bridge) -> Self {
        self.bridge = bridge;
        self
    }

    /// How much one write has at most, in bytes: a multiple of the page size, up to 1 GiB; 4 MiB past the page
    /// cache and 1 MiB through it unless said otherwise.
    pub fn chunk(mut self, bytes: u64) -> Self {
        self.chunk = Some(bytes);
        self
    }

    /// How many bytes of pages all channels together write a second, smoothly; no limit for 0, the default.
    pub fn max_bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.max_bandwidth = NonZeroU64::new(bytes_per_second);
        self
    }

    /// Writes over the expendable file `old` instead of into new room, which is faster: the new file takes over its blocks.
    /// **What `old` holds is lost from [`create`](Self::create) on**, however the save ends; its name goes first, so that
    /// nobody reads it half-written. It must be on the file system of the new file, have one name, and may be the very file
    /// that is saved to. Its mode becomes 0600, and its owner this user; whoever has it open already sees the new guest: none
    /// may be mapped or served from it. The new file keeps the old one's room, also where its pages are zero, for the next that takes it over;
    /// [`Bridge::None`] gives it back, which takes longer. Only for new files ([`create`](Self::create), [`save`](Self::save)).
    pub fn recycle(mut self, old: impl Into<PathBuf>) -> Self {
        self.recycle = Some(old.into());
        self
    }

    /// Whether memory that was never touched is passed over unseen, so that a save costs what the guest's resident memory
    /// costs; it is, unless said otherwise or zero detection is off.
    ///
    /// Turn it off for memory whose absent pages are not zeros in a way that the kernel does not show: there is none that we
    /// know of. Memory under userfaultfd, files and devices are told apart.
    pub fn skip_untouched(mut self, skip: bool) -> Self {
        self.skip_untouched = skip;
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

    /// Leaves the configuration section out, as QEMU does with `-global migration.send-configuration=off`.
    pub fn no_configuration(mut self) -> Self {
        self.machine = None;
        self
    }

    /// Where in the file the stream begins. Only for saves in place; the bytes before it are kept.
    pub fn stream_offset(mut self, offset: u64) -> Self {
        self.stream_offset = offset;
        self.preamble = None;
        self.bitmap_encoding = BitmapEncoding::NATIVE;
        self
    }

    /// Puts before the stream what stands there in the file that `reader` reads, byte for byte, and begins the stream at the same
    /// offset: libvirt's header with the domain's XML, without which libvirt takes no file for its own. Its holes stay holes, and
    /// bitmaps are in the byte order that the header tells. Only for new files: a save in place keeps what it finds there. Use it together with [`head_of`](Self::head_of).
    ///
    /// ```no_run
    /// # fn main() -> mapped_ram::Result<()> {
    /// use mapped_ram::{RamBlock, Reader, SaveOptions};
    ///
    /// let saved = Reader::open("/var/lib/libvirt/qemu/save/guest.save")?;
    /// let blocks = saved.blocks().iter().map(|block| RamBlock::detached(block.layout().idstr_bytes(), block.used_length()));
    /// let writer = SaveOptions::new().head_of(saved.layout()).preamble_of(&saved).create("copy.save", blocks.collect())?;
    /// assert_eq!(writer.layout().stream_offset(), saved.layout().stream_offset());
    /// # Ok(())
    /// # }
    /// ```
    pub fn preamble_of(mut self, reader: &Reader) -> Self {
        let end = reader.layout().stream_offset();
        self.stream_offset = end;
        let what = "what stands before the stream";
        self.preamble = Some(Copied { source: reader.source(), start: 0, end, what });
        if let Some(header) = reader.libvirt() {
            self.bitmap_encoding.order = header.byte_order();
        }
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

    /// Calls `callback` now and then while pages are written. If it panics, so does the writer's method, and the writer is of no more
    /// use.
    pub fn progress(mut self, callback: impl FnMut(&Progress) + Send + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// Saves `blocks` whole into a new file at `path`: [`create`](Self::create), [`Writer::write_all`], and
    /// [`Writer::finish`] with the smallest tail that QEMU loads.
    ///
    /// # Errors
    /// As those three. A file that was there before is then still there, untouched; but where only the new name could not be made durable,
    /// which is the last step and told in words, the new file has it.
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
        if self.stream_offset != 0 && self.preamble.is_none() {
            return Err(Error::Usage(format!(
                "a new file has nothing before its stream; use a save in place for offset {}",
                self.stream_offset
            )));
        }
        let Some(old) = self.recycle.clone() else {
            let storage = AtomicFile::create(path)
                .map_err(|source| Error::io(&path.display().to_string(), "create the file", source))?;
            return self.with_storage(Box::new(storage), blocks);
        };
        // All that can be refused is refused while the old file is still what it was.
        self.check_all(&blocks)?;
        let storage = RecycledFile::take_over(&old, path).map_err(|source| {
            Error::io(&old.display().to_string(), "take over the room of the file to recycle", source)
        })?;
        let storage = if self.bridge == Bridge::None { storage.give_back_room() } else { storage };
        self.with_storage(Box::new(storage), blocks)
    }

    /// Begins to write into the file at `path` from the stream offset on: what stands before is kept, what stands
    /// behind is given up at once, and until the writer is finished every reader calls the stream incomplete.
    ///
    /// # Errors
    /// Bad options or blocks, and what the system says to opening or writing the file.
    pub fn in_place(self, path: impl AsRef<Path>, blocks: Vec<RamBlock<'a>>) -> Result<Writer<'a>> {
        let path = path.as_ref();
        self.check_for_in_place()?;
        // Opening makes a file that is not there, and changes one that is.
        self.check_all(&blocks)?;
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
        self.check_for_in_place()?;
        self.check_all(&blocks)?;
        let storage = InPlaceFile::from_file(file, name)
            .map_err(|source| Error::io(name, "use the descriptor", source))?;
        self.with_storage(Box::new(storage), blocks)
    }

    /// Begins to write into a storage of the caller's own.
    ///
    /// # Errors
    /// Bad options or blocks, and what the storage says to its first writes.
    pub fn with_storage(self, storage: Box<dyn Storage>, blocks: Vec<RamBlock<'a>>) -> Result<Writer<'a>> {
        self.check()?;
        // What is written over an expendable file is a new one, though its room may have been given back.
        let is_recycled = storage.holds_old_bytes() || storage.pieces_given_back().is_some();
        if storage.is_in_place() && !is_recycled {
            self.check_for_no_preamble()?;
        }
        Writer::begin(self, storage, blocks)
    }

    fn check_for_no_preamble(&self) -> Result<()> {
        if self.preamble.is_none() {
            return Ok(());
        }
        Err(Error::Usage(
            "a save in place keeps what stands before its stream; only a new file takes over another's"
                .to_owned(),
        ))
    }

    fn check_for_in_place(&self) -> Result<()> {
        self.check_for_no_preamble()?;
        match &self.recycle {
            None => Ok(()),
            Some(old) => Err(Error::Usage(format!(
                "{} cannot be recycled by a save in place; save to a new file",
                old.display()
            ))),
        }
    }

    /// What can be refused without looking at files.
    fn check_all(&self, blocks: &[RamBlock<'_>]) -> Result<()> {
        self.check()?;
        super::plan::plan(self, blocks)?;
        Ok(())
    }

    /// What can be refused without looking at blocks or files.
    fn check(&self) -> Result<()> {
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            return Err(Error::Usage(format!("{} channels; use 1 to {MAX_CHANNELS}", self.channels)));
        }
        if let Some(chunk) = self.chunk
            && (chunk == 0 || chunk > MAX_CHUNK || !chunk.is_multiple_of(self.page_size.max(1)))
        {
            return Err(Error::Usage(format!(
                "a chunk of {chunk} bytes; use a multiple of the page size {}, at most {MAX_CHUNK}",
                self.page_size
            )));
        }
        Ok(())
    }
}
