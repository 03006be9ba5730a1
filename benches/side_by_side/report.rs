//! From samples to tables and bars.

use crate::args::Size;
use crate::common::measure::{Sync, gib, mib, size};
use crate::common::plot::Panel;
use crate::common::{rows, table};
use crate::contender::Contender;
use crate::ram::RamFile;

/// One guest, saved in one way by all.
pub(crate) struct Case {
    size: Size,
    fill: &'static str,
    place: &'static str,
    data_bytes: u64,
    sync: Sync,
    rounds: usize,
    pub(crate) rows: Vec<Row>,
}

type Row = rows::Row<Contender>;

impl Case {
    pub(crate) fn new(size: Size, ram: &RamFile, sync: Sync, rounds: usize) -> Self {
        let (fill, place) = (ram.fill().describe(), ram.place());
        Self { size, fill, place, data_bytes: ram.data_bytes(), sync, rounds, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, contender: Contender) {
        self.rows.push(Row::new(contender));
    }

    pub(crate) fn title(&self) -> String {
        let size = size(self.size.bytes);
        format!("{size}, {}, sync {}; guest in {}", self.fill, self.sync, self.place)
    }

    fn best_qemu(&self) -> Option<&Row> {
        rows::best(&self.rows, Contender::is_qemu)
    }

    fn ceiling(&self) -> Option<&Row> {
        rows::best(&self.rows, Contender::is_ceiling)
    }

    /// What the machine gave in this round, in one line.
    pub(crate) fn window(&self, round: usize) -> String {
        let rate = |row: Option<&Row>| {
            row.and_then(|row| {
                let rate = gib(self.size.bytes) / row.samples.get(round)?.wall;
                Some(format!("{rate:.2} GiB/s ({})", row.contender.name()))
            })
        };
        let unknown = || "not measured".to_owned();
        let (ceiling, qemu) = (rate(self.ceiling()), rate(self.best_qemu()));
        format!(
            "round {round}: ceiling {}, QEMU {}",
            ceiling.unwrap_or_else(unknown),
            qemu.unwrap_or_else(unknown)
        )
    }

    /// Rates in GiB of guest memory a second.
    pub(crate) fn bars(&self) -> Panel {
        let size = gib(self.size.bytes);
        let bars = self.rows.iter().filter_map(|row| row.bar(row.contender.name(), size)).collect();
        Panel { title: self.title(), bars }
    }

    pub(crate) fn print(&self, markdown: bool) {
        let head = ["contender", "s", "min..max", "GiB/s", "CPU s/GiB", "beside, MiB", "disk, MiB"];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        table[0].extend(["x QEMU's best".to_owned(), "of the ceiling".to_owned()]);
        let size = gib(self.size.bytes);
        for row in &self.rows {
            table.push(self.cells(row, size).unwrap_or_else(|| {
                let mut cells = vec![row.contender.name(), "failed".to_owned()];
                cells.resize(table[0].len(), String::new());
                cells
            }));
        }
        println!();
        println!("{}{}", if markdown { "### " } else { "" }, self.title());
        println!();
        print!("{}", table::print(&table, markdown));
        println!();
        let name = |row: Option<&Row>| row.map_or("not measured".to_owned(), |row| row.contender.name());
        println!(
            "{} rounds, {:.0} MiB in pages that are not zero. QEMU's best: {}. Ceiling: {}.",
            self.rounds,
            mib(self.data_bytes),
            name(self.best_qemu()),
            name(self.ceiling()),
        );
        for row in self.rows.iter().filter(|row| row.failure.is_some()) {
            let (why, rounds) = (row.failure.as_deref().unwrap_or_default(), row.samples.len());
            println!("{} failed after {rounds} rounds: {}", row.contender.name(), why.trim());
        }
    }

    fn cells(&self, row: &Row, size: f64) -> Option<Vec<String>> {
        let (least, wall, most) = row.spread()?;
        // Of a guest with holes only what is resident costs anything.
        let resident = if self.size.is_sparse { gib(self.data_bytes) } else { size };
        let cpu = row.median(|sample| sample.cpu)? / resident;
        let disk = row.median(|sample| mib(sample.disk))?;
        let peak = row.samples.iter().filter_map(|sample| sample.peak).max();
        Some(vec![
            row.contender.name(),
            format!("{wall:.3}"),
            format!("{least:.3}..{most:.3}"),
            format!("{:.2}", size / wall),
            format!("{cpu:.3}"),
            peak.map_or("-".to_owned(), |peak| format!("{:.1}", mib(peak))),
            format!("{disk:.0}"),
            row.ratio_to(self.best_qemu()),
            row.ratio_to(self.ceiling()),
        ])
    }
}
