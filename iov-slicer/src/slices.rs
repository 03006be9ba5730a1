//! Iovecs as writes: the rule of where to cut.
//!
//! A write is the longest run of iovecs that lie back to back in memory. A gap, an overlap or a step back begins the
//! next, and so does a limit: a run that is too long is cut at the last page boundary (counted from the block's start)
//! that fits, or where the limit falls if there is none. Iovecs of length 0 are skipped, wherever they point.

use core::iter::FusedIterator;

use crate::block::Block;
use crate::error::SliceError;
use crate::limits::Limits;
use crate::segment::Segment;
use crate::to_u64;

/// Whether every iovec is inside the block, its end as well as its start: then [`slice()`] gives no error for them.
///
/// # Errors
/// The first one that is not, with its index, place, length and the block's length.
pub fn check<S: Segment>(block: &Block, segments: &[S]) -> Result<(), SliceError> {
    for (index, segment) in segments.iter().enumerate() {
        let (addr, len) = (segment.addr(), segment.len());
        if len != 0 && !block.contains(addr, len) {
            return Err(block.refuse(index, addr, len));
        }
    }
    Ok(())
}

/// The writes that put the bytes of `segments` where they belong in the file, in the segments' order.
///
/// Together they cover each byte of each segment once. A segment that is not inside the block is an error, and the last
/// item; what lies before it was given as writes already. [`check`] finds such a segment beforehand.
///
/// ```
/// use iov_slicer::{Block, Limits, slice};
///
/// let block = Block::new(0x1000, 0x10_0000, 0)?;
/// let iovecs = [(0x1000, 4096), (0x2000, 4096), (0x3000, 4096)];
/// let limits = Limits::new(4096).max_bytes(10_000);
/// let lengths: Result<Vec<u64>, _> = slice(&block, &limits, &iovecs).map(|write| Ok(write?.len)).collect();
/// assert_eq!(lengths, Ok::<_, iov_slicer::SliceError>(vec![8192, 4096]));
/// # Ok::<(), iov_slicer::BlockError>(())
/// ```
#[inline]
pub fn slice<'s, S: Segment>(block: &Block, limits: &Limits, segments: &'s [S]) -> Slices<'s, S> {
    let longest = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX).min(block.memory());
    Slices { block: *block, limits: *limits, longest, segments, index: 0, skip: 0, alone: 0 }
}

/// Iterator over the writes of a list of iovecs. Made by [`slice()`].
#[derive(Debug)]
pub struct Slices<'s, S> {
    block: Block,
    limits: Limits,
    /// No write of so many bytes or fewer is cut: the limit, or the block's length.
    longest: usize,
    segments: &'s [S],
    /// The segment that comes next, and how much of it was dealt with.
    index: usize,
    skip: usize,
    /// So many segments from there on are known to be a write each.
    alone: usize,
}

impl<S> Clone for Slices<'_, S> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

/// One positional write: iovecs that lie back to back, and where in the file they go.
#[derive(Debug)]
#[non_exhaustive]
pub struct Write<'s, S> {
    /// Where the first byte goes in the file.
    pub offset: u64,
    /// The address of the first byte.
    pub addr: usize,
    /// How many bytes there are, at least 1.
    pub len: u64,
    /// Which segment the first byte is in.
    pub first_index: usize,
    /// How many bytes of that segment come before the first byte.
    skip: usize,
    merge: bool,
    segments: &'s [S],
}

impl<S> Clone for Write<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Write<'_, S> {}

impl<'s, S: Segment> Write<'s, S> {
    /// The iovecs of the write as (address, length): a single one if they are merged, which they are unless
    /// [`Limits::merge`] says otherwise.
    #[inline]
    pub fn iovecs(&self) -> Iovecs<'s, S> {
        Iovecs {
            segments: if self.merge { &[] } else { &self.segments[self.first_index..] },
            skip: self.skip,
            addr: self.addr,
            left: usize::try_from(self.len).unwrap_or(usize::MAX),
        }
    }

    /// What is left after the first `written` bytes were written: the same iovecs without those bytes; `None` when
    /// nothing is.
    ///
    /// ```
    /// use iov_slicer::{Block, Limits, slice};
    ///
    /// let block = Block::new(0, 0x10_0000, 0x1000)?;
    /// let write = slice(&block, &Limits::new(4096), &[(0, 4096), (4096, 4096)]).next().unwrap().unwrap();
    /// let rest = write.advance(5000).unwrap();
    /// assert_eq!((rest.offset, rest.addr, rest.len, rest.first_index), (0x1000 + 5000, 5000, 3192, 1));
    /// assert!(rest.advance(3192).is_none());
    /// # Ok::<(), iov_slicer::BlockError>(())
    /// ```
    #[must_use]
    pub fn advance(&self, written: u64) -> Option<Self> {
        if written >= self.len {
            return None;
        }
        // Less than the length of memory, so it fits.
        let step = usize::try_from(written).ok()?;
        let mut rest = *self;
        rest.offset += written;
        rest.addr += step;
        rest.len -= written;
        rest.skip += step;
        // Not past the last segment: some bytes are left, and they are in one of them.
        while let len = rest.segments[rest.first_index].len()
            && rest.skip >= len
        {
            rest.skip -= len;
            rest.first_index += 1;
        }
        Some(rest)
    }
}

