//! `mapped-ram extract`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mapped_ram::{Block, Cancel, Reader, ReaderOptions};

use super::{expect_marked, find_block, open_with, warn_of_unmarked};
use crate::args::ExtractArgs;
use crate::exit::{Outcome, Problem};
use crate::files::{expect_another, expect_no_hugetlbfs, expect_no_link, expect_writable};
use crate::names::file_name;
use crate::output::{MadeFolders, write_block};
use crate::salvage::{is_of_the_file, write_salvaged};
use crate::signals::interruptible;
use crate::{progress, say};

pub(crate) fn run(args: &ExtractArgs) -> Result<Outcome, Problem> {
    extract(args).map_err(|problem| match problem {
        Problem::Library(error) if !args.salvage && is_of_the_file(&error) && has_salvage(args) => {
            Problem::Salvageable(error)
        }
        problem => problem,
    })
}

/// Whether there is a block that `--salvage` could give an image of.
fn has_salvage(args: &ExtractArgs) -> bool {
    let reader = open_with(ReaderOptions::new().salvage(true), &args.read.file, args.read.offset);
    reader.is_ok_and(|reader| reader.blocks().iter().any(|block| block.bitmap().is_ok()))
}

fn extract(args: &ExtractArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let options = ReaderOptions::new().salvage(args.salvage);
    let reader = open_with(options, &args.read.file, args.read.offset)?;
    let wanted = match &args.block {
        Some(name) => vec![(find_or_lost(&reader, name.as_bytes())?, args.output.clone())],
        None => all(&reader, args)?,
    };
    let mut is_whole = reader.flaw().is_none();
    if args.salvage {
        // Where even the look fails, so will the block's image, with a word.
        is_whole &= !warn_of_unmarked(&reader, &cancel).unwrap_or(false);
    } else {
        expect_marked(&reader, wanted.iter().map(|(block, _)| *block), "extracted", &cancel)?;
    }
    for (_, path) in &wanted {
        expect_writable(path)?;
        expect_no_hugetlbfs(path)?;
        expect_another(&args.read.file, path)?;
    }
    let made = if args.all { Some(MadeFolders::make(&args.output)?) } else { None };
    let bar = progress::bar("extract", wanted.iter().map(|(block, _)| block.used_length()).sum());
    for (block, path) in &wanted {
        let mut had = Had::All;
        if args.salvage {
            had = bar.suspend(|| salvage(block, &args.read.file, path, &cancel))?;
        } else {
            write_block(block, path, &cancel, &bar)?;
        }
        is_whole &= had == Had::All;
        if args.all && had != Had::Nothing {
            let (name, path) = (say::field(&block.idstr()), say::field(&path.to_string_lossy()));
            bar.suspend(|| say::line(&format!("{name}\t{path}")))?;
        }
    }
    bar.finish_and_clear();
    if let Some(made) = made {
        made.keep();
    }
    if args.salvage
        && is_whole
        && let Err(error) = reader.devices()
    {
        say::error(&format!("{error}; the memory of all blocks was had"));
        is_whole = false;
    }
    if let Some(flaw) = reader.flaw() {
        say::error(&format!(
            "{flaw}; {} of its blocks were found, and nothing behind them",
            reader.blocks().len()
        ));
    }
    Ok(if is_whole { Outcome::Good } else { Outcome::Damaged })
}

/// The block that is called `name`; where a part of the file cannot be read, there may have been one.
fn find_or_lost<'r>(reader: &'r Reader, name: &[u8]) -> Result<&'r Block, Problem> {
    find_block(reader, name).map_err(|problem| match reader.flaw() {
        None => problem,
        Some(flaw) => Problem::Unsupported {
            file: reader.file().to_owned(),
            what: format!(
                "block `{}` was not found before what cannot be read, and may be behind it: {flaw}",
                String::from_utf8_lossy(name)
            ),
        },
    })
}

/// What could be had of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Had {
    All,
    Some,
    /// No image was made.
    Nothing,
}

/// Writes what can be had of a block, and says what cannot.
fn salvage(block: &Block, file: &Path, path: &Path, cancel: &Cancel) -> Result<Had, Problem> {
    let name = block.idstr();
    if let Err(error) = block.bitmap() {
        say::error(&format!(
            "block `{name}`: no image: without its bitmap nothing is known of its pages: {error}"
        ));
        return Ok(Had::Nothing);
    }
    let lost = write_salvaged(block, file, path, cancel)?;
    let page = block.page_size();
    for run in lost.runs() {
        let (start, length) = (run.start * page, (run.end - run.start) * page);
        say::line(&format!("{}\tlost\t{start}\t{length}", say::field(&name)))?;
    }
    let (gone, present) = (lost.count(), block.present_pages()?);
    if gone > 0 {
        say::error(&format!(
            "block `{name}`: {gone} of the {present} pages that it had in the file are lost, and zeros in {}",
            path.display()
        ));
    }
    Ok(if gone == 0 { Had::All } else { Had::Some })
}

/// Every block that the file holds, and where it goes: always right inside the folder.
fn all<'r>(reader: &'r Reader, args: &ExtractArgs) -> Result<Vec<(&'r Block, PathBuf)>, Problem> {
    let mut wanted = Vec::new();
    for (index, block) in reader.blocks().iter().enumerate() {
        if block.is_left_out() {
            say::note(&format!(
                "{}: block `{}` is left out of the file (x-ignore-shared), and passed over",
                reader.file(),
                block.idstr()
            ));
            continue;
        }
        let name = file_name(block.layout().idstr_bytes(), index);
        let path = args.output.join(OsStr::new(&name));
        expect_no_link(&path)?;
        wanted.push((block, path));
    }
    Ok(wanted)
}
