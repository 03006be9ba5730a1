//! `mapped-ram compare`.

use std::sync::atomic::{AtomicU64, Ordering};

use mapped_ram::{Block, Cancel, Reader};

use super::{interruptible, open};
use crate::args::CompareArgs;
use crate::chunks;
use crate::exit::{Outcome, Problem};
use crate::names::shown;
use crate::progress;

pub(crate) fn run(args: &CompareArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let one = open(&args.one, args.offset_a)?;
    let two = open(&args.two, args.offset_b)?;
    let mut same = true;
    for block in one.blocks() {
        if let Some(other) = of_same_name(&two, block) {
            same &= compare_blocks(block, other, &cancel)?;
        } else {
            println!("{}: only in {}", shown(&block.idstr()), one.file());
            same = false;
        }
    }
    for block in two.blocks().iter().filter(|block| of_same_name(&one, block).is_none()) {
        println!("{}: only in {}", shown(&block.idstr()), two.file());
        same = false;
    }
    let tails = one.tail()? == two.tail()?;
    println!("device state: {}", if tails { "the same" } else { "differs" });
    Ok(if same && tails { Outcome::Good } else { Outcome::Differs })
}

fn of_same_name<'r>(reader: &'r Reader, block: &Block) -> Option<&'r Block> {
    let name = block.layout().idstr_bytes();
    reader.blocks().iter().find(|other| other.layout().idstr_bytes() == name)
}

fn compare_blocks(one: &Block, two: &Block, cancel: &Cancel) -> Result<bool, Problem> {
    let name = shown(&one.idstr());
    if one.used_length() != two.used_length() {
        println!("{name}: {} bytes and {} bytes", one.used_length(), two.used_length());
        return Ok(false);
    }
    if one.is_left_out() || two.is_left_out() {
        let same = one.is_left_out() == two.is_left_out();
        println!("{name}: {}", if same { "left out of both" } else { "left out of one" });
        return Ok(same);
    }
    let tally = Tally::new(one.page_size());
    let bar = progress::bar("compare", one.used_length());
    chunks::for_each(one.used_length(), cancel, &bar, |offset, length| {
        let here = length as u64;
        if !chunks::any_present(one, offset, here)? && !chunks::any_present(two, offset, here)? {
            return Ok(());
        }
        let (mut first, mut second) = (vec![0; length], vec![0; length]);
        one.read_at(offset, &mut first)?;
        two.read_at(offset, &mut second)?;
        tally.count(&first, &second, offset);
        Ok(())
    })?;
    bar.finish_and_clear();
    println!("{name}: {}", tally.say());
    Ok(tally.is_same())
}

/// Counts the pages that differ, from several threads.
pub(super) struct Tally {
    page_size: u64,
    pages: AtomicU64,
    first: AtomicU64,
}

impl Tally {
    pub(super) fn new(page_size: u64) -> Self {
        Self { page_size, pages: AtomicU64::new(0), first: AtomicU64::new(u64::MAX) }
    }

    /// Compares what stands at `offset` of both.
    pub(super) fn count(&self, one: &[u8], two: &[u8], offset: u64) {
        if one == two {
            return;
        }
        // Pages that are larger than a piece are counted once for each piece that differs.
        let page = usize::try_from(self.page_size).unwrap_or(usize::MAX);
        let mut at = offset;
        for (one, two) in one.chunks(page).zip(two.chunks(page)) {
            if one != two {
                let byte = one.iter().zip(two).take_while(|(one, two)| one == two).count() as u64;
                self.pages.fetch_add(1, Ordering::Relaxed);
                self.first.fetch_min(at + byte, Ordering::Relaxed);
            }
            at += one.len() as u64;
        }
    }

    pub(super) fn is_same(&self) -> bool {
        self.pages.load(Ordering::Relaxed) == 0
    }

    pub(super) fn say(&self) -> String {
        match self.pages.load(Ordering::Relaxed) {
            0 => "the same".to_owned(),
            pages => {
                format!("{pages} pages differ, the first at offset {:#x}", self.first.load(Ordering::Relaxed))
            }
        }
    }
}
