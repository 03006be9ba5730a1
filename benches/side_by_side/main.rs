//! Whole saves, side by side: ours, QEMU's, plain programs', and the disk's ceiling by fio, in one run.
//!
//! `cargo bench --bench side_by_side -- --help` tells the options; `scripts/bench-side-by-side` makes all the tables of
//! docs/performance.md. What is decided here is the order: each round lets every contender save the same RAM once, in
//! an order of its own, so that a machine that drifts drifts under all of them. Before each run the old file goes, the
//! file system is synced, and as much memory is touched as the run will use. Ratios are taken within a round.
//!
//! - [`ram`] makes the guest, [`room`] the same ground for each run;
//! - [`contender`] lists who takes part: [`ours`], [`qemu`], [`plain`], [`fio`]; [`worker`] is the process in which
//!   ours and the plain ones run, so that their memory and CPU time are nobody else's;
//! - [`report`] makes tables; [`common`] is what `restore` has too.

mod args;
#[path = "../common/mod.rs"]
mod common;
mod contender;
mod fio;
mod ours;
mod plain;
mod qemu;
mod ram;
mod report;
mod room;
mod uring;
mod worker;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use qemu_harness::Qemu;
use rand::seq::SliceRandom;

use args::{Args, Command, Size};
use common::measure::{Sync, gib};
use common::{Result, plot, rows};
use contender::{Contender, Setting};
use ram::{Fill, RamFile};
use report::Case;

fn main() -> ExitCode {
    common::run("side_by_side", Args::parse(std::env::args().skip(1)), |command| match command {
        Command::Help => {
            print!("{}", args::HELP);
            Ok(())
        }
        Command::Work(job) => worker::work(&job),
        Command::Measure(args) => measure_all(&args),
    })
}

fn measure_all(args: &Args) -> Result<()> {
    let qemu = match Qemu::find() {
        Ok(qemu) => Some(qemu),
        Err(error) => {
            eprintln!("NOT MEASURED: qemu/*: {error} (scripts/install-qemu)");
            None
        }
    };
    if let Err(error) = common::fio::version() {
        eprintln!("NOT MEASURED: fio/*: {error} (apt-get install fio)");
    }
    let dir = tempfile::Builder::new().prefix("side-by-side-").tempdir_in(&args.dir)?;
    let mut cases = Vec::new();
    for size in &args.sizes {
        let fills = if size.is_sparse { &[Fill::Resident][..] } else { &args.fills };
        for fill in fills {
            let ram = RamFile::new(size.bytes, *fill)?;
            for sync in &args.syncs {
                let case = one_case(args, *size, &ram, *sync, qemu.as_ref(), dir.path())?;
                case.print(args.markdown);
                cases.push(case);
            }
        }
    }
    if let Some(path) = &args.plot {
        let mut panels: Vec<_> = cases.iter().map(Case::bars).collect();
        fs::write(path, plot::svg(&mut panels)).map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("plot: {}", path.display());
    }
    Ok(())
}

fn one_case(
    args: &Args,
    size: Size,
    ram: &RamFile,
    sync: Sync,
    qemu: Option<&Qemu>,
    dir: &Path,
) -> Result<Case> {
    let setting = Setting { ram, sync, qemu, out: &dir.join("guest.mram") };
    let mut case = Case::new(size, ram, sync, args.rounds);
    for contender in Contender::all(sync) {
        let name = contender.name();
        if !common::args::wants(&args.only, &name) {
            continue;
        }
        if let Some(why) = contender.missing(&setting) {
            eprintln!("NOT MEASURED: {name}: {why}");
            continue;
        }
        case.add(contender);
    }
    if case.rows.is_empty() {
        return Err("nobody takes part".into());
    }
    eprintln!("{}, {} rounds", case.title(), args.rounds);
    let mut order: Vec<usize> = (0..case.rows.len()).collect();
    for round in 0..args.rounds {
        order.shuffle(&mut rand::rng());
        for index in &order {
            let row = &mut case.rows[*index];
            if row.failure.is_some() {
                continue;
            }
            room::make(setting.out, ram.resident_bytes(), !args.test)?;
            match row.contender.run(&setting) {
                Ok(sample) => {
                    let rate = gib(ram.bytes()) / sample.wall;
                    let name = row.contender.name();
                    let note = sample.note.as_deref().unwrap_or_default();
                    eprintln!("  {round} {name:28} {:8.3} s {rate:7.2} GiB/s {note}", sample.wall);
                    row.samples.push(sample);
                }
                // What fails once would cost minutes in each round.
                Err(error) => {
                    eprintln!("  {round} {:28} FAILED: {error}", row.contender.name());
                    row.failure = Some(error.to_string());
                }
            }
        }
        eprintln!("  {}", case.window(round));
    }
    room::clear(setting.out)?;
    if args.test {
        rows::none_failed(&case.rows, Contender::name)?;
    }
    Ok(case)
}
