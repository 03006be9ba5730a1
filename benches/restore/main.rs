//! Whole restores, side by side: ours, QEMU's, a plain program's, and the disk's ceiling by fio, in one run.
//!
//! `cargo bench --bench restore -- --help` tells the options; `scripts/bench-restore` makes all the tables of
//! docs/performance.md. As in `side_by_side`, each round lets every contender load the same file once, in an order of its own,
//! and ratios are taken within a round. Before each run the file is brought into the page cache or out of it, and as much
//! memory is touched as the run will use.
//!
//! - [`saved`] makes the files, [`memory`] is what they are loaded into;
//! - [`contender`] lists who takes part; [`worker`] is the process in which ours and the plain ones run;
//! - [`first`] measures mapped guests: the time until the first page, and single faults;
//! - [`report`] makes tables; what prints and draws them, and reads the clock, is `side_by_side`'s.

mod args;
mod contender;
mod first;
#[expect(dead_code, reason = "some is for saves only")]
#[path = "../side_by_side/measure.rs"]
mod measure;
mod memory;
#[path = "../side_by_side/plot.rs"]
mod plot;
mod report;
mod saved;
#[path = "../side_by_side/table.rs"]
mod table;
mod worker;

use std::fs;
use std::process::{Command, ExitCode};

use qemu_harness::Qemu;
use rand::seq::SliceRandom;

use args::{Args, Cache, What};
use contender::Contender;
use measure::gib;
use memory::{Kind, Pool};
use report::{Case, Row};
use saved::Saved;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = match Args::parse(std::env::args().skip(1)) {
        Ok(args::Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Ok(args::Command::Work(job)) => worker::work(&job),
        Ok(args::Command::Measure(args)) => measure_all(&args),
        Err(error) => {
            eprintln!("restore: {error}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("restore: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(args: &Args) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("restore-").tempdir_in(&args.dir)?;
    let mut panels = Vec::new();
    if args.what.contains(&What::Load) {
        let qemu = Qemu::find().inspect_err(|error| {
            eprintln!("NOT MEASURED: qemu/*: {error} (scripts/install-qemu)");
        });
        let qemu = qemu.ok();
        for size in &args.sizes {
            for pattern in &args.patterns {
                for layout in &args.layouts {
                    let saved = Saved::new(&dir.path().join("guest.mram"), *size, *pattern, *layout)?;
                    let (pattern, layout) = (pattern.describe(), layout.describe());
                    let title = format!("{}, {pattern}, {layout}", measure::size(*size));
                    for memory in &args.memory {
                        let _pool = if *memory == Kind::Pool { Some(Pool::of(*size)?) } else { None };
                        for cache in &args.caches {
                            let ground = Ground { saved: &saved, cache: *cache, memory: *memory };
                            let case = load_case(args, &ground, &title, qemu.as_ref())?;
                            case.print(args.markdown);
                            panels.push(case.bars());
                        }
                    }
                    fs::remove_file(&saved.path)?;
                }
            }
        }
    }
    if args.what.contains(&What::First) {
        first::pages(args, dir.path())?;
    }
    if args.what.contains(&What::Faults) {
        first::faults(args, dir.path())?;
    }
    if let Some(path) = &args.plot {
        fs::write(path, plot::svg(&mut panels)).map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("plot: {}", path.display());
    }
    Ok(())
}

/// What every contender of a case begins with.
struct Ground<'s> {
    saved: &'s Saved,
    cache: Cache,
    memory: Kind,
}

fn load_case(args: &Args, ground: &Ground<'_>, title: &str, qemu: Option<&Qemu>) -> Result<Case> {
    let Ground { saved, cache, memory } = *ground;
    let cache_is = match cache {
        Cache::Warm => "warm",
        Cache::Cold => "cold",
    };
    let mut case = Case {
        title: format!("Load {title}, {cache_is}, into {}", memory.describe()),
        cache,
        bytes: saved.bytes,
        data_bytes: saved.data_bytes,
        rows: Vec::new(),
    };
    let has_fio = Command::new("fio").arg("--version").output().is_ok();
    for contender in Contender::all(cache) {
        let name = contender.name();
        if !args.wants(&name) || (contender.is_qemu() && qemu.is_none()) {
            continue;
        }
        if matches!(contender, Contender::Fio { .. }) && !has_fio {
            eprintln!("NOT MEASURED: {name}: there is no fio (apt-get install fio)");
            continue;
        }
        case.rows.push(Row { contender, samples: Vec::new(), failure: None });
    }
    eprintln!("{}, {} rounds", case.title, args.rounds);
    let mut order: Vec<usize> = (0..case.rows.len()).collect();
    for round in 0..args.rounds {
        order.shuffle(&mut rand::rng());
        for index in &order {
            let row = &mut case.rows[*index];
            if row.failure.is_some() {
                continue;
            }
            ground.prepare(args.test || args.gentle)?;
            let sample = if row.contender.is_worker() {
                worker::run(row.contender, saved, memory)
            } else {
                row.contender.run(saved, memory, qemu)
            };
            let name = row.contender.name();
            match sample {
                Ok(sample) => {
                    let rate = gib(saved.bytes) / sample.wall;
                    eprintln!("  {round} {name:24} {:8.3} s {rate:7.2} GiB/s", sample.wall);
                    row.samples.push(sample);
                }
                Err(error) => {
                    eprintln!("  {round} {name:24} FAILED: {error}");
                    row.failure = Some(error.to_string());
                }
            }
        }
    }
    let failed = case.rows.iter().filter(|row| row.failure.is_some()).map(|row| row.contender.name());
    let failed: Vec<_> = failed.collect();
    // A test is there to find what does not work any more; a measurement tells it and goes on.
    if args.test && !failed.is_empty() {
        return Err(format!("failed: {}", failed.join(", ")).into());
    }
    Ok(case)
}

impl Ground<'_> {
    /// The same for every run.
    fn prepare(&self, gentle: bool) -> Result<()> {
        if self.cache == Cache::Cold {
            // Others are at work beside a test: their caches are left alone.
            self.saved.make_cold(!gentle)?;
        }
        match self.memory {
            // The guest, and what a channel and a program take.
            Kind::Fresh => memory::touch(self.saved.bytes + (64 << 20), Kind::Fresh)?,
            Kind::Pool => memory::touch(self.saved.bytes, Kind::Pool)?,
        }
        if self.cache == Cache::Warm {
            self.saved.make_warm()?;
        }
        Ok(())
    }
}
