//! An open mapped-ram file: its structure, decoded once when it is opened. Bitmaps and pages are read when they are asked for.

use std::path::Path;
use std::sync::Arc;

use mapped_ram_format::bitmap::{BitmapEncoding, WordSize};
use mapped_ram_format::libvirt::SaveHeader;
use mapped_ram_format::{DecodeError, DecodeWithError, Decoder, Layout, decode_with};

use super::{Block, ReaderOptions};
use crate::error::{Error, Result};
use crate::storage::{FileState, Source};

/// An open mapped-ram file whose structure was found sound.
///
/// ```
/// # fn main() -> mapped_ram::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("guest.mram");
/// # let memory = vec![3_u8; 1 << 16];
/// # mapped_ram::SaveOptions::new().save(&path, vec![mapped_ram::RamBlock::new("ram0", &memory)])?;
/// let reader = mapped_ram::Reader::open(&path)?;
/// for block in reader.blocks() {
///     println!("{}: {} bytes, {} of {} pages", block.idstr(), block.used_length(), block.present_pages()?, block.pages());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    shared: Arc<Shared>,
    blocks: Vec<Block>,
    libvirt: Option<SaveHeader>,
    flaw: Option<Error>,
}

/// What the reader and its blocks have in common.
pub(super) struct Shared {
    pub(super) source: Arc<dyn Source>,
    pub(super) file: String,
    pub(super) length: u64,
    /// In which state the file was when it was opened: what is known of it is of that one.
    pub(super) state: Option<FileState>,
    pub(super) layout: Layout,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("file", &self.shared.file)
            .field("layout", &self.shared.layout)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens the file at `path` with default [`ReaderOptions`].
    ///
    /// # Errors
    /// When it cannot be opened or read, and when its bytes are no whole mapped-ram stream.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        ReaderOptions::new().open(path)
    }

    pub(super) fn begin(options: &ReaderOptions, source: Arc<dyn Source>) -> Result<Self> {
        let file = source.name();
        let asked = |error| Error::io(&file, "ask for the file's length", error);
        // Before anything is read of it: who writes it from here on is found out.
        let state = source.state().map_err(asked)?;
        let length = state.map_or_else(|| source.len(), |state| Ok(state.length)).map_err(asked)?;
        let (stream_offset, libvirt) = match options.stream_offset {
            Some(offset) => (offset, None),
            None => match libvirt_header(&*source, &file)? {
                Some(header) => (header.stream_offset(), Some(header)),
                None => (0, None),
            },
        };
        let decoded =
            decode_with(stream_offset, length, |offset, bytes| read_exactly(&*source, &file, offset, bytes))
                .map_err(|error| match error {
                    DecodeWithError::Decode(source) => decode_error(&file, source),
                    DecodeWithError::Read(error) => error,
                });
        let (layout, flaw) = match decoded {
            Ok(layout) => (layout, None),
            Err(flaw) if options.salvage => match salvaged(&*source, stream_offset, length) {
                Some(layout) => (layout, Some(flaw)),
                None => return Err(flaw),
            },
            Err(error) => return Err(error),
        };
        // libvirt's header is in the byte order of the host, and libvirt runs on hosts of 64 bits only.
        let of_libvirt =
            libvirt.map(|header| BitmapEncoding { word: WordSize::W64, order: header.byte_order() });
        let encoding = options.bitmap_encoding.or(of_libvirt).unwrap_or_default();
        let shared = Arc::new(Shared { source, file, length, state, layout });
        let blocks = (0..shared.layout.blocks().len())
            .map(|index| Block::new(Arc::clone(&shared), index, encoding))
            .collect();
        Ok(Self { shared, blocks, libvirt, flaw })
    }

    /// The file, as the caller named it.
    pub fn file(&self) -> &str {
        &self.shared.file
    }

    /// The file's length in bytes, as it was when the file was opened.
    pub fn file_length(&self) -> u64 {
        self.shared.length
    }

    /// Where everything stands in the file.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// The header of the libvirt save image around the stream, if there is one.
    pub fn libvirt(&self) -> Option<&SaveHeader> {
        self.libvirt.as_ref()
    }

    /// What keeps the file from being whole, if it was opened to [salvage](ReaderOptions::salvage) from it.
    pub fn flaw(&self) -> Option<&Error> {
        self.flaw.as_ref()
    }

    /// The RAM blocks, in the file's order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The block with this idstr. Looks at one block after the other: who wants many of many makes a map of [`blocks`](Self::blocks).
    pub fn block(&self, idstr: &str) -> Option<&Block> {
        self.blocks.iter().find(|block| block.idstr() == idstr)
    }

    /// In which state the file was when it was opened.
    pub(crate) fn opened_in(&self) -> Option<FileState> {
        self.shared.state
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.shared.source)
    }

    /// Where the tail begins and ends in the file.
    pub(crate) fn tail_range(&self) -> (u64, u64) {
        let start = self.shared.layout.tail_offset();
        (start, self.shared.length.max(start))
    }
}

impl Shared {
    pub(super) fn read_exactly(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        read_exactly(&*self.source, &self.file, offset, bytes)
    }

    pub(super) fn decode_error(&self, source: DecodeError) -> Error {
        decode_error(&self.file, source)
    }
}

fn decode_error(file: &str, source: DecodeError) -> Error {
    Error::Decode { file: file.to_owned(), source }
}

fn read_exactly(source: &dyn Source, file: &str, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let got = source.read_at(bytes, offset).map_err(|error| {
        Error::io(file, format!("read {} bytes at offset {offset:#x}", bytes.len()), error)
    })?;
    if got < bytes.len() {
        return Err(Error::Damaged {
            file: file.to_owned(),
            what: format!(
                "the file was cut while it was read: {got} of {} bytes at offset {offset:#x}",
                bytes.len()
            ),
        });
    }
    Ok(())
}

/// The blocks whose records can be read, whatever else of the file is gone; `None` if there are none.
fn salvaged(source: &dyn Source, stream_offset: u64, length: u64) -> Option<Layout> {
    let mut decoder = Decoder::new(stream_offset, u64::MAX);
    let mut bytes = Vec::new();
    while let Some(need) = decoder.need() {
        bytes.resize(need.len, 0);
        let Ok(got) = source.read_at(&mut bytes, need.offset) else { break };
        bytes[got..].fill(0);
        if decoder.supply(&bytes).is_err() || got == 0 {
            break;
        }
    }
    decoder.finish_early(length)
}

fn libvirt_header(source: &dyn Source, file: &str) -> Result<Option<SaveHeader>> {
    let mut bytes = [0; SaveHeader::LEN];
    let got = source
        .read_at(&mut bytes, 0)
        .map_err(|error| Error::io(file, "read the file's first bytes", error))?;
    SaveHeader::decode(&bytes[..got]).map_err(|error| decode_error(file, error))
}
