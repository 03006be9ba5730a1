//! The commands, one a module, and what they share.

pub(crate) mod compare;
pub(crate) mod copy;
pub(crate) mod extract;
pub(crate) mod info;
pub(crate) mod restore;
pub(crate) mod save;
mod tally;
pub(crate) mod verify;

use std::path::Path;

use mapped_ram::storage::IoMode;
use mapped_ram::{Block, Cancel, RamBlock, Reader, ReaderOptions, SaveOptions, SaveReport, Writer};

use crate::args::{ReadArgs, WriteArgs, ZeroDetection};
use crate::exit::Problem;
use crate::files::{expect_regular, expect_regular_or_nothing};
use crate::say;
use crate::size::show;

/// Opens a file for reading.
fn open(path: &Path, offset: Option<u64>) -> Result<Reader, Problem> {
    expect_regular(path)?;
    let mut options = ReaderOptions::new();
    if let Some(offset) = offset {
        options = options.stream_offset(offset);
    }
    Ok(options.open(path)?)
}

fn open_args(args: &ReadArgs) -> Result<Reader, Problem> {
    open(&args.file, args.offset)
}

/// The block that is called `name`, byte for byte; if there is none, an error that says which there are.
fn find_block<'r>(reader: &'r Reader, name: &[u8]) -> Result<&'r Block, Problem> {
    block_named(reader, name).ok_or_else(|| {
        let names: Vec<_> = reader.blocks().iter().map(|block| format!("`{}`", block.idstr())).collect();
        Problem::Usage(format!(
            "{} has no block `{}`; it has {}",
            reader.file(),
            String::from_utf8_lossy(name),
            names.join(", ")
        ))
    })
}

fn block_named<'r>(reader: &'r Reader, name: &[u8]) -> Option<&'r Block> {
    reader.blocks().iter().find(|block| block.layout().idstr_bytes() == name)
}

/// What `save` and `copy` have in common.
fn write_options<'a>(args: &WriteArgs, cancel: &Cancel) -> SaveOptions<'a> {
    let mut options = SaveOptions::new()
        .io_mode(if args.direct_io { IoMode::Direct } else { IoMode::Buffered })
        .zero_detection(args.zero_detection == ZeroDetection::On)
        .cancel(cancel.clone());
    if let Some(channels) = args.channels {
        options = options.channels(usize::from(channels));
    }
    options
}

/// Begins to write `out`: a new file, or in place behind an offset.
fn begin<'a>(
    options: SaveOptions<'a>,
    args: &WriteArgs,
    out: &Path,
    blocks: Vec<RamBlock<'a>>,
) -> Result<Writer<'a>, Problem> {
    // Looked at before it is opened: a pipe would be waited for until somebody reads it.
    expect_regular_or_nothing(out)?;
    let Some(offset) = args.in_place() else { return Ok(options.create(out, blocks)?) };
    Ok(options.stream_offset(offset).in_place(out, blocks)?)
}

/// Says in a line what was written.
fn tell(out: &Path, args: &WriteArgs, report: &SaveReport) -> Result<(), Problem> {
    let totals = report.totals();
    let time = report.write_time + report.sync_time;
    if args.direct_io && report.io_mode == IoMode::Buffered {
        say::note(&format!(
            "the file system of {} has no O_DIRECT; wrote through the page cache",
            out.display()
        ));
    }
    say::line(&format!(
        "{}: {} of guest memory, {} pages written, {} zero; {:.2} s ({:.2} s to write, {:.2} s to sync)",
        out.display(),
        show(report.guest_bytes),
        totals.pages,
        totals.zero_pages,
        time.as_secs_f64(),
        report.write_time.as_secs_f64(),
        report.sync_time.as_secs_f64(),
    ))
}
