//! From samples to tables and bars.

use crate::args::Cache;
use crate::common::measure::{gib, mib};
use crate::common::plot::Panel;
use crate::common::{rows, table};
use crate::contender::Contender;

/// One saved guest, loaded by all.
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) cache: Cache,
    pub(crate) bytes: u64,
    pub(crate) data_bytes: u64,
    pub(crate) rows: Vec<Row>,
}

pub(crate) type Row = rows::Row<Contender>;

impl Case {
    /// Rates in GiB of guest memory a second.
    pub(crate) fn bars(&self) -> Panel {
        let size = gib(self.bytes);
        let bars = self.rows.iter().filter_map(|row| row.bar(row.contender.name(), size)).collect();
        Panel { title: self.title.clone(), bars }
    }

    pub(crate) fn print(&self, markdown: bool) {
        let head = ["contender", "s", "min..max", "GiB/s", "CPU s/GiB", "x QEMU's best", "of the ceiling"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        let qemu = rows::best(&self.rows, |contender| contender.is_qemu());
        let ceiling = rows::best(&self.rows, |contender| contender.is_ceiling(self.cache));
        let size = gib(self.bytes);
        for row in &self.rows {
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
                row.ratio_to(qemu),
                row.ratio_to(ceiling),
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
