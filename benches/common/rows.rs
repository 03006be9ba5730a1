//! The samples of each contender of a case: medians, spread, and ratios taken within a round.

use super::measure::Sample;
use super::plot::Bar;
use super::table::median;

pub(crate) struct Row<C> {
    pub(crate) contender: C,
    /// One a round, until one fails.
    pub(crate) samples: Vec<Sample>,
    pub(crate) failure: Option<String>,
}

impl<C> Row<C> {
    pub(crate) fn new(contender: C) -> Self {
        Self { contender, samples: Vec::new(), failure: None }
    }

    fn walls(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|sample| sample.wall)
    }

    pub(crate) fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(of).collect())
    }

    /// The least, the median and the longest time, in seconds.
    pub(crate) fn spread(&self) -> Option<(f64, f64, f64)> {
        let middle = self.median(|sample| sample.wall)?;
        Some((self.walls().reduce(f64::min)?, middle, self.walls().reduce(f64::max)?))
    }

    /// How many times as fast as `other`: the median over the rounds that both have.
    pub(crate) fn speed_against(&self, other: &Self) -> Option<f64> {
        median(self.walls().zip(other.walls()).map(|(own, other)| other / own).collect())
    }

    /// The same for a table: `-` where there is none.
    pub(crate) fn ratio_to(&self, other: Option<&Self>) -> String {
        let ratio = other.and_then(|other| self.speed_against(other));
        ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
    }

    /// Rates for a guest of `size` GiB.
    pub(crate) fn bar(&self, name: String, size: f64) -> Option<Bar> {
        let (least, middle, most) = self.spread()?;
        Some(Bar { name, median: size / middle, least: size / most, most: size / least })
    }
}

/// The fastest, by its median, of those that `of` chooses and that did not fail.
pub(crate) fn best<C>(rows: &[Row<C>], of: impl Fn(&C) -> bool) -> Option<&Row<C>> {
    let rows = rows.iter().filter(|row| of(&row.contender) && row.failure.is_none());
    let timed = rows.filter_map(|row| Some((row.median(|sample| sample.wall)?, row)));
    timed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, row)| row)
}

/// A test is there to find what does not work any more: an error that names who failed. A measurement tells it in its table,
/// and goes on.
pub(crate) fn none_failed<C>(rows: &[Row<C>], name: impl Fn(&C) -> String) -> super::Result<()> {
    let failed: Vec<_> =
        rows.iter().filter(|row| row.failure.is_some()).map(|row| name(&row.contender)).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}
