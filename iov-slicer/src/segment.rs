//! What an iovec is, for this crate: an address and a length.

/// A piece of memory, by address and length.
pub trait Segment {
    /// The address of its first byte.
    fn addr(&self) -> usize;

    /// Its length in bytes.
    fn len(&self) -> usize;

    /// Whether its length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Segment for (usize, usize) {
    #[inline]
    fn addr(&self) -> usize {
        self.0
    }

    #[inline]
    fn len(&self) -> usize {
        self.1
    }
}

impl<S: Segment> Segment for &S {
    #[inline]
    fn addr(&self) -> usize {
        (**self).addr()
    }

    #[inline]
    fn len(&self) -> usize {
        (**self).len()
    }
}

#[cfg(feature = "std")]
impl Segment for std::io::IoSlice<'_> {
    #[inline]
    fn addr(&self) -> usize {
        self.as_ptr().addr()
    }

    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

#[cfg(feature = "std")]
impl Segment for std::io::IoSliceMut<'_> {
    #[inline]
    fn addr(&self) -> usize {
        self.as_ptr().addr()
    }

    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

#[cfg(feature = "libc")]
impl Segment for libc::iovec {
    #[inline]
    fn addr(&self) -> usize {
        self.iov_base.addr()
    }

    #[inline]
    fn len(&self) -> usize {
        self.iov_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Own(usize);

    impl Segment for Own {
        fn addr(&self) -> usize {
            1
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn what_has_no_bytes_is_empty() {
        assert!(Own(0).is_empty() && !Own(1).is_empty());
        assert!(Segment::is_empty(&&Own(0)) && !Segment::is_empty(&&Own(1)));
        assert!((7_usize, 0_usize).is_empty() && !(0_usize, 7_usize).is_empty());
    }
}
