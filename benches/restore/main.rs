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
//! - [`report`] makes tables; [`common`] is what `side_by_side` has too.

mod args;
#[expect(dead_code, reason = "some is for saves only")]
#[path = "../common/mod.rs"]
mod common;
mod contender;
mod first;
mod memory;
mod report;
mod saved;
mod worker;

use std::fs;
use std::process::ExitCode;

use qemu_harness::Qemu;
use rand::seq::SliceRandom;

use args::{Args, Cache, Command, What};
use common::measure::gib;
use common::{Result, measure, plot, rows};
use contender::Contender;
use memory::{Kind, Pool};
use report::{Case, Row};
use saved::Saved;

fn main() -> ExitCode {
    common::run("restore", Args::parse(std::env::args().skip(1)), |command| match command {
        Command::Help => {
            print!("{}", args::HELP);
            Ok(())
        }
        Command::Work(job) => worker::work(&job),
        Command::Measure(args) => measure_all(&args),
    })
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
    let fio = common::fio::version();
    for contender in Contender::all(cache) {
        let name = contender.name();
        if !common::args::wants(&args.only, &name) || (contender.is_qemu() && qemu.is_none()) {
            continue;
        }
        if let (Contender::Fio { .. }, Err(error)) = (contender, &fio) {
            eprintln!("NOT MEASURED: {name}: {error} (apt-get install fio)");
            continue;
        }
        case.rows.push(Row::new(contender));
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
    if args.test {
        rows::none_failed(&case.rows, |contender| contender.name())?;
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
