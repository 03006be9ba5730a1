//! Which pages one call reads: where runs of present pages are cut, and which gaps between them are read through.
//!
//! Nothing is read here. Past the page cache, runs with short gaps between them are read by one call, with what the file holds in the gaps:
//!
//! ```text
//!   file     | present | gap | present | gap too long | present |
//!   call     |-------- 1 --------------|              |--- 2 ---|
//! ```

use std::ops::Range;

/// How runs become calls, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calls {
    /// The longest gap that is read through; none if 0.
    pub(super) bridge: u64,
    /// The most that one call reads, but at least a page.
    pub(super) longest: u64,
}

/// Present pages that stand in one run, all or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) pages: Range<u64>,
    /// How many absent pages before these the call of the part before reads through, to read these too; `None` where another
    /// call begins.
    pub(super) bridged: Option<u64>,
}

impl Calls {
    /// The calls that read `runs` of pages of `page_size` bytes, part by part. Runs are in order, with gaps between them.
    pub(super) fn parts(
        self,
        runs: impl Iterator<Item = Range<u64>>,
        page_size: u64,
    ) -> impl Iterator<Item = Part> {
        let (bridge, longest) = (self.bridge / page_size, (self.longest / page_size).max(1));
        let mut runs = runs;
        // What is left of a run that was cut, and what the last call reads.
        let (mut rest, mut call) = (0..0, 0..0);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                rest = runs.next()?;
            }
            let pages = rest.start..rest.end.min(rest.start.saturating_add(longest));
            rest.start = pages.end;
            let gap = pages.start - call.end;
            // Without a gap it is a run that was cut since it is long enough for calls of its own.
            let joins = !call.is_empty() && (1..=bridge).contains(&gap) && pages.end - call.start <= longest;
            call = if joins { call.start..pages.end } else { pages.clone() };
            Some(Part { pages, bridged: joins.then_some(gap) })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The calls, each by its parts.
    fn calls(parts: &[Part]) -> Vec<Vec<Range<u64>>> {
        let mut calls: Vec<Vec<Range<u64>>> = Vec::new();
        for part in parts {
            match calls.last_mut().filter(|_| part.bridged.is_some()) {
                Some(call) => call.push(part.pages.clone()),
                None => calls.push(vec![part.pages.clone()]),
            }
        }
        calls
    }

    proptest! {
        #[test]
        fn every_present_page_is_read_once_and_no_call_is_longer_or_bridges_more_than_it_may(
            lengths in prop::collection::vec((1_u64..40, 1_u64..12), 0..20),
            first in 0_u64..5,
            bridge in 0_u64..12,
            longest in prop_oneof![1_u64..40, Just(u64::MAX / 512)],
            page_size in prop_oneof![Just(512_u64), Just(4096)],
            odd in 0_u64..512,
        ) {
            let mut at = first;
            let mut runs = Vec::new();
            for (run, gap) in lengths {
                runs.push(at..at + run);
                at += run + gap;
            }
            let rule = Calls {
                bridge: bridge * page_size + odd,
                longest: longest.saturating_mul(page_size).saturating_add(odd),
            };
            let parts: Vec<Part> = rule.parts(runs.iter().cloned(), page_size).collect();
            let read: Vec<u64> = parts.iter().flat_map(|part| part.pages.clone()).collect();
            prop_assert_eq!(read, runs.iter().cloned().flatten().collect::<Vec<_>>());
            for (before, part) in parts.iter().zip(parts.iter().skip(1)) {
                let gap = part.pages.start - before.pages.end;
                prop_assert_eq!(part.bridged.unwrap_or(gap), gap);
                prop_assert!(part.bridged.is_none_or(|gap| (1..=bridge).contains(&gap)));
            }
            let calls = calls(&parts);
            let reach = |call: &[Range<u64>]| call[0].start..call[call.len() - 1].end;
            for call in &calls {
                prop_assert!(reach(call).end - reach(call).start <= longest);
            }
            // No call that could have gone on was ended.
            for (call, next) in calls.iter().zip(calls.iter().skip(1)) {
                let gap = next[0].start - reach(call).end;
                let together = next[0].end - reach(call).start;
                prop_assert!(gap == 0 || gap > bridge || together > longest);
                // A run is cut only where a call has all that it may.
                prop_assert!(gap > 0 || reach(call).end - reach(call).start == longest);
            }
        }
    }

    #[test]
    fn a_long_run_is_cut_and_its_end_goes_with_what_follows() {
        let rule = Calls { bridge: 2 * 4096, longest: 8 * 4096 };
        let runs = [0..1, 2..20, 21..23, 26..27];
        let parts: Vec<Part> = rule.parts(runs.into_iter(), 4096).collect();
        let ends =
            |call: &Vec<Range<u64>>| call.iter().map(|part| (part.start, part.end)).collect::<Vec<_>>();
        let calls: Vec<_> = calls(&parts).iter().map(ends).collect();
        assert_eq!(
            calls,
            [vec![(0, 1)], vec![(2, 10)], vec![(10, 18)], vec![(18, 20), (21, 23)], vec![(26, 27)]]
        );
    }
}
