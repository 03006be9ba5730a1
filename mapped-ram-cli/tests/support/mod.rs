//! Runs the command as its users do. Shared by the test programs; each uses a part.
#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{SigHandler, Signal, signal};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

pub(crate) const PAGE: usize = 4096;

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mapped-ram"))
}

/// Lets `command` be interrupted, though the tests may run in a job that is not: signals that are ignored stay so in what is started.
pub(crate) fn with_signals(command: &mut Command) -> &mut Command {
    let set = || {
        for interruption in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: no handler of ours, and what this is called for is about to become another program.
            unsafe { signal(interruption, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: `set` makes system calls only, which are safe behind a fork.
    unsafe { command.pre_exec(set) }
}

/// Runs the command and expects it to end with `code`; gives what it wrote to stdout and stderr.
pub(crate) fn expect<S: AsRef<OsStr> + Debug>(code: i32, arguments: &[S]) -> (String, String) {
    expect_output(code, command().args(arguments).output().unwrap(), arguments)
}

pub(crate) fn expect_output<S: Debug>(code: i32, output: Output, arguments: &[S]) -> (String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?} {}\n{out}{err}", output.status);
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

pub(crate) fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file whose every page is filled with the byte that `pages` has for it.
pub(crate) fn ram_file(dir: &TempDir, name: &str, pages: &[u8]) -> (PathBuf, Vec<u8>) {
    let memory: Vec<u8> = pages.iter().flat_map(|kind| vec![*kind; PAGE]).collect();
    let path = dir.path().join(name);
    fs::write(&path, &memory).unwrap();
    (path, memory)
}

/// A saved guest whose block `ram0` has such pages.
pub(crate) fn saved(dir: &TempDir, name: &str, pages: &[u8]) -> (PathBuf, Vec<u8>) {
    let (ram, memory) = ram_file(dir, &format!("{name}.ram"), pages);
    let out = dir.path().join(name);
    expect(0, &["save", "--ram", &format!("ram0={}", text(&ram)), text(&out)]);
    (out, memory)
}

/// How many bytes of the disk a file takes.
pub(crate) fn used(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// What stands in a folder, sorted.
pub(crate) fn listing(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Runs `test` on values of `strategy`, as `proptest!` would, but on a sixteenth as many: each case starts a dozen
/// processes, and the macro takes the number from PROPTEST_CASES whatever its configuration says. `file` is the caller's,
/// for its regressions.
pub(crate) fn check<S: Strategy>(
    file: &'static str,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let mut config = Config::default();
    config.cases = (config.cases / 16).max(1);
    config.source_file = Some(file);
    if let Err(failure) = TestRunner::new(config).run(strategy, test) {
        panic!("{failure}");
    }
}