/// Iterator over the iovecs of one [`Write`], as (address, length).
#[derive(Clone, Debug)]
pub struct Iovecs<'s, S> {
    /// Empty when all are merged into one.
    segments: &'s [S],
    skip: usize,
    addr: usize,
    left: usize,
}

impl<S: Segment> Iterator for Iovecs<'_, S> {
    type Item = (usize, usize);

    #[inline]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.left == 0 {
            return None;
        }
        let mut len = self.left;
        while let Some((first, rest)) = self.segments.split_first() {
            self.segments = rest;
            let held = first.len() - self.skip;
            self.skip = 0;
            if held != 0 {
                len = held.min(self.left);
                break;
            }
        }
        let iovec = (self.addr, len);
        self.addr += len;
        self.left -= len;
        Some(iovec)
    }
}

impl<S: Segment> FusedIterator for Iovecs<'_, S> {}

impl<'s, S: Segment> Iterator for Slices<'s, S> {
    type Item = Result<Write<'s, S>, SliceError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.alone == 0 {
            if let Some((end, taken)) = self.short_run() {
                let write = self.write(self.segments[self.index].addr(), end, self.index, 0);
                self.index += taken;
                return Some(Ok(write));
            }
            self.alone = self.count_alone();
            if self.alone == 0 {
                // By value: a loop that lends its iterator to nobody keeps it in registers, which is most of what a short
                // write costs.
                let (index, skip, item) = self.clone().find();
                (self.index, self.skip) = (index, skip);
                return item;
            }
        }
        self.alone -= 1;
        let segment = &self.segments[self.index];
        let write = self.write(segment.addr(), segment.addr() + segment.len(), self.index, 0);
        self.index += 1;
        Some(Ok(write))
    }
}

impl<S> FusedIterator for Slices<'_, S> where S: Segment {}

impl<'s, S: Segment> Slices<'s, S> {
    /// Where the next write ends and of how many segments it is made, if it is a run of some whole segments and no limit is
    /// near: two at least, since [`count_alone`](Self::count_alone) sees to single ones. Otherwise `None`.
    #[inline]
    fn short_run(&self) -> Option<(usize, usize)> {
        let rest = self.segments.get(self.index..)?;
        let [first, second, ..] = rest else { return None };
        let (addr, len) = (first.addr(), first.len());
        let mut end = addr.wrapping_add(len);
        if second.addr() != end || self.skip != 0 || !self.block.holds(addr, len, self.longest) {
            return None;
        }
        let mut taken = 1;
        let mut large = 0;
        for segment in &rest[1..] {
            if segment.addr() != end {
                if segment.is_empty() {
                    // What comes behind it may go on from here.
                    return rarely();
                }
                break;
            }
            // An empty one wraps to the largest length.
            large |= segment.len().wrapping_sub(1);
            end = end.wrapping_add(segment.len());
            taken += 1;
            if taken > STRIDE {
                return rarely();
            }
        }
        let most = self.longest.min(self.block.memory() - (addr - self.block.host()));
        // As far as lengths go that are no larger, a sum of so few cannot wrap.
        if large >= SMALL || end.wrapping_sub(addr) > most || taken - 1 > self.most_iovecs() {
            return rarely();
        }
        Some((end, taken))
    }

    /// How many segments from the next on are writes by themselves, as far as one looks; 0 where that takes a closer look.
    #[inline(never)]
    fn count_alone(&self) -> usize {
        if self.skip != 0 {
            return 0;
        }
        alone(self.segments.get(self.index..).unwrap_or_default(), &self.block, self.longest)
    }

