//! What can be wrong with a plan, and with bytes that are decoded.
//!
//! A decode error says what is wrong ([`Defect`]), where, and in which RAM block, and which of three answers a caller
//! can give to it ([`ErrorKind`]).

use alloc::boxed::Box;
use core::fmt;

/// What a caller can do about bytes that were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are right as far as they go: the writer never finished, or the file was cut.
    Incomplete,
    /// The bytes contradict the format or one another.
    Damaged,
    /// The bytes may be right, but mean something that this crate does not know.
    Unsupported,
}

/// Bytes that were refused: what is wrong, where, in which block.
///
/// ```
/// use mapped_ram_format::{ErrorKind, decode};
///
/// let error = decode(b"part....", 0).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Incomplete);
/// assert_eq!(error.offset(), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    what: Defect,
    offset: u64,
    block: Option<Box<str>>,
}

impl DecodeError {
    pub(crate) fn new(what: Defect, offset: u64) -> Self {
        Self { what, offset, block: None }
    }

    pub(crate) fn in_block(mut self, idstr: &[u8]) -> Self {
        self.block = Some(crate::configuration::lossy(idstr));
        self
    }

    /// Which answer a caller can give, the same as `self.what().kind()`.
    pub fn kind(&self) -> ErrorKind {
        self.what.kind()
    }

    /// What exactly is wrong.
    pub fn what(&self) -> &Defect {
        &self.what
    }

    /// Where the refused field begins, or where the bytes end: from the start of the file, or of the slice that was
    /// given to [`Tail::parse`](crate::tail::Tail::parse).
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The RAM block whose record was being decoded, with bytes that are no UTF-8 replaced.
    pub fn block(&self) -> Option<&str> {
        self.block.as_deref()
    }

    /// The same error `base` bytes further on: for a slice that was cut from a file at `base`.
    #[must_use]
    pub fn shifted(mut self, base: u64) -> Self {
        self.offset = self.offset.saturating_add(base);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind() {
            ErrorKind::Incomplete => "incomplete",
            ErrorKind::Damaged => "damaged",
            ErrorKind::Unsupported => "unsupported",
        };
        write!(f, "{kind} at offset {:#x}: ", self.offset)?;
        if let Some(block) = &self.block {
            write!(f, "block `{block}`: ")?;
        }
        self.what.fmt(f)
    }
}

impl core::error::Error for DecodeError {}

