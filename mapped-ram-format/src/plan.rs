//! Decides where everything will stand in a stream that is to be written.
//!
//! Each offset is derived from the one before: record, bitmap right behind it, pages at the next multiple of the
//! alignment, the next record behind the pages. Nothing is written here.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::bitmap::{WordSize, encoded_len};
use crate::configuration::{Configuration, IGNORE_SHARED, lossy};
use crate::error::PlanError;
use crate::layout::{BlockLayout, Head, Layout, TOTAL_LEN, order_by_name, record_len};
use crate::output::{put_short_name, put_u32};
use crate::wire::{
    DEFAULT_ALIGNMENT, DEFAULT_PAGE_SIZE, DEFAULT_RAM_SECTION_ID, MAGIC, MAX_OFFSET, MIN_PAGE_SIZE, RAM,
    RAM_INSTANCE, RAM_VERSION, STREAM_VERSION, section,
};

/// A RAM block that is to have a place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlan {
    idstr: Vec<u8>,
    used_length: u64,
    guest_address: Option<u64>,
    left_out: bool,
}

impl BlockPlan {
    /// A block of `used_length` bytes, which must be a multiple of the plan's page size. The name takes up to 255
    /// bytes, none of them NUL.
    pub fn new(idstr: impl Into<Vec<u8>>, used_length: u64) -> Self {
        Self { idstr: idstr.into(), used_length, guest_address: None, left_out: false }
    }

    /// Guest-physical address of the block, which every record has if the capability `x-ignore-shared` is on.
    #[must_use]
    pub fn guest_address(mut self, address: u64) -> Self {
        self.guest_address = Some(address);
        self
    }

    /// The block's memory is shared and stays out of the file; only its record is written.
    #[must_use]
    pub fn left_out(mut self) -> Self {
        self.left_out = true;
        self
    }
}

#[derive(Clone, Debug)]
enum HeadPlan {
    Machine(String),
    None,
    Configuration(Configuration),
    Copy(Head),
}

/// Decides where everything will stand.
///
/// ```
/// use mapped_ram_format::{BlockPlan, LayoutPlan};
///
/// let layout = LayoutPlan::new()
///     .machine("pc-i440fx-10.0")
///     .alignment(4096)
///     .block(BlockPlan::new("pc.ram", 128 << 20))
///     .block(BlockPlan::new("pc.bios", 256 << 10))
///     .build()?;
/// let [ram, bios] = layout.blocks() else { unreachable!() };
/// assert_eq!(ram.bitmap_offset(), ram.record_end());
/// assert_eq!(ram.pages_offset() % 4096, 0);
/// assert_eq!(bios.record_offset(), ram.pages_offset() + (128 << 20));
/// assert_eq!(layout.tail_offset(), bios.end());
/// # Ok::<(), mapped_ram_format::PlanError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct LayoutPlan {
    stream_offset: u64,
    head: HeadPlan,
    ram_section_id: Option<u32>,
    page_size: u64,
    alignment: Option<u64>,
    word: WordSize,
    blocks: Vec<BlockPlan>,
}

impl Default for LayoutPlan {
    fn default() -> Self {
        Self::new()
    }
}

impl LayoutPlan {
    /// A stream at offset 0 for machine `none`, with pages of 4096 bytes, pages aligned to 1 MiB, and no blocks.
    pub fn new() -> Self {
        Self {
            stream_offset: 0,
            head: HeadPlan::Machine("none".into()),
            ram_section_id: None,
            page_size: DEFAULT_PAGE_SIZE,
            alignment: None,
            word: WordSize::W64,
            blocks: Vec::new(),
        }
    }

    /// The stream begins here in the file.
    pub fn stream_offset(mut self, offset: u64) -> Self {
        self.stream_offset = offset;
        self
    }

    /// A configuration section for this machine, with the capability `mapped-ram`; and with `x-ignore-shared`, if any
    /// block is left out or has a guest address.
    pub fn machine(mut self, name: impl Into<String>) -> Self {
        self.head = HeadPlan::Machine(name.into());
        self
    }

    /// No configuration section, as with `-global migration.send-configuration=off`.
    pub fn no_configuration(mut self) -> Self {
        self.head = HeadPlan::None;
        self
    }

    /// This configuration section as it is: blocks have guest addresses if and only if it has `x-ignore-shared`.
    pub fn configuration(mut self, configuration: Configuration) -> Self {
        self.head = HeadPlan::Configuration(configuration);
        self
    }

    /// Everything before the first block's record as in `layout`: configuration, commands and section number. The
    /// page size is not part of that.
    pub fn head_of(mut self, layout: &Layout) -> Self {
        self.head = HeadPlan::Copy(layout.head.clone());
        self
    }

    /// Number of the `ram` section; 1 unless told, or what [`head_of`](Self::head_of) brought.
    pub fn ram_section_id(mut self, id: u32) -> Self {
        self.ram_section_id = Some(id);
        self
    }

    /// The target's page size: a power of two of at least 256.
    pub fn page_size(mut self, bytes: u64) -> Self {
        self.page_size = bytes;
        self
    }

    /// Each block's pages begin at a multiple of this in the file: a power of two, at least the page size. 1 MiB
    /// unless told, or the page size if that is larger.
    pub fn alignment(mut self, bytes: u64) -> Self {
        self.alignment = Some(bytes);
        self
    }

    /// Word of the bitmaps; it decides the room that they take.
    pub fn word(mut self, word: WordSize) -> Self {
        self.word = word;
        self
    }

    /// Adds a block behind those before it.
    pub fn block(mut self, block: BlockPlan) -> Self {
        self.blocks.push(block);
        self
    }

