//! The whole pool under shuttle: threads, queue, cancel handles and workers that fail, in interleavings drawn at random.
//!
//! Loom tries all interleavings of the queue with three threads; this tries some of up to ten, with all that the pool puts
//! around the queue. `RUSTFLAGS="--cfg shuttle" cargo test -p multifd-pool --test shuttle --release`; `SHUTTLE_SEED` repeats
//! a run, `SHUTTLE_RUNS` says how many interleavings are drawn.

#![cfg(shuttle)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use multifd_pool::{Cancel, ChannelContext, Pool, PoolError, WorkError, Worker};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Mutex;
use shuttle::{Config, Runner, thread};

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Succeed,
    Fail,
    Panic,
    /// Goes on until it is told to stop, and says so; succeeds if nobody tells it for long.
    Linger,
}

/// What has become of the batches.
#[derive(Default)]
struct Ledger {
    running: BTreeSet<usize>,
    /// Those that were run to their end, and those that never were.
    ran: BTreeSet<usize>,
    dropped: BTreeSet<usize>,
    bad: BTreeSet<usize>,
    workers: usize,
}

type Shared = Arc<Mutex<Ledger>>;

struct Batch {
    number: usize,
    act: Act,
    ledger: Shared,
}

impl Drop for Batch {
    fn drop(&mut self) {
        assert!(self.ledger.lock().unwrap().dropped.insert(self.number), "dropped twice");
    }
}

struct Channel {
    ledger: Shared,
}

