//! Small times of mapped guests, in this process: until the first page is there, and single faults later on.
//!
//! A file is opened, mapped and touched again and again, which is what a monitor does that has started already. What the
//! same steps cost a program that knows where the pages are, and cares for no stale byte, stands beside it in each round.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mapped_ram::{Mapping, Reader};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rand::seq::SliceRandom;

use crate::Result;
use crate::args::{Args, Cache};
use crate::common::guest::Pattern;
use crate::common::measure::size;
use crate::common::table::median;
use crate::memory;
use crate::report::print_table;
use crate::saved::{Layout, PAGE, Saved};

/// How often a first page is waited for in a round where that takes next to no time.
const WARM_TIMES: usize = 20;

/// How many pages are touched, and as many read, in a round.
const FAULTS: usize = 1000;

/// A guest, and how to save it.
struct Guest {
    shown: String,
    save: Save,
}

type Save = Box<dyn Fn(&Path) -> Result<Saved>>;

impl Guest {
    /// `runs` runs of `run` bytes each.
    fn scattered(bytes: u64, runs: u64, run: u64) -> Self {
        let save = move |path: &Path| Saved::scattered(path, bytes, runs, run);
        Self { shown: format!("{}, {runs} runs of {}", size(bytes), size(run)), save: Box::new(save) }
    }

    fn fragmented(bytes: u64, layout: Layout) -> Self {
        let save = move |path: &Path| Saved::new(path, bytes, Pattern::Half, layout);
        let pattern = Pattern::Half.describe();
        Self { shown: format!("{}, {pattern}, {}", size(bytes), layout.describe()), save: Box::new(save) }
    }
}

