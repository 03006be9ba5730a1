//! Sizes and offsets as QEMU writes them: `64M`, `1G`, `12345`, `0x1000`.

use std::time::Duration;

/// A number of bytes, with one of the suffixes `b`, `k`, `M`, `G`, `T` (powers of 1024, in either case), or in hex with
/// `0x` and none.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map_err(|_| explain(text));
    }
    let (digits, shift) = match text.char_indices().last() {
        Some((at, suffix)) if !suffix.is_ascii_digit() => {
            let shift = match suffix.to_ascii_lowercase() {
                'b' => 0,
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                _ => return Err(explain(text)),
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(explain(text));
    }
    let number: u64 = digits.parse().map_err(|_| too_large(text))?;
    number.checked_mul(1 << shift).ok_or_else(|| too_large(text))
}

fn explain(text: &str) -> String {
    format!(
        "`{text}` is no size: use a whole number, with k, M, G or T behind it if you like (64M), or hex (0x1000)"
    )
}

fn too_large(text: &str) -> String {
    format!("`{text}` is more than 64 bits hold")
}

/// A number of bytes for people: `64.0 MiB`.
pub(crate) fn show(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Bytes in a time, in GiB a second.
pub(crate) fn gib_per_second(bytes: u64, time: Duration) -> f64 {
    let gib = f64::from(u32::try_from(bytes >> 20).unwrap_or(u32::MAX)) / 1024.0;
    gib / time.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    proptest! {
        #[test]
        fn every_number_with_every_suffix(number in 0_u64..1 << 24, suffix in 0_usize..6, upper in any::<bool>()) {
            let (letter, shift) = [("", 0), ("b", 0), ("k", 10), ("m", 20), ("g", 30), ("t", 40)][suffix];
            let letter = if upper { letter.to_uppercase() } else { letter.to_owned() };
            prop_assert_eq!(parse(&format!("{number}{letter}")), Ok(number << shift));
            prop_assert_eq!(parse(&format!("{number:#x}")), Ok(number));
        }

        #[test]
        fn nonsense_is_refused_and_quoted(text in "\\PC*") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.contains(&text));
            } else {
                prop_assert!(text.starts_with(|first: char| first.is_ascii_digit()));
            }
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in [
            "",
            "k",
            "-1",
            "+1",
            "1.5G",
            "1 M",
            "1MM",
            "1MiB",
            "0x",
            "0xg",
            "0x1k",
            "1é",
            "16777216T",
            "99999999999999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("16777215T"), Ok(16_777_215 << 40));
    }
}
