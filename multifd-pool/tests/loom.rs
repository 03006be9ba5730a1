//! The queue under the model checker: every interleaving within loom's bounds, with at most three threads.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p multifd-pool --test loom --release`

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use multifd_pool::model::{Queue, Take};

/// A channel that counts what it ran, and stops the queue at batch `bad`.
fn channel(queue: &Queue<usize, usize>, ran: &AtomicUsize, bad: usize) {
    while let Take::Batch(batch) = queue.take() {
        if batch == bad {
            queue.stop(batch);
        } else {
            ran.fetch_add(1, Ordering::Relaxed);
        }
        queue.done();
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Interleavings with more than three preemptions add hours and, so far, found nothing.
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn every_batch_is_run_once_before_sync_returns() {
    model(|| {
        let queue = Arc::new(Queue::new(1));
        let ran = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (queue, ran) = (Arc::clone(&queue), Arc::clone(&ran));
                thread::spawn(move || channel(&queue, &ran, usize::MAX))
            })
            .collect();
        for batch in 0..2 {
            queue.submit(batch).unwrap();
        }
        queue.sync().unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 2);
        queue.close();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn an_error_is_kept_and_nobody_hangs() {
    model(|| {
        let queue = Arc::new(Queue::new(1));
        let ran = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (queue, ran) = (Arc::clone(&queue), Arc::clone(&ran));
                thread::spawn(move || channel(&queue, &ran, 0))
            })
            .collect();
        let mut refused = false;
        for batch in 0..3 {
            match queue.submit(batch) {
                Ok(()) => assert!(!refused, "taken in after a stop"),
                Err(handed_back) => {
                    assert_eq!((handed_back.batch, handed_back.reason), (batch, 0));
                    refused = true;
                }
            }
        }
        assert_eq!(queue.sync(), Err(0));
        queue.close();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(queue.sync(), Err(0));
    });
}

#[test]
fn of_two_reasons_one_is_kept_for_all() {
    model(|| {
        let queue = Arc::new(Queue::<usize, usize>::new(1));
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.stop(1))
        };
        queue.stop(2);
        let seen = queue.sync().unwrap_err();
        other.join().unwrap();
        assert_eq!(queue.sync(), Err(seen));
        assert!(queue.is_stopped());
    });
}

#[test]
fn a_stop_from_outside_wakes_a_producer_and_sync_waits_for_what_runs() {
    model(|| {
        let queue = Arc::new(Queue::new(1));
        let running = Arc::new(AtomicUsize::new(0));
        let worker = {
            let (queue, running) = (Arc::clone(&queue), Arc::clone(&running));
            thread::spawn(move || {
                while let Take::Batch(_) = queue.take() {
                    running.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::Relaxed);
                    queue.done();
                }
            })
        };
        let canceller = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.stop(7))
        };
        let _ = queue.submit(0);
        let _ = queue.submit(1);
        let _ = queue.sync();
        if queue.is_stopped() {
            assert_eq!(queue.sync(), Err(7));
            assert_eq!(running.load(Ordering::Relaxed), 0);
        }
        queue.close();
        worker.join().unwrap();
        canceller.join().unwrap();
    });
}

#[test]
fn dropping_a_pool_stops_and_closes_and_the_channel_ends() {
    model(|| {
        let queue = Arc::new(Queue::new(2));
        let ran = Arc::new(AtomicUsize::new(0));
        let worker = {
            let (queue, ran) = (Arc::clone(&queue), Arc::clone(&ran));
            thread::spawn(move || channel(&queue, &ran, usize::MAX))
        };
        queue.submit(0).unwrap();
        queue.submit(1).unwrap();
        queue.stop(9);
        queue.close();
        worker.join().unwrap();
        assert_eq!(queue.sync(), Err(9));
    });
}
