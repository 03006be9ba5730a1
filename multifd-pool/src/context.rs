//! What a worker has at hand while it runs a batch: transfers that are counted, and that stop when the pool has stopped.

use std::io;
use std::sync::Arc;

use crate::channel::Channel;
use crate::counters::ChannelCounters;
use crate::error::{Direction, Operation, TransferError, WorkError};
use crate::iovec::IoVec;
use crate::read_piece::ReadPiece;
use crate::transfer::whole;

/// What a worker has at hand while it runs a batch: which channel it is, its counters, and whether it should stop.
pub struct ChannelContext<'p> {
    pub(crate) index: usize,
    pub(crate) counters: ChannelCounters,
    pub(crate) is_stopped: &'p dyn Fn() -> bool,
}

impl ChannelContext<'_> {
    /// Which channel this is, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether the pool has stopped: by a cancel handle, or by another channel's error. A worker that goes on for long
    /// without a transfer should look from time to time and return [`WorkError::Cancelled`].
    pub fn is_stopped(&self) -> bool {
        (self.is_stopped)()
    }

    /// The counters of this channel since the batch began.
    pub fn counters(&mut self) -> &mut ChannelCounters {
        &mut self.counters
    }

    /// [`write_all_at`](crate::write_all_at), counted, and stopped by another channel's error too.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Each of `vecs` must be readable for its length until the call returns.
    #[expect(unsafe_code, reason = "raw memory, passed on")]
    pub unsafe fn write_all<C: Channel + ?Sized>(
        &mut self,
        channel: &mut C,
        block: &Arc<str>,
        vecs: &[IoVec],
        offset: u64,
    ) -> Result<(), WorkError> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.transfer(channel, Direction::Write, block, vecs, offset) }
    }

    /// [`read_exact_at`](crate::read_exact_at), counted, and stopped by another channel's error too.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Each of `vecs` must be writable for its length until the call returns.
    #[expect(unsafe_code, reason = "raw memory, passed on")]
    pub unsafe fn read_exact<C: Channel + ?Sized>(
        &mut self,
        channel: &mut C,
        block: &Arc<str>,
        vecs: &[IoVec],
        offset: u64,
    ) -> Result<(), WorkError> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.transfer(channel, Direction::Read, block, vecs, offset) }
    }

    /// Fills the memory of all `pieces`: many at a time where the channel can ([`Channel::read_many`]), what is left one after the
    /// other, each as [`read_exact`](Self::read_exact). Afterwards every piece is done; after an error, those that say so.
    ///
    /// # Errors
    /// As [`read_exact`](Self::read_exact), of the first piece that could not be read.
    ///
    /// # Safety
    /// Each piece's memory must be writable for its length until the call returns. No two pieces may share memory.
    #[expect(unsafe_code, reason = "raw memory, passed on")]
    pub unsafe fn read_pieces<C: Channel + ?Sized>(
        &mut self,
        channel: &mut C,
        block: &Arc<str>,
        pieces: &mut [ReadPiece<'_>],
    ) -> Result<(), WorkError> {
        if self.is_stopped() {
            return Err(WorkError::Cancelled);
        }
        let undone = |pieces: &[ReadPiece<'_>]| {
            pieces.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.undone()))
        };
        let before = undone(pieces);
        // SAFETY: the caller's promise, passed on.
        self.counters.calls += unsafe { channel.read_many(pieces) };
        self.counters.bytes += before.saturating_sub(undone(pieces));
        let mut rest = Vec::new();
        for piece in pieces.iter_mut().filter(|piece| piece.undone() > 0) {
            let offset = piece.rest(&mut rest);
            // SAFETY: the caller's promise, passed on, for a part of the piece.
            unsafe { self.read_exact(channel, block, &rest, offset) }?;
            piece.done = piece.len();
        }
        Ok(())
    }

    /// [`Channel::reserve`], its error with block and offset.
    ///
    /// # Errors
    /// As there.
    pub fn reserve<C: Channel + ?Sized>(
        &mut self,
        channel: &mut C,
        block: &Arc<str>,
        offset: u64,
        length: u64,
    ) -> Result<(), WorkError> {
        let result = channel.reserve(offset, length);
        Ok(result.map_err(|source| failed(Operation::Reserve, block, offset, length, source))?)
    }

    /// [`Channel::clear`], its error with block and offset.
    ///
    /// # Errors
    /// As there.
    pub fn clear<C: Channel + ?Sized>(
        &mut self,
        channel: &mut C,
        block: &Arc<str>,
        offset: u64,
        length: u64,
    ) -> Result<(), WorkError> {
        let result = channel.clear(offset, length);
        Ok(result.map_err(|source| failed(Operation::Clear, block, offset, length, source))?)
    }

    /// # Safety
    /// Each of `vecs` must be valid for `direction` for its length until the call returns.
    #[expect(unsafe_code, reason = "raw memory, passed on")]
    unsafe fn transfer<C: Channel + ?Sized>(
        &mut self,
        channel: &mut C,
        direction: Direction,
        block: &Arc<str>,
        vecs: &[IoVec],
        offset: u64,
    ) -> Result<(), WorkError> {
        // SAFETY: the caller's promise, passed on.
        unsafe { whole(channel, direction, block, vecs, offset, self.is_stopped, &mut self.counters.calls) }?;
        self.counters.bytes += vecs.iter().map(|vec| vec.len() as u64).sum::<u64>();
        Ok(())
    }
}

fn failed(
    operation: Operation,
    block: &Arc<str>,
    offset: u64,
    length: u64,
    source: io::Error,
) -> TransferError {
    TransferError { operation, block: Arc::clone(block), offset, length, done: 0, source }
}
