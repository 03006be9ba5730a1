//! The command as its users meet it: what it writes, prints, refuses, and how it ends.

#[path = "../../tests/support/notes.rs"]
mod notes;
mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;

use support::{PAGE, check, dir, expect, ram_file, saved, text, used};

#[test]
fn what_is_saved_is_extracted() {
    let strategy = (
        prop::collection::vec(0_u8..3, 1..200),
        prop::collection::vec(0_u8..3, 1..50),
        1_u8..5,
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(None), (0_u64..20_000).prop_map(Some)],
    );
    check(file!(), &strategy, |(one, two, channels, direct, zero_detection, offset)| {
        let dir = dir();
        let (one_path, one_memory) = ram_file(&dir, "one", &one);
        let (two_path, two_memory) = ram_file(&dir, "two", &two);
        let out = dir.path().join("guest.mram");
        let channels = channels.to_string();
        let ram_one = format!("pc.ram={}", text(&one_path));
        let ram_two = format!("../../etc/passwd={}", text(&two_path));
        let mut arguments = vec!["save", "--ram", &ram_one, "--ram", &ram_two, "--channels", &channels];
        let at = offset.map(|offset| offset.to_string());
        let offset_arguments: Vec<&str> = at.iter().flat_map(|at| ["--offset", at.as_str()]).collect();
        arguments.extend(&offset_arguments);
        if direct {
            arguments.push("--direct-io");
        }
        arguments.extend(["--zero-detection", if zero_detection { "on" } else { "none" }, text(&out)]);
        expect(0, &arguments);
        prop_assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);

        let with_offset = |rest: &[&str]| -> Vec<String> {
            rest[..1]
                .iter()
                .chain(&offset_arguments)
                .chain(&rest[1..])
                .map(|part| (*part).to_owned())
                .collect()
        };
        let expect_at = |code, rest: &[&str]| {
            let arguments = with_offset(rest);
            expect(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        expect_at(0, &["verify", "--against", &ram_one, "--against", &ram_two, text(&out)]);
        let raw = dir.path().join("raw");
        expect_at(0, &["extract", text(&out), "--block", "pc.ram", "--output", text(&raw)]);
        prop_assert!(fs::read(&raw).unwrap() == one_memory);
        let zeros = one.len() - one.iter().filter(|kind| **kind != 0).count();
        prop_assert!(used(&raw) <= ((one.len() - zeros) * PAGE) as u64 + 8192);
        let all = dir.path().join("all");
        expect_at(0, &["extract", text(&out), "--all", "--output", text(&all)]);
        let mut names: Vec<_> = fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        prop_assert_eq!(names, ["%2E.%2F..%2Fetc%2Fpasswd.raw", "pc.ram.raw"]);
        prop_assert!(fs::read(all.join("%2E.%2F..%2Fetc%2Fpasswd.raw")).unwrap() == two_memory);

        let (json, _) = expect_at(0, &["info", "--json", text(&out)]);
        let info: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&info["stream_offset"], offset.unwrap_or(0));
        prop_assert_eq!(&info["machine"], "none");
        prop_assert_eq!(&info["blocks"][0]["name"], "pc.ram");
        let present = if zero_detection { one.len() - zeros } else { one.len() };
        prop_assert_eq!(&info["blocks"][0]["present_pages"], present);

        let copy = dir.path().join("copy");
        let in_offset: Vec<&str> = at.iter().flat_map(|at| ["--in-offset", at.as_str()]).collect();
        expect(0, &[&["copy"], &in_offset[..], &[text(&out), text(&copy)]].concat());
        let offset_a: Vec<&str> = at.iter().flat_map(|at| ["--offset-a", at.as_str()]).collect();
        let (said, _) = expect(0, &[&["compare"], &offset_a[..], &[text(&out), text(&copy)]].concat());
        prop_assert!(
            said.contains("pc.ram: the same") && said.contains("device state: the same"),
            "{}",
            said
        );
        let (json, _) = expect(0, &["info", "--json", text(&copy)]);
        let info: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&info["blocks"][0]["present_pages"], one.len() - zeros);
        Ok(())
    });
}

