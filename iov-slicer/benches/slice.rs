//! Slicing against the plain loop that only reads each iovec: what is left is the cost of deciding where to cut.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iov_slicer::{Block, Limits, Segment, slice};

const PAGE: usize = 4096;

fn lists() -> [(&'static str, Vec<(usize, usize)>); 3] {
    let page = |i: usize| (i * PAGE, PAGE);
    [
        ("dense", (0..128 * 1024).map(page).collect()),
        ("runs of 8", (0..128 * 1024).map(|i| page(i + i / 8)).collect()),
        ("every other page", (0..128 * 1024).map(|i| page(i * 2)).collect()),
    ]
}

fn read_each<S: Segment>(segments: &[S]) -> u64 {
    let mut sum = 0_u64;
    for segment in segments {
        // One by one, as whoever hands them to a system call reads them: no vector instructions over many.
        sum = black_box(sum.wrapping_add(segment.addr() as u64 ^ segment.len() as u64));
    }
    sum
}

fn bench(c: &mut Criterion) {
    let block = Block::new(0, 1 << 40, 1 << 20).unwrap();
    for (name, list) in lists() {
        let mut group = c.benchmark_group(format!("slice/{name}"));
        group.throughput(Throughput::Elements(list.len() as u64));
        group.bench_function("read each iovec", |b| b.iter(|| read_each(black_box(&list))));
        for merge in [true, false] {
            let limits = Limits::new(PAGE as u64).merge(merge);
            group.bench_function(if merge { "slice, merged" } else { "slice, not merged" }, |b| {
                b.iter(|| {
                    let mut sum = 0;
                    for write in slice(&block, &limits, black_box(&list)) {
                        let write = write.unwrap();
                        sum ^= write.offset ^ write.len;
                    }
                    sum
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
