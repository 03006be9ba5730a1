//! What the command says: lines on stdout, notes and errors on stderr.
//!
//! Names come out of files that nobody vouches for, so control characters never reach the terminal as they are, nor part a line's
//! fields. A reader of stdout that went away (`| head`) is no failure: the rest of the work, and the exit code, are as without it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::exit::Problem;

/// Prints one line on stdout, control characters escaped, all but tabs.
pub(crate) fn line(text: &str) -> Result<(), Problem> {
    printed(writeln!(io::stdout(), "{}", escaped(text)))
}

/// What stands between tabs in a line for programs: with no tab of its own.
pub(crate) fn field(text: &str) -> String {
    escaped(text).replace('\t', "\\t")
}

/// Prints a value as JSON on stdout, for programs, in one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Problem> {
    json_by(|out| serde_json::to_writer(out, value))
}

/// Prints a value as JSON on stdout, for programs and people.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Problem> {
    json_by(|out| serde_json::to_writer_pretty(out, value))
}

/// Without building all of the text first.
fn json_by(
    write: impl FnOnce(&mut JsonText<BufWriter<io::StdoutLock<'_>>>) -> serde_json::Result<()>,
) -> Result<(), Problem> {
    let mut out = JsonText(BufWriter::new(io::stdout().lock()));
    let written = write(&mut out).map_err(io::Error::from);
    let written = written.and_then(|()| writeln!(out)).and_then(|()| out.flush());
    drop(out);
    printed(written)
}

/// Takes JSON, whole characters at a time, and escapes those in it that a terminal would obey: JSON itself asks for that only below
/// U+0020, and has none of the others outside of strings.
struct JsonText<W>(W);

impl<W: Write> Write for JsonText<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes) {
            Ok(text) => self.0.write_all(escaped_in_json(text).as_bytes())?,
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escaped_in_json(text: &str) -> Cow<'_, str> {
    let is_obeyed = |char: char| char > '\u{1f}' && is_obeyed(char);
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 5);
    for char in text.chars() {
        if is_obeyed(char) {
            // Writing to a string cannot fail. All such characters are below U+10000.
            let _ = write!(out, "\\u{:04x}", u32::from(char));
        } else {
            out.push(char);
        }
    }
    out.into()
}

/// What became of printing on stdout: `result`, once all of it was handed to the system.
pub(crate) fn printed(result: io::Result<()>) -> Result<(), Problem> {
    match result.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::Io { file: "standard output".to_owned(), what: "print".to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Prints an error on stderr, in one line.
pub(crate) fn error(text: &str) {
    on_stderr("error", text);
}

/// Prints a warning on stderr, in one line.
pub(crate) fn warning(text: &str) {
    on_stderr("warning", text);
}

/// Prints a note on stderr, in one line.
pub(crate) fn note(text: &str) {
    on_stderr("note", text);
}

fn on_stderr(kind: &str, text: &str) {
    // Where stderr cannot be written there is nobody left to tell.
    let _ = writeln!(io::stderr(), "mapped-ram: {kind}: {}", escaped(text));
}

/// `text` with control characters as Rust escapes, all but tabs.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if is_obeyed(char) && char != '\t' {
            // Writing to a string cannot fail.
            let _ = write!(out, "{}", char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// Whether a terminal does something else with it than to show it.
fn is_obeyed(char: char) -> bool {
    // Directional overrides are no control characters to Unicode, but forge what a line says just the same.
    let forges = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    char.is_control() || forges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{JsonText, escaped, field, is_obeyed};

    proptest! {
        #[test]
        fn json_is_what_it_was_without_a_character_that_is_obeyed(
            texts in prop::collection::vec(prop_oneof![any::<String>(), "[\u{0}-\u{ff}\u{2028}-\u{2069}]{0,20}"], 1..4),
        ) {
            let mut out = JsonText(Vec::new());
            serde_json::to_writer(&mut out, &texts).unwrap();
            let out = String::from_utf8(out.0).unwrap();
            prop_assert!(!out.contains(is_obeyed), "{}", out);
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&out).unwrap(), texts);
        }

        #[test]
        fn a_field_is_one_field(text in prop_oneof![any::<String>(), "[\\ta\n]{0,9}"]) {
            prop_assert!(!field(&text).contains(is_obeyed));
        }

        #[test]
        fn a_line_is_one_line_without_control_characters(text in any::<String>()) {
            let out = escaped(&text);
            prop_assert!(out.chars().all(|char| !char.is_control() || char == '\t'));
            if !text.contains(|char: char| char.is_control() || ('\u{2028}'..='\u{2069}').contains(&char)) {
                prop_assert_eq!(out, text);
            }
        }
    }

    #[test]
    fn what_a_hostile_name_would_do() {
        assert_eq!(escaped("a\x1b[31m\nb\u{9b}1m\u{202e}c\td"), "a\\u{1b}[31m\\nb\\u{9b}1m\\u{202e}c\td");
    }
}