#[test]
fn compare_finds_the_pages_that_differ() {
    let strategy = prop::collection::vec((0_u8..3, 0_u8..3), 1..100);
    check(file!(), &strategy, |pages| {
        let dir = dir();
        let (one, two): (Vec<u8>, Vec<u8>) = pages.iter().copied().unzip();
        let (one, two) = (saved(&dir, "one", &one).0, saved(&dir, "two", &two).0);
        let differing: Vec<usize> =
            pages.iter().enumerate().filter(|(_, (one, two))| one != two).map(|(page, _)| page).collect();
        let code = i32::from(!differing.is_empty());
        let (said, _) = expect(code, &["compare", text(&one), text(&two)]);
        let expected = match differing.as_slice() {
            [] => "ram0: the same".to_owned(),
            [page] => format!("ram0: 1 page differs, the first at offset {:#x}: page {page}", page * PAGE),
            [first, ..] => {
                let (count, offset) = (differing.len(), first * PAGE);
                format!("ram0: {count} pages differ, the first at offset {offset:#x}: page {first}")
            }
        };
        prop_assert!(said.contains(&expected), "{}: {}", expected, said);
        prop_assert!(said.contains("device state: the same"), "{}", said);
        Ok(())
    });
}

#[test]
fn a_file_with_flipped_bytes_is_read_or_refused() {
    let strategy = prop::collection::vec((prop_oneof![0_usize..200, any::<usize>()], 1_u8..=255), 1..4);
    check(file!(), &strategy, |flips| {
        let dir = dir();
        let (guest, _) = saved(&dir, "guest", &[1, 0, 2]);
        let mut bytes = fs::read(&guest).unwrap();
        for (at, flip) in flips {
            // The head, the bitmap, or the last page and the tail: between them is only padding.
            let at = if at < 200 { at } else { bytes.len() - 1 - at % 200 };
            bytes[at] ^= flip;
        }
        fs::write(&guest, bytes).unwrap();
        let (raw, copy) = (dir.path().join("all"), dir.path().join("copy"));
        for arguments in [
            &["info", text(&guest)][..],
            &["info", "--json", text(&guest)],
            &["verify", text(&guest)],
            &["extract", text(&guest), "--all", "--output", text(&raw)],
            &["copy", text(&guest), text(&copy)],
            &["compare", text(&guest), text(&guest)],
        ] {
            let output = support::command().args(arguments).output().unwrap();
            let code = output.status.code();
            let err = String::from_utf8_lossy(&output.stderr);
            prop_assert!(code == Some(0) || code == Some(3), "{:?} {}: {}", arguments, output.status, err);
            // A warning may come first: a bitmap whose only bits were flipped is one of a file that lost its pages.
            let says_error = err.lines().any(|line| line.starts_with("mapped-ram: error: "));
            prop_assert_eq!(code == Some(3), says_error, "{}", err);
        }
        Ok(())
    });
}

#[test]
fn garbage_is_an_error_and_no_more() {
    let strategy = (prop::collection::vec(any::<u8>(), 0..5000), any::<bool>());
    check(file!(), &strategy, |(bytes, magic)| {
        let dir = dir();
        let path = dir.path().join("garbage");
        let bytes = if magic { [b"QEVM\0\0\0\x03".as_slice(), &bytes].concat() } else { bytes };
        fs::write(&path, bytes).unwrap();
        for arguments in [
            &["info", text(&path)][..],
            &["verify", text(&path)],
            &["extract", text(&path), "--all", "--output", text(&dir.path().join("all"))],
            &["copy", text(&path), text(&dir.path().join("copy"))],
            &["compare", text(&path), text(&path)],
        ] {
            let (_, err) = expect(3, arguments);
            prop_assert!(err.starts_with("mapped-ram: error: ") && err.contains(text(&path)), "{}", err);
        }
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        Ok(())
    });
}

#[test]
fn a_synthetic_guest_is_the_same_for_the_same_seed() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    for (name, seed, channels) in [("a", "7", "1"), ("b", "7", "3"), ("c", "8", "1")] {
        expect(0, &["save", "--synthetic", "20M", "--seed", seed, "--channels", channels, text(&path(name))]);
    }
    assert!(fs::read(path("a")).unwrap() == fs::read(path("b")).unwrap());
    expect(0, &["compare", text(&path("a")), text(&path("b"))]);
    let (said, _) = expect(1, &["compare", text(&path("a")), text(&path("c"))]);
    assert!(said.contains("pages differ, the first at offset 0x0"), "{said}");
}

