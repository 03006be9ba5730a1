//! QEMU's own saves, of a guest that stands still, its memory preallocated: a process a run.
//!
//! QEMU syncs the file before it says "completed" and leaves that out of its total-time. So a durable save counts from
//! the command to "completed", and one to the page cache by total-time.

use qemu_harness::{Guest, Transfer};

use crate::Result;
use crate::common::measure::{Sample, Sync, cpu_of, peak_beside_guest};
use crate::contender::Setting;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    channels: u8,
    direct: bool,
}

impl Way {
    pub(crate) fn all() -> Vec<Self> {
        let ways = |direct| [1, 2, 4].map(|channels| Self { channels, direct });
        [ways(false), ways(true)].concat()
    }

    pub(crate) fn name(self) -> String {
        format!("qemu/{}-{}ch", if self.direct { "direct" } else { "buffered" }, self.channels)
    }

    pub(crate) fn run(self, setting: &Setting<'_>) -> Result<Sample> {
        let qemu = setting.qemu.ok_or("there is no QEMU")?;
        let builder = Guest::builder(qemu).memory(setting.ram.bytes()).ram_file(setting.ram.path());
        let mut guest = builder.preallocated().start()?;
        let cpu = cpu_of(guest.pid())?;
        let transfer = Transfer::new(setting.out).channels(self.channels).direct_io(self.direct);
        let migration = guest.save(&transfer)?;
        let cpu = cpu_of(guest.pid())? - cpu;
        if !migration.is_completed() {
            return Err(format!("{}: {}", migration.status, migration.error.unwrap_or_default()).into());
        }
        let (total, outside) = (migration.total_time.as_secs_f64(), migration.outside_time.as_secs_f64());
        Ok(Sample {
            wall: if setting.sync == Sync::Full { outside } else { total },
            cpu,
            peak: Some(peak_beside_guest(&guest.pid().to_string())?),
            disk: 0,
            note: Some(format!("(total-time {total:.3} s, to \"completed\" {outside:.3} s)")),
        })
    }
}
