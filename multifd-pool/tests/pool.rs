//! The pool as a whole: what it writes, what it promises about errors, and that it always ends.

#[allow(unreachable_pub, reason = "shared by several tests")]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};

use common::{Act, MemoryFile};
use multifd_pool::{
    Cancel, ChannelContext, ChannelCounters, IoBatch, IoVec, IoWorker, Operation, Pool, PoolError, WorkError,
    Worker,
};
use proptest::prelude::*;

fn total(counters: &[ChannelCounters]) -> ChannelCounters {
    let mut total = ChannelCounters::default();
    for channel in counters {
        total += *channel;
    }
    total
}

fn start(file: &MemoryFile, channels: usize, depth: usize) -> Pool<IoBatch> {
    Pool::builder().channels(channels).queue_depth(depth).spawn(|_| Ok(IoWorker::new(file.clone()))).unwrap()
}

/// # Safety
/// As [`IoBatch::write`].
unsafe fn write(pool: &Pool<IoBatch>, bytes: &[u8], offset: usize) -> Result<(), PoolError> {
    let vec = IoVec::from_const(bytes.as_ptr(), bytes.len());
    // SAFETY: the caller's promise.
    pool.submit(unsafe { IoBatch::write("ram0", vec![vec], offset as u64) }).map_err(|refused| refused.error)
}

proptest! {
    #[test]
    fn the_file_is_the_models(
        channels in 1_usize..9,
        depth in 1_usize..5,
        writes in prop::collection::vec((0_usize..64, any::<u8>(), any::<bool>()), 0..60),
    ) {
        const PIECE: usize = 16;
        let file = MemoryFile::new(64 * PIECE);
        let mut model = vec![0; 64 * PIECE];
        let pool = start(&file, channels, depth);
        let pieces: Vec<Vec<u8>> = writes.iter().map(|(_, byte, _)| vec![*byte; PIECE]).collect();
        let mut bytes = 0;
        for ((place, byte, sync), piece) in writes.iter().zip(&pieces) {
            // Two batches in flight for the same place may come in either order: sync keeps the model's.
            pool.sync().unwrap();
            // SAFETY: `pieces` lives until the pool has finished.
            unsafe { write(&pool, piece, place * PIECE) }.unwrap();
            model[place * PIECE..][..PIECE].fill(*byte);
            bytes += PIECE as u64;
            if *sync {
                pool.sync().unwrap();
                prop_assert_eq!(file.content(), model.clone());
                prop_assert_eq!(total(&pool.counters()).bytes, bytes);
            }
        }
        let counters = pool.finish().unwrap();
        prop_assert_eq!(counters.len(), channels);
        prop_assert_eq!(total(&counters).bytes, bytes);
        prop_assert_eq!(total(&counters).calls, *file.calls.lock().unwrap());
        prop_assert_eq!(file.content(), model);
    }

    #[test]
    fn places_apart_are_written_in_any_interleaving_and_read_back(
        channels in 1_usize..9,
        depth in 1_usize..5,
        lengths in prop::collection::vec(1_usize..200, 1..60),
        shorts in prop::collection::vec((1_usize..50).prop_map(Act::Short), 0..40),
    ) {
        let length: usize = lengths.iter().sum();
        let memory: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let file = MemoryFile::planned(length, shorts);
        let pool = start(&file, channels, depth);
        let mut at = 0;
        for len in &lengths {
            // SAFETY: `memory` lives until the pool has finished.
            unsafe { write(&pool, &memory[at..at + len], at) }.unwrap();
            at += len;
        }
        pool.sync().unwrap();
        prop_assert_eq!(file.content(), memory.clone());

        let mut back = vec![0; length];
        let start = back.as_mut_ptr();
        at = 0;
        for len in lengths {
            let vec = IoVec::new(start.wrapping_add(at), len);
            // SAFETY: `back` is not touched until the pool has finished.
            pool.submit(unsafe { IoBatch::read("ram0", vec![vec], at as u64) }).unwrap();
            at += len;
        }
        let counters = pool.finish().unwrap();
        prop_assert_eq!(total(&counters).bytes, 2 * length as u64);
        prop_assert_eq!(back, memory);
    }

    #[test]
    fn the_first_error_of_the_nth_call_comes_out_with_block_and_offset(
        channels in 1_usize..6,
        n in 0_usize..30,
        bad in prop_oneof![Just(Act::Errno(28)), Just(Act::Errno(5)), Just(Act::Nothing), Just(Act::Panic)],
    ) {
        let file = MemoryFile::planned(30 * 8, std::iter::repeat_n(Act::All, n).chain([bad]));
        let memory = vec![9; 30 * 8];
        let pool = start(&file, channels, 2);
        for i in 0..30 {
            // SAFETY: `memory` lives until the pool has finished.
            let _ = unsafe { write(&pool, &memory[i * 8..][..8], i * 8) };
        }
        let error = pool.sync().unwrap_err();
        match (&error, bad) {
            (PoolError::Panicked { message, .. }, Act::Panic) => prop_assert_eq!(message, "as planned"),
            (PoolError::Transfer(error), _) => {
                prop_assert_eq!(&*error.block, "ram0");
                prop_assert_eq!((error.offset % 8, error.done), (0, 0));
                // What the error speaks of was not written.
                let at = usize::try_from(error.offset).unwrap();
                prop_assert_eq!(&file.content()[at..at + 8], &[0; 8]);
            }
            other => panic!("{other:?}"),
        }
        // Kept: asked again, it is the same; and nothing is taken in any more, but handed back.
        prop_assert_eq!(pool.sync().unwrap_err().to_string(), error.to_string());
        // SAFETY: it is handed back at once.
        let refused = pool.submit(unsafe { IoBatch::write("late", vec![], 77) }).unwrap_err();
        prop_assert_eq!(refused.error.to_string(), error.to_string());
        prop_assert_eq!(format!("{:?}", refused.batch).contains("late"), true);
        prop_assert!(pool.finish().is_err());
    }
}

