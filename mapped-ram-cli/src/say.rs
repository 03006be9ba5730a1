//! What the command says: lines on stdout, notes and errors on stderr.
//!
//! Names come out of files that nobody vouches for, so control characters never reach the terminal as they are. A reader
//! of stdout that went away (`| head`) is no failure: the rest of the work, and the exit code, are as without it.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};

use serde::Serialize;

use crate::exit::Problem;

/// Prints one line on stdout, control characters escaped.
pub(crate) fn line(text: &str) -> Result<(), Problem> {
    raw(&escaped(text))
}

/// Prints text on stdout as it is, and a line end.
pub(crate) fn raw(text: &str) -> Result<(), Problem> {
    printed(writeln!(io::stdout(), "{text}"))
}

/// Prints a value as JSON on stdout, for programs, without building all of the text first.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Problem> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from);
    let written = written.and_then(|()| writeln!(stdout)).and_then(|()| stdout.flush());
    drop(stdout);
    printed(written)
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
        // Directional overrides are no control characters to Unicode, but forge what a line says just the same.
        let forges =
            matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
        if (char.is_control() && char != '\t') || forges {
            // Writing to a string cannot fail.
            let _ = write!(out, "{}", char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::escaped;

    proptest! {
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
