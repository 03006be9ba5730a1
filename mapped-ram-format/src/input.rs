//! Takes big-endian fields off the front of a byte slice that may end too early.
//!
//! Running out is no verdict: only the caller knows whether more bytes can come, so it is told how many the item
//! would take ([`Stop::Short`]).

use crate::error::Defect;

/// Why parsing an item stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The item takes at least this many bytes from its first one.
    Short(usize),
    /// The bytes cannot be right; `at` counts from the item's first byte.
    Bad { what: Defect, at: usize },
}

#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The same bytes, from `at` on.
    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes taken so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::Short(usize::MAX))?;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Short(end))?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Stop> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Stop> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_be_bytes)
    }

    /// A name with its length in one byte before it.
    pub(crate) fn short_name(&mut self) -> Result<&'a [u8], Stop> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// The verdict `what` on the field that began `back` bytes ago.
    pub(crate) fn bad<T>(&self, what: Defect, back: usize) -> Result<T, Stop> {
        Err(Stop::Bad { what, at: self.at.saturating_sub(back) })
    }
}