/// A worker that runs closures.
struct Closures;

type Job = Box<dyn FnOnce(&mut ChannelContext<'_>) -> Result<(), WorkError> + Send>;

impl Worker for Closures {
    type Batch = Job;

    fn run(&mut self, batch: Job, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        batch(context)
    }
}

fn closures(channels: usize, depth: usize, cancel: &Cancel) -> Pool<Job> {
    Pool::builder()
        .channels(channels)
        .queue_depth(depth)
        .name("test")
        .cancel(cancel.clone())
        .spawn(|_| Ok(Closures))
        .unwrap()
}

fn submit(
    pool: &Pool<Job>,
    job: impl FnOnce(&mut ChannelContext<'_>) -> Result<(), WorkError> + Send + 'static,
) -> Result<(), PoolError> {
    pool.submit(Box::new(job)).map_err(|refused| refused.error)
}

#[test]
fn channels_are_1_to_255() {
    for channels in [1, 255] {
        let pool = closures(channels, 4, &Cancel::new());
        assert_eq!(pool.channels(), channels);
        assert_eq!(pool.finish().unwrap().len(), channels);
    }
    for channels in [0, 256, usize::MAX] {
        let refused = Pool::builder().channels(channels).spawn(|_| Ok(Closures)).unwrap_err();
        assert!(matches!(refused, PoolError::BadChannelCount(n) if n == channels));
    }
}

#[test]
fn threads_are_named_and_run_at_the_same_time() {
    let pool = closures(3, 3, &Cancel::new());
    // Passed only by three channels at once.
    let barrier = Arc::new(Barrier::new(3));
    let (sender, names) = mpsc::channel();
    for _ in 0..3 {
        let (barrier, sender) = (Arc::clone(&barrier), sender.clone());
        submit(&pool, move |context| {
            barrier.wait();
            let name = std::thread::current().name().unwrap().to_owned();
            assert_eq!(name, format!("test-{}", context.index()));
            sender.send(name).unwrap();
            Ok(())
        })
        .unwrap();
    }
    pool.finish().unwrap();
    drop(sender);
    let mut names: Vec<String> = names.iter().collect();
    names.sort();
    assert_eq!(names, ["test-0", "test-1", "test-2"]);
}

#[test]
fn the_producer_waits_so_that_memory_stays_constant() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (channels, depth) = (3, 4);
    let alive = Arc::new(AtomicUsize::new(0));
    let pool = closures(channels, depth, &Cancel::new());
    for _ in 0..1000 {
        alive.fetch_add(1, Ordering::SeqCst);
        let batch = Counted(Arc::clone(&alive));
        submit(&pool, move |_| {
            drop(batch);
            Ok(())
        })
        .unwrap();
        assert!(alive.load(Ordering::SeqCst) <= channels + depth);
    }
    pool.finish().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn two_batches_wait_for_each_channel_unless_said_otherwise() {
    for channels in [1, 3, 8] {
        let pool: Pool<Job> = Pool::builder().channels(channels).spawn(|_| Ok(Closures)).unwrap();
        // All channels are held until as many batches as may wait were taken: were it fewer, this would never end.
        let gate = Arc::new(Barrier::new(channels + 1));
        let started = Arc::new(Barrier::new(channels + 1));
        for _ in 0..channels {
            let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
            submit(&pool, move |_| {
                started.wait();
                gate.wait();
                Ok(())
            })
            .unwrap();
        }
        started.wait();
        for _ in 0..2 * channels {
            submit(&pool, |_| Ok(())).unwrap();
        }
        gate.wait();
        pool.finish().unwrap();
    }
}

proptest! {
    #[test]
    fn what_a_worker_counts_is_added_up(
        batches in prop::collection::vec((0_u64..100, 0_u64..100, 0_u64..100, 0_u64..100), 0..20),
    ) {
        let pool = closures(2, 4, &Cancel::new());
        let mut expected = ChannelCounters::default();
        for (bytes, pages, calls, zero_pages) in batches {
            submit(&pool, move |context| {
                let counters = context.counters();
                (counters.bytes, counters.pages) = (bytes, pages);
                (counters.calls, counters.zero_pages) = (calls, zero_pages);
                Ok(())
            })
            .unwrap();
            expected.bytes += bytes;
            expected.pages += pages;
            expected.calls += calls;
            expected.zero_pages += zero_pages;
        }
        prop_assert_eq!(total(&pool.finish().unwrap()), expected);
    }
}

#[test]
fn what_is_printed_says_what_it_is() {
    let cancel = Cancel::new();
    let pool = closures(3, 4, &cancel);
    assert_eq!(format!("{pool:?}"), "Pool { channels: 3, .. }");
    assert_eq!(format!("{cancel:?}"), "Cancel { cancelled: false }");
    cancel.cancel();
    assert_eq!(format!("{cancel:?}"), "Cancel { cancelled: true }");
    let refused = pool.submit(Box::new(|_| Ok(()))).unwrap_err();
    assert_eq!(format!("{refused:?}"), "SubmitError { error: Cancelled, .. }");
    let vec = IoVec::new(std::ptr::without_provenance_mut(0x1000), 7);
    assert_eq!(format!("{vec:?}"), "7 bytes at 0x1000");
}

#[test]
fn sync_waits_for_what_runs_also_after_an_error() {
    let pool = closures(2, 4, &Cancel::new());
    let (go, wait) = mpsc::channel::<()>();
    let finished = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&finished);
    submit(&pool, move |_| {
        wait.recv().unwrap();
        *flag.lock().unwrap() = true;
        Ok(())
    })
    .unwrap();
    submit(&pool, |_| Err(WorkError::Other("bad luck".into()))).unwrap();
    // Only once the pool has stopped is the other batch let go; sync must still see its end.
    while submit(&pool, |_| Ok(())).is_ok() {
        std::thread::yield_now();
    }
    go.send(()).unwrap();
    let error = pool.sync().unwrap_err();
    assert!(*finished.lock().unwrap());
    assert!(matches!(&error, PoolError::Other { source, .. } if source.to_string() == "bad luck"), "{error}");
}

#[test]
fn an_error_stops_the_other_channels_at_their_next_call() {
    let pool = closures(2, 4, &Cancel::new());
    let (started, is_started) = mpsc::channel();
    submit(&pool, move |context| {
        started.send(()).unwrap();
        let block = Arc::from("busy");
        let mut file = MemoryFile::new(8);
        loop {
            let memory = [1_u8; 8];
            let vec = IoVec::from_const(memory.as_ptr(), 8);
            // SAFETY: `memory` lives until the call returns. Without the stop this would never end.
            unsafe { context.write_all(&mut file, &block, &[vec], 0) }?;
        }
    })
    .unwrap();
    is_started.recv().unwrap();
    submit(&pool, |_| panic!("{}", "formatted")).unwrap();
    let error = pool.sync().unwrap_err();
    assert!(matches!(error, PoolError::Panicked { message, .. } if message == "formatted"));
}

#[test]
fn cancelling_wakes_a_producer_that_waits_and_a_sync() {
    for while_syncing in [false, true] {
        let cancel = Cancel::new();
        let pool = closures(1, 1, &cancel);
        let (started, is_started) = mpsc::channel();
        // Runs until the pool is stopped.
        submit(&pool, move |context| {
            started.send(()).unwrap();
            while !context.is_stopped() {
                std::thread::yield_now();
            }
            Err(WorkError::Cancelled)
        })
        .unwrap();
        is_started.recv().unwrap();
        submit(&pool, |_| panic!("dropped, never run")).unwrap();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| cancel.cancel());
            // The queue is full: waits until the cancellation.
            if while_syncing { pool.sync() } else { submit(&pool, |_| panic!("never run")) }
        });
        assert!(matches!(result, Err(PoolError::Cancelled)));
        assert!(matches!(pool.finish(), Err(PoolError::Cancelled)));
    }
}

