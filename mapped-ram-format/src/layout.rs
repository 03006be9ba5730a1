//! Where everything stands in one stream, planned or decoded.
//!
//! A layout is only ever made by a plan or by the decoder, so its ranges are known not to touch and not to wrap. It
//! holds the bytes before the section's total as they are, hence encodes them again whatever stood in them.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::bitmap::{WordSize, encoded_len};
use crate::configuration::{Configuration, IGNORE_SHARED};
use crate::output::{put_short_name, put_u32, put_u64};
use crate::wire::{HEADER_LEN, HEADER_VERSION, flag};

/// Most bytes that a record has beside its name.
const AROUND_NAME: usize = 45;

/// Bytes of the `ram` section's first word.
pub(crate) const TOTAL_LEN: u64 = 8;

/// Bytes and the place in the file where they belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From the file's first byte.
    pub offset: u64,
    /// What stands there.
    pub bytes: Vec<u8>,
}

/// Where everything stands in one stream.
///
/// ```text
/// stream_offset   magic, configuration, commands, start of section "ram", total
/// records_offset  record | gap | bitmap | padding | pages      one after the other for each block
/// tail_offset     everything behind the last block
/// ```
///
/// Two layouts are equal if every byte that they describe is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(crate) stream_offset: u64,
    pub(crate) page_size: u64,
    pub(crate) head: Head,
    pub(crate) blocks: Vec<BlockLayout>,
    /// Indices of `blocks`, ordered by name.
    pub(crate) by_name: Vec<usize>,
    pub(crate) tail_offset: u64,
}

/// Everything before the section's total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// From the magic to the version of section "ram".
    pub(crate) bytes: Vec<u8>,
    pub(crate) configuration: Option<Configuration>,
    pub(crate) ram_section_id: u32,
}

impl Head {
    /// Whether each record has a guest address.
    pub(crate) fn ignores_shared(&self) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| configuration.has_capability(IGNORE_SHARED))
    }
}

/// Orders the blocks by name, or says which one is the second of its name.
pub(crate) fn order_by_name(blocks: &[BlockLayout]) -> Result<Vec<usize>, usize> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_unstable_by_key(|&index| (&blocks[index].idstr, index));
    match order.windows(2).find(|pair| blocks[pair[0]].idstr == blocks[pair[1]].idstr) {
        Some(pair) => Err(pair[1]),
        None => Ok(order),
    }
}

impl Layout {
    /// Where the stream begins.
    pub fn stream_offset(&self) -> u64 {
        self.stream_offset
    }

    /// Bytes in a page of every block. Where there is no block, what the plan or the configuration says, else 4096.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The configuration section; streams of `migration.send-configuration=off` have none.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.head.configuration.as_ref()
    }

    /// The blocks in the order of the stream.
    pub fn blocks(&self) -> &[BlockLayout] {
        &self.blocks
    }

    /// The block of this name: `blocks().iter().find(|block| block.idstr_bytes() == idstr)`.
    pub fn block(&self, idstr: impl AsRef<[u8]>) -> Option<&BlockLayout> {
        let found =
            self.by_name.binary_search_by(|&index| (*self.blocks[index].idstr).cmp(idstr.as_ref())).ok()?;
        Some(&self.blocks[self.by_name[found]])
    }

    /// Number of the section that holds the memory; its later parts and its footers repeat it.
    pub fn ram_section_id(&self) -> u32 {
        self.head.ram_section_id
    }

    /// Where the first block's record begins.
    pub fn records_offset(&self) -> u64 {
        self.stream_offset + self.head.bytes.len() as u64 + TOTAL_LEN
    }

    /// First byte behind the last block's pages.
    pub fn tail_offset(&self) -> u64 {
        self.tail_offset
    }

    /// Sum of the blocks' lengths, those included that are left out.
    pub fn total_length(&self) -> u64 {
        self.blocks.iter().map(|block| block.used_length).sum()
    }

    /// All bytes of the stream but bitmaps, pages, what lies between them, and the tail. The first piece begins with
    /// the magic; the pieces are in order and do not touch one another.
    ///
    /// ```text
    /// head, u64 total | 0x4
    /// for each block:  u8 length, idstr, u64 used_length, [u64 guest address],
    ///                  u32 version = 1, u64 page_size, u64 bitmap_offset, u64 pages_offset
    /// ```
    pub fn pieces(&self) -> Vec<Piece> {
        let mut bytes = self.head.bytes.clone();
        put_u64(&mut bytes, self.total_length() | flag::MEM_SIZE);
        let mut piece = Piece { offset: self.stream_offset, bytes };
        let mut pieces = Vec::with_capacity(self.blocks.len() + 1);
        for block in &self.blocks {
            if piece.offset + piece.bytes.len() as u64 != block.record_offset {
                let bytes = Vec::with_capacity(block.idstr.len() + AROUND_NAME);
                let next = Piece { offset: block.record_offset, bytes };
                pieces.push(core::mem::replace(&mut piece, next));
            }
            block.encode(&mut piece.bytes);
        }
        pieces.push(piece);
        pieces
    }
}