#[test]
fn bad_usage_is_exit_code_2_and_says_what_to_do() {
    let dir = dir();
    let (ram, _) = ram_file(&dir, "ram", &[1, 2]);
    let odd = dir.path().join("odd");
    fs::write(&odd, [1; 5000]).unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, []).unwrap();
    let out = dir.path().join("out");
    let (guest, _) = saved(&dir, "guest", &[1]);
    let ram0 = format!("ram0={}", text(&ram));
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["save", text(&out)], "--ram"),
        (&["save", "--ram", "x", text(&out)], "NAME=FILE"),
        (&["save", "--ram", &ram0, "--synthetic", "1M", text(&out)], "--synthetic"),
        (&["save", "--synthetic", "1Q", text(&out)], "1Q"),
        (&["save", "--synthetic", "0", text(&out)], "page size"),
        (&["save", "--synthetic", "5000", text(&out)], "page size"),
        (&["save", "--synthetic", "16777215T", text(&out)], "no room"),
        (&["save", "--synthetic", "1M", "--channels", "0", text(&out)], "channels"),
        (&["save", "--synthetic", "1M", "--channels", "256", text(&out)], "channels"),
        (&["save", "--synthetic", "1M", "--page-size", "0", text(&out)], "page-size"),
        (&["save", "--synthetic", "3000k", "--page-size", "3000", text(&out)], "3000"),
        (&["save", "--synthetic", "1M", "--zero-detection", "maybe", text(&out)], "maybe"),
        (&["save", "--ram", &format!("ram0={}", text(&odd)), text(&out)], "5000 bytes"),
        (&["save", "--ram", &format!("ram0={}", text(&empty)), text(&out)], "0 bytes"),
        (&["save", "--ram", &ram0, "--ram", &ram0, text(&out)], "ram0"),
        (&["extract", text(&guest), "--output", text(&out)], "--block"),
        (&["extract", text(&guest), "--block", "ram0", "--all", "--output", text(&out)], "--all"),
        (&["extract", text(&guest), "--block", "ram1", "--output", text(&out)], "it has `ram0`"),
        (&["verify", "--against", &format!("ram1={}", text(&ram)), text(&guest)], "it has `ram0`"),
    ];
    for (arguments, word) in cases {
        let (_, err) = expect(2, arguments);
        assert!(err.contains(word), "{arguments:?}: {err}");
    }
    assert!(!out.exists());
}

