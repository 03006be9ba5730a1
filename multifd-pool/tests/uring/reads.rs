//! Reads that are given together: what the memory holds afterwards, and that nothing around it was touched.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use multifd_pool::{
    Alignment, Channel, ChannelContext, IoVec, Pool, PoolError, ReadPiece, WorkError, Worker,
};
use proptest::prelude::*;

use crate::{LENGTH, files, memory, ring};

/// What memory holds where nothing was read.
const UNREAD: u8 = 0xEE;

/// The stretches of a file, and how the memory of each is cut: lengths in bytes, and whether what comes there is wanted.
type Stretches = Vec<(u64, Vec<(usize, bool)>)>;

type Shared = Arc<Mutex<Vec<u8>>>;

/// Reads stretches into one memory, wanted parts one after the other, each with a gap behind it; what is not wanted goes to one place
/// that all of them share.
struct Reads<C> {
    channel: C,
    memory: Shared,
}

/// Where direct I/O takes it.
fn aligned(memory: &mut [u8]) -> *mut u8 {
    let start = memory.as_mut_ptr();
    start.wrapping_add(start.align_offset(4096))
}

/// The place of each wanted part from the aligned start on: aligned again, with a gap of a page at least.
fn places(stretches: &Stretches) -> Vec<usize> {
    let mut at = 4096;
    let wanted = stretches.iter().flat_map(|(_, parts)| parts).filter(|(_, wanted)| *wanted);
    wanted
        .map(|(length, _)| {
            let place = at;
            at = (at + length + 4096).next_multiple_of(4096);
            place
        })
        .collect()
}

impl<C: Channel> Worker for Reads<C> {
    type Batch = Stretches;

    fn run(&mut self, stretches: Stretches, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let mut memory = self.memory.lock().unwrap();
        let start = aligned(&mut memory);
        let mut scratch = vec![0; LENGTH + 4096];
        let unwanted = aligned(&mut scratch);
        let mut places = places(&stretches).into_iter();
        let vecs: Vec<Vec<IoVec>> = stretches
            .iter()
            .map(|(_, parts)| {
                let part = |(length, wanted): &(usize, bool)| {
                    let to = if *wanted { start.wrapping_add(places.next().unwrap()) } else { unwanted };
                    IoVec::new(to, *length)
                };
                parts.iter().map(part).collect()
            })
            .collect();
        let mut pieces: Vec<ReadPiece<'_>> =
            stretches.iter().zip(&vecs).map(|((offset, _), vecs)| ReadPiece::new(vecs, *offset)).collect();
        // SAFETY: both memories are long enough, and nobody else has them.
        unsafe { context.read_pieces(&mut self.channel, &Arc::from("ram0"), &mut pieces) }?;
        assert!(pieces.iter().all(|piece| piece.done == piece.len()));
        Ok(())
    }
}

/// Runs one batch; gives the system calls and bytes that were counted, and what the memory holds.
fn run<C: Channel + 'static>(channel: C, stretches: &Stretches) -> (Result<(u64, u64), PoolError>, Shared) {
    let length = places(stretches).last().map_or(0, |last| last + LENGTH) + 2 * 4096;
    let memory = Arc::new(Mutex::new(vec![UNREAD; length]));
    let mut channel = Some(channel);
    let result = (|| {
        let pool = Pool::builder()
            .channels(1)
            .spawn(|_| Ok(Reads { channel: channel.take().unwrap(), memory: Arc::clone(&memory) }))?;
        pool.submit(stretches.clone()).map_err(|refused| refused.error)?;
        let counters = pool.finish()?;
        Ok((counters[0].calls, counters[0].bytes))
    })();
    (result, memory)
}

/// What the memory must hold, by copying one part after the other.
fn expected(file: &[u8], stretches: &Stretches, length: usize) -> Vec<u8> {
    let mut memory = vec![UNREAD; length];
    let mut places = places(stretches).into_iter();
    for (offset, parts) in stretches {
        let mut from = usize::try_from(*offset).unwrap();
        for (length, wanted) in parts {
            if *wanted {
                memory[places.next().unwrap()..][..*length].copy_from_slice(&file[from..][..*length]);
            }
            from += length;
        }
    }
    memory
}

fn holds(memory: &Mutex<Vec<u8>>, file: &[u8], stretches: &Stretches) -> bool {
    let mut memory = memory.lock().unwrap();
    let skip = memory.as_ptr().align_offset(4096);
    let rest = memory.split_off(skip);
    rest == expected(file, stretches, rest.len()) && memory.iter().all(|byte| *byte == UNREAD)
}

fn total(stretches: &Stretches) -> u64 {
    stretches.iter().flat_map(|(_, parts)| parts).map(|(length, _)| *length as u64).sum()
}

