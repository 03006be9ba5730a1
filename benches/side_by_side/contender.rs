//! Who takes part, under which name, and what makes one stay out.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use qemu_harness::Qemu;

use crate::common::measure::{Sample, Sync};
use crate::ram::RamFile;
use crate::{Result, common, fio, ours, plain, qemu, uring, worker};

/// What all contenders of a case share.
pub(crate) struct Setting<'a> {
    pub(crate) ram: &'a RamFile,
    pub(crate) sync: Sync,
    pub(crate) qemu: Option<&'a Qemu>,
    /// Where the file goes; nothing is there before a run.
    pub(crate) out: &'a Path,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Contender {
    Ours(ours::Way),
    Qemu(qemu::Way),
    Plain(plain::Way),
    Uring(uring::Way),
    Fio(fio::Way),
}

impl Contender {
    /// All that save as durably as `sync` says.
    pub(crate) fn all(sync: Sync) -> Vec<Self> {
        let ours = ours::Way::all().into_iter().map(Self::Ours);
        let qemu = qemu::Way::all().into_iter().map(Self::Qemu);
        let plain = plain::Way::ALL.into_iter().map(Self::Plain);
        let uring = uring::Way::ALL.into_iter().map(Self::Uring);
        ours.chain(qemu)
            .chain(plain)
            .chain(uring)
            .chain(fio::Way::all(sync).into_iter().map(Self::Fio))
            .collect()
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Ours(way) => way.name(),
            Self::Qemu(way) => way.name(),
            Self::Plain(way) => way.name().to_owned(),
            Self::Uring(way) => way.name(),
            Self::Fio(way) => way.name(),
        }
    }

    pub(crate) fn is_qemu(&self) -> bool {
        matches!(self, Self::Qemu(_))
    }

    /// Whether its best is what a new file can be written at: it does nothing but write, and over no old file. Through the page cache fio is
    /// no such thing: it writes the same few MiB again and again, out of the processor's cache, and has its room made before its clock runs.
    pub(crate) fn is_ceiling(&self) -> bool {
        match self {
            Self::Fio(way) => way.is_direct() && !way.is_over_old(),
            Self::Plain(way) => way.is_in_large_writes(),
            Self::Ours(_) | Self::Qemu(_) | Self::Uring(_) => false,
        }
    }

    /// Why it cannot take part.
    pub(crate) fn missing(&self, setting: &Setting<'_>) -> Option<String> {
        let reads_holes = || "reads every hole, which would fill the memory".to_owned();
        match self {
            Self::Ours(_) => None,
            Self::Qemu(_) if setting.qemu.is_none() => Some("there is no QEMU".to_owned()),
            Self::Qemu(_) | Self::Plain(_) | Self::Uring(_) => setting.ram.has_holes().then(reads_holes),
            Self::Fio(_) => common::fio::version().err().map(|error| error.to_string()),
        }
    }

    /// Saves the guest once.
    pub(crate) fn run(&self, setting: &Setting<'_>) -> Result<Sample> {
        let mut sample = match self {
            Self::Ours(_) | Self::Plain(_) | Self::Uring(_) => worker::run(&self.name(), setting)?,
            Self::Qemu(way) => way.run(setting)?,
            Self::Fio(way) => way.run(setting)?,
        };
        // In units of 512 bytes, whatever the file system's own.
        sample.disk = setting.out.metadata()?.blocks() * 512;
        Ok(sample)
    }
}
