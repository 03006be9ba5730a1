//! The writes of one batch, which go on while its worker looks for more to write.
//!
//! Decided here is what becomes of writes that a channel did not begin, or did not bring to their end: they are made one after the
//! other, as [`ChannelContext::write_all`] makes them, which tells the error. And that none outlives its batch.

use std::sync::Arc;

use crate::channel::Channel;
use crate::context::ChannelContext;
use crate::error::WorkError;
use crate::piece::Piece;

/// Writes to one block of a file, many of them in flight together where the channel can ([`Channel::begin_writes`]).
///
/// [`end`](Self::end) waits for them and says how they ended. So does dropping it, but for the saying: a worker that returns early, or
/// panics, leaves no write behind.
#[derive(Debug)]
pub struct Writes<'c, C: Channel + ?Sized> {
    channel: &'c mut C,
    block: &'c Arc<str>,
}

impl<'c, C: Channel + ?Sized> Writes<'c, C> {
    /// None yet; they go through `channel`, and errors name `block`.
    pub fn new(channel: &'c mut C, block: &'c Arc<str>) -> Self {
        Self { channel, block }
    }

    /// The channel, for what else is to be done to the file meanwhile.
    pub fn channel(&mut self) -> &mut C {
        self.channel
    }

    /// Begins to write all of `pieces`, and empties the list. What the channel does not keep in flight is written at once.
    ///
    /// # Errors
    /// As [`ChannelContext::write_all`], of what was written at once, and [`WorkError::Cancelled`] where the pool is stopped; the list is
    /// then empty all the same.
    ///
    /// # Safety
    /// Each piece's memory must be readable for its length until [`end`](Self::end) has returned, or this was dropped.
    pub unsafe fn begin(
        &mut self,
        context: &mut ChannelContext<'_>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), WorkError> {
        if context.is_stopped() {
            pieces.clear();
            return Err(WorkError::Cancelled);
        }
        let all = undone(pieces);
        // SAFETY: the caller's promise; `end` and `drop` call `end_writes`.
        context.counters.calls += unsafe { self.channel.begin_writes(pieces) };
        context.counters.bytes += all.saturating_sub(undone(pieces));
        // SAFETY: the caller's promise, passed on.
        pieces.drain(..).try_for_each(|piece| unsafe { self.write(context, &piece) })
    }

    /// Waits for all that was begun so far, and writes what is left of it.
    ///
    /// # Errors
    /// As [`ChannelContext::write_all`], of the first piece that could not be written.
    pub fn wait(&mut self, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let mut left = Vec::new();
        context.counters.calls += self.channel.end_writes(&mut left);
        context.counters.bytes = context.counters.bytes.saturating_sub(undone(&left));
        // SAFETY: by `begin`'s contract the memory is readable until `end` has returned, which comes later.
        left.iter().try_for_each(|piece| unsafe { self.write(context, piece) })
    }

    /// As [`wait`](Self::wait), after which the memory of all pieces is the caller's again.
    ///
    /// # Errors
    /// As there.
    pub fn end(mut self, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        self.wait(context)
    }

    /// # Safety
    /// The piece's memory must be readable for its length until the call returns.
    unsafe fn write(&mut self, context: &mut ChannelContext<'_>, piece: &Piece) -> Result<(), WorkError> {
        let (vec, offset) = piece.rest();
        // SAFETY: the caller's promise, passed on, for a part of the piece.
        unsafe { context.write_all(self.channel, self.block, &[vec], offset) }
    }
}

impl<C: Channel + ?Sized> Drop for Writes<'_, C> {
    fn drop(&mut self) {
        // How they ended was told by `end`, or does not matter any more.
        self.channel.end_writes(&mut Vec::new());
    }
}

/// How many bytes of `pieces` are not written yet.
fn undone(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.rest().0.len() as u64).sum()
}
