//! One save in a process of its own: ours, or one of the plain programs that people write instead.
//!
//! Says on stdout: seconds, processor seconds, and memory beside the guest's in KiB.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use mapped_ram::storage::IoMode;
use mapped_ram::{RamBlock, SaveOptions, SyncMode};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::resource::{UsageWho, getrusage};

use crate::Result;
use crate::guest::PAGE;

/// The first argument, by which the program knows that it is a worker.
pub(crate) const FLAG: &str = "--worker";

/// The plain programs. Each leaves zero pages out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// A `pwrite` for each page.
    Pages,
    /// Like `dd bs=1M conv=sparse`: writes of 1 MiB, unless all of it is zero.
    Mebibytes,
    /// The same, into a file for which all room was reserved first.
    Reserved,
}

impl Plain {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pages => "pwrite-a-page",
            Self::Mebibytes => "1M-writes",
            Self::Reserved => "1M-writes,reserved",
        }
    }
}

pub(crate) fn main(given: &[String]) -> Result<()> {
    let [ram, out, how @ ..] = given else { return Err("a worker needs a guest and an output".into()) };
    let memory = Memory::map(Path::new(ram)).map_err(|error| format!("{ram}: {error}"))?;
    let before = processor_time();
    let begin = Instant::now();
    match how.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ours", mode, channels, sync, old] => ours(&memory, out, mode, channels, sync, old)?,
        [plain, sync] => {
            let kinds = [Plain::Pages, Plain::Mebibytes, Plain::Reserved];
            let kind = kinds.into_iter().find(|kind| kind.name() == plain).ok_or("no such program")?;
            write_plainly(&memory, Path::new(out), kind, sync == "full")
                .map_err(|error| error.to_string())?;
        }
        _ => return Err(format!("a worker cannot do {how:?}")),
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{seconds} {} {}", processor_time() - before, beside_kib());
    Ok(())
}

fn ours(memory: &Memory, out: &str, mode: &str, channels: &str, sync: &str, old: &str) -> Result<()> {
    let modes = [IoMode::Auto, IoMode::Buffered, IoMode::Direct, IoMode::Uncached];
    let mut options = SaveOptions::new()
        .io_mode(modes.into_iter().find(|known| known.name() == mode).ok_or("no such mode")?)
        .channels(channels.parse().map_err(|_| "no number of channels")?)
        .sync(if sync == "full" { SyncMode::Full } else { SyncMode::None });
    if old != "-" {
        options = options.recycle(old);
    }
    // SAFETY: the mapping stays until the process ends.
    let block = unsafe { RamBlock::from_raw("ram0", memory.start, memory.length) };
    let file = std::sync::Arc::new(memory.file.try_clone().map_err(|error| error.to_string())?);
    options.save(out, vec![block.backed_by(file, 0)]).map(drop).map_err(|error| error.to_string())
}

/// The guest's memory, mapped whole before anything is timed.
struct Memory {
    file: File,
    start: *const u8,
    length: usize,
}

impl Memory {
    fn map(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let size = length.try_into().map_err(io::Error::other)?;
        let protection = ProtFlags::PROT_READ;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        let this = Self { file, start: start.as_ptr().cast(), length };
        // What the guest has touched is mapped, what it has not is not.
        for page in (0..length).step_by(PAGE) {
            if this.is_data(page)? {
                // SAFETY: inside the mapping.
                unsafe { this.start.add(page).read_volatile() };
            }
        }
        Ok(this)
    }

    /// Whether the file has memory at the byte `at`.
    fn is_data(&self, at: usize) -> io::Result<bool> {
        use nix::unistd::{Whence, lseek};
        let at = i64::try_from(at).map_err(io::Error::other)?;
        match lseek(&self.file, at, Whence::SeekData) {
            Ok(data) => Ok(data == at),
            Err(nix::errno::Errno::ENXIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn piece(&self, at: usize, length: usize) -> &[u8] {
        assert!(at + length <= self.length);
        // SAFETY: inside the mapping, which nobody writes while this program measures.
        unsafe { std::slice::from_raw_parts(self.start.add(at), length) }
    }
}

fn write_plainly(memory: &Memory, out: &Path, kind: Plain, durable: bool) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(out)?;
    if kind == Plain::Reserved {
        let length = libc::off_t::try_from(memory.length).map_err(io::Error::other)?;
        // SAFETY: a descriptor that is open, and numbers.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
    } else {
        file.set_len(memory.length as u64)?;
    }
    let piece = if kind == Plain::Pages { PAGE } else { 1 << 20 };
    let detector = mapped_ram::zero::Detector::best();
    for at in (0..memory.length).step_by(piece) {
        let bytes = memory.piece(at, piece);
        if !detector.is_zero_slice(bytes) {
            file.write_all_at(bytes, at as u64)?;
        }
    }
    if durable { file.sync_all() } else { Ok(()) }
}

/// User and system time of this process, in seconds.
fn processor_time() -> f64 {
    let seconds = |time: nix::sys::time::TimeVal| {
        std::time::Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_usec() * 1000).unwrap_or(0),
        )
        .as_secs_f64()
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// The most memory that the process ever held, without the guest's, in KiB.
fn beside_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    field("VmHWM:").unwrap_or(0).saturating_sub(field("RssShmem:").unwrap_or(0))
}
