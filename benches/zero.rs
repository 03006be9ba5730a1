//! Zero detection: every instruction set of this processor, its peers, and the memory's read bandwidth, in one run.
//!
//! `cargo bench --bench zero` lets criterion time one row after the other. On a machine that others use too, take
//! `cargo bench --bench zero -- --interleaved`: it lets all of them take turns and prints medians and their ratio to
//! `read`, which no drift of the machine can bend.
//!
//! Compare rows of one group only. The faster of `read` and `read_words` is the ceiling: loads, and none of the
//! questions. A group's memory is written once before anything is timed, so that no row pays for first touch.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use mapped_ram::zero::{Detector, InstructionSet};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// Eight times the last-level cache of the machine that the constants come from.
const IN_MEMORY: usize = 256 * MIB;
/// A chunk that stays in the core's own cache.
const IN_CACHE: usize = MIB;
const HUGE: usize = 2 * MIB;

/// What the pages of a range hold.
#[derive(Clone, Copy)]
enum Fill {
    Zero,
    /// Every page set from its first byte.
    Data,
    /// A coin for each page: a branch predictor learns nothing.
    Half,
}

/// Anonymous memory, populated, in huge pages or in small ones.
struct Ram {
    map: NonNull<c_void>,
    mapped: usize,
    start: usize,
    len: usize,
}

impl Ram {
    fn new(len: usize, mappings: MmapAdvise, fill: Fill) -> Self {
        let mapped = len + HUGE;
        let (all, flags) = (NonZeroUsize::new(mapped).unwrap(), MapFlags::MAP_PRIVATE);
        // SAFETY: a new mapping, at an address that the kernel picks.
        let map = unsafe { mmap_anonymous(None, all, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
            .unwrap();
        // SAFETY: the whole of our own mapping.
        unsafe { madvise(map, mapped, mappings) }.unwrap();
        let start = map.as_ptr().addr().next_multiple_of(HUGE);
        let ram = Self { map, mapped, start, len };
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        // SAFETY: the range is ours and writable.
        for page in unsafe { slice::from_raw_parts_mut(ram.start().cast_mut(), len) }.chunks_mut(PAGE) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let set = matches!(fill, Fill::Data) || matches!(fill, Fill::Half) && random & 1 == 1;
            // Written, not left as it was: memory that was only read is one single page of the kernel's.
            page.fill(u8::from(set));
        }
        ram
    }

    fn start(&self) -> *const u8 {
        self.map.as_ptr().cast::<u8>().wrapping_add(self.start - self.map.as_ptr().addr())
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the range is ours, populated, and nobody writes there any more.
        unsafe { slice::from_raw_parts(self.start(), self.len) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping.
        unsafe { munmap(self.map, self.mapped) }.unwrap();
    }
}

/// Sets the bit of every page that `is_zero` denies: the frame around each peer.
fn scan_with(bytes: &[u8], words: &mut [u64], is_zero: impl Fn(&[u8]) -> bool) {
    for (word, pages) in words.iter_mut().zip(bytes.chunks(64 * PAGE)) {
        let bit = |(index, page)| u64::from(!is_zero(page)) << index;
        *word = pages.chunks_exact(PAGE).enumerate().fold(0, |word, page| word | bit(page));
    }
}

fn by_bytes(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Eight words between two branches, which the compiler is free to make vectors of.
fn by_u64(page: &[u8]) -> bool {
    page.chunks_exact(64).all(|line| {
        line.chunks_exact(8).fold(0, |any, word| any | u64::from_le_bytes(word.try_into().unwrap_or([1; 8])))
            == 0
    })
}

/// The page is what it is one byte further on, and its first byte is 0.
fn by_memcmp(page: &[u8]) -> bool {
    // SAFETY: both ranges of `len - 1` bytes lie in the page.
    page[0] == 0
        && unsafe { libc::memcmp(page.as_ptr().cast(), page.as_ptr().add(1).cast(), page.len() - 1) } == 0
}

/// Loads every byte and does nothing with it, in steps of 256 bytes.
#[cfg(target_arch = "x86_64")]
fn read(bytes: &[u8]) {
    let range = bytes.as_ptr_range();
    if is_x86_feature_detected!("avx2") {
        // SAFETY: loads only, in whole steps from the start of the slice to its end.
        unsafe {
            std::arch::asm!(
                "2:",
                "vmovdqu ymm0, [{at}]",
                "vmovdqu ymm1, [{at} + 32]",
                "vmovdqu ymm2, [{at} + 64]",
                "vmovdqu ymm3, [{at} + 96]",
                "vmovdqu ymm0, [{at} + 128]",
                "vmovdqu ymm1, [{at} + 160]",
                "vmovdqu ymm2, [{at} + 192]",
                "vmovdqu ymm3, [{at} + 224]",
                "add {at}, 256",
                "cmp {at}, {end}",
                "jne 2b",
                "vzeroupper",
                at = inout(reg) range.start => _,
                end = in(reg) range.end,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack, readonly),
            );
        }
    } else {
        read_words(bytes);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn read(bytes: &[u8]) {
    read_words(bytes);
}

/// Loads every byte and adds them up by words, or by what vectors of words the target's least processor has: the
/// ceiling where wide loads are known to be absent, and where they are slower than narrow ones.
fn read_words(bytes: &[u8]) {
    let sum = bytes
        .chunks_exact(8)
        .fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap_or_default())));
    black_box(sum);
}

type Scan = Box<dyn Fn(&[u8], &mut [u64]) + Sync>;
type Contender = (String, Scan);

fn contenders() -> Vec<Contender> {
    let ceilings: [Contender; 2] = [
        ("read".into(), Box::new(|bytes, _| read(bytes))),
        ("read_words".into(), Box::new(|bytes, _| read_words(bytes))),
    ];
    let ours = InstructionSet::available().filter_map(Detector::with).map(|detector| -> Contender {
        let scan = move |bytes: &[u8], words: &mut [u64]| detector.scan_slice(bytes, PAGE, words);
        (detector.instruction_set().to_string(), Box::new(scan))
    });
    let peers: [Contender; 3] = [
        ("peer_u64".into(), Box::new(|bytes, words| scan_with(bytes, words, by_u64))),
        ("peer_memcmp".into(), Box::new(|bytes, words| scan_with(bytes, words, by_memcmp))),
        ("peer_bytes".into(), Box::new(|bytes, words| scan_with(bytes, words, by_bytes))),
    ];
    ceilings.into_iter().chain(ours).chain(peers).collect()
}

struct Case {
    name: &'static str,
    len: usize,
    mappings: MmapAdvise,
    fill: Fill,
    threads: usize,
}

const CASES: [Case; 7] = {
    let (huge, small) = (MmapAdvise::MADV_HUGEPAGE, MmapAdvise::MADV_NOHUGEPAGE);
    let (zero, half, data) = (Fill::Zero, Fill::Half, Fill::Data);
    [
        Case { name: "all_zero/huge_pages", len: IN_MEMORY, mappings: huge, fill: zero, threads: 1 },
        Case { name: "all_zero/small_pages", len: IN_MEMORY, mappings: small, fill: zero, threads: 1 },
        Case { name: "all_zero/in_cache", len: IN_CACHE, mappings: huge, fill: zero, threads: 1 },
        Case { name: "all_zero/two_threads", len: IN_MEMORY, mappings: huge, fill: zero, threads: 2 },
        Case { name: "half_zero/huge_pages", len: IN_MEMORY, mappings: huge, fill: half, threads: 1 },
        Case { name: "no_zero/huge_pages", len: IN_MEMORY, mappings: huge, fill: data, threads: 1 },
        Case { name: "no_zero/small_pages", len: IN_MEMORY, mappings: small, fill: data, threads: 1 },
    ]
};

impl Case {
    /// Leaves the same in the caches before each pass. The first lines of all pages fit into the last-level cache, so
    /// that whoever leaves pages early would find there what the contender before it had left.
    fn sweep(&self, ram: &Ram) {
        if self.len > IN_CACHE {
            read(black_box(ram.bytes()));
        }
    }

