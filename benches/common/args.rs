//! Values of options that both benches have. Errors say what would have been understood.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// The parts between commas.
pub(crate) fn list<T: FromStr>(words: &str) -> Result<Vec<T>, String>
where
    T::Err: ToString,
{
    words.split(',').map(|word| word.parse().map_err(|error: T::Err| error.to_string())).collect()
}

/// How many rounds: one at least.
pub(crate) fn rounds(text: &str) -> Result<usize, String> {
    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
    rounds.ok_or_else(|| format!("--rounds {text}: a number from 1 on"))
}

/// A number with M, G or T as bytes, if it is in `range`.
pub(crate) fn bytes(number: &str, range: &RangeInclusive<u64>) -> Option<u64> {
    let units = [('M', 20), ('G', 30), ('T', 40)];
    let (digits, shift) =
        units.into_iter().find_map(|(unit, shift)| Some((number.strip_suffix(unit)?, shift)))?;
    let units: u64 = digits.parse().ok()?;
    units.checked_mul(1 << shift).filter(|bytes| range.contains(bytes))
}

/// Whether a contender of this name was asked for: all are where `only` is empty.
pub(crate) fn wants(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|part| name.contains(part))
}
