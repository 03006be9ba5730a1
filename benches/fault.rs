//! Restoring on demand: one fault, and filling all, each beside the plain way in the same run.
//!
//! `cargo bench --bench fault --features userfaultfd` lets both sides take turns and prints medians and ratios, which no drift of the
//! machine can bend; `-- --test` does each once and prints nothing worth reading. Arguments: `--rounds N` (9), `--mib N` (512). The
//! file is in the page cache, the memory is a memfd in pages of 4 KiB. Needs root, or access to /dev/userfaultfd.
//!
//! - `fault`: a thread touches pages in a random order. The handler serves it (`ours`), or a loop that reads an event and copies the
//!   page out of memory, with no file and nothing to look up (`bare`).
//! - `fill`: all of a guest by the handler's channels (`ours`), or by as many threads that `pread` 1 MiB each into the same kind of
//!   memory (`pread`), or that copy 1 MiB each by UFFDIO_COPY out of memory (`bare`).

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use mapped_ram::fault::{FaultOptions, FaultTarget, Fill};
use mapped_ram::{RamBlock, Reader, SaveOptions, SyncMode};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use userfaultfd::{Event, Uffd, UffdBuilder};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// A guest's memory: a memfd that nobody has touched.
struct Memory {
    start: NonNull<u8>,
    length: usize,
    _fd: OwnedFd,
}

// SAFETY: bare addresses that threads share on purpose, by raw pointers.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(length: usize) -> Self {
        let fd = memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, length.try_into().unwrap()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZeroUsize::new(length).unwrap();
        // SAFETY: touches no existing mapping.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &fd, 0) }.unwrap();
        Self { start: start.cast(), length, _fd: fd }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Touches pages and times each.
    fn touch(&self, order: &[usize]) -> Vec<Duration> {
        let touch = |page: &usize| {
            let began = Instant::now();
            // SAFETY: inside the mapping, never a reference.
            unsafe { self.at(page * PAGE).read_volatile() };
            began.elapsed()
        };
        order.iter().map(touch).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { munmap(self.start.cast(), self.length) }.unwrap();
    }
}

struct Saved {
    reader: Reader,
    file: File,
    pages_offset: u64,
    guest: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Saved {
    fn new(length: usize) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("guest.mram");
        let guest: Vec<u8> =
            (0..length / 8).flat_map(|word| (word as u64 * 0x9e37_79b9 + 1).to_le_bytes()).collect();
        SaveOptions::new()
            .sync(SyncMode::None)
            .io_mode(mapped_ram::storage::IoMode::Buffered)
            .save(&path, vec![RamBlock::new("ram0", &guest)])
            .unwrap();
        let reader = Reader::open(&path).unwrap();
        let pages_offset = reader.block("ram0").unwrap().layout().pages_offset();
        Self { reader, file: File::open(&path).unwrap(), pages_offset, guest, _dir: dir }
    }
}

fn ours(saved: &Saved, memory: &Memory, options: FaultOptions) -> mapped_ram::fault::FaultHandler {
    let block = saved.reader.block("ram0").unwrap();
    let target = FaultTarget::new(block, memory.start.as_ptr(), memory.length);
    // SAFETY: mapped for this, and touched through raw pointers only.
    unsafe { options.start(&[target]) }.unwrap()
}

fn uffd(memory: &Memory) -> Uffd {
    let uffd = UffdBuilder::new().close_on_exec(true).user_mode_only(false).create().unwrap();
    uffd.register(memory.start.as_ptr().cast(), memory.length).unwrap();
    uffd
}

/// The least that a handler can do: reads an event, copies a page out of memory.
fn faults_bare(saved: &Saved, memory: &Memory, order: &[usize]) -> Vec<Duration> {
    let uffd = uffd(memory);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in order {
                let Some(Event::Pagefault { addr, .. }) = uffd.read_event().unwrap() else {
                    panic!("an event")
                };
                let at = (addr.addr() - memory.start.addr().get()) / PAGE * PAGE;
                let from = saved.guest[at..at + PAGE].as_ptr();
                // SAFETY: a page of the guest into a page of the memory that is not there.
                unsafe { uffd.copy(from.cast(), memory.at(at).cast(), PAGE, true) }.unwrap();
            }
        });
        memory.touch(order)
    })
}

