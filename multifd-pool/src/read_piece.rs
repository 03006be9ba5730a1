//! A stretch of a file that is read together with others.

use crate::iovec::IoVec;

/// A stretch of a file, the pieces of memory that it goes to, in order, and how much of it was read already.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ReadPiece<'v> {
    /// The memory.
    pub vecs: &'v [IoVec],
    /// Where it comes from in the file, in bytes.
    pub offset: u64,
    /// How many bytes, from the start of it on, were read.
    pub done: u64,
}

impl<'v> ReadPiece<'v> {
    /// What `vecs` have room for, from `offset` on, of which nothing was read.
    pub fn new(vecs: &'v [IoVec], offset: u64) -> Self {
        Self { vecs, offset, done: 0 }
    }

    /// The length in bytes; as good as endless where that cannot be counted, which no call takes.
    pub fn len(&self) -> u64 {
        self.vecs.iter().fold(0, |sum, vec| sum.saturating_add(vec.len() as u64))
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are left to read.
    pub(crate) fn undone(&self) -> u64 {
        self.len().saturating_sub(self.done)
    }

    /// Fills `rest` with the memory that is left to read, and says where in the file it comes from.
    pub(crate) fn rest(&self, rest: &mut Vec<IoVec>) -> u64 {
        rest.clear();
        let mut skip = self.done;
        for vec in self.vecs {
            // No longer than the iovec, which is counted in `usize`.
            let by = usize::try_from(skip).map_or(vec.len(), |skip| skip.min(vec.len()));
            skip -= by as u64;
            if by < vec.len() {
                rest.push(vec.skip(by));
            }
        }
        self.offset.saturating_add(self.done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_left_is_all_that_was_not_read(
            lengths in prop::collection::vec(0_usize..20, 0..6),
            done in any::<prop::sample::Index>(),
        ) {
            // Addresses only: nothing is read. A thousand bytes lie between two pieces of memory.
            let starts = (1..).map(|index| std::ptr::without_provenance_mut::<u8>(index * 1000));
            let vecs: Vec<IoVec> = starts.zip(&lengths).map(|(start, length)| IoVec::new(start, *length)).collect();
            let bytes = |vecs: &[IoVec]| -> Vec<usize> {
                vecs.iter().flat_map(|vec| vec.addr().addr()..vec.addr().addr() + vec.len()).collect()
            };
            let all = bytes(&vecs);
            let mut piece = ReadPiece::new(&vecs, 70);
            prop_assert_eq!((piece.len(), piece.is_empty()), (all.len() as u64, all.is_empty()));
            let done = done.index(all.len() + 1);
            piece.done = done as u64;
            let mut rest = vec![IoVec::new(std::ptr::null_mut(), 0)];
            prop_assert_eq!(piece.rest(&mut rest), 70 + done as u64);
            prop_assert_eq!(bytes(&rest), &all[done..]);
            prop_assert_eq!(piece.undone(), (all.len() - done) as u64);
            prop_assert!(rest.iter().all(|vec| !vec.is_empty()));
        }
    }
}
