//! Where in the guest's process each part of the regions is, as far as its events have told.
//!
//! A guest may unmap parts of its memory and move others. Behind a lock: who puts a page holds it for reading, who hears of a change
//! for writing, and from before he hears until he has written it down. So a page that was given up while a channel read it is never
//! put afterwards. Between the two the kernel itself refuses (EAGAIN).
//!
//! Every address, offset and length is in bytes; offsets are from the region's start.

use std::ops::Range;

/// A part of a region that is in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) addresses: Range<u64>,
    pub(super) region: usize,
    pub(super) offset: u64,
}

impl Piece {
    fn part(&self, addresses: Range<u64>) -> Self {
        let offset = self.offset + (addresses.start - self.addresses.start);
        Self { addresses, region: self.region, offset }
    }
}

#[derive(Debug, Default)]
pub(super) struct Places {
    /// By address.
    pieces: Vec<Piece>,
}

impl Places {
    pub(super) fn insert(&mut self, piece: Piece) {
        if piece.addresses.is_empty() {
            return;
        }
        let at = self.pieces.partition_point(|other| other.addresses.start < piece.addresses.start);
        self.pieces.insert(at, piece);
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The region at an address, and the offset in it.
    pub(super) fn find(&self, address: u64) -> Option<(usize, u64)> {
        let at = self.pieces.partition_point(|piece| piece.addresses.end <= address);
        let piece = self.pieces.get(at).filter(|piece| piece.addresses.contains(&address))?;
        Some((piece.region, piece.offset + (address - piece.addresses.start)))
    }

    /// Where an offset of a region is, and how many bytes from there on are in one piece.
    pub(super) fn at(&self, region: usize, offset: u64) -> Option<(u64, u64)> {
        self.pieces.iter().find_map(|piece| {
            let skip = offset.checked_sub(piece.offset).filter(|_| piece.region == region)?;
            let address = piece.addresses.start.checked_add(skip)?;
            (address < piece.addresses.end).then(|| (address, piece.addresses.end - address))
        })
    }

    /// What lies in a range of addresses, in order.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().filter_map(move |piece| {
            let from = piece.addresses.start.max(range.start);
            let to = piece.addresses.end.min(range.end);
            (from < to).then(|| piece.part(from..to))
        })
    }

    /// Takes out what lies in a range of addresses.
    pub(super) fn cut(&mut self, range: &Range<u64>) -> Vec<Piece> {
        let taken: Vec<Piece> = self.within(range.clone()).collect();
        if taken.is_empty() {
            return taken;
        }
        for piece in std::mem::take(&mut self.pieces) {
            let before = piece.addresses.start..piece.addresses.end.min(range.start);
            let behind = piece.addresses.start.max(range.end)..piece.addresses.end;
            for rest in [before, behind] {
                if !rest.is_empty() {
                    self.insert(piece.part(rest));
                }
            }
        }
        taken
    }

    /// Notes that `length` bytes moved.
    pub(super) fn moved(&mut self, from: u64, to: u64, length: u64) {
        let taken = self.cut(&(from..from.saturating_add(length)));
        // What was at the new place is gone; the kernel says so by itself too.
        self.cut(&(to..to.saturating_add(length)));
        for piece in taken {
            let start = to.saturating_add(piece.addresses.start - from);
            let end = start.saturating_add(piece.addresses.end - piece.addresses.start);
            self.insert(Piece { addresses: start..end, ..piece });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map of every single address.
        #[test]
        fn cuts_and_moves_are_those_of_single_addresses(
            steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..120, 0_u64..30), 0..12),
        ) {
            let mut places = Places::default();
            let mut model = BTreeMap::new();
            for (region, start) in [(0, 10_u64), (1, 30), (2, 45)] {
                places.insert(Piece { addresses: start..start + 12, region, offset: 0 });
                model.extend((0..12).map(|offset| (start + offset, (region, offset))));
            }
            for (moves, from, to, length) in steps {
                // The kernel refuses moves onto itself.
                let overlaps = from < to + length && to < from + length;
                if moves && !overlaps {
                    places.moved(from, to, length);
                    let taken: Vec<_> = model.range(from..from + length).map(|(at, what)| (*at, *what)).collect();
                    model.retain(|at, _| {
                        !(from..from + length).contains(at) && !(to..to + length).contains(at)
                    });
                    model.extend(taken.into_iter().map(|(at, what)| (at - from + to, what)));
                } else {
                    let cut = places.cut(&(from..from + length));
                    let expected: Vec<_> = model.range(from..from + length).map(|(_, what)| *what).collect();
                    let listed = cut.iter().flat_map(|piece| {
                        let length = piece.addresses.end - piece.addresses.start;
                        (piece.offset..piece.offset + length).map(|offset| (piece.region, offset))
                    });
                    prop_assert_eq!(listed.collect::<Vec<_>>(), expected);
                    model.retain(|at, _| !(from..from + length).contains(at));
                }
                for address in 0..180 {
                    prop_assert_eq!(places.find(address), model.get(&address).copied());
                }
                for (address, (region, offset)) in &model {
                    let (at, length) = places.at(*region, *offset).unwrap();
                    prop_assert_eq!(at, *address);
                    prop_assert_eq!(model.get(&(address + length - 1)).copied(), Some((*region, offset + length - 1)));
                }
            }
        }
    }
}
