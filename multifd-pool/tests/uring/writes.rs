//! Writes that are given together: what the file holds afterwards, whatever the ring makes of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use multifd_pool::{
    Alignment, Channel, ChannelContext, IoVec, Piece, Pool, PoolError, WorkError, Worker, Writes,
};
use proptest::prelude::*;

use crate::{LENGTH, files, memory, ring};

/// Writes pieces of one memory, given by where they are in it and where they go; so many at a time, and some of them waited for.
struct Writing<C> {
    channel: C,
    memory: Arc<Vec<u8>>,
    step: usize,
    waits: bool,
}

type Places = Vec<(usize, u64, usize)>;

impl<C: Channel> Worker for Writing<C> {
    type Batch = Places;

    fn run(&mut self, places: Places, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let block = Arc::from("ram0");
        let mut writes = Writes::new(&mut self.channel, &block);
        for places in places.chunks(self.step) {
            let piece = |(from, to, length): &(usize, u64, usize)| {
                Piece::new(IoVec::from_const(self.memory[*from..][..*length].as_ptr(), *length), *to)
            };
            let mut pieces: Vec<Piece> = places.iter().map(piece).collect();
            // SAFETY: `memory` is only read, and lives as long as the worker.
            unsafe { writes.begin(context, &mut pieces) }?;
            assert!(pieces.is_empty());
            if self.waits {
                writes.wait(context)?;
            }
        }
        writes.end(context)
    }
}

/// Runs one batch and gives the system calls and bytes that were counted.
fn run<C: Channel + 'static>(
    channel: C,
    memory: &Arc<Vec<u8>>,
    places: Places,
    (step, waits): (usize, bool),
) -> Result<(u64, u64), PoolError> {
    let mut channel = Some(channel);
    let mut writing =
        || Writing { channel: channel.take().unwrap(), memory: Arc::clone(memory), step, waits };
    let pool = Pool::builder().channels(1).spawn(|_| Ok(writing()))?;
    pool.submit(places).map_err(|refused| refused.error)?;
    let counters = pool.finish()?;
    Ok((counters[0].calls, counters[0].bytes))
}

/// Pieces that go to places of their own, in any order, aligned or not; more than a ring takes at a time.
fn places() -> impl Strategy<Value = Places> {
    let piece = prop_oneof![
        3 => (0_usize..60, 1_usize..4).prop_map(|(at, pages)| (at * 4096, pages * 4096)),
        1 => (0_usize..LENGTH - 5000, 0_usize..5000),
    ];
    (prop::collection::vec(piece, 0..80), any::<u64>()).prop_map(|(pieces, seed)| {
        let mut at = 0_u64;
        let mut places: Places = pieces
            .into_iter()
            .map(|(from, length)| {
                let place = (from, at, length);
                // With a gap now and then; what is aligned stays so.
                at += (length as u64).next_multiple_of(4096) + (seed >> (at % 61) & 1) * 4096;
                place
            })
            .collect();
        let by = usize::try_from(seed % 7).unwrap().min(places.len());
        places.rotate_left(by);
        places
    })
}

/// How many pieces are begun at a time, and whether they are waited for before the next.
fn manner() -> impl Strategy<Value = (usize, bool)> {
    (prop_oneof![1_usize..5, Just(100)], any::<bool>())
}

proptest! {
    #[test]
    fn every_byte_lands_where_it_should_and_is_counted_once(
        places in places(),
        direct_from in prop_oneof![Just(0_usize), 1_usize..16_384],
        manner in manner(),
    ) {
        let (direct, buffered) = files();
        let memory = memory();
        let alignment = Alignment { memory: 512, offset: 4096 };
        let (calls, bytes) = run(ring(&direct, &buffered, alignment, direct_from), &memory, places.clone(), manner).unwrap();
        let total: usize = places.iter().map(|(_, _, length)| length).sum();
        prop_assert_eq!(bytes, total as u64);
        prop_assert_eq!(calls == 0, total == 0);
        let end = places.iter().map(|(_, to, length)| to + *length as u64).max().unwrap_or(0);
        let mut expected = vec![0_u8; usize::try_from(end).unwrap()];
        for (from, to, length) in places {
            expected[usize::try_from(to).unwrap()..][..length].copy_from_slice(&memory[from..from + length]);
        }
        let mut got = vec![9_u8; expected.len()];
        buffered.read_exact_at(&mut got, 0).unwrap();
        prop_assert!(got == expected);
    }
}

#[test]
fn many_writes_are_one_call_or_few() {
    let (_, buffered) = files();
    let places: Places = (0..32).map(|page| (page * 4096, page as u64 * 8192, 4096)).collect();
    // Aligned to anything, so that it is the ring's on every file system.
    let channel = ring(&buffered, &buffered, Alignment { memory: 1, offset: 4096 }, 0);
    let (calls, bytes) = run(channel, &memory(), places, (100, false)).unwrap();
    assert_eq!(bytes, 32 * 4096);
    // One to give them all, and at most one more for each that ends by itself.
    assert!(calls <= 32, "{calls}");
}

#[test]
fn what_the_ring_may_not_write_is_an_error_with_block_and_offset() {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let read_only = File::open(named.path()).unwrap();
    let places: Places = vec![(0, 0, 4096), (4096, 1 << 20, 8192)];
    let channel = ring(&read_only, &read_only, Alignment { memory: 1, offset: 4096 }, 0);
    match run(channel, &memory(), places, (100, false)).unwrap_err() {
        PoolError::Transfer(error) => {
            assert_eq!((&*error.block, error.offset, error.done), ("ram0", 0, 0));
            assert_eq!(error.source.raw_os_error(), Some(libc::EBADF));
        }
        other => panic!("{other}"),
    }
}

