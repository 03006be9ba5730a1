//! The commands, one a module, and what they share.

pub(crate) mod compare;
pub(crate) mod copy;
pub(crate) mod extract;
pub(crate) mod info;
pub(crate) mod prepare;
pub(crate) mod restore;
pub(crate) mod save;
#[cfg(feature = "serve")]
pub(crate) mod serve;
mod summary;
mod tally;
pub(crate) mod verify;

use std::path::Path;

use mapped_ram::storage::IoMode;
use mapped_ram::{Block, Cancel, RamBlock, Reader, ReaderOptions, SaveOptions, SyncMode, Writer};

use crate::args::{Mode, ReadArgs, Sync, WriteArgs, ZeroDetection};
use crate::exit::Problem;
use crate::files::{expect_no_hugetlbfs, expect_regular, expect_writable};
use crate::say;

/// Opens a file for reading.
fn open(path: &Path, offset: Option<u64>) -> Result<Reader, Problem> {
    open_with(ReaderOptions::new(), path, offset)
}

fn open_with(mut options: ReaderOptions, path: &Path, offset: Option<u64>) -> Result<Reader, Problem> {
    expect_regular(path)?;
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
    reader.blocks().iter().find(|block| block.layout().idstr_bytes() == name).ok_or_else(|| {
        let names: Vec<_> = reader.blocks().iter().map(|block| format!("`{}`", block.idstr())).collect();
        Problem::Usage(format!(
            "{} has no block `{}`; it has {}",
            reader.file(),
            String::from_utf8_lossy(name),
            names.join(", ")
        ))
    })
}

/// Warns of blocks whose pages stand in the file without being marked, and returns whether that goes for the whole guest.
fn warn_of_unmarked(reader: &Reader, cancel: &Cancel) -> Result<bool, Problem> {
    let unmarked = reader.unmarked_blocks(cancel)?;
    for block in &unmarked {
        say::warning(&format!("{}: {block}", reader.file()));
    }
    let mut present = reader.blocks().iter().filter(|block| !block.is_left_out()).map(Block::present_pages);
    Ok(!unmarked.is_empty() && !present.any(|pages| pages.is_ok_and(|pages| pages > 0)))
}

/// The same, and an error where it goes for the whole guest: nobody means memory that is all zeros, and the file may be the only place
/// where the pages are. Nothing is looked at where a block that is `wanted` has present pages.
fn expect_marked<'r>(
    reader: &Reader,
    mut wanted: impl Iterator<Item = &'r Block>,
    done: &str,
    cancel: &Cancel,
) -> Result<(), Problem> {
    let is_marked = |block: &Block| block.present_pages().is_ok_and(|pages| pages > 0);
    if wanted.any(|block| !block.is_left_out() && is_marked(block)) || !warn_of_unmarked(reader, cancel)? {
        return Ok(());
    }
    Err(Problem::Unsupported {
        file: reader.file().to_owned(),
        what: format!(
            "not {done}: none of its pages is marked present, so that all would be zeros, and what stands there lost. Keep this file, \
             and save the guest again without background-snapshot; `mapped-ram copy --discard-unmarked` makes a copy without those pages"
        ),
    })
}

/// What `save` and `copy` have in common.
fn write_options<'a>(args: &WriteArgs, cancel: &Cancel) -> SaveOptions<'a> {
    let mut options = SaveOptions::new()
        .io_mode(match args.mode {
            _ if args.direct_io => IoMode::Direct,
            Mode::Auto => IoMode::Auto,
            Mode::Buffered => IoMode::Buffered,
            Mode::Direct => IoMode::Direct,
            Mode::Uncached => IoMode::Uncached,
            Mode::Mixed => IoMode::Mixed,
            Mode::Uring => IoMode::Uring,
        })
        .sync(match args.sync {
            Sync::None => SyncMode::None,
            Sync::Data => SyncMode::Data,
            Sync::Full => SyncMode::Full,
        })
        .bridge(args.bridge.unwrap_or_default())
        .max_bandwidth(args.max_bandwidth)
        .zero_detection(args.zero_detection == ZeroDetection::On)
        .cancel(cancel.clone());
    if let Some(channels) = args.channels {
        options = options.channels(usize::from(channels));
    }
    if let Some(chunk) = args.chunk {
        options = options.chunk(chunk);
    }
    if let Some(old) = &args.recycle {
        options = options.recycle(old);
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
    expect_writable(out)?;
    expect_no_hugetlbfs(out)?;
    if let Some(old) = &args.recycle {
        expect_regular(old)?;
        expect_writable(old)?;
    }
    let Some(offset) = args.in_place() else { return Ok(options.create(out, blocks)?) };
    Ok(options.stream_offset(offset).in_place(out, blocks)?)
}
