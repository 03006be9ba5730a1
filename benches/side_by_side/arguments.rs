//! What is to be measured.

use std::path::PathBuf;

use mapped_ram::SyncMode;

use crate::Result;
use crate::guest::Pattern;

pub(crate) struct Arguments {
    pub(crate) size: u64,
    pub(crate) pattern: Pattern,
    pub(crate) sync: SyncMode,
    pub(crate) rounds: usize,
    pub(crate) dir: PathBuf,
    /// Parts of contenders' names; all if there are none.
    pub(crate) only: Vec<String>,
    pub(crate) plot: Option<PathBuf>,
}

const USAGE: &str = "use --size 1G, --pattern dense|runs|every-other|idle, --sync full|none, --rounds 5, --dir DIR, \
                     --only PART-OF-A-NAME (again and again), --plot FILE.svg, or --test";

impl Arguments {
    pub(crate) fn parse(given: &[String]) -> Result<Self> {
        let mut this = Self {
            size: 1 << 30,
            pattern: Pattern::Dense,
            sync: SyncMode::Full,
            rounds: 5,
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("side_by_side"),
            only: Vec::new(),
            plot: None,
        };
        let mut given = given.iter();
        while let Some(flag) = given.next() {
            let mut value = || given.next().ok_or_else(|| format!("{flag} needs a value; {USAGE}"));
            match flag.as_str() {
                // What cargo gives to every bench, and criterion's way to say: quickly.
                "--bench" | "--quick" => {}
                "--test" => (this.size, this.rounds) = (32 << 20, 1),
                "--size" => this.size = size(value()?)?,
                "--pattern" => this.pattern = Pattern::parse(value()?)?,
                "--sync" => {
                    this.sync = match value()?.as_str() {
                        "full" => SyncMode::Full,
                        "none" => SyncMode::None,
                        other => return Err(format!("no --sync {other}; {USAGE}")),
                    }
                }
                "--rounds" => {
                    let text = value()?;
                    this.rounds = text.parse().map_err(|_| format!("{text} rounds; {USAGE}"))?;
                }
                "--dir" => this.dir = PathBuf::from(value()?),
                "--only" => this.only.push(value()?.clone()),
                "--plot" => this.plot = Some(PathBuf::from(value()?)),
                other => return Err(format!("{other}? {USAGE}")),
            }
        }
        Ok(this)
    }
}

fn size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes) if bytes != 0 && bytes.is_multiple_of(32 << 20) => Ok(bytes),
        _ => Err(format!("a size of {text}: use whole multiples of 32M; {USAGE}")),
    }
}
