//! Slicing against a model that works byte by byte.

use std::io::IoSlice;

use iov_slicer::{Block, Limits, Segment, SliceErrorKind, Write, check, slice};
use proptest::prelude::*;

const PAGE: usize = 16;

/// A small block at an address that may be near the top of the address space, and segments in and around it.
#[derive(Clone, Debug)]
struct Case {
    host: usize,
    used: usize,
    pages_offset: u64,
    segments: Vec<(usize, usize)>,
    max_iovecs: usize,
    max_bytes: u64,
    merge: bool,
}

impl Case {
    fn block(&self) -> Block {
        Block::new(self.host, self.used as u64, self.pages_offset).unwrap()
    }

    fn limits(&self) -> Limits {
        Limits::new(PAGE as u64).max_iovecs(self.max_iovecs).max_bytes(self.max_bytes).merge(self.merge)
    }

    /// Every byte of every segment, as (segment, address).
    fn bytes(&self) -> Vec<(usize, usize)> {
        let each = |(i, &(addr, len)): (usize, &(usize, usize))| (0..len).map(move |k| (i, addr + k));
        self.segments.iter().enumerate().flat_map(each).collect()
    }
}

/// How a segment lies relative to the one before.
#[derive(Clone, Debug)]
enum Step {
    Next(usize),
    Gap(usize, usize),
    Back(usize, usize),
    Empty(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1_usize..40).prop_map(Step::Next),
        2 => (1_usize..4).prop_map(|pages| Step::Next(pages * PAGE)),
        1 => (1_usize..40, 1_usize..40).prop_map(|(by, len)| Step::Gap(by, len)),
        1 => (1_usize..200, 1_usize..40).prop_map(|(by, len)| Step::Back(by, len)),
        1 => any::<usize>().prop_map(Step::Empty),
    ];
    prop::collection::vec(step, 0..60)
}

fn cases() -> impl Strategy<Value = Case> {
    let hosts = prop_oneof![
        Just(0_usize),
        Just(PAGE),
        1_usize..1 << 40,
        Just(usize::MAX - 4000),
        Just(usize::MAX - 1500)
    ];
    (
        hosts,
        1_usize..1500,
        0_u64..1 << 50,
        steps(),
        1_usize..20,
        prop_oneof![1_u64..80, Just(0x7fff_f000)],
        any::<bool>(),
    )
        .prop_map(|(host, used, pages_offset, steps, max_iovecs, max_bytes, merge)| {
            let mut end = 0;
            let mut segments = Vec::new();
            for step in steps {
                let (at, len) = match step {
                    Step::Next(len) => (end, len),
                    Step::Gap(by, len) => (end + by, len),
                    Step::Back(by, len) => (end.saturating_sub(by), len),
                    Step::Empty(addr) => {
                        segments.push((addr, 0));
                        continue;
                    }
                };
                let at = at % used;
                let len = len.min(used - at);
                segments.push((host + at, len));
                end = at + len;
            }
            Case { host, used, pages_offset, segments, max_iovecs, max_bytes, merge }
        })
}

/// What one write stands for: each byte as (file offset, address).
fn bytes_of(write: &Write<'_, (usize, usize)>) -> Vec<(u64, usize)> {
    let mut offset = write.offset;
    let mut bytes = Vec::new();
    for (addr, len) in write.iovecs() {
        for k in 0..len {
            bytes.push((offset, addr + k));
            offset += 1;
        }
    }
    bytes
}

/// How many segments that are not empty `bytes` of the case touch.
fn segments_touched(bytes: &[(usize, usize)]) -> usize {
    let mut touched: Vec<usize> = bytes.iter().map(|(segment, _)| *segment).collect();
    touched.dedup();
    touched.len()
}