#[test]
fn a_handle_that_was_used_before_stops_the_pool_from_the_start() {
    let cancel = Cancel::new();
    cancel.cancel();
    let pool = closures(2, 2, &cancel);
    assert!(matches!(submit(&pool, |_| Ok(())), Err(PoolError::Cancelled)));
    assert!(pool.cancel_handle().is_cancelled());
}

#[test]
fn one_handle_stops_each_of_its_pools_and_only_then() {
    let cancel = Cancel::new();
    // Those of a pool that is gone are forgotten, those of the others are not.
    let mut pools: Vec<_> = (0..4).map(|_| closures(1, 2, &cancel)).collect();
    drop(pools.remove(1));
    pools.push(closures(1, 2, &cancel));
    for pool in &pools {
        submit(pool, |context| {
            assert!(!context.is_stopped());
            Ok(())
        })
        .unwrap();
        pool.sync().unwrap();
    }
    cancel.cancel();
    for pool in pools {
        assert!(matches!(pool.finish(), Err(PoolError::Cancelled)));
    }
}

#[test]
fn dropping_waits_for_what_runs_and_drops_what_is_queued() {
    let finished = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&finished);
    let pool = closures(1, 4, &Cancel::new());
    let (started, is_started) = mpsc::channel();
    submit(&pool, move |context| {
        started.send(()).unwrap();
        while !context.is_stopped() {
            std::thread::yield_now();
        }
        *flag.lock().unwrap() = true;
        Ok(())
    })
    .unwrap();
    submit(&pool, |_| panic!("dropped, never run")).unwrap();
    is_started.recv().unwrap();
    drop(pool);
    assert!(*finished.lock().unwrap());
}

