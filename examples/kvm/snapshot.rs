//! A machine into a file while it runs, and machines out of it.

use std::path::Path;

use kvm_ioctls::Kvm;
#[cfg(feature = "userfaultfd")]
use mapped_ram::fault::FaultOptions;
use mapped_ram::{RamBlock, Reader, SaveOptions, SaveReport, Tail, Writer};

use crate::machine::{Machine, Running};
use crate::memory::{Error, Ram};

const RAM: &str = "ram0";

/// Saves `machine` in `rounds` while it runs, and in a last one when it stands still. Gives it back where it was stopped, whatever became
/// of the save: a full disk is no reason to lose a guest.
pub(crate) fn save(
    machine: Machine,
    options: SaveOptions<'static>,
    path: &Path,
    rounds: u32,
    pages_between: u64,
) -> Result<(Machine, Result<SaveReport, Error>), Error> {
    let running = machine.start()?;
    let begun = begin(&running, options, path, rounds, pages_between);
    let machine = running.pause()?;
    let report = begun.and_then(|writer| end(&machine, writer));
    machine.board.set_memory(false)?;
    Ok((machine, report))
}

/// What is saved while the guest runs.
fn begin(
    running: &Running,
    options: SaveOptions<'static>,
    path: &Path,
    rounds: u32,
    pages_between: u64,
) -> Result<Writer<'static>, Error> {
    let ram = &running.board.ram;
    // SAFETY: the machine has its memory until it is given back, when the writer has ended.
    let block = unsafe { RamBlock::from_raw(RAM, ram.start(), ram.length()) };
    let mut writer = options.machine("tiny-1").create(path, vec![block])?;

    // What is written from now on is noted, what was written before is in the first round.
    running.board.set_memory(true)?;
    writer.write_all()?;
    for _ in 0..rounds {
        running.wait(pages_between);
        writer.write_pages(0, &running.board.dirty()?)?;
    }
    running.wait(pages_between);
    Ok(writer)
}

/// What is left when it stands still.
fn end(machine: &Machine, mut writer: Writer<'_>) -> Result<SaveReport, Error> {
    writer.write_pages(0, &machine.board.dirty()?)?;
    Ok(writer.finish(&Tail::devices(machine.cpu.state()?))?)
}

/// How a guest's memory comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Loaded,
    Mapped,
    /// Into private memory, or a memfd.
    #[cfg(feature = "userfaultfd")]
    OnDemand {
        shared: bool,
    },
}

impl Way {
    pub(crate) const ALL: &[Self] = &[
        Self::Loaded,
        Self::Mapped,
        #[cfg(feature = "userfaultfd")]
        Self::OnDemand { shared: false },
        #[cfg(feature = "userfaultfd")]
        Self::OnDemand { shared: true },
    ];

    /// The machine that was saved, as it stood.
    pub(crate) fn restore(self, kvm: &Kvm, path: &Path) -> Result<Machine, Error> {
        let reader = Reader::open(path)?;
        let block = reader.block(RAM).ok_or("the file has no such block")?;
        let ram = match self {
            Self::Loaded => Ram::load(block)?,
            Self::Mapped => Ram::map(block)?,
            #[cfg(feature = "userfaultfd")]
            Self::OnDemand { shared } => Ram::on_demand(block, FaultOptions::new(), shared)?,
        };
        Machine::restored(kvm, ram, &reader.devices()?)
    }
}
