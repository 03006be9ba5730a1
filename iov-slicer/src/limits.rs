//! How much one write may take.

/// The most iovecs that Linux takes in one call (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// The most bytes that Linux transfers in one call (`MAX_RW_COUNT`: `INT_MAX` rounded down to a page).
const MAX_RW_COUNT: u64 = 0x7fff_f000;

/// How much one write may take, and what a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) page_size: u64,
    pub(crate) max_iovecs: usize,
    pub(crate) max_bytes: u64,
    pub(crate) merge: bool,
}

impl Limits {
    /// What Linux takes: 1024 iovecs and `0x7fff_f000` bytes a call, back-to-back iovecs merged.
    ///
    /// `page_size` is what a write that has to be cut is cut at, counted from the block's start: any number of bytes
    /// but 0; a 0 is taken for 1.
    #[inline]
    pub const fn new(page_size: u64) -> Self {
        let page_size = if page_size == 0 { 1 } else { page_size };
        Self { page_size, max_iovecs: IOV_MAX, max_bytes: MAX_RW_COUNT, merge: true }
    }

    /// The most iovecs of one write; a 0 is taken for 1.
    #[must_use]
    #[inline]
    pub const fn max_iovecs(mut self, max: usize) -> Self {
        self.max_iovecs = if max == 0 { 1 } else { max };
        self
    }

    /// The most bytes of one write; a 0 is taken for 1.
    #[must_use]
    #[inline]
    pub const fn max_bytes(mut self, max: u64) -> Self {
        self.max_bytes = if max == 0 { 1 } else { max };
        self
    }

    /// Whether iovecs that lie back to back become one, so that the kernel has fewer to walk. On unless turned off.
    #[must_use]
    #[inline]
    pub const fn merge(mut self, merge: bool) -> Self {
        self.merge = merge;
        self
    }
}