    /// The next write, whatever it is, with the segment that comes behind it and how much of that is done.
    #[inline(never)]
    fn find(mut self) -> (usize, usize, Option<Result<Write<'s, S>, SliceError>>) {
        let item = self.look();
        (self.index, self.skip, item)
    }

    fn look(&mut self) -> Option<Result<Write<'s, S>, SliceError>> {
        let segments = self.segments;
        let mut first = segments.get(self.index)?;
        while first.len() == self.skip {
            self.index += 1;
            self.skip = 0;
            first = segments.get(self.index)?;
        }
        let (addr, len) = (first.addr(), first.len());
        if !self.block.contains(addr, len) {
            let error = self.block.refuse(self.index, addr, len);
            self.index = segments.len();
            return Some(Err(error));
        }

        let start = addr + self.skip;
        let first_index = self.index;
        // Where the write must end at the latest, as an address: inside the block, so that no segment that goes on
        // from here needs to be checked by itself.
        let block_end = to_u64(start) + (self.block.used_length() - to_u64(start - self.block.host()));
        let limit = usize::try_from(block_end.min(to_u64(start).saturating_add(self.limits.max_bytes)))
            .unwrap_or(usize::MAX);
        let first_end = addr + len;
        let write = if first_end > limit {
            self.cut_at(self.page_floor(start, limit), start, first_index, self.skip)
        } else {
            let run = extend(&segments[first_index + 1..], first_end, limit, self.most_iovecs());
            let beyond = run.stop == Stop::Bytes && !self.is_inside(first_index + 1 + run.taken);
            match run.stop {
                // A segment that leaves the block is not begun: it is the next item, an error.
                Stop::Bytes if beyond => self.end_at(run.end, start, first_index, run.taken),
                Stop::Natural => self.end_at(run.end, start, first_index, run.taken),
                // The limit falls behind the end of what was taken, perhaps inside the next segment.
                Stop::Bytes => self.cut_at(self.page_floor(start, limit), start, first_index, self.skip),
                Stop::Iovecs => {
                    let end = self.page_floor(start, run.end);
                    if end == run.end {
                        self.end_at(end, start, first_index, run.taken)
                    } else {
                        self.cut_at(end, start, first_index, self.skip)
                    }
                }
            }
        };
        Some(Ok(write))
    }

    /// Whether segment `index` is inside the block.
    fn is_inside(&self, index: usize) -> bool {
        self.segments.get(index).is_some_and(|next| self.block.contains(next.addr(), next.len()))
    }

    /// The write from `start` to `end`, where the segment `taken` behind the first one ended.
    #[inline]
    fn end_at(&mut self, end: usize, start: usize, first_index: usize, taken: usize) -> Write<'s, S> {
        self.index = first_index + 1 + taken;
        let skip = core::mem::take(&mut self.skip);
        self.write(start, end, first_index, skip)
    }

    /// How many further iovecs fit behind the first.
    #[inline]
    fn most_iovecs(&self) -> usize {
        // All of a write lies back to back: merged, it is one iovec, however many segments it is made of.
        if self.limits.merge { usize::MAX } else { self.limits.max_iovecs - 1 }
    }

    /// The last page boundary at or before `end`, or `end` itself if that is not behind `start`.
    #[inline]
    fn page_floor(&self, start: usize, end: usize) -> usize {
        let past = to_u64(end - self.block.host()) % self.limits.page_size;
        match usize::try_from(past) {
            Ok(past) if end - past > start => end - past,
            _ => end,
        }
    }

    /// The write from `start` to `end`; the next one goes on at `end`, wherever among the segments that is.
    fn cut_at(&mut self, end: usize, start: usize, first_index: usize, skip: usize) -> Write<'s, S> {
        let mut left = end - start + skip;
        let mut index = first_index;
        while left != 0 && left >= self.segments[index].len() {
            left -= self.segments[index].len();
            index += 1;
        }
        self.index = index;
        self.skip = left;
        self.write(start, end, first_index, skip)
    }

    #[inline]
    fn write(&self, start: usize, end: usize, first_index: usize, skip: usize) -> Write<'s, S> {
        Write {
            offset: self.block.file_offset(start),
            addr: start,
            len: to_u64(end - start),
            first_index,
            skip,
            merge: self.limits.merge,
            segments: self.segments,
        }
    }
}

