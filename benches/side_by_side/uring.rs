//! One thread that scans, and keeps writes of an io_uring in flight: what a channel of ours would be at its best, for it does less.
//! No queue between threads, no bitmap, no names, and the first error ends it. It takes part so that what those cost can be looked at
//! on any machine.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use io_uring::{IoUring, opcode, types};
use mapped_ram::zero::Detector;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

use crate::Result;
use crate::common::measure::Sync;
use crate::ram::{Mapped, PAGE};

/// As many bytes as ours scans, and reserves, at a time.
const REGION: usize = 16 << 20;
/// The most that one write has, in bytes: as ours.
const CHUNK: usize = 4 << 20;
/// The longest gap that is written too, in pages: as ours.
const BRIDGE: usize = 16;
/// Runs from this many bytes on get room first: as ours.
const RESERVE_FROM: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// How many writes are in flight at most.
    depth: u32,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self { depth: 4 }, Self { depth: 32 }];

    pub(crate) fn name(self) -> String {
        format!("uring/direct-depth{}", self.depth)
    }

    pub(crate) fn save(self, memory: &Mapped, out: &Path, sync: Sync) -> Result<()> {
        let bytes = memory.bytes();
        let file = File::options().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(out)?;
        file.set_len(bytes.len() as u64)?;
        let mut ring = IoUring::new(self.depth)?;
        let mut in_flight = 0;
        let detector = Detector::best();
        let mut words = vec![0; REGION / PAGE / 64];
        for (index, region) in bytes.chunks(REGION).enumerate() {
            words.fill(0);
            detector.scan_slice(region, PAGE, &mut words);
            for run in runs(&words) {
                let run = run.start * PAGE..run.end * PAGE;
                let at = index * REGION + run.start;
                if run.len() >= RESERVE_FROM {
                    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                    fallocate(&file, keep, i64::try_from(at)?, i64::try_from(run.len())?)?;
                }
                for (number, chunk) in region[run].chunks(CHUNK).enumerate() {
                    if in_flight == self.depth {
                        in_flight -= reap(&mut ring, 1)?;
                    }
                    let length = u32::try_from(chunk.len())?;
                    let offset = (at + number * CHUNK) as u64;
                    let write = opcode::Write::new(types::Fd(file.as_raw_fd()), chunk.as_ptr(), length)
                        .offset(offset)
                        .build()
                        .user_data(length.into());
                    // SAFETY: `chunk` is the guest's memory, which stays mapped until `save` has reaped all writes: every
                    // way out but an error, which ends the process, goes through the last `reap`.
                    unsafe { ring.submission().push(&write) }?;
                    ring.submit()?;
                    in_flight += 1;
                }
            }
        }
        while in_flight > 0 {
            in_flight -= reap(&mut ring, in_flight as usize)?;
        }
        if sync == Sync::Full {
            file.sync_all()?;
        }
        Ok(())
    }
}

/// Waits for `count` writes and says how many there were.
fn reap(ring: &mut IoUring, count: usize) -> Result<u32> {
    ring.submit_and_wait(count)?;
    let mut reaped = 0;
    for done in ring.completion() {
        let written = u64::try_from(done.result()).map_err(|_| "a write failed")?;
        if written != done.user_data() {
            return Err("a short write".into());
        }
        reaped += 1;
    }
    Ok(reaped)
}

/// The runs of pages that are set, short gaps included, in pages.
fn runs(words: &[u64]) -> Vec<std::ops::Range<usize>> {
    let pages = (words.len() * 64) as u64;
    iov_slicer::page_runs(words, pages)
        .bridged(BRIDGE as u64)
        .map(|run| usize::try_from(run.start).unwrap()..usize::try_from(run.end).unwrap())
        .collect()
}
