//! What is asked for on the command line. Sizes are in bytes.

use std::path::PathBuf;
use std::str::FromStr;

use crate::common::args::{bytes, list, rounds};
use crate::common::guest::Pattern;
use crate::common::measure::Sync;
use crate::ram::Fill;
use crate::worker::Job;

pub(crate) const HELP: &str = "\
cargo bench --bench side_by_side -- [OPTIONS]

  --size LIST      guests, such as 1G,4G or sparse:64G: 1 GiB in use, the rest holes [1G]
  --pattern LIST   dense, half, five, alternating, or all [dense]
  --sync LIST      full (on stable storage), none (in the page cache) [full,none]
  --only LIST      contenders whose names contain one of these
  --rounds N       [5]
  --dir DIR        where the files go [cargo's target directory]
  --plot FILE      draws the rates as SVG
  --markdown       prints tables as Markdown
  --test           one round on a small guest: does everything still work?
";

/// A guest's size; a sparse one has its data in few places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) is_sparse: bool,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) sizes: Vec<Size>,
    pub(crate) fills: Vec<Fill>,
    pub(crate) syncs: Vec<Sync>,
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
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut args = Self {
            sizes: vec![Size { bytes: 1 << 30, is_sparse: false }],
            fills: vec![Fill::Pattern(Pattern::Dense)],
            syncs: vec![Sync::Full, Sync::None],
            only: Vec::new(),
            rounds: 5,
            dir: env!("CARGO_TARGET_TMPDIR").into(),
            plot: None,
            markdown: false,
            test: false,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match &*word {
                // Cargo says so to every bench.
                "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--size" => args.sizes = list(&value()?)?,
                "--pattern" => {
                    let names = value()?;
                    let patterns = if names == "all" { Pattern::ALL.to_vec() } else { list(&names)? };
                    args.fills = patterns.into_iter().map(Fill::Pattern).collect();
                }
                "--sync" => args.syncs = list(&value()?)?,
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
            args.sizes = vec![Size { bytes: 32 << 20, is_sparse: false }];
            args.fills = vec![Fill::Pattern(Pattern::Half)];
            args.rounds = 1;
        }
        Ok(Command::Measure(args))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_sparse, number) = match text.strip_prefix("sparse:") {
            Some(number) => (true, number),
            None => (false, text),
        };
        let bytes = bytes(number, &(1 << 24..=1 << 46));
        let bad = || format!("no size `{text}`: a number with M, G or T, `sparse:` before it");
        Ok(Self { bytes: bytes.ok_or_else(bad)?, is_sparse })
    }
}
