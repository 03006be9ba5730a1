//! `mapped-ram compare`.

use std::collections::HashMap;

use mapped_ram::{Block, Cancel, Reader};

use super::tally::Tally;
use super::{expect_marked, open};
use crate::args::CompareArgs;
use crate::chunks;
use crate::exit::{Outcome, Problem};
use crate::signals::interruptible;
use crate::{progress, say};

pub(crate) fn run(args: &CompareArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let one = open(&args.one, args.offset_a)?;
    let two = open(&args.two, args.offset_b)?;
    for reader in [&one, &two] {
        expect_marked(reader, reader.blocks().iter(), "compared", &cancel)?;
    }
    let (in_one, in_two) = (by_name(&one), by_name(&two));
    let mut same = true;
    for block in one.blocks() {
        if let Some(other) = in_two.get(block.layout().idstr_bytes()) {
            same &= compare_blocks(block, other, args, &cancel)?;
        } else {
            say::line(&format!("{}: only in {}", block.idstr(), one.file()))?;
            same = false;
        }
    }
    for block in two.blocks().iter().filter(|block| !in_one.contains_key(block.layout().idstr_bytes())) {
        say::line(&format!("{}: only in {}", block.idstr(), two.file()))?;
        same = false;
    }
    let (tail_one, tail_two) = (tail(&one)?, tail(&two)?);
    let tails = tail_one.state() == tail_two.state();
    say::line(&format!("device state: {}", if tails { "the same" } else { "differs" }))?;
    if tail_one.behind() != tail_two.behind() {
        // No part of either guest.
        say::note(&format!(
            "behind the end of the stream {} has {} bytes and {} {}, which are not the same, and belong to nothing",
            one.file(),
            tail_one.behind().len(),
            two.file(),
            tail_two.behind().len()
        ));
    }
    Ok(if same && tails { Outcome::Good } else { Outcome::Differs })
}

/// What stands behind a file's blocks.
struct FileTail {
    bytes: Vec<u8>,
    /// How much of it is the stream's.
    length: usize,
}

impl FileTail {
    fn state(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Without the zeros at its end, which are padding.
    fn behind(&self) -> &[u8] {
        let end = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &self.bytes[self.length..end.max(self.length)]
    }
}

/// All of it counts as device state where nobody can tell its end.
fn tail(reader: &Reader) -> Result<FileTail, Problem> {
    let bytes = reader.tail()?;
    let start = reader.layout().tail_offset();
    let length = reader.stream_end().ok().and_then(|end| usize::try_from(end - start).ok());
    Ok(FileTail { length: length.map_or(bytes.len(), |length| length.min(bytes.len())), bytes })
}

/// The blocks by their names, of which no two in a file are the same.
fn by_name(reader: &Reader) -> HashMap<&[u8], &Block> {
    reader.blocks().iter().map(|block| (block.layout().idstr_bytes(), block)).collect()
}

fn compare_blocks(one: &Block, two: &Block, args: &CompareArgs, cancel: &Cancel) -> Result<bool, Problem> {
    let name = one.idstr();
    if one.used_length() != two.used_length() {
        say::line(&format!("{name}: {} bytes and {} bytes", one.used_length(), two.used_length()))?;
        return Ok(false);
    }
    if one.is_left_out() || two.is_left_out() {
        let same = one.is_left_out() == two.is_left_out();
        say::line(&format!("{name}: {}", if same { "left out of both" } else { "left out of one" }))?;
        return Ok(same);
    }
    let tally = Tally::new(one, &args.one)?;
    // Asked for once, before many threads do.
    two.bitmap()?;
    let bar = progress::bar("compare", one.used_length());
    let cancelled = || Problem::cancelled(&args.one);
    chunks::for_each(one.used_length(), cancel, &bar, cancelled, |offset, length| {
        let here = length as u64;
        if !chunks::any_present(one, offset, here)? && !chunks::any_present(two, offset, here)? {
            return Ok(());
        }
        let mut first = chunks::buffer(&args.one, length)?;
        let mut second = chunks::buffer(&args.two, length)?;
        one.read_at(offset, &mut first)?;
        two.read_at(offset, &mut second)?;
        tally.count(&first, &second, offset);
        Ok(())
    })?;
    bar.finish_and_clear();
    let (same, text) = tally.result();
    say::line(&format!("{name}: {text}"))?;
    Ok(same)
}