/// How many of `segments` have bytes and lie apart from the one behind them, inside `block`, none of them longer than
/// `longest`: all of them if they end with such a one, otherwise some from the first on.
fn alone<S: Segment>(segments: &[S], block: &Block, longest: usize) -> usize {
    let near = &segments[..segments.len().min(AHEAD + 1)];
    // Nothing inside the block begins there.
    let mut end = block.host().wrapping_sub(1);
    for (index, segment) in near.iter().enumerate() {
        let (addr, len) = (segment.addr(), segment.len());
        if addr == end || !block.holds(addr, len, longest) {
            return index.saturating_sub(1);
        }
        end = addr + len;
    }
    // What lies behind the last one is only known if there is nothing.
    near.len() - usize::from(near.len() < segments.len())
}

/// Nothing, in a way that tells the compiler which way is the usual one.
#[cold]
fn rarely<T>() -> Option<T> {
    None
}

/// Why a run of segments ends.
#[derive(PartialEq, Eq)]
enum Stop {
    /// No further segment lies back to back with it, or the one that does is not inside the block.
    Natural,
    /// The next one would go past the limit in bytes.
    Bytes,
    /// There would be too many iovecs.
    Iovecs,
}

struct Run {
    /// How many segments were taken, empty ones included.
    taken: usize,
    end: usize,
    stop: Stop,
}

/// How far [`alone`] looks. Each call costs as much as four segments or so; with 64 of them that does not show.
const AHEAD: usize = 64;

/// How many segments are looked at between two decisions. With 8, deciding costs half of what it does one by one; with more,
/// short runs begin to pay for it.
const STRIDE: usize = 8;

/// Lengths below this can be added up [`STRIDE`] times without a wrap that goes unseen.
const SMALL: usize = 1 << (usize::BITS - 5);

/// Where `segments` end if they all lie back to back from `end` on, none is empty, and none goes past `limit`; `None` if that
/// is not so, or not clear at a glance.
#[inline]
fn all_of<S: Segment>(segments: &[S; STRIDE], end: usize, limit: usize) -> Option<usize> {
    let mut next = end;
    let mut apart = 0;
    let mut large = 0;
    for segment in segments {
        apart |= segment.addr() ^ next;
        // An empty one wraps to the largest length.
        large |= segment.len().wrapping_sub(1);
        next = next.wrapping_add(segment.len());
    }
    (apart == 0 && large < SMALL && next > end && next <= limit).then_some(next)
}

