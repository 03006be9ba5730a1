//! Sparse files that appear whole or not at all.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use mapped_ram::storage::{AtomicFile, Storage};
use mapped_ram::zero::Detector;
use mapped_ram::{Block, Cancel};

use crate::chunks;
use crate::exit::Problem;

/// What is looked at for zeros at a time, in bytes: the block size of the file systems in use, so that every hole that can
/// be is one.
const HOLE: usize = 4096;

/// Writes the memory of `block` to a new file at `path`, zeros as holes.
pub(crate) fn write_block(
    block: &Block,
    path: &Path,
    cancel: &Cancel,
    bar: &ProgressBar,
) -> Result<(), Problem> {
    let name = block.idstr();
    let fail = |what: &str| {
        let what = format!("{what} (block `{name}`)");
        move |error| Problem::io(path, what, error)
    };
    // Asked for once, before many threads do.
    block.bitmap()?;
    let mut storage = AtomicFile::create(path).map_err(fail("create the file"))?;
    storage.set_len(block.used_length()).map_err(fail("set the file's length"))?;
    let file = File::from(storage.as_fd().try_clone_to_owned().map_err(fail("open the file once more"))?);
    let cancelled = || Problem::cancelled(path);
    chunks::for_each(block.used_length(), cancel, bar, cancelled, |offset, length| {
        if !chunks::any_present(block, offset, length as u64)? {
            return Ok(());
        }
        let mut bytes = chunks::buffer(path, length)?;
        block.read_at(offset, &mut bytes)?;
        write_used(&file, &bytes, offset).map_err(|(at, error)| {
            Problem::io(path, format!("write block `{name}` at offset {at:#x}"), error)
        })
    })?;
    storage.sync().map_err(fail("make the file durable"))?;
    storage.publish(true).map_err(fail("give the finished file its name"))
}

/// Writes what is not zero of `bytes` at `offset`, in runs. An error comes with the offset of the run it is about.
pub(crate) fn write_used(file: &File, bytes: &[u8], offset: u64) -> Result<(), (u64, std::io::Error)> {
    let detector = Detector::best();
    let mut start = 0;
    let mut at = 0;
    let flush = |from: usize, to: usize| {
        let place = offset + from as u64;
        if from < to {
            file.write_all_at(&bytes[from..to], place).map_err(|error| (place, error))
        } else {
            Ok(())
        }
    };
    for piece in bytes.chunks(HOLE) {
        if detector.is_zero_slice(piece) {
            flush(start, at)?;
            start = at + piece.len();
        }
        at += piece.len();
    }
    flush(start, at)
}

/// Folders that were made for output, and are taken away again as far as they are empty, unless they are kept.
#[must_use]
pub(crate) struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Makes sure that `path` is a directory.
    pub(crate) fn make(path: &Path) -> Result<Self, Problem> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            .collect();
        let mut made = Self(Vec::new());
        for folder in missing.into_iter().rev() {
            // Whoever makes it at the same time keeps it.
            if fs::create_dir(folder).is_ok() {
                made.0.push(folder.to_owned());
            }
        }
        // Says what could not be made.
        fs::create_dir_all(path).map_err(|error| Problem::io(path, "create the directory", error))?;
        Ok(made)
    }

    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // One that holds something is not removed, and neither is what it stands in.
            let _ = fs::remove_dir(folder);
        }
    }
}
