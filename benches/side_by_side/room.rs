//! The same ground for every run: no file, a clean disk queue, cold caches, memory that the machine really has.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{ErrorKind, Write};
use std::path::Path;

use nix::unistd::syncfs;

use crate::Result;

const PAGE: usize = 4096;

/// Removes the old output, syncs its file system, empties the caches where allowed, and uses as much memory as a
/// run that writes `bytes` can use, by itself and for its page cache: a virtual machine gets memory that it has not used for
/// a while from its host first, and at a tenth of the speed. `drop_caches` says whether caches are emptied.
///
/// The page cache's by a file of its own, which is gone again before it is on the disk: the system gives freed memory to who asks for the
/// same kind of it, and not, as a rule, what a program had to the page cache. Without it the first GiB took 3.4 s, the next ones 0.3 s each.
pub(crate) fn make(out: &Path, bytes: u64, drop_caches: bool) -> Result<()> {
    clear(out)?;
    if drop_caches {
        // Not allowed to who is not root: then the caches are as they are, for all alike.
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    }
    let bytes = (bytes + (64 << 20)).min(available()? / 2);
    let mut memory = vec![0_u8; usize::try_from(bytes)?];
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    black_box(&memory);
    drop(memory);
    let warm = out.with_extension("warm");
    let mut file = File::create(&warm)?;
    let block = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&block)?;
    }
    Ok(fs::remove_file(warm)?)
}

/// Removes the output and syncs.
pub(crate) fn clear(out: &Path) -> Result<()> {
    match fs::remove_file(out) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let dir = out.parent().ok_or("the output has no directory")?;
    Ok(syncfs(File::open(dir)?)?)
}

/// The bytes that can be had without swapping.
fn available() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.ok_or("no MemAvailable")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
