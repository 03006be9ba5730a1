//! Who is compared, and how each is run once.

use std::path::{Path, PathBuf};
use std::process::Command;

use mapped_ram::SyncMode;
use mapped_ram::storage::IoMode;
use qemu_harness::{Guest as QemuGuest, Qemu, Transfer};

use crate::guest::{Guest, Pattern};
use crate::{Result, fio, worker};

/// What every file that a contender writes begins with.
pub(crate) const PREFIX: &str = "side-by-side-";

/// One save.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// Processor time, of user and system.
    pub(crate) cpu: f64,
    /// Memory beside the guest's at most, in bytes, where it is known.
    pub(crate) beside: Option<u64>,
    /// What the file takes on the disk, in bytes.
    pub(crate) disk: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Contender {
    Ours {
        mode: IoMode,
        channels: usize,
        recycle: bool,
    },
    /// `inside`: by QEMU's own total time, which leaves the sync out.
    Qemu {
        channels: u8,
        direct: bool,
        inside: bool,
    },
    /// A program of a few lines, see [`worker::Plain`].
    Plain(worker::Plain),
    Fio {
        uring: bool,
        over: bool,
    },
}

pub(crate) struct Run<'r> {
    pub(crate) guest: &'r Guest,
    pub(crate) dir: &'r Path,
    pub(crate) sync: SyncMode,
}

impl Run<'_> {
    fn out(&self) -> PathBuf {
        self.dir.join(format!("{PREFIX}out"))
    }
}

/// All that make sense for such a save.
pub(crate) fn contenders(sync: SyncMode, pattern: Pattern) -> Vec<Contender> {
    use Contender::{Fio, Ours, Plain, Qemu};
    let durable = sync == SyncMode::Full;
    let mut all = vec![Ours { mode: IoMode::Auto, channels: 2, recycle: false }];
    let modes = [(IoMode::Direct, 1), (IoMode::Direct, 4), (IoMode::Uncached, 2), (IoMode::Buffered, 2)];
    all.extend(modes.map(|(mode, channels)| Ours { mode, channels, recycle: false }));
    if durable {
        all.push(Ours { mode: IoMode::Direct, channels: 2, recycle: true });
    }
    for channels in [1, 2, 4] {
        all.push(Qemu { channels, direct: false, inside: !durable });
        // Scattered pages past the page cache take QEMU minutes a GiB.
        if pattern == Pattern::Dense || pattern == Pattern::Idle {
            all.push(Qemu { channels, direct: true, inside: !durable });
        }
    }
    all.extend([worker::Plain::Pages, worker::Plain::Mebibytes, worker::Plain::Reserved].map(Plain));
    if durable {
        all.extend([
            Fio { uring: false, over: false },
            Fio { uring: true, over: false },
            Fio { uring: false, over: true },
        ]);
    }
    all
}

impl Contender {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Ours { mode, channels, recycle } => {
                let over = if *recycle { ", over an expendable file" } else { "" };
                format!("ours {mode}, {channels} ch{over}")
            }
            Self::Qemu { channels, direct, .. } => {
                format!("qemu multifd {channels}{}", if *direct { ", direct-io" } else { "" })
            }
            Self::Plain(plain) => format!("plain {}", plain.name()),
            Self::Fio { uring, over } => format!(
                "fio direct 4M {}{}",
                if *uring { "io_uring 16" } else { "2 threads" },
                if *over { ", over an old file" } else { "" }
            ),
        }
    }

    pub(crate) fn is_qemu(&self) -> bool {
        matches!(self, Self::Qemu { .. })
    }

    /// Whether it shows what the disk can do at most for a new file.
    pub(crate) fn is_ceiling(&self) -> bool {
        matches!(self, Self::Fio { over: false, .. })
    }

    /// `None` where it is not to be had here, which it says.
    pub(crate) fn run(&self, run: &Run<'_>) -> Result<Option<Sample>> {
        match self {
            Self::Ours { mode, channels, recycle } => {
                let old = run.dir.join(format!("{PREFIX}old"));
                if *recycle {
                    self.in_worker(run, &["ours", "direct", "2", "full", "-"], &old)?;
                }
                let old = if *recycle { old.display().to_string() } else { "-".to_owned() };
                let (mode, channels) = (mode.name(), channels.to_string());
                self.in_worker(run, &["ours", mode, &channels, run.sync.name(), &old], &run.out()).map(Some)
            }
            Self::Plain(plain) => self.in_worker(run, &[plain.name(), run.sync.name()], &run.out()).map(Some),
            Self::Qemu { channels, direct, inside } => qemu(run, *channels, *direct, *inside),
            Self::Fio { uring, over } => fio::run(&run.out(), run.guest.used, *uring, *over),
        }
    }

    fn in_worker(&self, run: &Run<'_>, how: &[&str], out: &Path) -> Result<Sample> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new(program)
            .arg(worker::FLAG)
            .args([run.guest.path(), out])
            .args(how)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{}: {}", self.name(), String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [seconds, cpu, beside_kib] = numbers[..] else { return Err(format!("the worker said {text}")) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size, for a table")]
        let beside = Some((beside_kib * 1024.0) as u64);
        Ok(Sample { seconds, cpu, beside, disk: disk(out) })
    }
}

fn disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

fn qemu(run: &Run<'_>, channels: u8, direct: bool, inside: bool) -> Result<Option<Sample>> {
    let Some(qemu) = Qemu::for_test() else { return Ok(None) };
    let words = |error: qemu_harness::Error| error.to_string();
    let mut guest =
        QemuGuest::builder(&qemu).memory(run.guest.size).ram_file(run.guest.path()).start().map_err(words)?;
    let before = processor_time(guest.pid());
    let out = run.out();
    let saved = guest.save(&Transfer::new(&out).channels(channels).direct_io(direct)).map_err(words)?;
    if !saved.is_completed() {
        return Err(format!("QEMU: {} {:?}", saved.status, saved.error));
    }
    let cpu = processor_time(guest.pid()) - before;
    let time = if inside { saved.total_time } else { saved.outside_time };
    // Its own clock counts whole milliseconds.
    Ok(Some(Sample { seconds: time.as_secs_f64().max(0.001), cpu, beside: None, disk: disk(&out) }))
}

/// User and system time of a process, in seconds.
fn processor_time(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything and ends with the last bracket, utime and stime are words 12 and 13.
    let words: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    // USER_HZ, which is 100 on every Linux that QEMU runs on.
    (ticks(11) + ticks(12)) / 100.0
}