/// What exactly is wrong with bytes that were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// The writer never put the magic in place, its last act.
    #[error("the writer never finished")]
    NeverFinished,
    /// The stream ends before something that it announced.
    #[error("the stream ends inside {0}")]
    EndsInside(&'static str),
    /// Neither a QEMU stream nor one that was being written.
    #[error("no QEMU migration stream: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// A version of the stream, a section, a subsection or a libvirt header that is not known.
    #[error("version {found} of {of}")]
    Version {
        /// What carries the version.
        of: &'static str,
        /// The version that was found.
        found: u32,
    },
    /// The stream says which capabilities it was saved with, and mapped-ram is not one.
    #[error("the stream was saved without mapped-ram")]
    NotMappedRam,
    /// A configuration subsection whose length nobody can know.
    #[error("unknown configuration subsection `{0}`")]
    UnknownSubsection(Box<str>),
    /// The same configuration subsection, or the same capability, twice.
    #[error("`{0}` stands twice in the configuration")]
    TwiceInConfiguration(Box<str>),
    /// A field of the configuration that cannot be right.
    #[error("{0}")]
    Configuration(&'static str),
    /// The part before the memory goes on beyond any sane length.
    #[error("the part before the ram section is longer than {0} bytes")]
    HeadTooLong(usize),
    /// A section whose length nobody can know stands before the memory.
    #[error("section type {0:#04x} before the ram section")]
    UnexpectedSection(u8),
    /// Another section than `ram` stands before the memory.
    #[error("section `{0}` before the ram section")]
    ForeignSection(Box<str>),
    /// The RAM section's instance is not 0.
    #[error("instance {0} of the ram section")]
    RamInstance(u32),
    /// Flags that mapped-ram never sets, or not there.
    #[error("illegal RAM flags {0:#x}")]
    RamFlags(u64),
    /// A RAM block, device or section without a name, or with a NUL in it.
    #[error("an empty name, or a NUL in it")]
    Name,
    /// Two RAM blocks of one name.
    #[error("a second block of this name")]
    DuplicateBlock,
    /// No power of two, or less than 256.
    #[error("page size {0}")]
    PageSize(u64),
    /// The block's page size is not that of the blocks before it.
    #[error("page size {found} where the blocks before have {first}")]
    MixedPageSizes {
        /// Page size of the first block.
        first: u64,
        /// Page size of this one.
        found: u64,
    },
    /// The block's page size is not what the configuration says.
    #[error("page size {found} where the configuration says {bits} bits")]
    PageSizeContradiction {
        /// `target-page-bits` of the configuration.
        bits: u32,
        /// Page size of the block.
        found: u64,
    },
    /// No bytes, or no whole number of pages.
    #[error("length {length:#x} with pages of {page_size} bytes")]
    UsedLength {
        /// The block's length.
        length: u64,
        /// Its page size.
        page_size: u64,
    },
    /// The blocks' lengths do not add up to what the section announced.
    #[error("length {length:#x}, but only {left:#x} bytes are left of the announced total")]
    Total {
        /// The block's length.
        length: u64,
        /// What the blocks before it left of the total.
        left: u64,
    },
    /// The bitmap begins before the block's header ends.
    #[error("the bitmap at {offset:#x} begins before its header ends at {header_end:#x}")]
    BitmapInsideHeader {
        /// Where the bitmap begins.
        offset: u64,
        /// Where the header ends.
        header_end: u64,
    },
    /// The bitmap does not fit before the pages.
    #[error("the bitmap at {bitmap_offset:#x} runs into the pages at {pages_offset:#x}")]
    BitmapIntoPages {
        /// Where the bitmap begins.
        bitmap_offset: u64,
        /// Where the pages begin.
        pages_offset: u64,
    },
    /// The pages do not begin on a multiple of the page size.
    #[error("the pages at {0:#x} are not aligned")]
    PagesUnaligned(u64),
    /// An offset and a length that add up to more than 64 bits hold.
    #[error("the pages at {offset:#x} with length {length:#x} wrap around")]
    Wraps {
        /// Where the range begins.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// A block that is not in the file, though the stream does not have `x-ignore-shared`.
    #[error("the block is left out, but the stream has no x-ignore-shared")]
    LeftOut,
    /// Something else stands where the RAM section should end: the announced total may be too small.
    #[error("{0:#x} stands where the ram section should end with 0x10")]
    EndOfRam(u64),
    /// No footer with the section's number behind it.
    #[error("no footer of section {0:#x}")]
    Footer(u32),
    /// Sections without footers: `migration.send-section-footer=off`, as very old machine types have it.
    #[error("a stream whose sections have no footers (migration.send-section-footer=off)")]
    NoFooters,
    /// A byte that begins nothing known.
    #[error("unknown section type {0:#04x}")]
    UnknownSection(u8),
    /// Something follows that belongs only before it, or a section that was never started.
    #[error("a part of section {0:#x}, which was never started, or a second section of that number")]
    SectionNumber(u32),
    /// The vmdescription is no JSON, or not of the known shape.
    #[error("the vmdescription is not understood")]
    Description,
    /// The vmdescription and the sections name different devices.
    #[error("the vmdescription and the device sections disagree about `{0}`")]
    DescriptionMismatch(Box<str>),
    /// A libvirt image whose memory is not stored as mapped-ram.
    #[error("libvirt image format {0}{name}, only 6 (`virsh save --image-format sparse`) holds mapped-ram", name = libvirt_format(*.0))]
    LibvirtFormat(u32),
    /// A libvirt cookie outside of the header's data.
    #[error("cookie at {cookie_offset} of {data_len} bytes")]
    LibvirtCookie {
        /// Where the cookie begins in the data.
        cookie_offset: u32,
        /// Length of the data.
        data_len: u32,
    },
}

impl Defect {
    /// Which answer a caller can give.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NeverFinished | Self::EndsInside(_) => ErrorKind::Incomplete,
            // Version 0 was never given out: it is a hole or a flipped bit, not the future.
            Self::Version { found, .. } if *found > 0 => ErrorKind::Unsupported,
            Self::NotMappedRam
            | Self::UnknownSubsection(_)
            | Self::UnexpectedSection(_)
            | Self::ForeignSection(_)
            | Self::RamInstance(_)
            | Self::MixedPageSizes { .. }
            | Self::LibvirtFormat(_)
            | Self::NoFooters => ErrorKind::Unsupported,
            _ => ErrorKind::Damaged,
        }
    }
}

/// How libvirt calls the format `number`, in brackets, for whoever has to choose another one.
fn libvirt_format(number: u32) -> &'static str {
    match number {
        0 => " (raw)",
        1 => " (gzip)",
        2 => " (bzip2)",
        3 => " (xz)",
        4 => " (lzop)",
        5 => " (zstd)",
        _ => "",
    }
}

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No power of two, or less than 256.
    #[error("page size {0} is no power of two of at least 256")]
    PageSize(u64),
    /// No power of two, or less than the page size.
    #[error("alignment {0} is no power of two of at least the page size")]
    Alignment(u64),
    /// The page size is not what the configuration says.
    #[error("page size {page_size} contradicts the configuration's {bits} page bits")]
    PageSizeContradiction {
        /// `target-page-bits` of the configuration.
        bits: u32,
        /// Page size of the plan.
        page_size: u64,
    },
    /// The configuration cannot be encoded.
    #[error("configuration: {0}")]
    Configuration(&'static str),
    /// A block's name is empty, longer than 255 bytes, or has a NUL in it.
    #[error("block name `{0}` is empty, longer than 255 bytes or has a NUL in it")]
    Name(Box<str>),
    /// Two blocks of one name.
    #[error("two blocks named `{0}`")]
    DuplicateBlock(Box<str>),
    /// No bytes, or no whole number of pages.
    #[error("block `{block}`: length {length:#x} is no whole number of pages of {page_size} bytes, or zero")]
    UsedLength {
        /// The block.
        block: Box<str>,
        /// Its length.
        length: u64,
        /// The plan's page size.
        page_size: u64,
    },
    /// The capability `x-ignore-shared` asks for an address that the block does not have.
    #[error("block `{0}`: x-ignore-shared asks for a guest address")]
    MissingGuestAddress(Box<str>),
    /// A guest address, or a left-out block, that has no place without the capability `x-ignore-shared`.
    #[error("block `{0}`: the configuration has no x-ignore-shared")]
    WithoutIgnoreShared(Box<str>),
    /// The layout goes beyond the largest file offset.
    #[error("the layout goes beyond the largest file offset")]
    TooLong,
}
