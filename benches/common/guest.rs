//! Which pages of a guest hold data, all of it random; the same bytes each time.

use std::str::FromStr;

/// Filled at a time, in bytes.
const STEP: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// All.
    Dense,
    /// About half, in runs and gaps of 1 to 16 pages.
    Half,
    /// About one in twenty, in runs of 1 to 63 pages.
    Five,
    /// Every other one.
    Alternating,
}

impl Pattern {
    pub(crate) const ALL: [Self; 4] = [Self::Dense, Self::Half, Self::Five, Self::Alternating];

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Dense => "dense random data",
            Self::Half => "half zero, in runs of 1 to 16 pages",
            Self::Five => "5 percent in use, in runs of 1 to 63 pages",
            Self::Alternating => "every other page zero",
        }
    }

    /// Fills memory that is zero, and calls `done` with each part that is filled.
    pub(crate) fn fill(self, memory: &mut [u8], mut done: impl FnMut(&[u8])) {
        use qemu_harness::pattern::Pattern;
        let pattern = match self {
            Self::Dense => Pattern::Dense,
            Self::Half => Pattern::Ragged,
            Self::Five => Pattern::Sparse,
            Self::Alternating => Pattern::Alternating,
        };
        for (seed, part) in (0..).zip(memory.chunks_mut(STEP)) {
            pattern.fill(part, seed);
            done(part);
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dense" => Ok(Self::Dense),
            "half" => Ok(Self::Half),
            "five" => Ok(Self::Five),
            "alternating" => Ok(Self::Alternating),
            _ => Err(format!("no pattern `{text}`: dense, half, five or alternating")),
        }
    }
}
