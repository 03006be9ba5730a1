//! The ceiling: fio writes as many bytes as the guest has in pages that are not zero, and does nothing else.
//!
//! fio allocates before its clock starts, and its buffer stays in the processor's cache: nobody who has a guest to save
//! can do better. The figures are fio's own, the final `fsync` included where one is asked for.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::common::fio;
use crate::common::measure::{Sample, Sync};
use crate::contender::Setting;

const MIB: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    engine: &'static str,
    direct: bool,
    block: u64,
    jobs: u64,
    depth: u64,
    over_old: bool,
}

impl Way {
    /// Past the page cache where it must be durable, else into it.
    pub(crate) fn all(sync: Sync) -> Vec<Self> {
        let psync =
            Self { engine: "psync", direct: true, block: 4 * MIB, jobs: 2, depth: 1, over_old: false };
        match sync {
            Sync::Full => {
                let four = Self { jobs: 4, ..psync };
                let uring = Self { engine: "io_uring", jobs: 1, depth: 16, ..psync };
                let over = |way| Self { over_old: true, ..way };
                vec![psync, four, uring, over(four), over(uring)]
            }
            Sync::None => {
                let buffered = Self { direct: false, block: MIB, ..psync };
                let one = Self { jobs: 1, ..buffered };
                vec![one, buffered, Self { over_old: true, ..buffered }]
            }
        }
    }

    pub(crate) fn name(self) -> String {
        let how = if self.direct { "direct" } else { "buffered" };
        let over = if self.over_old { "-over-old" } else { "" };
        if self.depth > 1 {
            format!("fio/{how}-uring{}{over}", self.depth)
        } else {
            format!("fio/{how}-{}job{over}", self.jobs)
        }
    }

    pub(crate) fn is_direct(self) -> bool {
        self.direct
    }

    pub(crate) fn is_over_old(self) -> bool {
        self.over_old
    }

    pub(crate) fn run(self, setting: &Setting<'_>) -> Result<Sample> {
        // Whole blocks for each job.
        let data = setting.ram.data_bytes();
        let share = data.div_ceil(self.jobs).next_multiple_of(self.block);
        if self.over_old {
            write_old(setting.out, share * self.jobs)?;
        }
        let mut fio = Command::new("fio");
        fio.args(["--name=ceiling", "--rw=write", "--thread", "--group_reporting", "--output-format=json"]);
        // Random bytes, made once; fio would else change some in each block.
        fio.args(["--scramble_buffers=0", "--randrepeat=1"]);
        fio.arg(format!("--filename={}", setting.out.display()));
        fio.arg(format!("--ioengine={}", self.engine));
        fio.arg(format!("--direct={}", u8::from(self.direct)));
        fio.arg(format!("--bs={}", self.block));
        fio.arg(format!("--iodepth={}", self.depth));
        fio.arg(format!("--numjobs={}", self.jobs));
        fio.arg(format!("--size={share}")).arg(format!("--offset_increment={share}"));
        fio.arg(format!("--filesize={}", share * self.jobs));
        fio.arg(if self.over_old { "--fallocate=none" } else { "--fallocate=posix" });
        fio.arg(format!("--end_fsync={}", u8::from(setting.sync == Sync::Full)));
        fio::run(fio, "write", data)
    }
}

/// A file whose every block was written, on the disk and out of the caches.
fn write_old(path: &Path, bytes: u64) -> Result<()> {
    let block = vec![0xA5; 4 << 20];
    let mut file = File::create(path)?;
    let mut left = usize::try_from(bytes)?;
    while left > 0 {
        let part = left.min(block.len());
        file.write_all(&block[..part])?;
        left -= part;
    }
    file.sync_all()?;
    // As before each run; only root may.
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
    Ok(())
}
