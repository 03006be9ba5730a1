//! What is asked for on the command line. Sizes are in bytes.

use std::path::PathBuf;
use std::str::FromStr;

use crate::common::args::{bytes, list, rounds};
use crate::common::guest::Pattern;
use crate::memory::Kind;
use crate::saved::Layout;
use crate::worker::Job;

pub(crate) const HELP: &str = "\
cargo bench --bench restore -- [OPTIONS]

  --what LIST      load (all of a guest), first (until its first page), faults (single pages of a mapped one) [all]
  --size LIST      guests to load, such as 1G,4G [1G]
  --pattern LIST   dense, half, five, alternating [dense]
  --layout LIST    bridged (as a save writes by default), holes (every zero page a hole, as QEMU writes) [bridged]
  --cache LIST     warm (the file is in the page cache), cold (it is not; only root can see to that) [warm,cold]
  --memory LIST    fresh (huge pages of whoever has none yet, which a virtual machine may have to ask its host for), pool (of
                   hugetlbfs, set aside beforehand: what a restore itself costs; only root can set it aside) [fresh]
  --gentle         cold: the file's bytes leave the page cache, but where they are on the disk stays known, and what other programs
                   have cached stays: steadier, and kinder to a machine that is shared
  --only LIST      contenders whose names contain one of these
  --rounds N       [5]
  --dir DIR        where the files go [cargo's target directory]
  --plot FILE      draws the rates as SVG
  --markdown       prints tables as Markdown
  --test           one round on a small guest: does everything still work?
";

/// Where the file is when a restore begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// In the page cache.
    Warm,
    /// On the disk only.
    Cold,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Load,
    First,
    Faults,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) what: Vec<What>,
    pub(crate) sizes: Vec<u64>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) caches: Vec<Cache>,
    pub(crate) memory: Vec<Kind>,
    pub(crate) gentle: bool,
    pub(crate) only: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) dir: PathBuf,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) markdown: bool,
    pub(crate) test: bool,
}

pub(crate) enum Command {
    Help,
    Measure(Args),
    /// This process is one run of one contender, see [`crate::worker`].
    Work(Job),
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut args = Self {
            what: vec![What::Load, What::First, What::Faults],
            sizes: vec![1 << 30],
            patterns: vec![Pattern::Dense],
            layouts: vec![Layout::Bridged],
            caches: vec![Cache::Warm, Cache::Cold],
            memory: vec![Kind::Fresh],
            gentle: false,
            only: Vec::new(),
            rounds: 5,
            dir: env!("CARGO_TARGET_TMPDIR").into(),
            plot: None,
            markdown: false,
            test: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match &*word {
                // Cargo says so to every bench.
                "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--what" => args.what = list(&value()?)?,
                "--size" => args.sizes = value()?.split(',').map(size).collect::<Result<_, _>>()?,
                "--pattern" => args.patterns = list(&value()?)?,
                "--layout" => args.layouts = list(&value()?)?,
                "--cache" => args.caches = list(&value()?)?,
                "--memory" => args.memory = list(&value()?)?,
                "--gentle" => args.gentle = true,
                "--only" => args.only = list(&value()?)?,
                "--rounds" => args.rounds = rounds(&value()?)?,
                "--dir" => args.dir = value()?.into(),
                "--plot" => args.plot = Some(value()?.into()),
                "--markdown" => args.markdown = true,
                "--test" => args.test = true,
                "--worker" => return Job::parse(words).map(Command::Work),
                _ => return Err(format!("no option `{word}`\n\n{HELP}")),
            }
        }
        if args.test {
            args.sizes = vec![32 << 20];
            args.patterns = vec![Pattern::Half];
            args.rounds = 1;
        }
        Ok(Command::Measure(args))
    }
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = bytes(text, &(1 << 24..=1 << 40));
    bytes.ok_or_else(|| format!("no size `{text}`: a number with M, G or T"))
}

impl FromStr for Cache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "warm" => Ok(Self::Warm),
            "cold" => Ok(Self::Cold),
            _ => Err(format!("no cache `{text}`: warm or cold")),
        }
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "load" => Ok(Self::Load),
            "first" => Ok(Self::First),
            "faults" => Ok(Self::Faults),
            _ => Err(format!("nothing is called `{text}`: load, first or faults")),
        }
    }
}
