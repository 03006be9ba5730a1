//! `mapped-ram verify`.

use std::os::unix::fs::FileExt;

use mapped_ram::{Cancel, Reader, VerifyOptions, VerifyReport};

use super::compare::Tally;
use super::{find_block, interruptible, open_args};
use crate::args::{NamedFile, VerifyArgs};
use crate::chunks;
use crate::exit::{Outcome, Problem};
use crate::names::shown;
use crate::progress;
use crate::ram_file::open_regular;

pub(crate) fn run(args: &VerifyArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open_args(&args.read)?;
    // Asked for first, so that a wrong name is not found out after minutes of reading.
    for named in &args.against {
        find_block(&reader, &named.name)?;
    }
    let bar = progress::bar("verify", 0);
    let options = VerifyOptions::new()
        .allow_holes(args.allow_holes)
        .cancel(cancel.clone())
        .progress(progress::callback(&bar));
    let report = reader.verify(options)?;
    bar.finish_and_clear();
    tell(&reader, &report);
    if !report.problems.is_empty() {
        return Ok(Outcome::Damaged);
    }
    let mut outcome = Outcome::Good;
    for named in &args.against {
        if !is_same(&reader, named, &cancel)? {
            outcome = Outcome::Differs;
        }
    }
    Ok(outcome)
}

fn tell(reader: &Reader, report: &VerifyReport) {
    for block in &report.blocks {
        println!(
            "{}: {} pages, {} present, {} of those zero",
            shown(&block.idstr),
            block.pages,
            block.present,
            block.present_zero
        );
    }
    println!("tail: {} bytes, {} devices", report.tail_bytes, report.devices);
    for problem in &report.problems {
        eprintln!("mapped-ram: error: {}: {}", reader.file(), shown(&problem.to_string()));
    }
    if report.problems.is_empty() {
        println!("{}: sound", reader.file());
    }
}

/// Whether a block's memory is what a raw file holds.
fn is_same(reader: &Reader, named: &NamedFile, cancel: &Cancel) -> Result<bool, Problem> {
    let block = find_block(reader, &named.name)?;
    let path = &named.path;
    let file = open_regular(path)?;
    let length =
        file.metadata().map_err(|error| Problem::io(path, "ask for the file's length", error))?.len();
    if length != block.used_length() {
        println!("{}: {} bytes, {} has {length}: differs", named.name, block.used_length(), path.display());
        return Ok(false);
    }
    let tally = Tally::new(block.page_size());
    let bar = progress::bar("compare", length);
    chunks::for_each(length, cancel, &bar, |offset, length| {
        let (mut one, mut two) = (vec![0; length], vec![0; length]);
        block.read_at(offset, &mut one)?;
        file.read_exact_at(&mut two, offset).map_err(|error| Problem::io(path, "read the memory", error))?;
        tally.count(&one, &two, offset);
        Ok(())
    })?;
    bar.finish_and_clear();
    println!("{}: {} {}", named.name, tally.say(), path.display());
    Ok(tally.is_same())
}
