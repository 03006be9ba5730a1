//! What one run is measured by, and where the figures come from: the clock, `getrusage`, `/proc`.

use std::fmt;
use std::fs;
use std::str::FromStr;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::Result;

/// How far the data has to come before a save counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Onto stable storage.
    Full,
    /// Into the page cache, or wherever the system puts it.
    None,
}

impl FromStr for Sync {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "none" => Ok(Self::None),
            _ => Err(format!("no sync `{text}`: full or none")),
        }
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::None => "none",
        })
    }
}

/// One run of one contender.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Seconds.
    pub(crate) wall: f64,
    /// Seconds of all threads, user and system; of the process that saves, not of the kernel's own threads.
    pub(crate) cpu: f64,
    /// The most memory that the process held beside the guest's, in bytes.
    pub(crate) peak: Option<u64>,
    /// What the file takes on the disk, in bytes.
    pub(crate) disk: u64,
    /// What else is worth saying about this run.
    pub(crate) note: Option<String>,
}

impl Sample {
    /// Time alone.
    pub(crate) fn timed(wall: f64, cpu: f64) -> Self {
        Self { wall, cpu, peak: None, disk: 0, note: None }
    }
}

/// A guest's size in words.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1 << 30 { format!("{} MiB", mib(bytes)) } else { format!("{} GiB", gib(bytes)) }
}

/// Bytes as GiB.
pub(crate) fn gib(bytes: u64) -> f64 {
    float(bytes) / f64::from(1 << 30)
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    float(bytes) / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at, not to count with")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// The CPU seconds of this process so far.
pub(crate) fn own_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| -> Result<f64> {
        Ok(float(u64::try_from(time.tv_sec())?) + float(u64::try_from(time.tv_usec())?) / 1e6)
    };
    Ok(seconds(usage.user_time())? + seconds(usage.system_time())?)
}

/// The CPU seconds of another process so far, to a hundredth.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    // What Linux shows to programs, whatever it counts by inside.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields behind it.
    let fields = stat.rsplit_once(')').ok_or("a strange /proc/PID/stat")?.1;
    let mut times = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(times.next().ok_or("a short /proc/PID/stat")?.parse()?) };
    Ok(float(ticks()? + ticks()?) / TICKS_A_SECOND)
}

/// The most that a process (a PID, or `self`) has held, less the shared memory that it holds now: the guest is all of
/// that. Bytes.
pub(crate) fn peak_beside_guest(process: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    };
    Ok(field("VmHWM")?.saturating_sub(field("RssShmem")?))
}
