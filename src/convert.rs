//! The one place where file quantities (`u64`) become sizes in memory (`usize`).

/// `value` as a `usize`.
///
/// # Panics
/// If it does not fit. Callers pass counts of things that are in memory already, or that were checked against the
/// address space when a block was accepted; on a 64-bit host it cannot happen.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a count of things in memory fits usize")
}

/// `value` as a `u64`: every host that this crate builds for has addresses of at most 64 bits.
pub(crate) fn to_u64(value: usize) -> u64 {
    value as u64
}