fn faults_ours(saved: &Saved, memory: &Memory, order: &[usize]) -> Vec<Duration> {
    let handler = ours(saved, memory, FaultOptions::new().fill(Fill::Nothing));
    let times = memory.touch(order);
    drop(handler);
    times
}

/// All pieces of 1 MiB, by so many threads.
fn by_threads(length: usize, threads: usize, each: impl Fn(usize) + Sync) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let each = &each;
            scope.spawn(move || (thread * MIB..length).step_by(threads * MIB).for_each(each));
        }
    });
    began.elapsed()
}

fn fill_pread(saved: &Saved, memory: &Memory, threads: usize) -> Duration {
    by_threads(memory.length, threads, |at| {
        // SAFETY: each piece is one thread's, and nobody else looks at the memory.
        let piece = unsafe { std::slice::from_raw_parts_mut(memory.at(at), MIB) };
        saved.file.read_exact_at(piece, saved.pages_offset + at as u64).unwrap();
    })
}

fn fill_bare(saved: &Saved, memory: &Memory, threads: usize) -> Duration {
    let uffd = uffd(memory);
    by_threads(memory.length, threads, |at| {
        let from = saved.guest[at..at + MIB].as_ptr();
        // SAFETY: a piece of the guest into pages of the memory that are not there.
        unsafe { uffd.copy(from.cast(), memory.at(at).cast(), MIB, true) }.unwrap();
    })
}

fn fill_ours(saved: &Saved, memory: &Memory, threads: usize) -> Duration {
    let began = Instant::now();
    let handler = ours(saved, memory, FaultOptions::new().channels(threads));
    handler.wait().unwrap();
    began.elapsed()
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let is_test = arguments.iter().any(|argument| argument == "--test");
    let (rounds, mib) = if is_test { (1, 8) } else { (number("--rounds", 9), number("--mib", 512)) };
    let length = mib * MIB;
    let saved = Saved::new(length);

    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut order: Vec<usize> = (0..length / PAGE).collect();
    for at in (1..order.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        order.swap(at, usize::try_from(random % (at as u64 + 1)).unwrap());
    }
    order.truncate(20_000);
    let (mut rows, mut ratios) = (vec![Vec::new(); 4], vec![Vec::new(); 2]);
    for _ in 0..rounds {
        let mut bare = faults_bare(&saved, &Memory::new(length), &order);
        let mut ours = faults_ours(&saved, &Memory::new(length), &order);
        let figures = [
            percentile(&mut bare, 50),
            percentile(&mut bare, 99),
            percentile(&mut ours, 50),
            percentile(&mut ours, 99),
        ];
        for (row, figure) in rows.iter_mut().zip(figures) {
            row.push(figure);
        }
        ratios[0].push(figures[2] / figures[0]);
        ratios[1].push(figures[3] / figures[1]);
    }
    let [bare_50, bare_99, ours_50, ours_99]: [f64; 4] =
        rows.into_iter().map(median).collect::<Vec<_>>().try_into().unwrap();
    println!("fault  bare {bare_50:.1} us (p99 {bare_99:.1}), ours {ours_50:.1} us (p99 {ours_99:.1})");
    println!("       ours of bare: p50 {:.2}, p99 {:.2}", median(ratios.remove(0)), median(ratios.remove(0)));

    let gib = f64::from(u32::try_from(mib).unwrap()) / 1024.0;
    for threads in [1, 2] {
        let mut rows = vec![Vec::new(); 3];
        let mut ratios = Vec::new();
        // The machine gives memory that was not used lately slowly: once for nothing.
        fill_pread(&saved, &Memory::new(length), threads);
        for round in 0..rounds {
            let ways = [fill_pread, fill_bare, fill_ours];
            let mut figures = [0.0; 3];
            // Another one begins each round: who comes first may pay for the others.
            for way in (0..3).map(|way| (way + round) % 3) {
                figures[way] = gib / ways[way](&saved, &Memory::new(length), threads).as_secs_f64();
            }
            for (row, figure) in rows.iter_mut().zip(figures) {
                row.push(figure);
            }
            ratios.push(figures[2] / figures[0]);
        }
        let [pread, bare, ours]: [f64; 3] =
            rows.into_iter().map(median).collect::<Vec<_>>().try_into().unwrap();
        println!(
            "fill   {threads} threads: pread {pread:.2} GiB/s, bare {bare:.2}, ours {ours:.2}; ours of pread {:.2}",
            median(ratios)
        );
    }
}
