//! The commands, one a module, and what they share.

pub(crate) mod compare;
pub(crate) mod copy;
pub(crate) mod extract;
pub(crate) mod info;
pub(crate) mod save;
pub(crate) mod verify;

use std::path::Path;

use mapped_ram::storage::IoMode;
use mapped_ram::{Block, Cancel, Reader, ReaderOptions, SaveOptions, SaveReport};

use crate::args::{ReadArgs, WriteArgs, ZeroDetection};
use crate::exit::Problem;
use crate::size::show;

/// Opens a file for reading.
fn open(path: &Path, offset: Option<u64>) -> Result<Reader, Problem> {
    let mut options = ReaderOptions::new();
    if let Some(offset) = offset {
        options = options.stream_offset(offset);
    }
    Ok(options.open(path)?)
}

fn open_args(args: &ReadArgs) -> Result<Reader, Problem> {
    open(&args.file, args.offset)
}

/// The block `name`; if there is none, an error that says which there are.
fn find_block<'r>(reader: &'r Reader, name: &str) -> Result<&'r Block, Problem> {
    reader.block(name).ok_or_else(|| {
        let names: Vec<_> = reader.blocks().iter().map(|block| format!("`{}`", block.idstr())).collect();
        Problem::Usage(format!("{} has no block `{name}`; it has {}", reader.file(), names.join(", ")))
    })
}

/// A handle that SIGINT and SIGTERM use, so that what was begun is cleaned up.
fn interruptible() -> Cancel {
    let cancel = Cancel::new();
    let handle = cancel.clone();
    // Without it an interruption still leaves no half-written file: an unfinished one has no name yet.
    let _ = ctrlc::set_handler(move || handle.cancel());
    cancel
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
    if let Some(offset) = args.offset {
        options = options.stream_offset(offset);
    }
    options
}

/// Says in a line what was written.
fn tell(out: &Path, args: &WriteArgs, report: &SaveReport) {
    let totals = report.totals();
    let time = report.write_time + report.sync_time;
    if args.direct_io && report.io_mode == IoMode::Buffered {
        eprintln!(
            "mapped-ram: note: the file system of {} has no O_DIRECT; wrote through the page cache",
            out.display()
        );
    }
    println!(
        "{}: {} of guest memory, {} pages written, {} zero; {:.2} s ({:.2} s to write, {:.2} s to sync)",
        out.display(),
        show(report.guest_bytes),
        totals.pages,
        totals.zero_pages,
        time.as_secs_f64(),
        report.write_time.as_secs_f64(),
        report.sync_time.as_secs_f64(),
    );
}
