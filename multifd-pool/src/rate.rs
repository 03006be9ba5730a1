//! A limit on bytes a second that several channels share.
//!
//! Each transfer reserves its bytes on one common schedule before it begins: it may start when the bytes reserved before it
//! are paid for at the rate. So the rate is that of all channels together, and no channel starves another.
//!
//! What was not used is lost, but for [`CREDIT`]: after a pause nobody makes up for it by a burst. The schedule is a pure
//! value that is told the time, so that it is tested without a clock; sleeping is [`RateLimit`]'s part.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far behind its schedule a transfer may begin and still catch up, in nanoseconds. It evens out how late threads are
/// woken (0.1 ms, on a busy machine some ms); with 15 ms a second holds at most 1.5 percent too much, and with one transfer of
/// half a percent ([`SLICES`]) at either end 2 percent.
const CREDIT: u64 = 15_000_000;

/// How much of a second's bytes one transfer should take at most: larger ones make the flow jerky.
const SLICES: u64 = 200;

/// How long to sleep at most before the work is asked again whether it has been stopped.
const NAP: Duration = Duration::from_millis(20);

/// Nanoseconds a second.
const SECOND: u128 = 1_000_000_000;

/// When the next transfer may begin, in nanoseconds from the first one.
///
/// ```
/// use multifd_pool::RateSchedule;
///
/// let mut schedule = RateSchedule::new(1000.try_into().unwrap());
/// assert_eq!(schedule.reserve(0, 500), 0); // half a second's worth
/// assert_eq!(schedule.reserve(0, 1), 500_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct RateSchedule {
    bytes_per_second: NonZeroU64,
    /// When all that was reserved is paid for.
    paid: u64,
    /// What of a nanosecond was not counted, in bytes times [`SECOND`] modulo the rate: else small transfers would be free.
    rest: u128,
}

impl RateSchedule {
    /// A schedule of so many bytes a second, on which nothing is reserved.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid: 0, rest: 0 }
    }

    /// Reserves `bytes` at the time `now`, and gives the time from which on they may be transferred, which may be past.
    /// Times are in nanoseconds from any one moment.
    pub fn reserve(&mut self, now: u64, bytes: u64) -> u64 {
        let earliest = now.saturating_sub(CREDIT);
        if self.paid < earliest {
            (self.paid, self.rest) = (earliest, 0);
        }
        let start = self.paid;
        let rate = u128::from(self.bytes_per_second.get());
        let cost = u128::from(bytes) * SECOND + self.rest;
        self.rest = cost % rate;
        self.paid = u64::try_from(cost / rate).map_or(u64::MAX, |time| start.saturating_add(time));
        start
    }
}

/// A limit that channels share; see the crate's overview. Clones are made by sharing it in an `Arc`.
#[derive(Debug)]
pub struct RateLimit {
    schedule: Mutex<RateSchedule>,
    bytes_per_second: NonZeroU64,
    began: Instant,
}

impl RateLimit {
    /// At most so many bytes a second, counted from now.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        let schedule = Mutex::new(RateSchedule::new(bytes_per_second));
        Self { schedule, bytes_per_second, began: Instant::now() }
    }

    /// How many bytes one transfer should have at most, so that the flow is smooth: a two-hundredth of a second's, in whole
    /// `unit`s, but at least one.
    pub fn quantum(&self, unit: u64) -> u64 {
        let unit = unit.max(1);
        (self.bytes_per_second.get() / SLICES / unit * unit).max(unit)
    }

    /// Waits until `bytes` may be transferred, or `is_stopped` says so; `true` in the first case.
    pub fn wait(&self, bytes: u64, is_stopped: impl Fn() -> bool) -> bool {
        let start = {
            let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
            // 584 years fit.
            let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            schedule.reserve(now, bytes)
        };
        let start = Duration::from_nanos(start);
        loop {
            if is_stopped() {
                return false;
            }
            let left = start.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}
