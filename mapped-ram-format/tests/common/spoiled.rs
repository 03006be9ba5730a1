//! A stream that decodes, to be spoiled one field at a time.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]
#![allow(clippy::needless_pass_by_value, reason = "defects are written where they are expected")]

use super::{decode_checked, file_with_tail, size};
use mapped_ram_format::{BlockPlan, Configuration, DecodeError, Defect, IGNORE_SHARED, Layout, LayoutPlan};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const LENGTH: u64 = 40 * PAGE;

fn layout(configuration: Configuration) -> Layout {
    let shared = configuration.has_capability(IGNORE_SHARED);
    let block = |name: &str| {
        let block = BlockPlan::new(name, LENGTH);
        if shared { block.guest_address(0) } else { block }
    };
    let plan = LayoutPlan::new().configuration(configuration).alignment(PAGE);
    plan.block(block("ram0")).block(block("rom1")).build().unwrap()
}

/// A stream of two blocks that decodes, to be spoiled.
pub(crate) struct Stream {
    pub(crate) file: Vec<u8>,
    pub(crate) layout: Layout,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self::with(Configuration::new("none"))
    }

    pub(crate) fn with(configuration: Configuration) -> Self {
        let layout = layout(configuration);
        let file = file_with_tail(&layout);
        assert_eq!(decode_checked(&file, 0).as_ref(), Ok(&layout));
        Self { file, layout }
    }

    /// Where a field of a block's record stands, counted from the end of the record.
    pub(crate) fn field(&self, block: usize, from_end: u64) -> u64 {
        self.layout.blocks()[block].record_end() - from_end
    }

    pub(crate) fn used_length(&self, block: usize) -> u64 {
        self.field(block, 36)
    }

    pub(crate) fn version(&self, block: usize) -> u64 {
        self.field(block, 28)
    }

    pub(crate) fn page_size(&self, block: usize) -> u64 {
        self.field(block, 24)
    }

    pub(crate) fn bitmap_offset(&self, block: usize) -> u64 {
        self.field(block, 16)
    }

    pub(crate) fn pages_offset(&self, block: usize) -> u64 {
        self.field(block, 8)
    }

    pub(crate) fn total(&self) -> u64 {
        self.layout.records_offset() - 8
    }

    pub(crate) fn put(mut self, at: u64, bytes: &[u8]) -> Self {
        self.file[size(at)..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn put_u64(self, at: u64, value: u64) -> Self {
        self.put(at, &value.to_be_bytes())
    }

    pub(crate) fn insert(mut self, at: u64, bytes: &[u8]) -> Self {
        self.file.splice(size(at)..size(at), bytes.iter().copied());
        self
    }

    pub(crate) fn refused(&self) -> DecodeError {
        decode_checked(&self.file, 0).unwrap_err()
    }

    #[track_caller]
    pub(crate) fn is(&self, what: Defect, at: u64) {
        let error = self.refused();
        assert_eq!((error.what(), error.offset()), (&what, at), "{error}");
    }

    #[track_caller]
    pub(crate) fn is_in(&self, block: &str, what: Defect, at: u64) {
        self.is(what, at);
        assert_eq!(self.refused().block(), Some(block));
    }
}
