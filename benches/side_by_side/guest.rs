//! The guest's memory: one file that every contender maps, filled by a pattern, the same in every run.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use qemu_harness::SmallDisk;
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::Result;

pub(crate) const PAGE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Every page random.
    Dense,
    /// Runs and gaps of 1 to 16 pages.
    Runs,
    /// Every other page.
    EveryOther,
    /// 64 of every 1280 pages: 5 percent, in runs as a kernel's and its programs' are.
    Idle,
}

impl Pattern {
    const ALL: [Self; 4] = [Self::Dense, Self::Runs, Self::EveryOther, Self::Idle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Runs => "runs",
            Self::EveryOther => "every-other",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|pattern| pattern.name() == text);
        found.ok_or_else(|| format!("no pattern {text}: dense, runs, every-other or idle"))
    }
}

pub(crate) struct Guest {
    path: PathBuf,
    pub(crate) size: u64,
    /// How many bytes of it are in pages that are not zero.
    pub(crate) used: u64,
    /// What kind of memory it is.
    pub(crate) place: &'static str,
    /// What holds the file; taken away with it.
    _disk: Option<SmallDisk>,
    _dir: Option<tempfile::TempDir>,
}

impl Guest {
    pub(crate) fn new(size: u64, pattern: Pattern) -> Result<Self> {
        // Room for what huge pages round up.
        let (disk, dir, place) = if let Ok(disk) = SmallDisk::huge(size + (64 << 20)) {
            (Some(disk), None, "a tmpfs of huge pages")
        } else {
            let dir = tempfile::tempdir_in("/dev/shm").map_err(|error| error.to_string())?;
            (None, Some(dir), "/dev/shm (no huge pages: mounting is not allowed here)")
        };
        let folder =
            disk.as_ref().map_or_else(|| dir.as_ref().map(tempfile::TempDir::path), |disk| Some(disk.path()));
        let path = folder.ok_or("no folder for the guest")?.join("ram");
        let used = fill(&path, size, pattern).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, size, used, place, _disk: disk, _dir: dir })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn fill(path: &Path, size: u64, pattern: Pattern) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    file.set_len(size)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let pages = size / PAGE as u64;
    let (mut at, mut used) = (0, 0);
    let mut bytes = vec![0; 64 * PAGE];
    while at < pages {
        let (run, gap) = match pattern {
            Pattern::Dense => (64, 0),
            Pattern::Runs => (random.random_range(1..=16), random.random_range(1..=16)),
            Pattern::EveryOther => (1, 1),
            Pattern::Idle => (64, 1216),
        };
        let run = run.min(pages - at);
        write(&file, &mut random, &mut bytes, at, run)?;
        used += run * PAGE as u64;
        at += run + gap;
    }
    if pattern != Pattern::Idle {
        // A guest that has been busy has touched all its memory; an idle one has not.
        touch(&file, size)?;
    }
    Ok(used)
}

fn write(
    file: &File,
    random: &mut Xoshiro256PlusPlus,
    bytes: &mut [u8],
    at: u64,
    run: u64,
) -> io::Result<()> {
    let length = usize::try_from(run).map_err(io::Error::other)? * PAGE;
    random.fill_bytes(&mut bytes[..length]);
    file.write_all_at(&bytes[..length], at * PAGE as u64)
}

/// Makes what nobody has written memory all the same.
fn touch(file: &File, size: u64) -> io::Result<()> {
    let mut page = [0; PAGE];
    for at in (0..size).step_by(PAGE) {
        file.read_exact_at(&mut page, at)?;
        if page.iter().all(|byte| *byte == 0) {
            file.write_all_at(&page, at)?;
        }
    }
    Ok(())
}