    /// Adds blocks behind those before them.
    pub fn blocks(mut self, blocks: impl IntoIterator<Item = BlockPlan>) -> Self {
        self.blocks.extend(blocks);
        self
    }

    /// The layout.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if a decoder would refuse the stream, or if it would go beyond the largest file offset,
    /// `i64::MAX`.
    pub fn build(self) -> Result<Layout, PlanError> {
        let page_size = self.page_size;
        // Everything below divides by the page size or rounds to the alignment.
        if !page_size.is_power_of_two() || page_size < MIN_PAGE_SIZE {
            return Err(PlanError::PageSize(page_size));
        }
        let alignment = self.alignment.unwrap_or(DEFAULT_ALIGNMENT.max(page_size));
        if !alignment.is_power_of_two() || alignment < page_size {
            return Err(PlanError::Alignment(alignment));
        }

        let wants_ignore_shared =
            self.blocks.iter().any(|block| block.left_out || block.guest_address.is_some());
        let head = build_head(self.head, self.ram_section_id, wants_ignore_shared)?;
        let bits = head.configuration.as_ref().and_then(Configuration::target_page_bits);
        if let Some(bits) = bits.filter(|bits| page_size.trailing_zeros() != *bits) {
            return Err(PlanError::PageSizeContradiction { bits, page_size });
        }

        let ignores_shared = head.ignores_shared();
        let mut cursor = advance(self.stream_offset, head.bytes.len() as u64 + TOTAL_LEN)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        let mut total: u64 = 0;
        for block in self.blocks {
            check_block(&block, page_size, ignores_shared)?;
            total = advance(total, block.used_length)?;
            let record_end = advance(cursor, record_len(block.idstr.len(), ignores_shared))?;
            let (bitmap_offset, pages_offset, end) = if block.left_out {
                (0, 0, record_end)
            } else {
                let bitmap_end = advance(record_end, encoded_len(block.used_length / page_size, self.word))?;
                let pages = bitmap_end.checked_next_multiple_of(alignment).ok_or(PlanError::TooLong)?;
                (record_end, pages, advance(pages, block.used_length)?)
            };
            blocks.push(BlockLayout {
                idstr: block.idstr.into(),
                used_length: block.used_length,
                guest_address: block.guest_address,
                page_size,
                record_offset: cursor,
                bitmap_offset,
                pages_offset,
            });
            cursor = end;
        }
        let by_name = order_by_name(&blocks)
            .map_err(|second| PlanError::DuplicateBlock(name(&blocks[second].idstr)))?;
        Ok(Layout {
            stream_offset: self.stream_offset,
            page_size,
            head,
            blocks,
            by_name,
            tail_offset: cursor,
        })
    }
}

/// ```text
/// "QEVM", u32 version = 3
/// [configuration section]
/// 0x01, u32 section id, u8 length, "ram", u32 instance = 0, u32 version = 4
/// ```
fn build_head(plan: HeadPlan, id: Option<u32>, wants_ignore_shared: bool) -> Result<Head, PlanError> {
    let configuration = match plan {
        HeadPlan::Copy(mut head) => {
            if let Some(id) = id {
                head.ram_section_id = id;
                let start = head.bytes.len() - ram_start(id).len();
                head.bytes.truncate(start);
                head.bytes.extend(ram_start(id));
            }
            return Ok(head);
        }
        HeadPlan::None => None,
        HeadPlan::Configuration(configuration) => Some(configuration),
        HeadPlan::Machine(machine) => {
            let configuration = Configuration::new(machine);
            Some(if wants_ignore_shared {
                configuration.with_capability(IGNORE_SHARED)
            } else {
                configuration
            })
        }
    };
    let ram_section_id = id.unwrap_or(DEFAULT_RAM_SECTION_ID);
    let mut bytes = Vec::from(MAGIC);
    put_u32(&mut bytes, STREAM_VERSION);
    if let Some(configuration) = &configuration {
        configuration.encode(&mut bytes).map_err(PlanError::Configuration)?;
    }
    bytes.extend(ram_start(ram_section_id));
    Ok(Head { bytes, configuration, ram_section_id })
}

fn ram_start(id: u32) -> Vec<u8> {
    let mut bytes = Vec::from([section::START]);
    put_u32(&mut bytes, id);
    put_short_name(&mut bytes, RAM);
    put_u32(&mut bytes, RAM_INSTANCE);
    put_u32(&mut bytes, RAM_VERSION);
    bytes
}

fn check_block(block: &BlockPlan, page_size: u64, ignores_shared: bool) -> Result<(), PlanError> {
    let idstr = &block.idstr;
    if idstr.is_empty() || idstr.len() > 255 || idstr.contains(&0) {
        return Err(PlanError::Name(name(idstr)));
    }
    if block.used_length == 0 || !block.used_length.is_multiple_of(page_size) {
        return Err(PlanError::UsedLength { block: name(idstr), length: block.used_length, page_size });
    }
    match (ignores_shared, block.guest_address) {
        (true, None) => Err(PlanError::MissingGuestAddress(name(idstr))),
        (false, Some(_)) => Err(PlanError::WithoutIgnoreShared(name(idstr))),
        (false, None) if block.left_out => Err(PlanError::WithoutIgnoreShared(name(idstr))),
        _ => Ok(()),
    }
}

fn name(idstr: &[u8]) -> Box<str> {
    lossy(idstr)
}

fn advance(offset: u64, len: u64) -> Result<u64, PlanError> {
    offset.checked_add(len).filter(|end| *end <= MAX_OFFSET).ok_or(PlanError::TooLong)
}