#[test]
fn what_the_system_refuses_is_exit_code_4() {
    let dir = dir();
    let missing = dir.path().join("missing");
    let beyond = dir.path().join("no/such/folder/out");
    for arguments in [
        &["info", text(&missing)][..],
        &["verify", text(&missing)],
        &["save", "--ram", &format!("ram0={}", text(&missing)), text(&dir.path().join("out"))],
        &["save", "--synthetic", "1M", text(&beyond)],
    ] {
        let (_, err) = expect(4, arguments);
        assert!(err.starts_with("mapped-ram: error: "), "{err}");
        assert!(err.contains("missing") || err.contains("no/such/folder"), "{err}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn content_that_differs_is_exit_code_1_and_says_where() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 0, 2, 2]);
    let (other, _) = ram_file(&dir, "other", &[1, 0, 2, 3]);
    let (short, _) = ram_file(&dir, "short", &[1, 0, 2]);
    let (said, _) = expect(1, &["verify", "--against", &format!("ram0={}", text(&other)), text(&guest)]);
    assert!(said.contains("1 page differs, the first at offset 0x3000: page 3"), "{said}");
    let (said, _) = expect(1, &["verify", "--against", &format!("ram0={}", text(&short)), text(&guest)]);
    assert!(said.contains("differs"), "{said}");
}

#[test]
fn an_old_file_stays_when_a_save_fails() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 2, 3]);
    let before = fs::read(&guest).unwrap();
    let odd = dir.path().join("odd");
    fs::write(&odd, [1; 5000]).unwrap();
    expect(2, &["save", "--ram", &format!("ram0={}", text(&odd)), text(&guest)]);
    assert!(fs::read(&guest).unwrap() == before);
    // And is replaced, with the mode of a new file, when one succeeds.
    fs::set_permissions(&guest, fs::Permissions::from_mode(0o644)).unwrap();
    expect(0, &["save", "--synthetic", "1M", text(&guest)]);
    assert!(fs::read(&guest).unwrap() != before);
    assert_eq!(fs::metadata(&guest).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_stream_behind_an_offset_keeps_what_stands_before() {
    let dir = dir();
    let path = dir.path().join("container");
    fs::write(&path, [0x55; 10_000]).unwrap();
    expect(0, &["save", "--synthetic", "1M", "--offset", "9k", text(&path)]);
    assert_eq!(&fs::read(&path).unwrap()[..9216], &[0x55; 9216]);
    expect(0, &["verify", "--offset", "9k", text(&path)]);
    expect(3, &["verify", text(&path)]);
    expect(3, &["verify", "--offset", "9217", text(&path)]);
    expect(3, &["verify", "--offset", "1T", text(&path)]);
}

#[test]
fn a_save_in_place_that_cannot_be_laid_out_touches_nothing() {
    let dir = dir();
    let (new, old) = (dir.path().join("new"), dir.path().join("old"));
    fs::write(&old, "precious").unwrap();
    let (ram, _) = ram_file(&dir, "ram", &[1]);
    let ram0 = format!("ram0={}", text(&ram));
    let twice = ["--ram", &ram0, "--ram", &ram0, "--offset", "4"];
    for (path, what) in [&new, &old].into_iter().flat_map(|path| {
        [(path, &["--synthetic", "1M", "--offset", "9223372036854775807"][..]), (path, &twice[..])]
    }) {
        let (_, err) = expect(2, &[&["save"], what, &[text(path)]].concat());
        assert!(err.contains("make no mapped-ram stream"), "{err}");
        assert!(!new.exists());
        assert_eq!(fs::read_to_string(&old).unwrap(), "precious");
    }
}

#[test]
fn a_memfd_of_another_process_is_a_ram_file() {
    let dir = dir();
    let memory = File::from(memfd_create("guest-ram", MFdFlags::MFD_CLOEXEC).unwrap());
    memory.set_len(1 << 20).unwrap();
    memory.write_all_at(&[5; PAGE], 9 * PAGE as u64).unwrap();
    let ram0 = format!("ram0=/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let guest = dir.path().join("guest");
    expect(0, &["save", "--ram", &ram0, text(&guest)]);
    let (said, _) = expect(0, &["verify", "--against", &ram0, text(&guest)]);
    assert!(said.contains("256 pages, 1 present"), "{said}");
}

#[test]
fn a_file_is_prepared_for_being_mapped() {
    let dir = dir();
    if !notes::are_kept(dir.path()) {
        return;
    }
    let note = |path: &std::path::Path| {
        let (info, _) = expect(0, &["info", "--json", text(path)]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["noted_clean"].as_bool().unwrap()
    };
    // Saves and copies are noted already.
    let (guest, _) = saved(&dir, "guest.mram", &[1, 0, 2, 0, 0, 3]);
    assert!(note(&guest));
    assert!(expect(0, &["info", text(&guest)]).0.contains("note "));
    assert!(expect(0, &["prepare", text(&guest)]).0.contains("noted already"));
    let copy = dir.path().join("copy.mram");
    expect(0, &["copy", text(&guest), text(&copy)]);
    assert!(note(&copy));

    // Another program's copy has none until it was looked at.
    let bytes = fs::read(&guest).unwrap();
    fs::write(&copy, &bytes).unwrap();
    assert!(!note(&copy));
    assert!(!expect(0, &["info", text(&copy)]).0.contains("note "));
    assert!(expect(0, &["prepare", text(&copy)]).0.contains("takes no look"));
    assert!(note(&copy));

    let (info, _) = expect(0, &["info", "--json", text(&guest)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let offset = info["blocks"][0]["pages_offset"].as_u64().unwrap() + 4 * PAGE as u64;
    fs::File::options().write(true).open(&copy).unwrap().write_all_at(b"x", offset + 9).unwrap();
    let (said, _) = expect(1, &["prepare", text(&copy)]);
    assert!(
        said.contains("`ram0`: page 4 is zero") && said.contains(&format!("offset {offset:#x}")),
        "{said}"
    );
    assert!(!note(&copy));
    let anew = dir.path().join("anew.mram");
    expect(0, &["copy", text(&copy), text(&anew)]);
    assert!(note(&anew));
    expect(0, &["compare", text(&anew), text(&guest)]);
}

#[test]
fn help_documents_the_exit_codes() {
    for command in ["", "save", "info", "verify", "extract", "copy", "compare", "prepare"] {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|part| !part.is_empty()).collect();
        let (said, _) = expect(0, &arguments);
        for code in [
            "Exit codes:",
            "0    all",
            "1    the content",
            "2    the command",
            "3    the file",
            "4    the system",
            "130  ",
        ] {
            assert!(said.contains(code), "{said}");
        }
    }
    expect(0, &["--version"]);
}
