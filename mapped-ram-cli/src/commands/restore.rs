//! `mapped-ram restore`: fills the files that are guests' RAM.
//!
//! All that can be refused is refused before the first byte is written. From then on a failure leaves memory that is
//! partly the old and partly the saved guest's: a file that was made here is taken away again, and one that was there
//! before is named, so that nobody starts a guest in it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mapped_ram::storage::IoMode;
use mapped_ram::{Block, LoadOptions, LoadReport, Reader};
use serde_json::json;

use super::{expect_marked, find_block, open_args};
use crate::args::{LoadMode, RestoreArgs, Stats};
use crate::exit::{Outcome, Problem};
use crate::files::{expect_another, expect_writable};
use crate::ram_file::GuestRam;
use crate::signals::interruptible;
use crate::size::{gib_per_second, show};
use crate::{progress, say};

pub(crate) fn run(args: &RestoreArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open_args(&args.read)?;
    let wanted = wanted(&reader, args)?;
    expect_marked(&reader, wanted.iter().map(|(block, _)| *block), "restored", &cancel)?;
    let mut memories = Vec::new();
    // By what the paths lead to once they are open: of files that are made here nothing else is sure to differ.
    let mut files = BTreeSet::new();
    for (block, path) in &wanted {
        let memory = match GuestRam::open(path, block) {
            Ok(memory) => memory,
            Err(problem) => return Err(give_up(problem, memories)),
        };
        let is_new = memory.identity().map(|identity| files.insert(identity));
        memories.push(memory);
        match is_new {
            Ok(true) => {}
            Ok(false) => return Err(give_up(once_only(block, path), memories)),
            Err(problem) => return Err(give_up(problem, memories)),
        }
    }
    let began = Instant::now();
    let bar = progress::bar("restore", wanted.iter().map(|(block, _)| block.used_length()).sum());
    let mut options = LoadOptions::new()
        .io_mode(match args.mode {
            _ if args.direct_io => IoMode::Uring,
            LoadMode::Auto => IoMode::Auto,
            LoadMode::Buffered => IoMode::Buffered,
            LoadMode::Direct => IoMode::Direct,
            LoadMode::Uring => IoMode::Uring,
        })
        .cancel(cancel)
        .progress(progress::callback(&bar));
    if let Some(channels) = args.channels {
        options = options.channels(usize::from(channels));
    }
    let loaded = memories.iter_mut().map(GuestRam::target).collect::<Result<Vec<_>, _>>();
    let loaded = loaded.and_then(|mut targets| Ok(options.load(&mut targets)?));
    bar.finish_and_clear();
    let report = match loaded {
        Ok(report) => report,
        Err(problem) => {
            let cause = memories.iter().find_map(|memory| memory.cause_of(&problem));
            return Err(give_up(cause.unwrap_or(problem), memories));
        }
    };
    tell(args, &reader, &wanted, &report, began.elapsed())?;
    Ok(Outcome::Good)
}

/// Sums up what was read.
fn tell(
    args: &RestoreArgs,
    reader: &Reader,
    wanted: &[(&Block, &Path)],
    report: &LoadReport,
    time: Duration,
) -> Result<(), Problem> {
    let totals = report.totals();
    let guest_bytes: u64 = wanted.iter().map(|(block, _)| block.used_length()).sum();
    let rate = gib_per_second(guest_bytes, time);
    if args.stats == Stats::Json {
        let restored: Vec<_> = wanted
            .iter()
            .map(|(block, path)| json!({ "block": block.idstr(), "into": path.to_string_lossy(), "bytes": block.used_length() }))
            .collect();
        return say::json_line(&json!({
            "file": reader.file(),
            "restored": restored,
            "guest_bytes": guest_bytes,
            "pages_read": totals.pages,
            "zero_pages": totals.zero_pages,
            "bytes_read": totals.bytes,
            "read_calls": totals.calls,
            "seconds": time.as_secs_f64(),
            "gib_per_second": rate,
            "channels": report.channels.len(),
            "mode": report.io_mode.name(),
        }));
    }
    for (block, path) in wanted {
        say::line(&format!("{}: block `{}`, {}", path.display(), block.idstr(), show(block.used_length())))?;
    }
    say::line(&format!(
        "{}: {} pages read, {} zero; {:.2} s, {rate:.2} GiB/s, {}",
        reader.file(),
        totals.pages,
        totals.zero_pages,
        time.as_secs_f64(),
        report.io_mode
    ))
}

/// Each block and the file that is to hold it, the n-th `--block` with the n-th `--into`.
fn wanted<'a>(reader: &'a Reader, args: &'a RestoreArgs) -> Result<Vec<(&'a Block, &'a Path)>, Problem> {
    if args.block.len() != args.into.len() {
        return Err(Problem::Usage(format!(
            "{} times --block and {} times --into; each block needs the file that is to hold it",
            args.block.len(),
            args.into.len()
        )));
    }
    let mut wanted = Vec::new();
    let mut blocks = BTreeSet::new();
    for (name, path) in args.block.iter().zip(&args.into) {
        let block = find_block(reader, name.as_bytes())?;
        expect_writable(path)?;
        expect_another(&args.read.file, path)?;
        if !blocks.insert(name) {
            return Err(once_only(block, path));
        }
        wanted.push((block, path.as_path()));
    }
    Ok(wanted)
}

fn once_only(block: &Block, path: &Path) -> Problem {
    Problem::Usage(format!(
        "block `{}` into {}: a block and a file can be named once only",
        block.idstr(),
        path.display()
    ))
}

/// Takes away the files that were made here, and names those that were there before.
fn give_up(problem: Problem, memories: Vec<GuestRam<'_>>) -> Problem {
    let spoilt: Vec<String> = memories.into_iter().filter_map(GuestRam::abandon).collect();
    if spoilt.is_empty() {
        return problem;
    }
    Problem::HalfRestored { files: spoilt.join(", "), problem: Box::new(problem) }
}
