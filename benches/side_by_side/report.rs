//! From samples to tables: medians, spread, and ratios taken within a round.

use crate::args::Size;
use crate::contender::Contender;
use crate::measure::{Sample, Sync, gib, mib, size};
use crate::plot::{Bar, Panel};
use crate::ram::RamFile;
use crate::table::{self, median};

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

pub(crate) struct Row {
    pub(crate) contender: Contender,
    /// One a round, until one fails.
    pub(crate) samples: Vec<Sample>,
    pub(crate) failure: Option<String>,
}

impl Row {
    fn walls(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|sample| sample.wall)
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(of).collect())
    }

    fn wall_of(&self, round: usize) -> Option<f64> {
        self.samples.get(round).map(|sample| sample.wall)
    }

    /// How many times as fast as `other`: the median over the rounds.
    fn speed_against(&self, other: &Self) -> Option<f64> {
        let rounds = 0..self.samples.len();
        median(rounds.filter_map(|round| Some(other.wall_of(round)? / self.wall_of(round)?)).collect())
    }
}

impl Case {
    pub(crate) fn new(size: Size, ram: &RamFile, sync: Sync, rounds: usize) -> Self {
        let (fill, place) = (ram.fill().describe(), ram.place());
        Self { size, fill, place, data_bytes: ram.data_bytes(), sync, rounds, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, contender: Contender) {
        self.rows.push(Row { contender, samples: Vec::new(), failure: None });
    }

    pub(crate) fn title(&self) -> String {
        let size = size(self.size.bytes);
        format!("{size}, {}, sync {}; guest in {}", self.fill, self.sync, self.place)
    }

    fn best(&self, of: impl Fn(&Contender) -> bool) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| of(&row.contender) && row.failure.is_none());
        let timed = rows.filter_map(|row| Some((row.median(|sample| sample.wall)?, row)));
        timed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, row)| row)
    }

    fn best_qemu(&self) -> Option<&Row> {
        self.best(Contender::is_qemu)
    }

    fn ceiling(&self) -> Option<&Row> {
        self.best(Contender::is_ceiling)
    }

    /// What the machine gave in this round, in one line.
    pub(crate) fn window(&self, round: usize) -> String {
        let rate = |row: Option<&Row>| {
            row.and_then(|row| {
                let rate = gib(self.size.bytes) / row.wall_of(round)?;
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
        let rate = |row: &Row| {
            let (least, most) = (row.walls().reduce(f64::min)?, row.walls().reduce(f64::max)?);
            let middle = row.median(|sample| sample.wall)?;
            Some(Bar {
                name: row.contender.name(),
                median: size / middle,
                least: size / most,
                most: size / least,
            })
        };
        Panel { title: self.title(), bars: self.rows.iter().filter_map(rate).collect() }
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
        let wall = row.median(|sample| sample.wall)?;
        let (least, most) = (row.walls().reduce(f64::min)?, row.walls().reduce(f64::max)?);
        // Of a guest with holes only what is resident costs anything.
        let resident = if self.size.is_sparse { gib(self.data_bytes) } else { size };
        let cpu = row.median(|sample| sample.cpu)? / resident;
        let disk = row.median(|sample| mib(sample.disk))?;
        let peak = row.samples.iter().filter_map(|sample| sample.peak).max();
        let ratio = |other: Option<&Row>| {
            other
                .and_then(|other| row.speed_against(other))
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        Some(vec![
            row.contender.name(),
            format!("{wall:.3}"),
            format!("{least:.3}..{most:.3}"),
            format!("{:.2}", size / wall),
            format!("{cpu:.3}"),
            peak.map_or("-".to_owned(), |peak| format!("{:.1}", mib(peak))),
            format!("{disk:.0}"),
            ratio(self.best_qemu()),
            ratio(self.ceiling()),
        ])
    }
}
