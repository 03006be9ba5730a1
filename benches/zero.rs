//! Zero detection against plain readers of the same memory: how much of the memory's speed is left.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use mapped_ram::zero::{Detector, InstructionSet};

const PAGE: usize = 4096;

/// Larger than any cache, so that memory is what is measured.
const LARGE: usize = 256 << 20;

/// Fits the cache of one core.
const SMALL: usize = 512 << 10;

fn detectors(group: &mut BenchmarkGroup<'_, WallTime>, memory: &[u8]) {
    let pages = memory.len() / PAGE;
    let mut words = vec![0; pages.div_ceil(64)];
    for set in InstructionSet::available() {
        let detector = Detector::with(set).unwrap();
        group.bench_function(format!("{set:?}"), |b| {
            // SAFETY: `memory` is borrowed for longer than the call.
            b.iter(|| unsafe { detector.scan(black_box(memory.as_ptr()), PAGE, pages, &mut words) });
        });
    }
}

fn peers(group: &mut BenchmarkGroup<'_, WallTime>, memory: &[u8]) {
    let zero = |page: &&[u8]| page.iter().all(|byte| *byte == 0);
    group.bench_function("peer: bytes", |b| b.iter(|| black_box(memory).chunks(PAGE).filter(zero).count()));
    let words = |page: &&[u8]| {
        // SAFETY: any bytes are words.
        let (head, words, tail) = unsafe { page.align_to::<u64>() };
        head.iter().chain(tail).all(|byte| *byte == 0)
            && words.iter().fold(0, |found, word| found | word) == 0
    };
    group.bench_function("peer: u64 words", |b| {
        b.iter(|| black_box(memory).chunks(PAGE).filter(words).count());
    });
    let shifted = |page: &&[u8]| page[0] == 0 && page[1..] == page[..PAGE - 1];
    group.bench_function("peer: memcmp with itself", |b| {
        b.iter(|| black_box(memory).chunks(PAGE).filter(shifted).count());
    });
    // Reads all of it and decides nothing: the bandwidth that one thread gets.
    group.bench_function("peer: read bandwidth", |b| {
        b.iter(|| {
            // SAFETY: any bytes are words.
            let (_, words, _) = unsafe { black_box(memory).align_to::<u64>() };
            words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word))
        });
    });
}

fn bench(c: &mut Criterion) {
    for (name, length) in [("zero, in memory", LARGE), ("zero, in the cache", SMALL)] {
        // Written once, so that it is memory of its own and not the kernel's page of zeros.
        let mut memory = vec![1; length];
        memory.fill(0);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(length as u64)).sample_size(20);
        detectors(&mut group, &memory);
        peers(&mut group, &memory);
        group.finish();
    }
    let memory = vec![1; LARGE];
    let mut group = c.benchmark_group("in use, in memory");
    group.throughput(Throughput::Bytes(LARGE as u64)).sample_size(20);
    detectors(&mut group, &memory);
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
