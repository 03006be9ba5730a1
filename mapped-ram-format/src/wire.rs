//! The numbers of the stream that more than one module must agree on.

/// What a writer that works in place leaves where the magic belongs until everything else stands in the file.
///
/// A stream that begins with these bytes, or with four zeros, decodes to
/// [`ErrorKind::Incomplete`](crate::ErrorKind::Incomplete).
pub const INCOMPLETE_MAGIC: [u8; 4] = *b"part";

pub(crate) const MAGIC: [u8; 4] = *b"QEVM";
pub(crate) const STREAM_VERSION: u32 = 3;

/// First byte of each thing in the stream.
pub(crate) mod section {
    pub(crate) const END_OF_STREAM: u8 = 0x00;
    pub(crate) const START: u8 = 0x01;
    pub(crate) const PART: u8 = 0x02;
    pub(crate) const END: u8 = 0x03;
    pub(crate) const FULL: u8 = 0x04;
    pub(crate) const SUBSECTION: u8 = 0x05;
    pub(crate) const DESCRIPTION: u8 = 0x06;
    pub(crate) const CONFIGURATION: u8 = 0x07;
    pub(crate) const COMMAND: u8 = 0x08;
    pub(crate) const FOOTER: u8 = 0x7e;
}

pub(crate) const RAM: &[u8] = b"ram";
pub(crate) const RAM_INSTANCE: u32 = 0;
pub(crate) const RAM_VERSION: u32 = 4;

/// Flags in the low bits of a RAM word.
pub(crate) mod flag {
    pub(crate) const MEM_SIZE: u64 = 0x4;
    pub(crate) const EOS: u64 = 0x10;
    /// ZERO, PAGE, CONTINUE, XBZRLE, HOOK, COMPRESS and MULTIFD_FLUSH: the flags of pages that follow one another in
    /// the stream, which mapped-ram never does.
    pub(crate) const OF_STREAMED_PAGES: u64 = 0x2 | 0x8 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200;
}

/// The smallest page size whose offsets leave room for the RAM flags that can be told apart before it is known.
pub(crate) const MIN_PAGE_SIZE: u64 = 256;

/// Version of the header that goes before each block's bitmap.
pub(crate) const HEADER_VERSION: u32 = 1;
/// Length of that header.
pub(crate) const HEADER_LEN: u64 = 28;
/// Files written today align pages to this.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 1 << 20;
/// The target page size of most machines.
pub(crate) const DEFAULT_PAGE_SIZE: u64 = 4096;
/// The number that QEMU gave the `ram` section on every machine seen; any number is legal.
pub(crate) const DEFAULT_RAM_SECTION_ID: u32 = 1;

/// `lseek` and `pwrite` take signed offsets, so no file goes further.
pub(crate) const MAX_OFFSET: u64 = i64::MAX.unsigned_abs();