#[test]
fn a_batch_whose_destructor_panics_hangs_nobody() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let pool = closures(1, 4, &Cancel::new());
    let (go, wait) = mpsc::channel::<()>();
    submit(&pool, move |_| {
        wait.recv().unwrap();
        Err(WorkError::Other("stop".into()))
    })
    .unwrap();
    let bad = Bad;
    submit(&pool, move |_| {
        let _bad = &bad;
        Ok(())
    })
    .unwrap();
    go.send(()).unwrap();
    assert!(pool.sync().is_err());
}

struct Gone(Arc<AtomicUsize>);
impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
impl Worker for Gone {
    type Batch = ();
    fn run(&mut self, (): (), _: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        Ok(())
    }
}

#[test]
fn a_worker_that_cannot_be_made_is_an_error_and_leaves_no_thread() {
    let made = Arc::new(AtomicUsize::new(0));
    let error = Pool::builder()
        .channels(5)
        .spawn(|index| {
            if index == 3 {
                return Err(std::io::Error::from_raw_os_error(24));
            }
            made.fetch_add(1, Ordering::SeqCst);
            Ok(Gone(Arc::clone(&made)))
        })
        .unwrap_err();
    assert!(matches!(error, PoolError::Spawn { channel: 3, .. }));
    assert_eq!(made.load(Ordering::SeqCst), 0);
}

