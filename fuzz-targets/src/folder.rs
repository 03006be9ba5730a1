//! Real files in memory, and real blocks of them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tempfile::TempDir;

/// A folder in memory where there is one: a sync costs nothing there.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A file without a name that holds `bytes`, with holes where there are blocks of zeros.
pub(crate) fn sparse_file(bytes: &[u8]) -> File {
    const BLOCK: usize = 4096;
    let fd = nix::sys::memfd::memfd_create("fuzz", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.set_len(bytes.len() as u64).unwrap();
    for (offset, block) in (0..).step_by(BLOCK).zip(bytes.chunks(BLOCK)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, offset).unwrap();
        }
    }
    file.flush().unwrap();
    file
}
