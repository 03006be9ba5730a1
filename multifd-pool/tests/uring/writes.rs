//! Writes that are given together: what the file holds afterwards, whatever the ring makes of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use multifd_pool::{Alignment, Channel, ChannelContext, IoVec, Piece, Pool, PoolError, WorkError, Worker};
use proptest::prelude::*;

use crate::{LENGTH, files, memory, ring};

/// Writes pieces of one memory, given by where they are in it and where they go.
struct Writes<C> {
    channel: C,
    memory: Arc<Vec<u8>>,
}

type Places = Vec<(usize, u64, usize)>;

impl<C: Channel> Worker for Writes<C> {
    type Batch = Places;

    fn run(&mut self, places: Places, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let mut pieces: Vec<Piece> = places
            .iter()
            .map(|(from, to, length)| {
                Piece::new(IoVec::from_const(self.memory[*from..][..*length].as_ptr(), *length), *to)
            })
            .collect();
        // SAFETY: `memory` is only read, and lives as long as the worker.
        unsafe { context.write_pieces(&mut self.channel, &Arc::from("ram0"), &mut pieces) }?;
        assert!(pieces.iter().all(|piece| piece.done == piece.vec.len()));
        Ok(())
    }
}

/// Runs one batch and gives the system calls and bytes that were counted.
fn run<C: Channel + 'static>(
    channel: C,
    memory: &Arc<Vec<u8>>,
    places: Places,
) -> Result<(u64, u64), PoolError> {
    let mut channel = Some(channel);
    let pool = Pool::builder()
        .channels(1)
        .spawn(|_| Ok(Writes { channel: channel.take().unwrap(), memory: Arc::clone(memory) }))?;
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

proptest! {
    #[test]
    fn every_byte_lands_where_it_should_and_is_counted_once(
        places in places(),
        direct_from in prop_oneof![Just(0_usize), 1_usize..16_384],
    ) {
        let (direct, buffered) = files();
        let memory = memory();
        let alignment = Alignment { memory: 512, offset: 4096 };
        let (calls, bytes) = run(ring(&direct, &buffered, alignment, direct_from), &memory, places.clone()).unwrap();
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
    let (calls, bytes) = run(channel, &memory(), places).unwrap();
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
    match run(channel, &memory(), places).unwrap_err() {
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

    unsafe fn write_many(&mut self, pieces: &mut [Piece]) -> u64 {
        for piece in pieces.iter_mut() {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let part = usize::try_from(self.seed >> 33).unwrap() % (piece.vec.len() + 1);
            // SAFETY: the caller's promise; the test's memory is not written.
            let bytes = unsafe { std::slice::from_raw_parts(piece.vec.addr(), part) };
            self.file.write_all_at(bytes, piece.offset).unwrap();
            piece.done = part;
            *self.many.lock().unwrap() += part as u64;
        }
        1
    }
}

proptest! {
    #[test]
    fn what_is_left_of_each_piece_is_written_afterwards(places in places(), seed in any::<u64>()) {
        let (_, file) = files();
        let memory = memory();
        let many = Arc::new(Mutex::new(0));
        let channel = Partly { file: file.try_clone().unwrap(), seed, many: Arc::clone(&many) };
        let (_, bytes) = run(channel, &memory, places.clone()).unwrap();
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
