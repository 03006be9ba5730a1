//! How a file is opened for reading: where its stream begins, and what its bitmaps are like, which nothing in a file says.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use mapped_ram_format::bitmap::BitmapEncoding;

use super::Reader;
use crate::error::{Error, Result};
use crate::storage::{FileSource, Source};

/// How a file is opened for reading.
///
/// ```no_run
/// # fn main() -> mapped_ram::Result<()> {
/// let reader = mapped_ram::ReaderOptions::new().stream_offset(12345).open("guest.mram")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until `open` is called"]
pub struct ReaderOptions {
    pub(super) stream_offset: Option<u64>,
    pub(super) bitmap_encoding: Option<BitmapEncoding>,
    pub(super) salvage: bool,
}

impl ReaderOptions {
    /// The stream begins at byte 0, or where a libvirt save image around it says; the bitmaps' word and byte order
    /// are this host's, or those that libvirt's header tells.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where in the file the stream begins, in bytes. Said so, no libvirt header is looked for.
    pub fn stream_offset(mut self, offset: u64) -> Self {
        self.stream_offset = Some(offset);
        self
    }

    /// How the host that wrote the file laid out its bitmaps: nothing in the stream says so.
    pub fn bitmap_encoding(mut self, encoding: BitmapEncoding) -> Self {
        self.bitmap_encoding = Some(encoding);
        self
    }

    /// Opens a file that is cut, or that cannot be read in places, as far as its blocks can be found one after the other; what keeps it
    /// from being whole is in [`Reader::flaw`]. Of such a file only the blocks' memory can be had: reading a page that is gone is an
    /// error, and so is a bitmap that is, without which nothing is known of a block's pages. A save that never finished is refused
    /// all the same, for its bitmaps were not written.
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened or read, and when its bytes are no whole mapped-ram stream.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Reader> {
        let path = path.as_ref();
        let source = FileSource::open(path)
            .map_err(|source| Error::io(&path.display().to_string(), "open the file for reading", source))?;
        self.from_source(Arc::new(source))
    }

    /// Reads from a descriptor; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(self, file: File, name: &str) -> Result<Reader> {
        let source = FileSource::from_file(file, name)
            .map_err(|source| Error::io(name, "use the descriptor", source))?;
        self.from_source(Arc::new(source))
    }

    /// Reads from a source of the caller's own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_source(self, source: Arc<dyn Source>) -> Result<Reader> {
        Reader::begin(&self, source)
    }
}