/// Where one RAM block stands.
///
/// ```text
/// record_offset   name, length, header
/// bitmap_offset   one bit a page
/// pages_offset    page i at pages_offset + i * page_size
/// end
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLayout {
    pub(crate) idstr: Box<[u8]>,
    pub(crate) used_length: u64,
    pub(crate) guest_address: Option<u64>,
    pub(crate) page_size: u64,
    pub(crate) record_offset: u64,
    pub(crate) bitmap_offset: u64,
    pub(crate) pages_offset: u64,
}

impl BlockLayout {
    /// Name of the block; bytes that are no UTF-8 are replaced.
    pub fn idstr(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.idstr)
    }

    /// Name of the block as it stands in the file.
    pub fn idstr_bytes(&self) -> &[u8] {
        &self.idstr
    }

    /// Bytes of memory, a multiple of the page size and never 0.
    pub fn used_length(&self) -> u64 {
        self.used_length
    }

    /// Guest-physical address, in streams with `x-ignore-shared` only.
    pub fn guest_address(&self) -> Option<u64> {
        self.guest_address
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// `used_length() / page_size()`, also where the block is left out.
    pub fn pages(&self) -> u64 {
        self.used_length / self.page_size
    }

    /// Where the block's record begins.
    pub fn record_offset(&self) -> u64 {
        self.record_offset
    }

    /// Where the block's bitmap begins; 0 if the block is left out.
    pub fn bitmap_offset(&self) -> u64 {
        self.bitmap_offset
    }

    /// Length of the bitmap of a writer with such words; 0 if the block is left out.
    pub fn bitmap_len(&self, word: WordSize) -> u64 {
        if self.is_left_out() { 0 } else { encoded_len(self.pages(), word) }
    }

    /// Whether the bitmap of a writer with such words ends before the pages begin. A decoded block always has room
    /// with 32 bits; if it has none with 64, its writer had 32.
    pub fn has_room_for(&self, word: WordSize) -> bool {
        self.bitmap_len(word) <= self.pages_offset - self.bitmap_offset
    }

    /// Where the block's first page stands; 0 if the block is left out.
    pub fn pages_offset(&self) -> u64 {
        self.pages_offset
    }

    /// First byte behind the block: behind its pages, or behind its record if it is left out.
    pub fn end(&self) -> u64 {
        if self.is_left_out() { self.record_end() } else { self.pages_offset + self.used_length }
    }

    /// Whether the block's memory is not in the file, because it is shared and `x-ignore-shared` was on.
    pub fn is_left_out(&self) -> bool {
        self.pages_offset == 0
    }

    /// First byte behind the record.
    pub fn record_end(&self) -> u64 {
        self.record_offset + record_len(self.idstr.len(), self.guest_address.is_some())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_short_name(out, &self.idstr);
        put_u64(out, self.used_length);
        if let Some(address) = self.guest_address {
            put_u64(out, address);
        }
        put_u32(out, HEADER_VERSION);
        put_u64(out, self.page_size);
        put_u64(out, self.bitmap_offset);
        put_u64(out, self.pages_offset);
    }
}

/// Length of a record: length byte, name, used length, guest address if there is one, header.
pub(crate) fn record_len(name: usize, address: bool) -> u64 {
    1 + name as u64 + 8 + if address { 8 } else { 0 } + HEADER_LEN
}