proptest! {
    #[test]
    fn every_byte_is_written_once_in_order_where_it_belongs(case in cases()) {
        prop_assert!(check(&case.block(), &case.segments).is_ok());
        let mut got = Vec::new();
        for write in slice(&case.block(), &case.limits(), &case.segments) {
            let write = write.unwrap();
            let bytes = bytes_of(&write);
            prop_assert_eq!(bytes.len() as u64, write.len);
            prop_assert_eq!(bytes[0], (write.offset, write.addr));
            got.extend(bytes);
        }
        let expected: Vec<(u64, usize)> = case
            .bytes()
            .iter()
            .map(|(_, addr)| (case.pages_offset + (addr - case.host) as u64, *addr))
            .collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn writes_keep_the_limits_and_are_as_long_as_they_can_be(case in cases()) {
        let bytes = case.bytes();
        let most = if case.merge { usize::MAX } else { case.max_iovecs };
        let mut at = 0;
        for write in slice(&case.block(), &case.limits(), &case.segments) {
            let write = write.unwrap();
            prop_assert!(write.len <= case.max_bytes);
            let iovecs: Vec<_> = write.iovecs().collect();
            prop_assert!(iovecs.len() <= most);
            prop_assert!(!case.merge || iovecs.len() == 1);
            prop_assert!(iovecs.iter().all(|(_, len)| *len != 0));

            // The longest run of bytes that lies back to back and keeps the limits, grown a byte at a time.
            let mut longest = 1;
            while at + longest < bytes.len()
                && bytes[at + longest].1 == bytes[at].1 + longest
                && (longest as u64) < case.max_bytes
                && segments_touched(&bytes[at..=at + longest]) <= most
            {
                longest += 1;
            }
            let natural = at + longest == bytes.len() || bytes[at + longest].1 != bytes[at].1 + longest;
            let start = bytes[at].1 - case.host;
            let expected = if natural {
                longest
            } else {
                (1..=longest).rev().find(|len| (start + len).is_multiple_of(PAGE)).unwrap_or(longest)
            };
            prop_assert_eq!(write.len, expected as u64, "write at byte {} of the list", at);
            at += expected;
        }
        prop_assert_eq!(at, bytes.len());
    }

    #[test]
    fn the_rest_after_a_short_write_is_the_write_without_its_first_bytes(case in cases(), cut in any::<prop::sample::Index>()) {
        for write in slice(&case.block(), &case.limits(), &case.segments) {
            let write = write.unwrap();
            let all = bytes_of(&write);
            let n = cut.index(all.len() + 1);
            match write.advance(n as u64) {
                None => prop_assert_eq!(n, all.len()),
                Some(rest) => {
                    prop_assert_eq!(bytes_of(&rest), &all[n..]);
                    prop_assert_eq!(rest.len, (all.len() - n) as u64);
                    prop_assert!(write.advance(n as u64 + rest.len).is_none());
                    // In two steps as in one.
                    let half = rest.len / 2;
                    let stepped = rest.advance(half).map(|rest| bytes_of(&rest));
                    let direct = write.advance(n as u64 + half).map(|rest| bytes_of(&rest));
                    prop_assert_eq!(stepped, direct);
                }
            }
        }
    }

    #[test]
    fn a_segment_outside_is_found_wherever_it_hides(
        case in cases(),
        place in any::<prop::sample::Index>(),
        how in 0..4,
        by in 1_usize..50,
        len in 1_usize..50,
    ) {
        let mut case = case;
        let (host, end) = (case.host, case.host + case.used);
        let (bad, kind) = match how {
            0 if host >= by => ((host - by, len), SliceErrorKind::BeforeBlock),
            1 => ((end - by.min(case.used), by.min(case.used) + len), SliceErrorKind::PastEnd),
            2 => ((end.saturating_add(by), len), SliceErrorKind::PastEnd),
            _ => ((usize::MAX - by, by + len), SliceErrorKind::Overflow),
        };
        let kind = if bad.0.checked_add(bad.1).is_none() { SliceErrorKind::Overflow } else { kind };
        let place = place.index(case.segments.len() + 1);
        case.segments.insert(place, bad);

        let error = check(&case.block(), &case.segments).unwrap_err();
        prop_assert_eq!((error.index, error.kind, error.addr), (place, kind, bad.0));
        prop_assert_eq!((error.len, error.limit), (bad.1 as u64, case.used as u64));

        let items: Vec<_> = slice(&case.block(), &case.limits(), &case.segments).collect();
        let (last, before) = items.split_last().unwrap();
        prop_assert_eq!(last.as_ref().unwrap_err(), &error);
        let written: u64 = before.iter().map(|write| write.as_ref().unwrap().len).sum();
        let sound: usize = case.segments[..place].iter().map(|(_, len)| len).sum();
        prop_assert_eq!(written, sound as u64);
    }

    #[test]
    fn slices_of_memory_count_as_their_addresses(lengths in prop::collection::vec(0_usize..100, 0..20)) {
        let memory = vec![0_u8; 2000];
        let host = memory.as_ptr().addr();
        let mut at = 0;
        let mut slices = Vec::new();
        let mut pairs = Vec::new();
        for len in lengths {
            slices.push(IoSlice::new(&memory[at..at + len]));
            pairs.push((host + at, len));
            at += len;
        }
        let block = Block::new(host, 2000, 0).unwrap();
        let limits = Limits::new(64).max_bytes(130).merge(false);
        let flat = |writes: Vec<(u64, Vec<(usize, usize)>)>| writes;
        let by_slice = slice(&block, &limits, &slices).map(|w| { let w = w.unwrap(); (w.offset, w.iovecs().collect()) });
        let by_pair = slice(&block, &limits, &pairs).map(|w| { let w = w.unwrap(); (w.offset, w.iovecs().collect()) });
        prop_assert_eq!(flat(by_slice.collect()), flat(by_pair.collect()));
    }

    // Each begins where the one before ends, and the sum of all is right: only their lengths give the two away.
    #[test]
    fn two_segments_that_lead_once_around_the_address_space_are_refused(before in 0_usize..30, after in 0_usize..30) {
        const HALF: usize = 1 << (usize::BITS - 1);
        let host = 0x1000;
        let at = host + before * PAGE;
        let mut segments: Vec<_> = (0..before + after).map(|i| (host + i * PAGE, PAGE)).collect();
        segments.splice(before..before, [(at, HALF), (at + HALF, HALF)]);
        let block = Block::new(host, 0x1000, 0).unwrap();
        let refused = slice(&block, &Limits::new(PAGE as u64), &segments).find_map(Result::err);
        prop_assert_eq!(refused.map(|error| error.index), Some(before));
    }

    #[test]
    fn whatever_holds_a_segment_is_that_segment(len in 0_usize..100) {
        let mut memory = vec![0_u8; len];
        let addr = memory.as_ptr().addr();
        let of = |segment: &dyn Segment| (segment.addr(), segment.len(), segment.is_empty());
        let expected = (addr, len, len == 0);
        prop_assert_eq!(of(&(addr, len)), expected);
        prop_assert_eq!(of(&&(addr, len)), expected);
        prop_assert_eq!(of(&IoSlice::new(&memory)), expected);
        prop_assert_eq!(of(&std::io::IoSliceMut::new(&mut memory)), expected);
    }
}

#[test]
fn no_iovecs_give_no_writes() {
    let block = Block::new(4096, 4096, 0).unwrap();
    assert!(slice::<(usize, usize)>(&block, &Limits::new(4096), &[]).next().is_none());
    assert!(slice(&block, &Limits::new(4096), &[(0, 0), (usize::MAX, 0)]).next().is_none());
    assert!(check(&block, &[(0, 0), (usize::MAX, 0)]).is_ok());
}

#[test]
fn more_than_iov_max_iovecs_are_cut_at_the_limit() {
    let block = Block::new(0, 5000 * 4096, 0).unwrap();
    let segments: Vec<_> = (0..5000).map(|page| (page * 4096, 4096)).collect();
    let limits = Limits::new(4096).merge(false);
    let writes: Vec<usize> =
        slice(&block, &limits, &segments).map(|write| write.unwrap().iovecs().count()).collect();
    assert_eq!(writes, [1024, 1024, 1024, 1024, 904]);
    assert_eq!(slice(&block, &limits.merge(true), &segments).count(), 1);
}

#[test]
fn blocks_past_the_end_of_memory_or_file_are_refused() {
    assert!(Block::new(usize::MAX, 1, 0).is_err());
    assert!(Block::new(usize::MAX - 1, 1, 0).is_ok());
    assert!(Block::new(0, 1, i64::MAX as u64).is_err());
    assert!(Block::new(0, 1, i64::MAX as u64 - 1).is_ok());
    assert!(Block::new(0, 2, u64::MAX).is_err());
}

#[test]
fn errors_say_what_is_wrong_with_a_block() {
    let memory = Block::new(usize::MAX, 1, 0).unwrap_err().to_string();
    assert!(memory.contains("0x1 bytes at address 0xffffffffffffffff"), "{memory}");
    let file = Block::new(0, 2, u64::MAX).unwrap_err().to_string();
    assert!(file.contains("0x2 bytes at file offset 0xffffffffffffffff"), "{file}");
}

#[test]
fn an_iovec_that_begins_with_the_block_and_is_too_long_runs_past_its_end() {
    let block = Block::new(0x1000, 0x1000, 0).unwrap();
    assert_eq!(check(&block, &[(0x1000, 0x1001)]).unwrap_err().kind, SliceErrorKind::PastEnd);
    assert_eq!(check(&block, &[(0xFFF, 1)]).unwrap_err().kind, SliceErrorKind::BeforeBlock);
}

#[test]
fn errors_say_which_iovec_and_where() {
    let block = Block::new(0x1000, 0x1000, 0).unwrap();
    let error = check(&block, &[(0x1000, 16), (0x800, 16)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "iovec 1 of 16 bytes at block offset -2048 begins before the block of 4096 bytes"
    );
}

#[cfg(feature = "libc")]
#[test]
fn the_systems_iovecs_count_as_their_addresses() {
    let mut memory = vec![0_u8; 100];
    let start = memory.as_mut_ptr();
    let iovec = |at: usize, len| libc::iovec { iov_base: start.wrapping_add(at).cast(), iov_len: len };
    let block = Block::new(start.addr(), 100, 7).unwrap();
    let iovecs = [iovec(0, 10), iovec(10, 20), iovec(50, 5)];
    let writes: Vec<(u64, u64)> = slice(&block, &Limits::new(1), &iovecs)
        .map(|write| {
            let write = write.unwrap();
            (write.offset, write.len)
        })
        .collect();
    assert_eq!(writes, [(7, 30), (57, 5)]);
    assert!(check(&block, &[iovec(90, 11)]).is_err());

    let halves = memory.split_at_mut(40);
    let mutable = [std::io::IoSliceMut::new(halves.0), std::io::IoSliceMut::new(halves.1)];
    assert_eq!(
        slice(&block, &Limits::new(1), &mutable).map(|write| write.unwrap().len).collect::<Vec<_>>(),
        [100]
    );
}
