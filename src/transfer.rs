//! Slices of this process in and out of a channel: the safe side of the pool's raw transfers.

use std::sync::Arc;

use multifd_pool::{Cancel, Channel, ChannelContext, IoVec, WorkError, write_all_at};

/// Writes all of `bytes` at `offset`; `what` names them in errors.
pub(crate) fn write_slice(
    channel: &mut dyn Channel,
    what: &Arc<str>,
    bytes: &[u8],
    offset: u64,
    cancel: &Cancel,
) -> Result<(), WorkError> {
    let vec = IoVec::from_const(bytes.as_ptr(), bytes.len());
    // SAFETY: `vec` is exactly `bytes`, which is borrowed until the call returns and which a write only reads.
    unsafe { write_all_at(channel, what, &[vec], offset, cancel) }.map(drop)
}

/// Clears `length` bytes at `offset`; `what` names them in errors.
pub(crate) fn clear_range(
    channel: &mut dyn Channel,
    what: &Arc<str>,
    offset: u64,
    length: u64,
) -> Result<(), WorkError> {
    let refused = |source| {
        WorkError::Other(
            format!("clear {length} bytes of block `{what}` at file offset {offset:#x}: {source}").into(),
        )
    };
    channel.clear(offset, length).map_err(|source: std::io::Error| refused(source))
}

/// Fills all of `bytes` from `offset` on, in a channel's thread; `block` names them in errors.
pub(crate) fn read_slice(
    context: &mut ChannelContext<'_>,
    channel: &mut dyn Channel,
    block: &Arc<str>,
    bytes: &mut [u8],
    offset: u64,
) -> Result<(), WorkError> {
    let vec = IoVec::new(bytes.as_mut_ptr(), bytes.len());
    // SAFETY: `vec` is exactly `bytes`, which is borrowed mutably until the call returns.
    unsafe { context.read_exact(channel, block, &[vec], offset) }
}

/// Fills all of `bytes` from `offset` on, in a thread of its own; `block` names them in errors.
#[cfg(feature = "userfaultfd")]
pub(crate) fn read_slice_at(
    channel: &mut dyn Channel,
    block: &Arc<str>,
    bytes: &mut [u8],
    offset: u64,
    cancel: &Cancel,
) -> Result<(), WorkError> {
    let vec = IoVec::new(bytes.as_mut_ptr(), bytes.len());
    // SAFETY: `vec` is exactly `bytes`, which is borrowed mutably until the call returns.
    unsafe { multifd_pool::read_exact_at(channel, block, &[vec], offset, cancel) }.map(drop)
}