/// Takes a part of some pieces together and fails others, as a ring may; the rest must still arrive.
struct Partly {
    file: File,
    seed: u64,
    many: Arc<Mutex<u64>>,
    begun: Vec<Piece>,
}

impl Channel for Partly {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise; the test's memory is not written.
        let bytes = unsafe { std::slice::from_raw_parts(vecs[0].addr(), vecs[0].len()) };
        self.file.write_at(bytes, offset)
    }

    unsafe fn read_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn begin_writes(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        pieces.retain_mut(|piece| {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let part = usize::try_from(self.seed >> 33).unwrap() % (piece.vec.len() + 1);
            // SAFETY: the caller's promise; the test's memory is not written.
            let bytes = unsafe { std::slice::from_raw_parts(piece.vec.addr(), part) };
            self.file.write_all_at(bytes, piece.offset).unwrap();
            *self.many.lock().unwrap() += part as u64;
            piece.done = part;
            // Some come back at once, others when they are waited for.
            let is_kept = self.seed & 1 << 20 != 0;
            if is_kept {
                self.begun.push(*piece);
            }
            !is_kept
        });
        1
    }

    fn end_writes(&mut self, left: &mut Vec<Piece>) -> u64 {
        left.extend(self.begun.drain(..).filter(|piece| piece.done < piece.vec.len()));
        1
    }
}

proptest! {
    #[test]
    fn what_is_left_of_each_piece_is_written_afterwards(
        places in places(), seed in any::<u64>(), manner in manner(),
    ) {
        let (_, file) = files();
        let memory = memory();
        let many = Arc::new(Mutex::new(0));
        let channel = Partly { file: file.try_clone().unwrap(), seed, many: Arc::clone(&many), begun: Vec::new() };
        let (_, bytes) = run(channel, &memory, places.clone(), manner).unwrap();
        let total: u64 = places.iter().map(|(_, _, length)| *length as u64).sum();
        prop_assert_eq!(bytes, total);
        prop_assert!(*many.lock().unwrap() <= total);
        for (from, to, length) in places {
            let mut got = vec![0_u8; length];
            file.read_exact_at(&mut got, to).unwrap();
            prop_assert!(got == memory[from..from + length]);
        }
    }
}

/// Keeps all writes in flight until it is asked to end them, and tells how many there are.
struct Keeping(Arc<AtomicUsize>);

impl Channel for Keeping {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    unsafe fn read_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn begin_writes(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        // Every other one is left to `write_at`, which fails.
        let mut number = 0;
        pieces.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        self.0.fetch_add(number - pieces.len(), Ordering::SeqCst);
        1
    }

    fn end_writes(&mut self, _: &mut Vec<Piece>) -> u64 {
        self.0.store(0, Ordering::SeqCst);
        1
    }
}

/// Begins some writes and ends them, fails, or panics.
struct Leaving {
    channel: Keeping,
    memory: Arc<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Leave {
    End,
    Error,
    Panic,
}

impl Worker for Leaving {
    type Batch = (usize, Leave);

    fn run(
        &mut self,
        (count, leave): Self::Batch,
        context: &mut ChannelContext<'_>,
    ) -> Result<(), WorkError> {
        let in_flight = Arc::clone(&self.channel.0);
        assert_eq!(in_flight.load(Ordering::SeqCst), 0, "left by the batch before");
        let block = Arc::from("ram0");
        let mut writes = Writes::new(&mut self.channel, &block);
        let piece = |number: usize| {
            let page = &self.memory[number * 4096..][..4096];
            Piece::new(IoVec::from_const(page.as_ptr(), 4096), number as u64 * 4096)
        };
        for number in 0..count {
            // SAFETY: `memory` is only read, and lives as long as the worker.
            unsafe { writes.begin(context, &mut vec![piece(number)]) }?;
        }
        assert_eq!(in_flight.load(Ordering::SeqCst), count);
        match leave {
            Leave::End => writes.end(context),
            // SAFETY: as above.
            Leave::Error => unsafe { writes.begin(context, &mut vec![piece(0), piece(1)]) },
            Leave::Panic => panic!("on purpose"),
        }
    }
}

proptest! {
    #[test]
    fn no_write_outlives_its_batch_however_that_ends(
        batches in prop::collection::vec((
            1_usize..40,
            prop_oneof![3 => Just(Leave::End), 1 => Just(Leave::Error), 1 => Just(Leave::Panic)],
        ), 1..6),
    ) {
        let in_flight = Arc::new(AtomicUsize::new(0));
        let mut leaving =
            Some(Leaving { channel: Keeping(Arc::clone(&in_flight)), memory: memory() });
        let pool = Pool::builder().channels(1).spawn(|_| Ok(leaving.take().unwrap())).unwrap();
        let mut expected = None;
        for (count, leave) in batches {
            let _ = pool.submit((count, leave));
            let result = pool.sync();
            prop_assert_eq!(in_flight.load(Ordering::SeqCst), 0);
            if expected.is_none() && !matches!(leave, Leave::End) {
                expected = Some(leave);
            }
            match expected {
                None => prop_assert!(result.is_ok()),
                Some(Leave::Panic) => prop_assert!(matches!(result, Err(PoolError::Panicked { .. })), "{leave:?}"),
                Some(_) => prop_assert!(matches!(result, Err(PoolError::Transfer(_))), "{leave:?}"),
            }
        }
    }
}
