//! How a save is asked for on the command line: every value that makes sense, and what is said to those that do not.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;

use support::{PAGE, dir, expect, ram_file, saved, text, used};

/// What the blocks of a file may change by after it was saved, in bytes: a few blocks of extents.
const BOOKKEEPING: u64 = 64 << 10;

#[test]
fn every_mode_and_sync_saves_the_same_guest_and_says_so() {
    let dir = dir();
    let (ram, memory) = ram_file(&dir, "ram", &[1, 0, 2, 0, 0, 3].repeat(100));
    let ram = format!("ram0={}", text(&ram));
    for mode in ["auto", "buffered", "direct", "uncached", "mixed", "uring"] {
        for sync in ["none", "data", "full"] {
            let out = dir.path().join("guest.mram");
            let arguments =
                ["save", "--ram", &ram, "--mode", mode, "--sync", sync, "--stats", "json", "-v", text(&out)];
            let (json, _) = expect(0, &arguments);
            let stats: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(stats["guest_bytes"], 600 * PAGE);
            assert_eq!((&stats["pages_written"], &stats["zero_pages"]), (&300.into(), &300.into()));
            assert_eq!(stats["sync"], sync);
            assert_ne!(stats["mode"], "auto");
            assert_eq!(stats["file_bytes"], fs::metadata(&out).unwrap().len());
            // A file system that allots late, or regroups its extents, changes its own bookkeeping behind the save's back.
            assert!(stats["disk_bytes"].as_u64().unwrap().abs_diff(used(&out)) <= BOOKKEEPING, "{stats}");
            assert!(
                stats["seconds"].as_f64().unwrap() > 0.0 && stats["gib_per_second"].as_f64().unwrap() > 0.0
            );
            let raw = dir.path().join("raw");
            expect(0, &["extract", text(&out), "--block", "ram0", "--output", text(&raw)]);
            assert!(fs::read(&raw).unwrap() == memory);
        }
    }
}

#[test]
fn every_page_is_counted_as_written_or_zero_once_by_save_and_copy() {
    let dir = dir();
    // Far larger than what a copy reads at a time: of 25600 pages 3 are written, one is zeros on the disk, the others are holes.
    let pages = 100 << 20 >> 12;
    let ram = dir.path().join("ram");
    let file = fs::File::create(&ram).unwrap();
    file.set_len(pages << 12).unwrap();
    for (page, kind) in [(0, 1), (1, 0), (9000, 2), (25_599, 3)] {
        file.write_all_at(&[kind; PAGE], page << 12).unwrap();
    }
    let ram = format!("ram0={}", text(&ram));
    let (guest, copy) = (dir.path().join("guest"), dir.path().join("copy"));
    let count = |arguments: &[&str]| {
        let (json, _) = expect(0, &[arguments, &["--stats", "json"]].concat());
        let stats: serde_json::Value = serde_json::from_str(&json).unwrap();
        ["pages_written", "zero_pages", "untouched_pages"].map(|key| stats[key].as_u64().unwrap())
    };
    let [written, zero, untouched] = count(&["save", "--ram", &ram, text(&guest)]);
    assert_eq!((written, zero), (3, pages - 3));
    assert!(untouched <= pages - 4);
    assert_eq!(count(&["copy", text(&guest), text(&copy)]), [3, pages - 3, pages - 3]);
    let all = ["--zero-detection", "none"];
    assert_eq!(count(&[&["save", "--ram", &ram, text(&guest)], &all[..]].concat()), [pages, 0, 0]);
    // Present pages of zeros are found to be so by a look.
    assert_eq!(count(&["copy", text(&guest), text(&copy)]), [3, pages - 3, 0]);
    // And absent ones are written if asked for.
    assert_eq!(count(&[&["copy", text(&copy), text(&guest)], &all[..]].concat()), [pages, 0, 0]);
    expect(0, &["compare", text(&guest), text(&copy)]);
}

