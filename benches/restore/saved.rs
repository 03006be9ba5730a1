//! The saved guests, and their way into and out of the page cache.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mapped_ram::{Bridge, RamBlock, Reader, SaveOptions, Tail};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;
use qemu_harness::pattern;

use crate::Result;
use crate::common::guest::Pattern;
use crate::memory::{Kind, Memory};

pub(crate) const PAGE: u64 = 4096;

/// What stands in the room of zero pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Zeros in short gaps, holes in longer ones.
    Bridged,
    /// Holes: byte for byte what QEMU writes.
    Holes,
}

impl Layout {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Bridged => "short gaps bridged",
            Self::Holes => "every zero page a hole",
        }
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "bridged" => Ok(Self::Bridged),
            "holes" => Ok(Self::Holes),
            _ => Err(format!("no layout `{text}`: bridged or holes")),
        }
    }
}

/// A saved guest of one block, `ram0`.
pub(crate) struct Saved {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// How many bytes its present pages have.
    pub(crate) data_bytes: u64,
    pub(crate) pages_offset: u64,
}

impl Saved {
    /// Saves a guest of `bytes` bytes. As much memory is needed for as long as it takes.
    pub(crate) fn new(path: &Path, bytes: u64, pattern: Pattern, layout: Layout) -> Result<Self> {
        let mut memory = Memory::new(bytes, Kind::Fresh)?;
        memory.populate()?;
        pattern.fill(memory.bytes_mut(), |_| {});
        let bridge = if layout == Layout::Bridged { Bridge::Auto } else { Bridge::None };
        let options = SaveOptions::new().bridge(bridge);
        options.save(path, vec![RamBlock::new("ram0", memory.bytes())])?;
        Self::open(path)
    }

    /// Saves `runs` runs of `run` bytes of random data, evenly spread over a guest of `bytes` bytes that is otherwise zero.
    pub(crate) fn scattered(path: &Path, bytes: u64, runs: u64, run: u64) -> Result<Self> {
        let mut data = vec![0; usize::try_from(run)?];
        let mut writer = SaveOptions::new().create(path, vec![RamBlock::detached("ram0", bytes)])?;
        let apart = bytes / runs / PAGE * PAGE;
        for index in 0..runs {
            pattern::Pattern::Dense.fill(&mut data, index);
            writer.write_from(0, index * apart, &data)?;
        }
        writer.finish(&Tail::minimal())?;
        Self::open(path)
    }

    pub(crate) fn open(path: &Path) -> Result<Self> {
        let reader = Reader::open(path)?;
        let block = reader.block("ram0").ok_or("no block `ram0`")?;
        let layout = block.layout();
        Ok(Self {
            path: path.to_owned(),
            bytes: layout.used_length(),
            data_bytes: block.present_pages()? * PAGE,
            pages_offset: layout.pages_offset(),
        })
    }

    /// Out of the page cache, as far as the system lets us; `all` says whether what the system knows of all files goes too.
    pub(crate) fn make_cold(&self, all: bool) -> Result<()> {
        let file = File::open(&self.path)?;
        syncfs(&file)?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        if all {
            // Its place on the disk is forgotten too, where that is allowed.
            let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        }
        Ok(())
    }

    /// Into the page cache, once through.
    pub(crate) fn make_warm(&self) -> Result<()> {
        let file = File::open(&self.path)?;
        let mut buffer = vec![0; 4 << 20];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at)? {
                0 => return Ok(()),
                read => at += read as u64,
            }
        }
    }
}
