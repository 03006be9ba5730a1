//! The walk of a 1 TiB guest's bitmap (2^28 pages), against reading its words and against a look at every bit.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use iov_slicer::page_runs;

const PAGES: u64 = 1 << 28;

fn bitmaps() -> [(&'static str, Vec<u64>); 3] {
    let words = usize::try_from(PAGES / 64).unwrap();
    let mut nearly_empty = vec![0; words];
    let mut nearly_full = vec![u64::MAX; words];
    for i in (0..words).step_by(words / 1000) {
        nearly_empty[i] = 1 << 17;
        nearly_full[i] = !(1 << 17);
    }
    let alternating = vec![0x5555_5555_5555_5555; words / 64];
    [("nearly empty", nearly_empty), ("nearly full", nearly_full), ("every other page, 16 GiB", alternating)]
}

fn bench(c: &mut Criterion) {
    for (name, words) in bitmaps() {
        let pages = words.len() as u64 * 64;
        let mut group = c.benchmark_group(format!("bitmap/{name}"));
        group.sample_size(10);
        group.bench_function("runs", |b| b.iter(|| page_runs(black_box(&words[..]), pages).count()));
        group.bench_function("read each word", |b| {
            b.iter(|| {
                black_box(&words[..]).iter().fold(0, |sum: u64, word| black_box(sum.wrapping_add(*word)))
            });
        });
        group.bench_function("look at each bit", |b| {
            b.iter(|| {
                let words = black_box(&words[..]);
                let mut before = false;
                let mut runs = 0_u64;
                for word in words {
                    for bit in 0..64 {
                        let set = word >> bit & 1 == 1;
                        runs += u64::from(set && !before);
                        before = set;
                    }
                }
                runs
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