#[test]
fn bridging_none_leaves_every_zero_page_a_hole() {
    let dir = dir();
    let (ram, _) = ram_file(&dir, "ram", &[1, 0].repeat(2000));
    let ram = format!("ram0={}", text(&ram));
    let size = |bridge| {
        let out = dir.path().join("guest.mram");
        expect(0, &["save", "--ram", &ram, "--bridge", bridge, text(&out)]);
        expect(0, &["verify", text(&out)]);
        used(&out)
    };
    assert!(size("none") < 2200 * PAGE as u64);
    assert!(size("auto") >= 3999 * PAGE as u64);
    assert!(size("1") >= 3999 * PAGE as u64);
    // A copy is made to be small.
    let (out, copy) = (dir.path().join("guest.mram"), dir.path().join("copy"));
    expect(0, &["copy", text(&out), text(&copy)]);
    assert!(used(&copy) < 2200 * PAGE as u64);
}

#[test]
fn an_expendable_file_is_taken_over_and_its_name_is_gone() {
    let dir = dir();
    let (old, _) = saved(&dir, "old", &[7; 3000]);
    let (ram, memory) = ram_file(&dir, "ram", &[0, 0, 5].repeat(500));
    let out = dir.path().join("guest.mram");
    let ram = format!("ram0={}", text(&ram));
    expect(0, &["save", "--ram", &ram, "--recycle", text(&old), text(&out)]);
    assert!(!old.exists());
    let raw = dir.path().join("raw");
    expect(0, &["verify", text(&out)]);
    expect(0, &["extract", text(&out), "--block", "ram0", "--output", text(&raw)]);
    assert!(fs::read(&raw).unwrap() == memory);
    let bytes = fs::read(&out).unwrap();
    assert!(!bytes.chunks(512).any(|sector| sector == [7; 512]), "old bytes are left");
}

#[test]
fn values_that_make_no_sense_are_refused_and_nothing_is_written_or_lost() {
    let dir = dir();
    let (old, _) = saved(&dir, "old", &[7; 30]);
    let before = fs::read(&old).unwrap();
    let (ram_path, _) = ram_file(&dir, "ram", &[1; 4]);
    let ram = format!("ram0={}", text(&ram_path));
    let out = dir.path().join("guest.mram");
    for (flags, said) in [
        (&["--max-bandwidth", "fast"][..], "fast"),
        (&["--max-bandwidth", "-1"], "-1"),
        (&["--channels", "0"], "0"),
        (&["--channels", "256"], "256"),
        (&["--chunk", "5000"], "multiple of the page size 4096"),
        (&["--chunk", "0"], "multiple of the page size 4096"),
        (&["--bridge", "some"], "some"),
        (&["--bridge", "-3"], "-3"),
        (&["--mode", "quick"], "quick"),
        (&["--sync", "perhaps"], "perhaps"),
        (&["--stats", "xml"], "xml"),
        (&["--mode", "direct", "--direct-io"], "--direct-io"),
        (&["--recycle", text(&ram_path)], "is the input"),
        (&["--recycle", text(&old), "--offset", "4096"], "--offset"),
    ] {
        let arguments = [&["save", "--ram", &ram], flags, &[text(&out)]].concat();
        let (_, err) = expect(2, &arguments);
        assert!(err.contains(said), "{flags:?}: {err}");
        assert!(!out.exists(), "{flags:?}");
        assert!(fs::read(&old).unwrap() == before, "{flags:?}");
    }
    let missing = dir.path().join("missing");
    let (_, err) = expect(4, &["save", "--ram", &ram, "--recycle", text(&missing), text(&out)]);
    assert!(err.contains("missing"), "{err}");
}

#[test]
fn a_limit_that_is_never_reached_changes_nothing() {
    let dir = dir();
    let (ram, memory) = ram_file(&dir, "ram", &[1; 100]);
    let out = dir.path().join("guest.mram");
    let ram = format!("ram0={}", text(&ram));
    expect(0, &["save", "--ram", &ram, "--max-bandwidth", "100G", text(&out)]);
    let raw = dir.path().join("raw");
    expect(0, &["extract", text(&out), "--block", "ram0", "--output", text(&raw)]);
    assert!(fs::read(&raw).unwrap() == memory);
}
