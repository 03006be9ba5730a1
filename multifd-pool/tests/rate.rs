//! The schedule of a rate limit, without a clock: what any number of channels may transfer in any second.

use std::num::NonZeroU64;

use multifd_pool::{RateLimit, RateSchedule};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

proptest! {
    /// Channels that always have something to transfer: each second has its bytes, within 2 percent.
    #[test]
    fn a_busy_flow_is_exact_within_two_percent_over_every_second(
        rate in 100_000_u64..1 << 40,
        parts in prop::collection::vec(50_u64..=100, 1..40),
        late in prop::collection::vec(0_u64..2_000_000, 1..40),
    ) {
        let mut schedule = RateSchedule::new(NonZeroU64::new(rate).unwrap());
        // One channel after the other: each begins when it may, or a little later, as threads do.
        let mut begun = Vec::new();
        let mut now = 0;
        for step in 0.. {
            // Up to a two-hundredth of the rate, as `quantum` has it.
            let bytes = (rate / 200 * parts[step % parts.len()] / 100).max(1);
            now = schedule.reserve(now, bytes).max(now) + late[step % late.len()] % 1_000_000;
            begun.push((now, bytes));
            if now > 3 * SECOND || begun.len() == 20_000 {
                break;
            }
        }
        let last = begun.last().unwrap().0;
        for from in (0..last.saturating_sub(SECOND)).step_by(100_000_000) {
            let within = begun.iter().filter(|(at, _)| (from..from + SECOND).contains(at));
            let bytes: u64 = within.map(|(_, bytes)| bytes).sum();
            // The credit (1.5 percent) and a transfer across the end (half a percent).
            prop_assert!(bytes.abs_diff(rate) <= rate / 50, "{} of {} from {}", bytes, rate, from);
        }
    }

    /// Whatever the channels do, no second ever holds more than 2 percent too much: a pause is not made up for.
    #[test]
    fn no_pause_is_made_up_for(
        rate in 100_000_u64..1 << 40,
        // Long enough after a pause that a second would be too full if it was made up for.
        steps in prop::collection::vec(
            (prop_oneof![40 => Just(0), 1 => 0_u64..2 * SECOND], 60_u64..=100), 400..1200),
    ) {
        let mut schedule = RateSchedule::new(NonZeroU64::new(rate).unwrap());
        let (mut now, mut begun) = (0, Vec::new());
        for (pause, part) in steps {
            now += pause;
            let bytes = (rate / 200 * part / 100).max(1);
            now = schedule.reserve(now, bytes).max(now);
            begun.push((now, bytes));
        }
        for (from, _) in &begun {
            let within = begun.iter().filter(|(at, _)| (*from..from + SECOND).contains(at));
            let bytes: u64 = within.map(|(_, bytes)| bytes).sum();
            prop_assert!(bytes <= rate + rate / 50, "{} of {} from {}", bytes, rate, from);
        }
    }

    #[test]
    fn no_number_overflows(
        rate in 1..=u64::MAX,
        steps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50),
    ) {
        let mut schedule = RateSchedule::new(NonZeroU64::new(rate).unwrap());
        let mut last = 0;
        for (now, bytes) in steps {
            let start = schedule.reserve(now, bytes);
            prop_assert!(start >= last, "the schedule went back");
            last = start;
        }
    }

    #[test]
    fn a_quantum_is_whole_units_and_at_least_one(rate in 1..=u64::MAX, unit in 0_u64..1 << 20) {
        let quantum = RateLimit::new(NonZeroU64::new(rate).unwrap()).quantum(unit);
        let unit = unit.max(1);
        prop_assert!(quantum >= unit && quantum.is_multiple_of(unit));
        prop_assert!(quantum == unit || quantum <= rate / 200);
        prop_assert!(u128::from(quantum) + u128::from(unit) > u128::from(rate / 200), "less than there is room for");
    }

    /// To the nanosecond, and no byte is ever lost between two: against fractions.
    #[test]
    fn the_schedule_is_exact(
        rate in prop_oneof![1_u64..1000, 1_u64..1 << 40],
        steps in prop::collection::vec((any::<bool>(), 0_u64..100_000_000, 0_u64..1 << 30), 1..100),
    ) {
        const CREDIT: u64 = 15_000_000;
        let mut schedule = RateSchedule::new(NonZeroU64::new(rate).unwrap());
        let wide = u128::from;
        // When all is paid for, in nanoseconds times the rate.
        let (mut paid, mut now) = (0, 0);
        for (just_late_enough, pause, bytes) in steps {
            // Times saturate after 584 years, which is not this property's business.
            if paid / wide(rate) > wide(u64::MAX / 2) {
                break;
            }
            // Often the very moment at which the credit is used up.
            let edge = u64::try_from(paid / wide(rate)).unwrap() + CREDIT;
            now = if just_late_enough { now.max(edge) } else { now + pause };
            let earliest = now.saturating_sub(CREDIT);
            if paid / wide(rate) < wide(earliest) {
                paid = wide(earliest) * wide(rate);
            }
            prop_assert_eq!(wide(schedule.reserve(now, bytes)), paid / wide(rate));
            paid += wide(bytes) * wide(SECOND);
        }
    }
}

#[test]
fn who_waits_is_told_that_the_work_has_stopped() {
    let limit = RateLimit::new(NonZeroU64::new(1).unwrap());
    // The first byte is free; the next is due in a thousand years, so this only returns because it is told to.
    assert!(limit.wait(u64::MAX / 4, || false));
    assert!(!limit.wait(1, || true));
}
