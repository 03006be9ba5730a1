//! What handing a batch to a channel costs, against a bounded `crossbeam-channel` with the same threads and work.

use std::hint::black_box;
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multifd_pool::{ChannelContext, Pool, WorkError, Worker};

const BATCHES: u64 = 10_000;

struct Busy;

impl Worker for Busy {
    type Batch = u64;

    fn run(&mut self, batch: u64, _: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        work(batch);
        Ok(())
    }
}

/// Some hundred nanoseconds: the least that a real batch does is a system call.
fn work(seed: u64) {
    let mut x = seed;
    for _ in 0..200 {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(BATCHES));
    for channels in [1, 2, 4] {
        group.bench_function(format!("pool/{channels}"), |b| {
            b.iter(|| {
                let pool = Pool::builder().channels(channels).queue_depth(8).spawn(|_| Ok(Busy)).unwrap();
                for batch in 0..BATCHES {
                    pool.submit(batch).unwrap();
                }
                pool.finish().unwrap()
            });
        });
        group.bench_function(format!("crossbeam-channel/{channels}"), |b| {
            b.iter(|| {
                let (sender, receiver) = crossbeam_channel::bounded(8);
                thread::scope(|scope| {
                    for _ in 0..channels {
                        let receiver = receiver.clone();
                        scope.spawn(move || receiver.iter().for_each(work));
                    }
                    for batch in 0..BATCHES {
                        sender.send(batch).unwrap();
                    }
                    drop(sender);
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
