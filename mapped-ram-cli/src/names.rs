//! Block names as file names that never leave their folder.
//!
//! A name out of a file is not to be trusted: `/rom@etc/acpi/tables` is real, `../../etc/passwd` would be somebody's
//! idea of fun.

use std::fmt::Write;

/// What every block's file ends with.
const SUFFIX: &str = ".raw";

/// The longest file name that any file system in use takes, in bytes.
const NAME_MAX: usize = 255;

/// The file name for the block `idstr`, the `index`-th of its file: letters, digits and `-_@+:,=` as they are, dots too
/// but not at the beginning, every other byte as `%` and two hex digits. Different names give different file names. A
/// name that would be too long is cut, with `~` and the block's index behind.
pub(crate) fn file_name(idstr: &[u8], index: usize) -> String {
    let mut name = String::new();
    for (at, byte) in idstr.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_@+:,=".contains(byte) || (*byte == b'.' && at > 0);
        if plain {
            name.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.is_empty() {
        // No other name is a lone `%`.
        name.push('%');
    }
    let mark = format!("~{index}");
    if name.len() + SUFFIX.len() > NAME_MAX {
        // All of it is ASCII, so it can be cut anywhere; the mark keeps cut names apart.
        name.truncate(NAME_MAX - SUFFIX.len() - mark.len());
        name.push_str(&mark);
    }
    name + SUFFIX
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::{NAME_MAX, SUFFIX, file_name};

    fn expect_inside(name: &str) {
        let mut components = Path::new(name).components();
        assert!(matches!(components.next(), Some(Component::Normal(_))), "{name}");
        assert_eq!(components.next(), None, "{name}");
        assert!(name.len() <= 255 && !name.starts_with('.') && !name.contains('\0'), "{name}");
    }

    /// The block's name again, out of a file name that was not cut: the slow and obvious way.
    fn decode(name: &str) -> Vec<u8> {
        let text = name.strip_suffix(SUFFIX).unwrap();
        if text == "%" {
            return Vec::new();
        }
        let mut parts = text.split('%');
        let mut idstr = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            idstr.push(u8::from_str_radix(&part[..2], 16).unwrap());
            idstr.extend(&part.as_bytes()[2..]);
        }
        idstr
    }

    fn idstr() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..=255),
            "[./a%~]{0,8}".prop_map(String::into_bytes),
            // Long ones that differ only where they are cut.
            (230_usize..=255, "[a/%]{0,2}").prop_map(|(length, end)| {
                let mut idstr = vec![b'a'; length - end.len()];
                idstr.extend(end.bytes());
                idstr
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_name_that_is_not_cut_can_be_had_back(idstr in idstr(), index in 0_usize..100_000) {
            let name = file_name(&idstr, index);
            expect_inside(&name);
            // Only cut names hold a `~`, and only those are cut that have to be.
            if name.contains('~') {
                prop_assert!(3 * idstr.len() > NAME_MAX - SUFFIX.len());
            } else {
                prop_assert_eq!(decode(&name), idstr);
            }
        }

        #[test]
        fn names_stay_inside_and_apart(idstrs in prop::collection::btree_set(idstr(), 0..20)) {
            let names: BTreeSet<String> =
                idstrs.iter().enumerate().map(|(index, idstr)| file_name(idstr, index)).collect();
            prop_assert_eq!(names.len(), idstrs.len());
            for name in &names {
                expect_inside(name);
            }
        }
    }

    #[test]
    fn names_that_are_known_for_trouble() {
        for (idstr, expected) in [
            ("pc.ram", "pc.ram.raw"),
            ("/rom@etc/acpi/tables", "%2From@etc%2Facpi%2Ftables.raw"),
            ("0000:00:02.0/vga.vram", "0000:00:02.0%2Fvga.vram.raw"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd.raw"),
            ("..", "%2E..raw"),
            (".", "%2E.raw"),
            ("", "%.raw"),
        ] {
            assert_eq!(file_name(idstr.as_bytes(), 0), expected);
        }
    }
}
