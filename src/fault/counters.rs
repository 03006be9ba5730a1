//! What a handler has done, and how long a fault took.
//!
//! Pages are those of the memory: 4 KiB or 2 MiB. Each page that the file holds something of is counted once, by what became of it
//! first, but for a lost one that the guest gives up: that is then given up. Those left are [`FaultCounters::missing`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::convert::{to_u64, to_usize};

/// What a handler has done so far. `present` is the sum of `on_demand`, `in_background`, `already_there`, `given_up`, `unmapped`,
/// `lost` and `missing`, once nothing is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultCounters {
    /// Pages that the file holds something of.
    pub present: u64,
    /// Of them, filled because somebody touched them.
    pub on_demand: u64,
    /// Of them, filled by the channels.
    pub in_background: u64,
    /// Of them, found there when they were to be filled: touched before they were registered, or filled by another handler.
    pub already_there: u64,
    /// Of them, given up by the guest (`MADV_DONTNEED`, a balloon) before they were filled: zeros.
    pub given_up: u64,
    /// Of them, unmapped by the guest before they were filled.
    pub unmapped: u64,
    /// Of them, poisoned, or left for ever to who waits for them: they could not be read, and the guest did not give them up.
    pub lost: u64,
    /// Of them, not there yet.
    pub missing: u64,
    /// Pages of zeros that were made because somebody touched an absent page, or one that was given up.
    pub zero_pages: u64,
    /// Faults that were told: two threads may ask for one page.
    pub faults: u64,
    /// Half of the faults were served within this time, from when the handler heard of them; to an eighth of it. Zero without any.
    pub service_p50: Duration,
    /// As `service_p50`, 99 of 100.
    pub service_p99: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) on_demand: AtomicU64,
    pub(super) in_background: AtomicU64,
    pub(super) already_there: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) unmapped: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) missing: AtomicU64,
    pub(super) zero_pages: AtomicU64,
    pub(super) faults: AtomicU64,
    pub(super) service: Histogram,
    present: u64,
}

impl Counters {
    pub(super) fn new(present: u64) -> Self {
        Self { present, missing: AtomicU64::new(present), ..Self::default() }
    }

    pub(super) fn read(&self) -> FaultCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let lost = of(&self.lost);
        FaultCounters {
            present: self.present,
            on_demand: of(&self.on_demand),
            in_background: of(&self.in_background),
            already_there: of(&self.already_there),
            given_up: of(&self.given_up),
            unmapped: of(&self.unmapped),
            lost,
            missing: of(&self.missing).saturating_sub(lost),
            zero_pages: of(&self.zero_pages),
            faults: of(&self.faults),
            service_p50: self.service.percentile(50),
            service_p99: self.service.percentile(99),
        }
    }
}

/// Times in buckets that are an eighth of their power of two wide.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [AtomicU64; 512],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; 512] }
    }
}

impl Histogram {
    pub(super) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(8);
        let power = u64::from(nanos.ilog2());
        let eighth = (nanos >> (power - 3)) & 7;
        self.buckets[to_usize(power * 8 + eighth)].fetch_add(1, Ordering::Relaxed);
    }

    /// The upper end of the bucket that holds the time below which `percent` of all are.
    fn percentile(&self, percent: u64) -> Duration {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = (total * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let (power, eighth) = (to_u64(bucket) / 8, to_u64(bucket) % 8);
                let end = u128::from(eighth + 9) << (power.max(3) - 3);
                return Duration::from_nanos(u64::try_from(end).unwrap_or(u64::MAX));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_right_to_an_eighth(mut times in prop::collection::vec(8_u64..10_000_000_000, 1..200)) {
            let histogram = Histogram::default();
            for time in &times {
                histogram.record(Duration::from_nanos(*time));
            }
            times.sort_unstable();
            for percent in [50, 99] {
                let rank = (times.len() as u64 * percent).div_ceil(100);
                let exact = times[to_usize(rank) - 1];
                let told = u64::try_from(histogram.percentile(percent).as_nanos()).unwrap();
                prop_assert!(told >= exact && told <= exact + exact / 8 + 1, "{told} for {exact}");
            }
        }
    }

    #[test]
    fn extremes_have_a_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), Duration::ZERO);
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.percentile(99), Duration::from_nanos(u64::MAX));
    }
}