/// The time until the first page, for guests of all sizes; with the note that there is nothing stale in the file, and without.
pub(crate) fn pages(args: &Args, dir: &Path) -> Result<()> {
    let path = dir.join("first.mram");
    let (mib, gib_of) = (1_u64 << 20, 1_u64 << 30);
    let guests = if args.test {
        vec![Guest::scattered(64 * mib, 1, mib), Guest::fragmented(16 * mib, Layout::Holes)]
    } else {
        vec![
            Guest::scattered(64 * mib, 1, 64 * mib),
            Guest::scattered(gib_of, 1, gib_of),
            Guest::scattered(64 * gib_of, 16, 64 * mib),
            Guest::scattered(64 * gib_of, 128, 8 * mib),
            Guest::scattered(64 * gib_of, 1000, mib),
            Guest::fragmented(gib_of, Layout::Bridged),
            Guest::fragmented(gib_of, Layout::Holes),
        ]
    };
    let head = [
        "guest",
        "file",
        "open, map, first byte: ms",
        "min..max",
        "without a note",
        "min..max",
        "open alone",
        "plain mmap, first byte",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for guest in guests {
        let saved = (guest.save)(&path)?;
        let noted = File::open(&path)?.metadata()?.modified()?;
        // Another time of the last change takes the note's force, the old one gives it back.
        let set_noted = |is_noted: bool| {
            let time = if is_noted { noted } else { noted + Duration::from_secs(1) };
            File::options().write(true).open(&path)?.set_modified(time)
        };
        let first_page = |is_noted: bool, cache: Cache| -> Result<f64> {
            set_noted(is_noted)?;
            if Reader::open(&path)?.is_noted_clean() != is_noted {
                return Err("this file system keeps no notes".into());
            }
            prepare(&saved, cache, args)?;
            let began = Instant::now();
            let mapping = map(&saved)?;
            first_byte(&mapping);
            Ok(began.elapsed().as_secs_f64() * 1e3)
        };
        for cache in &args.caches {
            let (mut ours, mut looked, mut opened, mut plain) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            if *cache == Cache::Warm {
                saved.make_warm()?;
            }
            for _ in 0..args.rounds {
                for _ in 0..if *cache == Cache::Warm { WARM_TIMES } else { 1 } {
                    ours.push(first_page(true, *cache)?);
                    looked.push(first_page(false, *cache)?);
                    prepare(&saved, *cache, args)?;
                    let began = Instant::now();
                    let reader = Reader::open(&saved.path)?;
                    opened.push(began.elapsed().as_secs_f64() * 1e3);
                    drop(reader);
                    prepare(&saved, *cache, args)?;
                    plain.push(memory::map_and_touch(&saved.path, saved.pages_offset, saved.bytes)? * 1e3);
                }
            }
            let spread = |times: &[f64]| {
                let (least, most) =
                    (times.iter().copied().reduce(f64::min), times.iter().copied().reduce(f64::max));
                format!("{:.3}..{:.3}", least.unwrap_or_default(), most.unwrap_or_default())
            };
            let middle = |times: Vec<f64>| format!("{:.3}", median(times).unwrap_or_default());
            cells.push(vec![
                guest.shown.clone(),
                format!("{cache:?}").to_lowercase(),
                middle(ours.clone()),
                spread(&ours),
                middle(looked.clone()),
                spread(&looked),
                middle(opened),
                middle(plain),
            ]);
        }
        std::fs::remove_file(&path)?;
    }
    print_table("Until the first page", &cells, args.markdown);
    Ok(())
}

/// Single pages of a cold guest: touched in a mapping, and read by a bare `pread`, in turn.
pub(crate) fn faults(args: &Args, dir: &Path) -> Result<()> {
    let bytes = if args.test { 32 << 20 } else { 1 << 30 };
    let saved = Saved::new(&dir.join("faults.mram"), bytes, Pattern::Dense, Layout::Bridged)?;
    let mut pages: Vec<u64> = (0..bytes / PAGE).collect();
    let (mut touched, mut read) = (Vec::new(), Vec::new());
    let file = File::open(&saved.path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    let mut page = vec![0; usize::try_from(PAGE)?];
    for _ in 0..args.rounds {
        pages.shuffle(&mut rand::rng());
        prepare(&saved, Cache::Cold, args)?;
        let mapping = map(&saved)?;
        let (one, other) = pages.split_at(pages.len() / 2);
        for (to_touch, to_read) in one.iter().zip(other).take(FAULTS) {
            let at = mapping.as_ptr().wrapping_add(usize::try_from(to_touch * PAGE)?);
            let began = Instant::now();
            // SAFETY: a byte of the mapping, which nobody else uses.
            let _ = unsafe { memory::read(at) };
            touched.push(began.elapsed().as_secs_f64() * 1e6);
            let began = Instant::now();
            file.read_exact_at(&mut page, saved.pages_offset + to_read * PAGE)?;
            read.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    touched.sort_by(f64::total_cmp);
    read.sort_by(f64::total_cmp);
    let at = |times: &[f64], percent: usize| times[(times.len() - 1) * percent / 100];
    let head = ["4 KiB, cold, random", "p50, us", "p99, us"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for (name, times) in [("a touch of a mapped guest", &touched), ("a bare pread, no read-ahead", &read)] {
        cells.push(vec![name.into(), format!("{:.1}", at(times, 50)), format!("{:.1}", at(times, 99))]);
    }
    let ratio = |percent| format!("{:.2}", at(&touched, percent) / at(&read, percent));
    cells.push(vec!["the first by the second".into(), ratio(50), ratio(99)]);
    print_table(&format!("Single faults, {}, {} of each", size(bytes), touched.len()), &cells, args.markdown);
    std::fs::remove_file(&saved.path)?;
    Ok(())
}

fn prepare(saved: &Saved, cache: Cache, args: &Args) -> Result<()> {
    if cache == Cache::Cold {
        saved.make_cold(!args.test && !args.gentle)?;
    }
    Ok(())
}

fn map(saved: &Saved) -> Result<Mapping> {
    let reader = Reader::open(&saved.path)?;
    Ok(reader.block("ram0").ok_or("no block `ram0`")?.map()?)
}

fn first_byte(mapping: &Mapping) {
    // SAFETY: a byte of the mapping, which nobody else uses.
    let _ = unsafe { memory::read(mapping.as_ptr()) };
}
