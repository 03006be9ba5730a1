//! The real command, killed at random moments: what is left is the old snapshot whole, the new one whole, or a stream that
//! is called incomplete, and nothing else.
//!
//! `MAPPED_RAM_KILLS` says how often (24); a failure names the seed of its moment.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const OFFSET: u64 = 12_345;

fn kills() -> u64 {
    std::env::var("MAPPED_RAM_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(24)
}

fn start(arguments: &[&str]) -> Child {
    support::with_signals(&mut support::command())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn code(arguments: &[&str]) -> Option<i32> {
    start(arguments).wait().unwrap().code()
}

/// Sends `signal` once `after` has passed, unless the command ends before.
fn interrupt(mut child: Child, signal: Signal, after: Duration) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() >= after {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            // It may have ended just now; then there is nobody to signal.
            let _ = kill(pid, signal);
            return child.wait().unwrap();
        }
        std::thread::yield_now();
    }
}

/// A moment between the start of a save and a little behind its end, by a seed.
fn moment(seed: u64, whole: Duration) -> Duration {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^= mixed >> 27;
    let part = u32::try_from(mixed % 1000).unwrap();
    whole * part / 900
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn time_of(arguments: &[&str]) -> Duration {
    let begin = Instant::now();
    assert_eq!(code(arguments), Some(0));
    begin.elapsed()
}

#[test]
fn a_killed_save_leaves_the_old_file_or_the_new_one() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let path = path.to_str().unwrap();
    let save = |seed| ["save", "--synthetic", "48M", "--channels", "2", "--seed", seed, path];
    let whole = time_of(&save("2"));
    let new = fs::read(path).unwrap();
    time_of(&save("1"));
    let old = fs::read(path).unwrap();
    assert!(old != new);
    let (mut killed, mut renewed) = (0, 0);
    for seed in 0..kills() {
        let status = interrupt(start(&save("2")), Signal::SIGKILL, moment(seed, whole));
        let left = fs::read(path).unwrap();
        assert!(left == old || left == new, "seed {seed}: neither the old file nor the new one");
        assert!(status.code().is_none() || left == new, "seed {seed}: done, but the old file is there");
        // A name that was linked in passing may stay behind when the kill falls between the link and the rename.
        let beside = names(dir.path()).into_iter().filter(|name| name != "guest.mram").collect::<Vec<_>>();
        assert!(beside.iter().all(|name| name.starts_with(".mapped-ram-")), "seed {seed}: {beside:?}");
        for name in beside {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        killed += u64::from(status.code().is_none());
        renewed += u64::from(left == new);
        if left == new {
            fs::write(path, &old).unwrap();
        }
    }
    println!("{killed} of {} saves were killed, {renewed} had the new file", kills());
}

#[test]
fn a_killed_save_in_place_is_incomplete_or_whole() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("container");
    let name = path.to_str().unwrap();
    let offset = OFFSET.to_string();
    let before = vec![0x55; usize::try_from(OFFSET).unwrap()];
    fs::write(&path, &before).unwrap();
    let save = ["save", "--synthetic", "48M", "--channels", "2", "--offset", &offset, name];
    let verify = ["verify", "--offset", &offset, name];
    let whole = time_of(&save);
    assert_eq!(code(&verify), Some(0));
    let (mut killed, mut incomplete) = (0, 0);
    for seed in 0..kills() {
        let status = interrupt(start(&save), Signal::SIGKILL, moment(seed, whole));
        let verified = code(&verify);
        assert!(verified == Some(0) || verified == Some(3), "seed {seed}: {verified:?}");
        assert!(status.code().is_none() || verified == Some(0), "seed {seed}: done, but not whole");
        let left = fs::read(&path).unwrap();
        assert!(left[..before.len()] == before[..], "seed {seed}: what stands before was touched");
        assert_eq!(names(dir.path()), ["container"], "seed {seed}");
        killed += u64::from(status.code().is_none());
        incomplete += u64::from(verified == Some(3));
    }
    println!("{killed} of {} saves were killed, {incomplete} were incomplete", kills());
}

/// Over an expendable file: its name stands for the whole old one or for nothing, the new name for the whole new one or for
/// nothing, and what is between the two is called incomplete, unless it is still the one or already the other.
#[test]
fn a_killed_save_over_an_expendable_file_leaves_no_half_under_a_name() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, expendable) = (dir.path().join("guest.mram"), dir.path().join("old.mram"));
    let (new_name, old_name) = (path.to_str().unwrap(), expendable.to_str().unwrap());
    let synthetic = ["save", "--synthetic", "48M", "--channels", "2", "--seed"];
    assert_eq!(code(&[&synthetic[..], &["1", old_name]].concat()), Some(0));
    let old = fs::read(&expendable).unwrap();
    let save = [&synthetic[..], &["2", "--recycle", old_name, new_name]].concat();
    let whole = time_of(&save);
    let new = fs::read(&path).unwrap();
    assert!(old != new && !expendable.exists());
    let (mut killed, mut untouched, mut incomplete, mut renewed) = (0, 0, 0, 0);
    for seed in 0..kills() {
        let _ = fs::remove_file(&path);
        fs::write(&expendable, &old).unwrap();
        let status = interrupt(start(&save), Signal::SIGKILL, moment(seed, whole));
        let (mut old_is_there, mut new_is_there) = (false, false);
        for name in names(dir.path()) {
            let left = dir.path().join(&name);
            match name.as_str() {
                "old.mram" => {
                    assert!(fs::read(&left).unwrap() == old, "seed {seed}: changed under its old name");
                    old_is_there = true;
                }
                "guest.mram" => {
                    assert!(fs::read(&left).unwrap() == new, "seed {seed}: half under its new name");
                    new_is_there = true;
                }
                passing => {
                    assert!(passing.starts_with(".mapped-ram-"), "seed {seed}: {passing}");
                    match code(&["verify", left.to_str().unwrap()]) {
                        Some(3) => incomplete += 1,
                        // Not broken yet, or finished and not renamed yet.
                        Some(0) => {
                            let bytes = fs::read(&left).unwrap();
                            assert!(bytes == old || bytes == new, "seed {seed}: neither, but called whole");
                        }
                        other => panic!("seed {seed}: {other:?}"),
                    }
                    fs::remove_file(&left).unwrap();
                }
            }
        }
        assert!(!(old_is_there && new_is_there), "seed {seed}: one file under two names");
        assert!(status.code().is_none() || new_is_there, "seed {seed}: done, but not there");
        killed += u64::from(status.code().is_none());
        untouched += u64::from(old_is_there);
        renewed += u64::from(new_is_there);
    }
    println!(
        "{killed} of {} saves were killed: {untouched} left the old file, {incomplete} an incomplete one, {renewed} the new",
        kills()
    );
}

#[test]
fn an_interrupted_save_cleans_up_and_says_so() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let save = ["save", "--synthetic", "48M", path.to_str().unwrap()];
    let whole = time_of(&save);
    for seed in 0..kills() / 4 {
        let _ = fs::remove_file(&path);
        let status = interrupt(start(&save), Signal::SIGINT, moment(seed, whole));
        // Before the handler is set up the signal ends the command; behind the last call there is nothing left to cancel.
        match status.code() {
            None | Some(130) => assert_eq!(names(dir.path()), Vec::<String>::new(), "seed {seed}"),
            Some(0) => assert_eq!(names(dir.path()), ["guest.mram"], "seed {seed}"),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}
