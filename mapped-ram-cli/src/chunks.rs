//! Work on a block in pieces, by several threads.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use indicatif::ProgressBar;
use mapped_ram::{Block, Cancel};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::exit::Problem;

/// How much of a block a thread deals with at a time, in bytes.
pub(crate) const CHUNK: usize = 4 << 20;

/// The same for offsets.
const STEP: u64 = CHUNK as u64;

/// Runs `work` with (offset, length) for every piece of `length` bytes, on as many threads as there are cores. The first
/// error ends it; `cancelled` makes the one for an interruption.
pub(crate) fn for_each(
    length: u64,
    cancel: &Cancel,
    bar: &ProgressBar,
    cancelled: impl Fn() -> Problem + Sync,
    work: impl Fn(u64, usize) -> Result<(), Problem> + Sync,
) -> Result<(), Problem> {
    threads()?.install(|| {
        (0..length.div_ceil(STEP)).into_par_iter().try_for_each(|piece| {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            let offset = piece * STEP;
            let here = STEP.min(length - offset);
            work(offset, usize::try_from(here).unwrap_or(CHUNK))?;
            bar.inc(here);
            Ok(())
        })
    })
}

/// The threads that work on pieces, one for each core: started when they are first asked for.
///
/// # Errors
/// When the system lets no more be started. (Rayon's own pool, which starts unasked, panics then.)
pub(crate) fn threads() -> Result<&'static ThreadPool, Problem> {
    static THREADS: OnceLock<Result<ThreadPool, String>> = OnceLock::new();
    let started = THREADS.get_or_init(|| ThreadPoolBuilder::new().build().map_err(|error| error.to_string()));
    started.as_ref().map_err(|error| Problem::Io {
        file: "mapped-ram".to_owned(),
        what: "start a thread for each core".to_owned(),
        source: io::Error::other(error.as_str()),
    })
}

/// `length` zeros to read into.
///
/// # Errors
/// When the system has no memory for them.
pub(crate) fn buffer(path: &Path, length: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    make_room(&mut bytes, path, length)?;
    Ok(bytes)
}

/// Makes `bytes` as long as `length`; what is new of it is zeros.
///
/// # Errors
/// When the system has no memory for them.
pub(crate) fn make_room(bytes: &mut Vec<u8>, path: &Path, length: usize) -> Result<(), Problem> {
    if bytes.try_reserve_exact(length.saturating_sub(bytes.len())).is_err() {
        let what = format!("get {length} bytes of memory to read into");
        return Err(Problem::io(path, what, io::ErrorKind::OutOfMemory.into()));
    }
    bytes.resize(length, 0);
    Ok(())
}

/// Whether any page of `length` bytes from `offset` on stands in the file.
pub(crate) fn any_present(block: &Block, offset: u64, length: u64) -> Result<bool, Problem> {
    let page_size = block.page_size();
    let pages = offset / page_size..(offset + length).div_ceil(page_size);
    Ok(block.runs_within(pages)?.next().is_some())
}

/// Whether the file holds data anywhere in the `length` bytes from `offset` on; elsewhere is a hole, which reads as zeros.
pub(crate) fn any_data(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    let Ok(from) = i64::try_from(offset) else { return Ok(false) };
    match lseek(file, from, Whence::SeekData) {
        Ok(start) => Ok(start.cast_unsigned() < offset.saturating_add(length)),
        // Nothing but a hole up to the end.
        Err(Errno::ENXIO) => Ok(false),
        // A file system that knows no holes: all is data.
        Err(Errno::EINVAL) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
