//! From samples to tables: medians, spread, and ratios taken within a round.

use crate::args::Cache;
use crate::contender::Contender;
use crate::measure::{Sample, gib, mib};
use crate::plot::{Bar, Panel};
use crate::table::{self, median};

/// One saved guest, loaded by all.
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) cache: Cache,
    pub(crate) bytes: u64,
    pub(crate) data_bytes: u64,
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

    fn spread(&self) -> Option<(f64, f64, f64)> {
        let middle = self.median(|sample| sample.wall)?;
        Some((self.walls().reduce(f64::min)?, middle, self.walls().reduce(f64::max)?))
    }

    /// How many times as fast as `other`: the median over the rounds.
    fn speed_against(&self, other: &Self) -> Option<f64> {
        median(self.walls().zip(other.walls()).map(|(own, other)| other / own).collect())
    }
}

impl Case {
    fn best(&self, of: impl Fn(Contender) -> bool) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| of(row.contender) && row.failure.is_none());
        let timed = rows.filter_map(|row| Some((row.median(|sample| sample.wall)?, row)));
        timed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, row)| row)
    }

    /// Rates in GiB of guest memory a second.
    pub(crate) fn bars(&self) -> Panel {
        let size = gib(self.bytes);
        let bar = |row: &Row| {
            let (least, middle, most) = row.spread()?;
            let name = row.contender.name();
            Some(Bar { name, median: size / middle, least: size / most, most: size / least })
        };
        Panel { title: self.title.clone(), bars: self.rows.iter().filter_map(bar).collect() }
    }

    pub(crate) fn print(&self, markdown: bool) {
        let head = ["contender", "s", "min..max", "GiB/s", "CPU s/GiB", "x QEMU's best", "of the ceiling"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        let qemu = self.best(Contender::is_qemu);
        let ceiling = self.best(|contender| contender.is_ceiling(self.cache));
        let size = gib(self.bytes);
        for row in &self.rows {
            let ratio = |other: Option<&Row>| {
                let ratio = other.and_then(|other| row.speed_against(other));
                ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
            };
            let Some((least, middle, most)) = row.spread() else {
                cells.push([row.contender.name(), "failed".into()].into_iter().collect());
                cells.last_mut().into_iter().for_each(|row| row.resize(head.len(), String::new()));
                continue;
            };
            let cpu = row.median(|sample| sample.cpu).unwrap_or_default() / size;
            cells.push(vec![
                row.contender.name(),
                format!("{middle:.3}"),
                format!("{least:.3}..{most:.3}"),
                format!("{:.2}", size / middle),
                format!("{cpu:.3}"),
                ratio(qemu),
                ratio(ceiling),
            ]);
        }
        print_table(&self.title, &cells, markdown);
        let name = |row: Option<&Row>| row.map_or("not measured".to_owned(), |row| row.contender.name());
        println!(
            "{} rounds, {:.0} MiB in present pages. QEMU's best: {}. Ceiling: {}.",
            self.rows.iter().map(|row| row.samples.len()).max().unwrap_or(0),
            mib(self.data_bytes),
            name(qemu),
            name(ceiling),
        );
        for row in self.rows.iter().filter(|row| row.failure.is_some()) {
            let why = row.failure.as_deref().unwrap_or_default();
            println!("{} failed: {}", row.contender.name(), why.trim());
        }
    }
}

pub(crate) fn print_table(title: &str, cells: &[Vec<String>], markdown: bool) {
    println!("\n{}{title}\n", if markdown { "### " } else { "" });
    println!("{}", table::print(cells, markdown));
}