    /// One pass over the range; each thread takes its share.
    fn pass(&self, scan: &Scan, ram: &Ram, words: &mut [u64]) {
        let bytes = black_box(ram.bytes());
        if self.threads == 1 {
            return scan(bytes, words);
        }
        let share = words.len().div_ceil(self.threads);
        std::thread::scope(|scope| {
            for (bytes, words) in bytes.chunks(share * 64 * PAGE).zip(words.chunks_mut(share)) {
                scope.spawn(move || scan(bytes, words));
            }
        });
    }
}

fn by_criterion(criterion: &mut Criterion) {
    for case in &CASES {
        let ram = Ram::new(case.len, case.mappings, case.fill);
        let mut words = vec![0; case.len / PAGE / 64];
        let mut group = criterion.benchmark_group(format!("zero/{}", case.name));
        group.throughput(Throughput::Bytes(case.len as u64));
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for (name, scan) in contenders() {
            let id = BenchmarkId::from_parameter(name);
            group.bench_function(id, |bencher| {
                let pass = |()| case.pass(&scan, &ram, &mut words);
                bencher.iter_batched(|| case.sweep(&ram), pass, BatchSize::PerIteration);
            });
        }
        group.finish();
    }
}

/// All contenders take turns, `ROUNDS` times; the medians are printed.
fn interleaved() {
    const ROUNDS: usize = 15;
    for case in &CASES {
        let ram = Ram::new(case.len, case.mappings, case.fill);
        let mut words = vec![0; case.len / PAGE / 64];
        let passes = IN_MEMORY / case.len;
        let mut rows: Vec<_> = contenders().into_iter().map(|contender| (contender, Vec::new())).collect();
        for _ in 0..ROUNDS {
            for ((_, scan), times) in &mut rows {
                case.sweep(&ram);
                let began = Instant::now();
                for _ in 0..passes {
                    case.pass(scan, &ram, &mut words);
                }
                times.push(began.elapsed().as_secs_f64());
            }
        }
        println!("{}", case.name);
        let gib = f64::from(u32::try_from(IN_MEMORY / MIB).unwrap()) / 1024.0;
        let mut ceiling = None;
        for ((name, _), mut times) in rows {
            times.sort_by(f64::total_cmp);
            let median = times[ROUNDS / 2];
            let ratio = *ceiling.get_or_insert(median) / median;
            println!("  {name:12} {:7.1} GiB/s {ratio:6.2} of read", gib / median);
        }
    }
}

criterion::criterion_group!(benches, by_criterion);

fn main() {
    if std::env::args().any(|argument| argument == "--interleaved") {
        return interleaved();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