impl Channel {
    fn new(ledger: &Shared) -> Self {
        ledger.lock().unwrap().workers += 1;
        Self { ledger: Arc::clone(ledger) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.ledger.lock().unwrap().workers -= 1;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("batch {0}")]
struct Bad(usize);

impl Worker for Channel {
    type Batch = Batch;

    fn run(&mut self, batch: Batch, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let number = batch.number;
        assert!(self.ledger.lock().unwrap().running.insert(number));
        let mut told = false;
        if batch.act == Act::Linger {
            for _ in 0..5 {
                thread::yield_now();
                told |= context.is_stopped();
            }
        }
        context.counters().pages += 1;
        let mut ledger = self.ledger.lock().unwrap();
        ledger.running.remove(&number);
        assert!(ledger.ran.insert(number), "run twice");
        if matches!(batch.act, Act::Fail | Act::Panic) {
            ledger.bad.insert(number);
        }
        // Not held while the batch is dropped, nor by a panic.
        drop(ledger);
        match batch.act {
            Act::Panic => std::panic::panic_any(format!("batch {number}")),
            Act::Fail => Err(WorkError::Other(Box::new(Bad(number)))),
            Act::Linger if told => Err(WorkError::Cancelled),
            Act::Linger | Act::Succeed => Ok(()),
        }
    }
}

/// One life of a pool, with everything drawn from the schedule's own numbers.
fn life() {
    let mut random = thread_rng();
    let channels = random.gen_range(1..6_usize);
    let depth = random.gen_range(1..5_usize);
    let producers = random.gen_range(1..3_usize);
    let each = random.gen_range(0..7_usize);
    let is_cancelled = random.gen_bool(0.3);
    let is_finished = random.gen_bool(0.7);
    let trouble = random.gen_range(0..4_u32);

    let ledger = Shared::default();
    let cancel = Cancel::new();
    let pool = Pool::<Batch>::builder()
        .channels(channels)
        .queue_depth(depth)
        .cancel(cancel.clone())
        .spawn(|_| Ok(Channel::new(&ledger)))
        .unwrap();
    let pool = Arc::new(pool);

    let canceller = is_cancelled.then(|| thread::spawn(move || cancel.cancel()));
    let threads: Vec<_> = (0..producers)
        .map(|producer| {
            let (pool, ledger) = (Arc::clone(&pool), Arc::clone(&ledger));
            let act = move |random: &mut shuttle::rand::rngs::ThreadRng| match random.gen_range(0..12_u32) {
                draw if draw < trouble => [Act::Fail, Act::Panic, Act::Linger][draw as usize % 3],
                _ => Act::Succeed,
            };
            thread::spawn(move || {
                let mut taken = BTreeSet::new();
                for number in (producer * each)..(producer + 1) * each {
                    let batch = Batch { number, act: act(&mut thread_rng()), ledger: Arc::clone(&ledger) };
                    match pool.submit(batch) {
                        Ok(()) => assert!(taken.insert(number)),
                        Err(refused) => {
                            assert_eq!(refused.batch.number, number, "another batch came back");
                            expect_known(&refused.error, &ledger, is_cancelled);
                            // What has stopped stays so.
                            assert!(pool.sync().is_err());
                        }
                    }
                }
                taken
            })
        })
        .collect();
    let mut taken = BTreeSet::new();
    for thread in threads {
        taken.extend(thread.join().unwrap());
    }

    // Nobody submits any more: from a sync on, nothing runs, whatever it says.
    let synced = pool.sync();
    expect_still(&ledger);
    match &synced {
        Ok(()) => assert_eq!(ledger.lock().unwrap().ran, taken, "not all were run"),
        Err(error) => expect_known(error, &ledger, is_cancelled),
    }
    let pool = Arc::into_inner(pool).unwrap();
    if is_finished {
        let finished = pool.finish();
        match (&synced, &finished) {
            (Ok(()), Ok(counters)) => {
                let pages: u64 = counters.iter().map(|channel| channel.pages).sum();
                assert_eq!(usize::try_from(pages).unwrap(), taken.len());
            }
            // Cancelled between the two.
            (Ok(()), Err(error)) => assert!(matches!(error, PoolError::Cancelled) && is_cancelled),
            (Err(first), Err(again)) => assert_eq!(first.to_string(), again.to_string(), "another reason"),
            (Err(error), Ok(_)) => panic!("forgot {error}"),
        }
    } else {
        drop(pool);
    }
    // No thread is left, no batch, and none was lost.
    let ledger = ledger.lock().unwrap();
    assert_eq!((ledger.workers, ledger.running.len()), (0, 0));
    assert_eq!(ledger.dropped, (0..producers * each).collect());
    assert!(ledger.ran.is_subset(&taken), "run, but refused");
    drop(ledger);
    if let Some(canceller) = canceller {
        canceller.join().unwrap();
    }
}

fn expect_still(ledger: &Shared) {
    let ledger = ledger.lock().unwrap();
    assert!(ledger.running.is_empty(), "synced while {:?} ran", ledger.running);
}

/// The reason is one that there was.
fn expect_known(error: &PoolError, ledger: &Shared, is_cancelled: bool) {
    let bad = ledger.lock().unwrap().bad.clone();
    let is_bad = |text: &str| bad.iter().any(|number| text == format!("batch {number}"));
    match error {
        PoolError::Cancelled => assert!(is_cancelled),
        PoolError::Other { source, .. } => assert!(is_bad(&source.to_string()), "{source}"),
        PoolError::Panicked { message, .. } => assert!(is_bad(message), "{message}"),
        other => panic!("{other}"),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn runs() -> usize {
    usize::try_from(number("SHUTTLE_RUNS").unwrap_or(20_000)).unwrap()
}

fn seed() -> u64 {
    let seed = number("SHUTTLE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    println!("SHUTTLE_SEED={seed}");
    seed
}

fn check(scheduler: impl Scheduler + 'static) {
    // A worker's panic is part of the test, and would be printed thousands of times; an assertion is not.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("batch ")) {
            hook(info);
        }
    }));
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    Runner::new(scheduler, config).run(life);
}

/// One test, for the hook is the process'.
#[test]
fn whatever_happens_in_whatever_order_nothing_hangs_and_nothing_is_lost() {
    let seed = seed();
    check(RandomScheduler::new_from_seed(seed, runs()));
    // Few changes of thread, in places that matter.
    check(PctScheduler::new_from_seed(seed, 3, runs() / 2));
}
