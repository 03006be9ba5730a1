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
        // The first is inside the block; as far as the other lengths go that are no larger, a sum of so few wraps once at most.
        if large >= SMALL || end < addr || end - addr > most || taken - 1 > self.most_iovecs() {
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
mod tests;
