//! Appends big-endian fields to a byte vector.

use alloc::vec::Vec;

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// A name with its length in one byte before it; false, and nothing written, if it is longer than 255 bytes.
pub(crate) fn put_short_name(out: &mut Vec<u8>, name: &[u8]) -> bool {
    let Ok(len) = u8::try_from(name.len()) else { return false };
    out.push(len);
    out.extend_from_slice(name);
    true
}
