//! One of several transfers that a channel is given together.

use crate::iovec::IoVec;

/// Memory and its place in the file, and how much of it was transferred already.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Piece {
    /// The memory.
    pub vec: IoVec,
    /// Where it goes in the file, in bytes.
    pub offset: u64,
    /// How many bytes, from the start of it on, were transferred.
    pub done: usize,
}

impl Piece {
    /// `vec` at `offset`, of which nothing was transferred.
    pub fn new(vec: IoVec, offset: u64) -> Self {
        Self { vec, offset, done: 0 }
    }

    /// What is left to transfer, and where.
    pub(crate) fn rest(&self) -> (IoVec, u64) {
        let done = self.done.min(self.vec.len());
        (self.vec.skip(done), self.offset.saturating_add(done as u64))
    }
}