#[test]
fn a_queue_is_as_deep_as_asked_or_twice_its_channels() {
    let file = MemoryFile::new(0);
    let worker = |_| Ok(IoWorker::new(file.clone()));
    for channels in [1, 3, 255] {
        assert_eq!(Pool::builder().channels(channels).spawn(worker).unwrap().queue_depth(), 2 * channels);
    }
    for (asked, got) in [(0, 1), (1, 1), (7, 7)] {
        assert_eq!(Pool::builder().queue_depth(asked).spawn(worker).unwrap().queue_depth(), got);
    }
}

/// A handle that several pools have: none of them is forgotten because another came later, or one of them went.
#[test]
fn one_handle_ends_every_pool_that_has_it() {
    let cancel = Cancel::new();
    assert!(format!("{cancel:?}").contains("false"));
    let file = MemoryFile::new(0);
    let pool = || Pool::builder().cancel(cancel.clone()).spawn(|_| Ok(IoWorker::new(file.clone()))).unwrap();
    let first = pool();
    drop(pool());
    let last = pool();
    cancel.cancel();
    assert!(format!("{cancel:?}").contains("true"));
    for pool in [first, last] {
        // SAFETY: no memory at all.
        let refused = pool.submit(unsafe { IoBatch::write("ram0", vec![], 0) }).unwrap_err();
        assert!(matches!(refused.error, PoolError::Cancelled), "{refused:?}");
    }
}

/// A worker that asks its channel for room and holes that it has not got, and counts.
struct Asking;

struct Refusing;

impl multifd_pool::Channel for Refusing {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }

    unsafe fn read_at(&mut self, _: &[IoVec], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }

    fn reserve(&mut self, _: u64, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
}

impl Worker for Asking {
    type Batch = bool;

    fn run(&mut self, reserve: bool, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let counters = context.counters();
        (counters.pages, counters.zero_pages) = (counters.pages + 3, counters.zero_pages + 4);
        let block = Arc::from("pc.ram");
        if reserve {
            context.reserve(&mut Refusing, &block, 0x5000, 77)
        } else {
            context.clear(&mut Refusing, &block, 0x6000, 88)
        }
    }
}

#[test]
fn room_and_holes_that_are_not_to_be_had_are_told_with_block_and_offset() {
    for (reserve, operation, offset, length) in
        [(true, Operation::Reserve, 0x5000, 77), (false, Operation::Clear, 0x6000, 88)]
    {
        let pool = Pool::builder().channels(1).spawn(|_| Ok(Asking)).unwrap();
        pool.submit(reserve).unwrap();
        let PoolError::Transfer(error) = pool.sync().unwrap_err() else { panic!("another error") };
        assert_eq!((error.operation, &*error.block), (operation, "pc.ram"));
        assert_eq!((error.offset, error.length, error.done), (offset, length, 0));
        let text = error.to_string();
        assert!(text.contains("pc.ram") && text.contains(&format!("{offset:#x}")), "{text}");
        let counters = pool.counters()[0];
        assert_eq!((counters.pages, counters.zero_pages), (3, 4));
    }
}

proptest! {
    #[test]
    fn counters_add_up_field_by_field(many in prop::collection::vec(any::<[u32; 4]>(), 0..10)) {
        let of = |numbers: [u64; 4]| {
            let mut counters = ChannelCounters::default();
            [counters.bytes, counters.pages, counters.calls, counters.zero_pages] = numbers;
            counters
        };
        let all: Vec<_> = many.iter().map(|numbers| of(numbers.map(u64::from))).collect();
        let sum = [0, 1, 2, 3].map(|field| many.iter().map(|numbers| u64::from(numbers[field])).sum::<u64>());
        prop_assert_eq!(total(&all), of(sum));
    }
}
