//! `mapped-ram verify`.

use std::os::unix::fs::FileExt;

use mapped_ram::{Cancel, Reader, VerifyOptions, VerifyReport};

use super::tally::Tally;
use super::{find_block, open_args};
use crate::args::{NamedFile, VerifyArgs};
use crate::chunks;
use crate::exit::{Outcome, Problem};
use crate::files::{expect_regular, open_regular};
use crate::signals::interruptible;
use crate::{progress, say};

pub(crate) fn run(args: &VerifyArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open_args(&args.read)?;
    // Asked for first, so that a wrong name is not found out after minutes of reading.
    for named in &args.against {
        find_block(&reader, &named.name)?;
        expect_regular(&named.path)?;
    }
    let bar = progress::bar("verify", 0);
    let options = VerifyOptions::new()
        .allow_holes(args.allow_holes)
        .cancel(cancel.clone())
        .progress(progress::callback(&bar));
    let report = reader.verify(options)?;
    bar.finish_and_clear();
    tell(&reader, &report)?;
    if !report.problems.is_empty() || report.is_unmarked() {
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

fn tell(reader: &Reader, report: &VerifyReport) -> Result<(), Problem> {
    for block in &report.blocks {
        say::line(&format!(
            "{}: {} pages, {} present, {} of those zero",
            block.idstr, block.pages, block.present, block.present_zero
        ))?;
    }
    say::line(&format!("tail: {} bytes, {} devices", report.tail_bytes, report.devices))?;
    for warning in &report.warnings {
        say::warning(&format!("{}: {warning}", reader.file()));
    }
    for problem in &report.problems {
        say::error(&format!("{}: {problem}", reader.file()));
    }
    if report.is_unmarked() {
        say::error(&format!(
            "{}: its pages are lost to whoever loads it, for none of any block is marked present",
            reader.file()
        ));
    } else if report.problems.is_empty() {
        say::line(&format!("{}: sound", reader.file()))?;
    }
    Ok(())
}

/// Whether a block's memory is what a raw file holds.
fn is_same(reader: &Reader, named: &NamedFile, cancel: &Cancel) -> Result<bool, Problem> {
    let block = find_block(reader, &named.name)?;
    let path = &named.path;
    let (file, metadata) = open_regular(path)?;
    let length = metadata.len();
    if length != block.used_length() {
        say::line(&format!(
            "{}: {} bytes, {} has {length}: differs",
            block.idstr(),
            block.used_length(),
            path.display()
        ))?;
        return Ok(false);
    }
    let tally = Tally::new(block, path)?;
    let bar = progress::bar("compare", length);
    let cancelled = || Problem::cancelled(path);
    chunks::for_each(length, cancel, &bar, cancelled, |offset, length| {
        // Absent pages against a hole: zeros both.
        let here = length as u64;
        let has_data = || {
            chunks::any_data(&file, offset, here)
                .map_err(|error| Problem::io(path, format!("look for data at offset {offset:#x}"), error))
        };
        if !chunks::any_present(block, offset, here)? && !has_data()? {
            return Ok(());
        }
        let (mut one, mut two) = (chunks::buffer(path, length)?, chunks::buffer(path, length)?);
        block.read_at(offset, &mut one)?;
        file.read_exact_at(&mut two, offset).map_err(|error| {
            Problem::io(path, format!("read {length} bytes at offset {offset:#x}"), error)
        })?;
        tally.count(&one, &two, offset);
        Ok(())
    })?;
    bar.finish_and_clear();
    let (same, text) = tally.result();
    say::line(&format!("{}: against {}: {text}", block.idstr(), path.display()))?;
    Ok(same)
}
