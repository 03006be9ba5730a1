//! Who takes part in loading all of a guest, and how each does it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mapped_ram::storage::IoMode;
use mapped_ram::{Destination, LoadOptions, LoadTarget, Reader};
use qemu_harness::{Guest, Qemu, Transfer};

use crate::Result;
use crate::args::Cache;
use crate::common::fio;
use crate::common::measure::{Sample, cpu_of};
use crate::memory::{Kind, Memory};
use crate::saved::Saved;

/// What one of ours, of the plain programs and of fio's jobs reads at a time.
const CHUNK: u64 = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Ours {
        mode: IoMode,
        channels: usize,
    },
    Qemu {
        direct: bool,
        channels: u8,
    },
    /// `pread` of all the room of the pages, stale bytes or not, into huge pages.
    Plain {
        threads: usize,
        populate: bool,
    },
    /// Reads the same and keeps nothing: the disk alone.
    Fio {
        jobs: u64,
        depth: u64,
    },
}

impl Contender {
    pub(crate) fn all(cache: Cache) -> Vec<Self> {
        let ours = |mode, channels| Self::Ours { mode, channels };
        let qemu = |direct, channels| Self::Qemu { direct, channels };
        let plain = |threads, populate| Self::Plain { threads, populate };
        let mut all = vec![ours(IoMode::Buffered, 1), ours(IoMode::Buffered, 2), ours(IoMode::Auto, 2)];
        let buffered = [1, 2, 4].map(|channels| qemu(false, channels));
        match cache {
            Cache::Warm => {
                all.extend(buffered);
                all.extend([plain(1, false), plain(2, false), plain(2, true)]);
            }
            Cache::Cold => {
                all.extend([1, 2].map(|channels| ours(IoMode::Direct, channels)));
                all.extend([1, 2].map(|channels| ours(IoMode::Uring, channels)));
                all.extend(buffered);
                all.extend([2, 4].map(|channels| qemu(true, channels)));
                all.push(plain(2, false));
                all.extend([Self::Fio { jobs: 1, depth: 1 }, Self::Fio { jobs: 2, depth: 1 }]);
                all.push(Self::Fio { jobs: 1, depth: 16 });
            }
        }
        all
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Ours { mode, channels } => format!("ours/{mode}-{channels}ch"),
            Self::Qemu { direct, channels } => {
                format!("qemu/{}-{channels}ch", if direct { "direct" } else { "buffered" })
            }
            Self::Plain { threads, populate } => {
                format!("plain/pread-{threads}{}", if populate { "-populated" } else { "" })
            }
            Self::Fio { jobs, depth: 1 } => format!("fio/direct-{jobs}job"),
            Self::Fio { depth, .. } => format!("fio/direct-uring{depth}"),
        }
    }

    pub(crate) fn is_qemu(self) -> bool {
        matches!(self, Self::Qemu { .. })
    }

    /// Whether its best is what reading all can come to: by the disk where the file is cold, else by memory.
    pub(crate) fn is_ceiling(self, cache: Cache) -> bool {
        match cache {
            Cache::Warm => matches!(self, Self::Plain { .. }),
            Cache::Cold => matches!(self, Self::Fio { .. }),
        }
    }

    /// Whether it runs in a process that is this program.
    pub(crate) fn is_worker(self) -> bool {
        matches!(self, Self::Ours { .. } | Self::Plain { .. })
    }

    /// What one that is this program does.
    pub(crate) fn load(self, path: &Path, memory: &mut Memory) -> Result<()> {
        match self {
            Self::Ours { mode, channels } => {
                let reader = Reader::open(path)?;
                let block = reader.block("ram0").ok_or("no block `ram0`")?;
                let target = LoadTarget::new(block, memory.bytes_mut(), Destination::Fresh);
                LoadOptions::new().io_mode(mode).channels(channels).load(&mut [target])?;
                Ok(())
            }
            Self::Plain { threads, populate } => {
                let offset = Saved::open(path)?.pages_offset;
                if populate {
                    memory.populate()?;
                } else {
                    memory.want_huge();
                }
                read_all(&File::open(path)?, offset, memory.bytes_mut(), threads)
            }
            Self::Qemu { .. } | Self::Fio { .. } => Err("it has a program of its own".into()),
        }
    }

    /// Loads once, in a program that is not this one.
    pub(crate) fn run(self, saved: &Saved, memory: Kind, qemu: Option<&Qemu>) -> Result<Sample> {
        match self {
            Self::Qemu { direct, channels } => {
                let qemu = qemu.ok_or("there is no QEMU")?;
                let backend = match memory {
                    Kind::Fresh => "memory-backend-ram",
                    Kind::Pool => "memory-backend-memfd,share=off,hugetlb=on",
                };
                let object = format!("{backend},id=ram0,size={}", saved.bytes);
                let builder = Guest::builder(qemu).memory(saved.bytes).machine("none,memory-backend=ram0");
                let mut guest = builder.arg("-object").arg(&object).incoming().start()?;
                let cpu = cpu_of(guest.pid())?;
                let transfer = Transfer::new(&saved.path).channels(channels).direct_io(direct);
                let migration = guest.load(&transfer)?;
                let cpu = cpu_of(guest.pid())? - cpu;
                if !migration.is_completed() {
                    return Err(
                        format!("{}: {}", migration.status, migration.error.unwrap_or_default()).into()
                    );
                }
                Ok(Sample::timed(migration.outside_time.as_secs_f64(), cpu))
            }
            Self::Fio { jobs, depth } => run_fio(saved, jobs, depth),
            Self::Ours { .. } | Self::Plain { .. } => Err("it runs in a worker".into()),
        }
    }
}

fn read_all(file: &File, offset: u64, memory: &mut [u8], threads: usize) -> Result<()> {
    let size = usize::try_from(CHUNK)?;
    if threads == 1 {
        for (index, chunk) in (0..).zip(memory.chunks_mut(size)) {
            file.read_exact_at(chunk, offset + index * CHUNK)?;
        }
        return Ok(());
    }
    let chunks: Vec<_> = memory.chunks_mut(size).map(|chunk| std::sync::Mutex::new(Some(chunk))).collect();
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { return Ok(()) };
            let chunk = chunk.lock().ok().and_then(|mut chunk| chunk.take());
            let chunk = chunk.ok_or_else(|| std::io::Error::other("a chunk was taken twice"))?;
            file.read_exact_at(chunk, offset + index as u64 * CHUNK)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => Ok(done?),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}

/// The pages' room of the file, by fio; its figures.
fn run_fio(saved: &Saved, jobs: u64, depth: u64) -> Result<Sample> {
    let share = saved.bytes / jobs / CHUNK * CHUNK;
    let mut fio = Command::new("fio");
    fio.args(["--name=ceiling", "--readonly", "--rw=read", "--direct=1", "--thread", "--group_reporting"]);
    fio.args(["--output-format=json", "--invalidate=0", &format!("--bs={CHUNK}")]);
    fio.arg(format!("--filename={}", saved.path.display()));
    fio.arg(format!("--ioengine={}", if depth > 1 { "io_uring" } else { "psync" }));
    fio.arg(format!("--iodepth={depth}")).arg(format!("--numjobs={jobs}"));
    fio.arg(format!("--offset={}", saved.pages_offset)).arg(format!("--offset_increment={share}"));
    fio.arg(format!("--size={share}"));
    fio::run(fio, "read", saved.bytes)
}
