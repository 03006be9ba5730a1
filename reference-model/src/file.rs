//! A file with holes.

use std::collections::BTreeMap;

/// The block of a file system, in bytes.
const BLOCK: u64 = 4096;

/// A file with holes: only the blocks that were written, each whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseFile {
    blocks: BTreeMap<u64, Vec<u8>>,
    length: u64,
}

impl SparseFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `bytes` at `offset`, a byte at a time.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let block = self.blocks.entry(at / BLOCK).or_insert_with(|| vec![0; BLOCK as usize]);
            block[(at % BLOCK) as usize] = *byte;
            self.length = self.length.max(at + 1);
        }
    }

    /// The byte at `offset`; holes, and what is behind the end, are zero.
    pub fn byte(&self, offset: u64) -> u8 {
        self.blocks.get(&(offset / BLOCK)).map_or(0, |block| block[(offset % BLOCK) as usize])
    }

    /// The bytes from `offset` on.
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        (offset..offset + length).map(|at| self.byte(at)).collect()
    }

    /// Cuts the file, or makes it longer with a hole.
    pub fn set_length(&mut self, length: u64) {
        self.blocks.retain(|block, _| block * BLOCK < length);
        if let Some(last) = self.blocks.get_mut(&(length / BLOCK)) {
            last[(length % BLOCK) as usize..].fill(0);
        }
        self.length = length;
    }

    /// The length.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The most that `st_blocks` may say: units of 512 bytes.
    pub fn st_blocks(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK / 512
    }
}
