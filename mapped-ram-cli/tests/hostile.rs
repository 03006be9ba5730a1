//! The command on the hostile files of the library's tests: an error that says what and where, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mapped-ram")).args(arguments).output().unwrap()
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/hostile");
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 40, "{files:?}");
    files
}

/// Those that are read safely: what is wrong with them is no damage, or shows only when pages are looked at.
const READABLE: [&str; 7] = [
    "bits_for_pages_that_were_never_written",
    "name_not_utf_8",
    "name_that_clears_the_screen",
    "name_with_slashes",
    "set_bits_in_the_padding",
    "stale_bytes_under_a_clear_bit",
    "zeroed_bitmap",
];

/// Whether only the tail is wrong: the memory can be had, but not the devices.
fn has_wrong_tail(name: &str) -> bool {
    name.starts_with("vmdescription") || name == "cut_inside_the_tail"
}

#[test]
fn every_command_on_every_file_ends_with_a_word() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    for file in files() {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let path = file.to_str().unwrap();
        // Not on the collection itself, where a note could be left.
        let copies = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let copy = copies.path().join(file.file_name().unwrap());
        fs::copy(&file, &copy).unwrap();
        for (command, arguments) in [
            ("info", &["info", path][..]),
            ("info --json", &["info", "--json", path]),
            ("verify", &["verify", path]),
            ("extract", &["extract", path, "--all", "--output", out]),
            ("copy", &["copy", path, out]),
            ("compare", &["compare", path, path]),
            ("prepare", &["prepare", copy.to_str().unwrap()]),
        ] {
            let output = run(arguments);
            let err = String::from_utf8(output.stderr).unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(
                !format!("{said}{err}").contains('\x1b'),
                "{command} {name}: what it says commands the terminal"
            );
            let code = output.status.code();
            let memory_alone = ["extract", "compare", "prepare"].contains(&command);
            let readable = READABLE.contains(&name.as_str()) || (memory_alone && has_wrong_tail(&name));
            let has_stale = command == "prepare"
                && ["stale_bytes_under_a_clear_bit", "zeroed_bitmap"].contains(&name.as_str());
            let expected = if has_stale {
                1
            } else if readable {
                0
            } else {
                3
            };
            assert_eq!(code, Some(expected), "{command} {name}: {err}");
            assert!(!err.contains("panicked"), "{command} {name}: {err}");
            if expected == 3 {
                assert!(
                    err.starts_with("mapped-ram: error: ") && err.contains(&name),
                    "{command} {name}: {err}"
                );
            }
            // Nothing outside of the folder that was given, and nothing at all from a file that was refused.
            for entry in fs::read_dir(dir.path()).unwrap() {
                let entry = entry.unwrap().path();
                assert!(expected == 0 && entry.to_str() == Some(out), "{command} {name} left {entry:?}");
                if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }.unwrap();
            }
        }
    }
}
