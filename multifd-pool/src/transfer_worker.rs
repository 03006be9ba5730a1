//! The ready-made worker: a batch is memory and where in the file it goes or comes from.

use std::sync::Arc;

use crate::channel::Channel;
use crate::context::ChannelContext;
use crate::error::{Direction, WorkError};
use crate::iovec::IoVec;
use crate::pool::Worker;

/// Memory of one block, and where in the file it goes or comes from.
#[derive(Debug)]
pub struct IoBatch {
    direction: Direction,
    block: Arc<str>,
    vecs: Vec<IoVec>,
    offset: u64,
}

impl IoBatch {
    /// Writes the memory of `vecs`, in order, to the file at `offset`.
    ///
    /// # Safety
    /// Once submitted, each of `vecs` must stay readable until the pool has synced or was dropped.
    pub unsafe fn write(block: impl Into<Arc<str>>, vecs: Vec<IoVec>, offset: u64) -> Self {
        Self { direction: Direction::Write, block: block.into(), vecs, offset }
    }

    /// Fills the memory of `vecs`, in order, from the file at `offset`.
    ///
    /// # Safety
    /// Once submitted, each of `vecs` must stay writable until the pool has synced or was dropped, and nobody may rely
    /// on what it holds meanwhile.
    pub unsafe fn read(block: impl Into<Arc<str>>, vecs: Vec<IoVec>, offset: u64) -> Self {
        Self { direction: Direction::Read, block: block.into(), vecs, offset }
    }
}

/// Transfers [`IoBatch`]es through a channel.
#[derive(Debug)]
pub struct IoWorker<C> {
    channel: C,
}

impl<C: Channel> IoWorker<C> {
    /// A worker that transfers through `channel`.
    pub fn new(channel: C) -> Self {
        Self { channel }
    }
}

impl<C: Channel> Worker for IoWorker<C> {
    type Batch = IoBatch;

    fn run(&mut self, batch: IoBatch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let IoBatch { direction, block, vecs, offset } = batch;
        match direction {
            // SAFETY: valid by the promise made where the batch was made.
            Direction::Write => unsafe { context.write_all(&mut self.channel, &block, &vecs, offset) },
            // SAFETY: as above.
            Direction::Read => unsafe { context.read_exact(&mut self.channel, &block, &vecs, offset) },
        }
    }
}