/// Stretches anywhere in the file, aligned or not, of one part or several; more than a ring takes at a time.
fn stretches() -> impl Strategy<Value = Stretches> {
    let part = prop_oneof![
        4 => (1_usize..4).prop_map(|pages| pages * 4096),
        1 => 0_usize..5000,
    ];
    let stretch = (
        0_u64..40,
        prop_oneof![3 => Just(0_u64), 1 => 0_u64..4096],
        prop::collection::vec((part, any::<bool>()), 0..6),
    )
        .prop_map(|(page, odd, parts)| (page * 4096 + odd, parts));
    prop::collection::vec(stretch, 0..80)
}

proptest! {
    #[test]
    fn every_byte_lands_where_it_should_and_is_counted_once(stretches in stretches()) {
        let (direct, buffered) = files();
        let file = memory();
        buffered.write_all_at(&file, 0).unwrap();
        let channel = ring(&direct, &buffered, Alignment { memory: 512, offset: 4096 }, 0);
        let (result, memory) = run(channel, &stretches);
        let (calls, bytes) = result.unwrap();
        prop_assert_eq!(bytes, total(&stretches));
        prop_assert_eq!(calls == 0, bytes == 0);
        prop_assert!(holds(&memory, &file, &stretches));
    }
}

#[test]
fn many_reads_are_one_call_or_few() {
    let (_, buffered) = files();
    let file = memory();
    buffered.write_all_at(&file, 0).unwrap();
    // Each with a gap in it that nobody wants.
    let stretches: Stretches =
        (0..16).map(|at| (at * 16384, vec![(4096, true), (4096, false), (4096, true)])).collect();
    // Aligned to anything, so that it is the ring's on every file system.
    let channel = ring(&buffered, &buffered, Alignment { memory: 1, offset: 4096 }, 0);
    let (result, memory) = run(channel, &stretches);
    let (calls, bytes) = result.unwrap();
    assert_eq!(bytes, 16 * 3 * 4096);
    // One to give them all, and at most one more for each that ends by itself.
    assert!(calls <= 16, "{calls}");
    assert!(holds(&memory, &file, &stretches));
}

#[test]
fn what_ends_before_it_should_is_an_error_with_block_and_offset() {
    let (direct, buffered) = files();
    buffered.write_all_at(&[7; 3 * 4096], 0).unwrap();
    let stretches: Stretches =
        vec![(0, vec![(4096, true)]), (4096, vec![(4096, true); 3]), (8192, vec![(4096, true)])];
    let channel = ring(&direct, &buffered, Alignment { memory: 512, offset: 4096 }, 0);
    match run(channel, &stretches).0.unwrap_err() {
        PoolError::Transfer(error) => {
            assert_eq!((&*error.block, error.offset + error.done), ("ram0", 3 * 4096));
            assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_the_ring_may_not_read_is_an_error_with_block_and_offset() {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let write_only = OpenOptions::new().write(true).open(named.path()).unwrap();
    let channel = ring(&write_only, &write_only, Alignment { memory: 1, offset: 4096 }, 0);
    match run(channel, &vec![(4096, vec![(4096, true)])]).0.unwrap_err() {
        PoolError::Transfer(error) => {
            assert_eq!((&*error.block, error.offset, error.done), ("ram0", 4096, 0));
            assert_eq!(error.source.raw_os_error(), Some(libc::EBADF));
        }
        other => panic!("{other}"),
    }
}

/// Takes a part of some pieces together and leaves others, as a ring may; the rest must still arrive.
struct Partly {
    file: Vec<u8>,
    seed: u64,
}

impl Partly {
    /// # Safety
    /// `vec` must be writable.
    unsafe fn fill(&self, vec: IoVec, from: usize, length: usize) {
        // SAFETY: `vec` is the caller's promise, and at least as long; the file is memory of its own.
        unsafe { vec.addr().copy_from_nonoverlapping(self.file[from..][..length].as_ptr(), length) };
    }
}

impl Channel for Partly {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        unsafe { self.fill(vecs[0], usize::try_from(offset).unwrap(), vecs[0].len()) };
        Ok(vecs[0].len())
    }

    unsafe fn read_many(&mut self, pieces: &mut [ReadPiece<'_>]) -> u64 {
        for piece in pieces {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut part = usize::try_from((self.seed >> 33) % (piece.len() + 1)).unwrap();
            let mut from = usize::try_from(piece.offset).unwrap();
            piece.done = part as u64;
            for vec in piece.vecs {
                let length = vec.len().min(part);
                // SAFETY: the caller's promise.
                unsafe { self.fill(*vec, from, length) };
                (part, from) = (part - length, from + length);
            }
        }
        1
    }
}

proptest! {
    #[test]
    fn what_is_left_of_each_piece_is_read_afterwards(stretches in stretches(), seed in any::<u64>()) {
        let file = memory().to_vec();
        let (result, memory) = run(Partly { file: file.clone(), seed }, &stretches);
        prop_assert_eq!(result.unwrap().1, total(&stretches));
        prop_assert!(holds(&memory, &file, &stretches));
    }
}
