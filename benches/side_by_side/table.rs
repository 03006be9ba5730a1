//! What was measured, as a table and as a picture.

use std::fmt::Write as _;

use crate::arguments::Arguments;
use crate::contender::{Contender, Sample};
use crate::guest::Guest;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

struct Row {
    index: usize,
    contender: Contender,
    samples: Vec<Sample>,
}

impl Row {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
    }

    fn seconds(&self) -> f64 {
        self.median(|sample| sample.seconds)
    }
}

pub(crate) struct Table {
    title: String,
    gib: f64,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(arguments: &Arguments, guest: &Guest) -> Self {
        let title =
            format!("{} MiB, {}, sync {}", guest.size >> 20, arguments.pattern.name(), arguments.sync.name());
        Self { title, gib: bytes(guest.size) / GIB, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, index: usize, contender: &Contender, sample: Sample) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.index == index) {
            row.samples.push(sample);
            return;
        }
        self.rows.push(Row { index, contender: contender.clone(), samples: vec![sample] });
        self.rows.sort_by_key(|row| row.index);
    }

    fn best(&self, which: impl Fn(&Contender) -> bool) -> Option<f64> {
        self.rows.iter().filter(|row| which(&row.contender)).map(Row::seconds).min_by(f64::total_cmp)
    }

    /// In Markdown: rates are of guest memory, ratios of medians of the same rounds.
    pub(crate) fn text(&self) -> String {
        let (qemu, ceiling) = (self.best(Contender::is_qemu), self.best(Contender::is_ceiling));
        let mut out = format!("\n{}\n\n", self.title);
        out.push_str("| who | GiB/s | slowest to fastest | CPU s/GiB | beside, MiB | on disk, MiB | of QEMU's best | of fio's best |\n");
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let seconds = row.seconds();
            let of =
                |other: Option<f64>| other.map_or("-".to_owned(), |other| format!("{:.2}", other / seconds));
            let rate = |seconds: f64| self.gib / seconds;
            let worst = row.samples.iter().map(|sample| sample.seconds).fold(0.0, f64::max);
            let fastest = row.samples.iter().map(|sample| sample.seconds).fold(f64::MAX, f64::min);
            let beside = row.samples.iter().filter_map(|sample| sample.beside).max();
            let _ = writeln!(
                out,
                "| {} | {:.2} | {:.2} to {:.2} | {:.3} | {} | {} | {} | {} |",
                row.contender.name(),
                rate(seconds),
                rate(worst),
                rate(fastest),
                row.median(|sample| sample.cpu) / self.gib,
                beside.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string()),
                row.samples.last().map_or(0, |sample| sample.disk) >> 20,
                of(qemu),
                of(ceiling),
            );
        }
        out
    }

    /// Bars of the median rates, with the spread as a line.
    pub(crate) fn svg(&self) -> String {
        const ROW: f64 = 22.0;
        const LEFT: f64 = 260.0;
        const WIDE: f64 = 420.0;
        let rate = |seconds: f64| self.gib / seconds;
        let most = self
            .rows
            .iter()
            .flat_map(|row| row.samples.iter().map(|sample| rate(sample.seconds)))
            .fold(0.001, f64::max);
        let height = 50.0 + ROW * bytes(self.rows.len() as u64);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\" font-size=\"14\">{}: GiB/s of guest memory</text>\n",
            self.title
        );
        let mut y = 34.0;
        for row in &self.rows {
            let colour = match &row.contender {
                Contender::Ours { .. } => "#2a7ab8",
                Contender::Qemu { .. } => "#c8553d",
                Contender::Plain(_) => "#9a9a9a",
                Contender::Fio { .. } => "#d9b44a",
            };
            let x = |rate: f64| LEFT + WIDE * rate / most;
            let median = rate(row.seconds());
            let ends = row.samples.iter().map(|sample| rate(sample.seconds));
            let (low, high) = ends.fold((f64::MAX, 0.0), |(low, high), rate| (rate.min(low), rate.max(high)));
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"15\" fill=\"{colour}\"/>\n\
                 <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"black\"/>\n\
                 <text x=\"{:.1}\" y=\"{}\">{median:.2}</text>",
                LEFT - 6.0,
                y + 12.0,
                row.contender.name(),
                x(median) - LEFT,
                x(low),
                x(high),
                y + 7.5,
                y + 7.5,
                x(high) + 6.0,
                y + 12.0,
            );
            y += ROW;
        }
        out.push_str("</svg>\n");
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for a table")]
fn bytes(count: u64) -> f64 {
    count as f64
}