/// How far a run that ends at the address `end` goes on into `segments`, up to the address `limit` and by at most
/// `iovecs` more.
#[inline]
fn extend<S: Segment>(segments: &[S], mut end: usize, limit: usize, mut iovecs: usize) -> Run {
    let mut taken = 0;
    while let Some(segment) = segments.get(taken) {
        let (addr, len) = (segment.addr(), segment.len());
        if len != 0 {
            if addr != end {
                return Run { taken, end, stop: Stop::Natural };
            }
            if iovecs == 0 {
                return Run { taken, end, stop: Stop::Iovecs };
            }
            if len > limit - end {
                return Run { taken, end, stop: Stop::Bytes };
            }
            iovecs -= 1;
            end += len;
        }
        taken += 1;
        // A run that has come this far goes on as a rule; in shorter ones the look ahead would cost more than it gains.
        if taken.is_multiple_of(STRIDE) {
            while let Some(next) = segments[taken..].first_chunk()
                && iovecs >= STRIDE
                && let Some(next_end) = all_of(next, end, limit)
            {
                (taken, end, iovecs) = (taken + STRIDE, next_end, iovecs - STRIDE);
            }
        }
    }
    Run { taken, end, stop: Stop::Natural }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::slice;

    /// Segments as (gap, length): mostly back to back, and few of them empty or as long as memory.
    fn segments() -> impl Strategy<Value = Vec<(usize, usize)>> {
        let gap = prop_oneof![60 => Just(0_usize), 1 => 1_usize..50];
        let length =
            prop_oneof![60 => 1_usize..5000, 1 => Just(0), 1 => 1_usize << 30..1 << 40, 1 => any::<usize>()];
        prop::collection::vec((gap, length), 0..50).prop_map(|steps| {
            let mut end = 1000_usize;
            let place = |(gap, length): (usize, usize)| {
                let addr = end.wrapping_add(gap);
                end = addr.wrapping_add(length);
                (addr, length)
            };
            steps.into_iter().map(place).collect()
        })
    }

    /// One by one.
    fn naive(
        segments: &[(usize, usize)],
        mut end: usize,
        limit: usize,
        mut iovecs: usize,
    ) -> (usize, usize, Stop) {
        for (taken, (addr, len)) in segments.iter().enumerate().filter(|(_, (_, len))| *len != 0) {
            let stop = match () {
                () if *addr != end => Stop::Natural,
                () if iovecs == 0 => Stop::Iovecs,
                () if *len > limit - end => Stop::Bytes,
                () => {
                    iovecs -= 1;
                    end += len;
                    continue;
                }
            };
            return (taken, end, stop);
        }
        (segments.len(), end, Stop::Natural)
    }

    proptest! {
        #[test]
        fn eight_at_a_time_is_as_one_by_one(
            segments in segments(),
            limit in prop_oneof![1000_usize..200_000, Just(usize::MAX)],
            iovecs in prop_oneof![0_usize..60, Just(usize::MAX)],
        ) {
            let run = extend(&segments, 1000, limit, iovecs);
            let (taken, end, stop) = naive(&segments, 1000, limit, iovecs);
            prop_assert!(run.stop == stop);
            prop_assert_eq!(run.end, end);
            // Empty ones at the end may be counted or not: they have no bytes.
            let between = run.taken.min(taken)..run.taken.max(taken);
            prop_assert!(segments[between].iter().all(|(_, len)| *len == 0));
        }

        /// The short ways give what the long one gives, which is checked against bytes in `tests/slices.rs`; and lists that
        /// are mostly of one kind, so that each of them is gone.
        #[test]
        fn writes_seen_ahead_and_short_runs_are_as_by_a_close_look(
            kinds in prop::collection::vec((0_usize..5, 1_usize..100, 1_usize..40), 0..6),
            max_bytes in prop_oneof![1_u64..3000, Just(1 << 40)],
            max_iovecs in prop_oneof![1_usize..12, Just(1024)],
            merge in any::<bool>(),
            bad in prop::option::weighted(0.3, (any::<prop::sample::Index>(), 0_usize..200_000, 1_usize..200_000)),
        ) {
            let mut segments = Vec::new();
            let mut end = 0x1000;
            for (kind, count, len) in kinds {
                for index in 0..count {
                    let (gap, len) = match kind {
                        0 => (1, len),
                        1 => (0, len),
                        2 => (usize::from(index % len == 0), 1 + index % 3),
                        3 => (index % 2, index % 5),
                        _ => (0, usize::from(index % 7 != 0)),
                    };
                    segments.push((end + gap, len));
                    end += gap + len;
                }
            }
            let block = Block::new(0x1000, to_u64(end - 0x1000), 77).unwrap();
            if let Some((at, addr, len)) = bad {
                segments.insert(at.index(segments.len() + 1), (addr, len));
            }
            let limits = Limits::new(16).max_bytes(max_bytes).max_iovecs(max_iovecs).merge(merge);
            let slices = slice(&block, &limits, &segments);
            let shown = |item: Result<Write<'_, (usize, usize)>, SliceError>| {
                item.map(|write| (write.offset, write.addr, write.len, write.first_index, write.iovecs().collect::<Vec<_>>()))
            };
            let mut close = slices.clone();
            let by_close_looks = core::iter::from_fn(|| {
                let (index, skip, item) = close.clone().find();
                (close.index, close.skip) = (index, skip);
                item
            });
            prop_assert_eq!(slices.map(shown).collect::<Vec<_>>(), by_close_looks.map(shown).collect::<Vec<_>>());
        }

        /// Else the short way is never taken, which only a clock would notice, or taken beyond a limit or the block's end.
        #[test]
        fn a_short_run_is_taken_whole_if_no_limit_is_near(
            lengths in prop::collection::vec(1_usize..100, 1..12),
            (before, behind) in (0_usize..300, 0_usize..300),
            what_follows in 0..4,
            max_bytes in prop_oneof![1_u64..700, Just(1 << 40)],
            max_iovecs in 1_usize..14,
            merge in any::<bool>(),
            is_begun in prop::bool::weighted(0.1),
        ) {
            let start = 1000 + before;
            let mut end = start;
            let mut segments: Vec<(usize, usize)> = Vec::new();
            for len in &lengths {
                segments.push((end, *len));
                end += len;
            }
            match what_follows {
                0 => {}
                1 => segments.push((end + 1, 5)),
                2 => segments.push((end - 1, 5)),
                _ => segments.push((7, 0)),
            }
            // The run may leave the block, or just not.
            let used = (end - 1000 + behind).saturating_sub(if behind % 3 == 0 { behind + 1 } else { 0 });
            let block = Block::new(1000, to_u64(used), 0).unwrap();
            let limits = Limits::new(16).max_bytes(max_bytes).max_iovecs(max_iovecs).merge(merge);
            let mut slices = slice(&block, &limits, &segments);
            slices.skip = usize::from(is_begun);
            let fits = end <= 1000 + used
                && to_u64(end - start) <= max_bytes
                && (merge || lengths.len() <= max_iovecs);
            let is_taken = fits && !is_begun && (2..=STRIDE).contains(&lengths.len()) && what_follows != 3;
            prop_assert_eq!(slices.short_run(), is_taken.then_some((end, lengths.len())));
        }

        #[test]
        fn what_is_alone_has_a_gap_behind_it(
            // So few that are not, that some lists have more than one looks ahead before the first, and one at that very place.
            steps in prop::collection::vec(
                (prop_oneof![1 => Just(0_usize), 100 => 1_usize..5], prop_oneof![1 => Just(0_usize), 200 => 1_usize..15]),
                0..2 * AHEAD,
            ),
            joined in prop::option::of(AHEAD - 2..AHEAD + 3),
            short in 0_usize..30,
            longest in 15_usize..25,
        ) {
            let mut end = 1000;
            let mut place = |(gap, len): (usize, usize)| {
                let addr = end + gap;
                end = addr + len;
                (addr, len)
            };
            let steps = steps.into_iter().enumerate();
            let segments: Vec<(usize, usize)> =
                steps.map(|(index, (gap, len))| place((if joined == Some(index) { 0 } else { gap }, len))).collect();
            let used = (end - 1000).saturating_sub(short);
            let block = Block::new(1000, to_u64(used), 0).unwrap();
            let longest = longest.min(used);
            let is_alone = |index: usize| {
                let (addr, len) = segments[index];
                let is_apart = segments.get(index + 1).is_none_or(|(next, bytes)| *bytes != 0 && *next != addr + len);
                len != 0 && len <= longest && addr + len <= 1000 + used && is_apart
            };
            let count = alone(&segments, &block, longest);
            prop_assert!((0..count).all(is_alone), "{count} of {segments:?}");
            // It may stop one short of one that it does not like, or of what it did not look at.
            let all = (0..segments.len()).take_while(|index| is_alone(*index)).count();
            prop_assert!(count + 1 >= all.min(AHEAD), "{count} of {all} in {segments:?}");
        }

        /// Else the way of eight is never taken, which only a clock would notice.
        #[test]
        fn eight_that_fit_are_seen_at_a_glance(
            lengths in prop::array::uniform8(1_usize..1 << 40),
            (gap, at) in (prop_oneof![Just(0_usize), 1_usize..9], 0_usize..8),
            short in 0_usize..3,
        ) {
            let mut end = 1000;
            let segments: Vec<(usize, usize)> = lengths
                .iter()
                .enumerate()
                .map(|(index, len)| {
                    let addr = end + if index == at { gap } else { 0 };
                    end = addr + len;
                    (addr, *len)
                })
                .collect();
            let all = all_of(segments.first_chunk().unwrap(), 1000, end - short);
            prop_assert_eq!(all, (gap == 0 && short == 0).then_some(end));
        }
    }

    #[test]
    fn the_rest_of_a_write_begins_in_the_segment_that_it_is_in() {
        let block = Block::new(0, 0x1_0000, 0x1000).unwrap();
        let segments = [(0, 100), (100, 0), (100, 100), (200, 300)];
        let limits = Limits::new(16).merge(false);
        let write = slice(&block, &limits, &segments).next().unwrap().unwrap();
        let rest = write.advance(150).unwrap();
        assert_eq!((rest.offset, rest.addr, rest.len, rest.first_index), (0x1000 + 150, 150, 350, 2));
        assert_eq!(rest.iovecs().collect::<Vec<_>>(), [(150, 50), (200, 300)]);
        let rest = rest.advance(50).unwrap();
        assert_eq!(rest.iovecs().collect::<Vec<_>>(), [(200, 300)]);
        assert_eq!(rest.first_index, 3);
    }

    #[test]
    fn a_segment_that_leaves_the_block_is_not_begun_at_a_limit_in_bytes() {
        let block = Block::new(0, 1024, 0).unwrap();
        let limits = Limits::new(16).max_bytes(160);
        let segments = [(0, 100), (100, 2000)];
        let mut writes = slice(&block, &limits, &segments);
        let first = writes.next().unwrap().unwrap();
        assert_eq!((first.addr, first.len), (0, 100));
        assert_eq!(writes.next().unwrap().unwrap_err().index, 1);
        assert!(writes.next().is_none());
    }
}
