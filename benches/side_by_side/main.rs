//! Whole saves side by side: ours in each mode, real QEMU, plain programs, and fio as the ceiling, on the same memory and the
//! same file system, in turn.
//!
//! ```text
//! cargo bench --bench side_by_side -- --size 1G --pattern dense --sync full --rounds 5 --plot dense.svg
//! ```
//!
//! A disk that others share drifts by factors, so nothing here is compared across runs: each round has every contender once,
//! in an order of its own, and what counts is the ratio of medians. Before each run memory is touched and given back (memory
//! that the machine has not used lately comes slowly from its host), old files are gone and the disk is idle.
//!
//! Ours and the plain programs run in a process of their own (this program again), so that their processor time and memory
//! are theirs alone. Guest memory is mapped before the clock starts, as a monitor has it mapped.
//!
//! With `--test` everything runs once on a small guest: that it works, not how fast.

mod arguments;
mod contender;
mod fio;
mod guest;
mod table;
#[expect(unsafe_code, reason = "maps the guest's memory")]
mod worker;

use std::path::Path;
use std::process::ExitCode;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::arguments::Arguments;
use crate::contender::{Contender, Run, contenders};
use crate::guest::Guest;
use crate::table::Table;

/// What went wrong, in words.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let result = if given.first().is_some_and(|first| first == worker::FLAG) {
        worker::main(&given[1..])
    } else {
        Arguments::parse(&given).and_then(|arguments| compare(&arguments))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("side_by_side: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<()> {
    let guest = Guest::new(arguments.size, arguments.pattern)?;
    println!(
        "guest: {} MiB, {}, {} MiB of it not zero, in {}; files in {}; sync {}; {} rounds",
        arguments.size >> 20,
        arguments.pattern.name(),
        guest.used >> 20,
        guest.place,
        arguments.dir.display(),
        arguments.sync.name(),
        arguments.rounds,
    );
    let wanted =
        |contender: &Contender| arguments.only.iter().any(|only| contender.name().contains(only.as_str()));
    let all = contenders(arguments.sync, arguments.pattern);
    let chosen: Vec<Contender> =
        all.into_iter().filter(|contender| arguments.only.is_empty() || wanted(contender)).collect();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(rand::rng().random());
    let mut table = Table::new(arguments, &guest);
    for _ in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        order.shuffle(&mut random);
        for index in order {
            clear(&arguments.dir)?;
            warm(guest.used);
            let run = Run { guest: &guest, dir: &arguments.dir, sync: arguments.sync };
            match chosen[index].run(&run) {
                Ok(Some(sample)) => table.add(index, &chosen[index], sample),
                Ok(None) => {}
                Err(error) => return Err(format!("{}: {error}", chosen[index].name())),
            }
        }
    }
    clear(&arguments.dir)?;
    print!("{}", table.text());
    if let Some(plot) = &arguments.plot {
        std::fs::write(plot, table.svg()).map_err(|error| format!("{}: {error}", plot.display()))?;
    }
    Ok(())
}

/// No file of an earlier run, and nothing that is still being written.
fn clear(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    for entry in std::fs::read_dir(dir).map_err(|error| error.to_string())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(contender::PREFIX) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    nix::unistd::sync();
    Ok(())
}

/// Touches as much memory as a run will use, page cache included, and gives it back.
fn warm(bytes: u64) {
    let Ok(length) = usize::try_from(bytes + (64 << 20)) else { return };
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(length).is_ok() {
        memory.resize(length, 1);
        std::hint::black_box(&memory);
    }
}
