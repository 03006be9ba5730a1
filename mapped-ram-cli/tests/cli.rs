//! The command as its users meet it: what it writes, prints, refuses, and how it ends.

#[path = "../../tests/support/notes.rs"]
mod notes;
mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};

use mapped_ram::{RamBlock, SaveOptions, SyncMode, Tail};
use nix::fcntl::{FallocateFlags, fallocate};
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
fn lost_pages_and_a_cut_file_are_exit_code_3() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1; 64]);
    let bytes = fs::read(&guest).unwrap();
    let holed = dir.path().join("holed");
    let file = File::create(&holed).unwrap();
    let (from, to) = ((1 << 20) + 10 * PAGE, (1 << 20) + 20 * PAGE);
    file.write_all_at(&bytes[..from], 0).unwrap();
    file.write_all_at(&bytes[to..], to as u64).unwrap();
    let (_, err) = expect(3, &["verify", text(&holed)]);
    assert!(err.contains("block `ram0`") && err.contains("10 pages") && err.contains("page 10"), "{err}");
    expect(0, &["verify", "--allow-holes", text(&holed)]);

    for length in [0, 3, 100, 1 << 20, bytes.len() - 1] {
        file.set_len(length as u64).unwrap();
        expect(3, &["verify", "--allow-holes", text(&holed)]);
    }
}

/// An image of libvirt's with a made-up guest of 1 MiB, and where its stream begins.
fn libvirt_image(path: &std::path::Path) -> usize {
    let xml = b"<domain type='qemu'/>\0";
    let (mut image, offset) = (vec![0; 92], 92 + xml.len() + 10);
    image[..16].copy_from_slice(b"LibvirtQemudSave");
    for (at, field) in [(16, 2), (20, u32::try_from(offset - 92).unwrap()), (24, 1), (28, 6)] {
        image[at..at + 4].copy_from_slice(&u32::to_le_bytes(field));
    }
    image.extend(xml);
    image.resize(offset, 0);
    fs::write(path, &image).unwrap();
    expect(0, &["save", "--synthetic", "1M", "--offset", &offset.to_string(), text(path)]);
    offset
}

#[test]
fn what_stands_before_a_stream_is_never_lost_by_a_copy_without_a_word() {
    let dir = dir();
    let (path, out) = (dir.path().join("saved.img"), dir.path().join("out"));
    let offset = libvirt_image(&path);
    let place = offset.to_string();
    let image = fs::read(&path).unwrap();
    // In its own place: the header would be nowhere any more.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for onto in [&path, &link] {
        let (_, err) = expect(2, &["copy", text(&path), text(onto)]);
        assert!(err.contains(text(onto)) && err.contains(&place) && err.contains("XML"), "{err}");
    }
    let plain = dir.path().join("plain");
    fs::write(&plain, [7; 5000]).unwrap();
    expect(0, &["save", "--synthetic", "1M", "--offset", "5000", text(&plain)]);
    let (_, err) = expect(2, &["copy", "--in-offset", "5000", text(&plain), text(&plain)]);
    assert!(err.contains("5000 bytes"), "{err}");
    assert!(fs::read(&path).unwrap() == image && fs::read(&plain).unwrap()[..5000] == [7; 5000]);

    // Elsewhere: a note, and the way that it tells of.
    let (said, err) = expect(0, &["copy", "--stats", "json", text(&path), text(&out)]);
    assert!(
        err.contains("note") && err.contains("libvirt") && err.contains(&format!("head -c {place}")),
        "{err}"
    );
    let stats: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(stats["notes"].to_string().contains("libvirt"), "{said}");
    fs::write(&out, &image[..offset]).unwrap();
    let (_, err) = expect(0, &["copy", "--offset", &place, text(&path), text(&out)]);
    assert!(!err.contains("libvirt"), "{err}");
    assert!(fs::read(&out).unwrap()[..offset] == image[..offset]);
    let (said, _) = expect(0, &["info", text(&out)]);
    assert!(said.contains("libvirt"), "{said}");
    expect(0, &["compare", text(&path), text(&out)]);
}

#[test]
fn a_libvirt_image_is_opened_by_itself() {
    let dir = dir();
    let path = dir.path().join("saved.img");
    let offset = libvirt_image(&path);
    let (said, _) = expect(0, &["info", text(&path)]);
    assert!(
        said.contains("libvirt") && said.contains("running") && said.contains(&format!("at offset {offset}")),
        "{said}"
    );
    expect(0, &["verify", text(&path)]);

    let mut part = fs::read(&path).unwrap();
    part[..16].copy_from_slice(b"LibvirtQemudPart");
    fs::write(&path, part).unwrap();
    expect(3, &["verify", text(&path)]);
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

#[test]
fn what_is_saved_is_restored_into_files_new_and_old() {
    let strategy = (
        prop::collection::vec(0_u8..3, 1..200),
        prop::collection::vec(0_u8..3, 1..50),
        1_u8..5,
        prop::sample::select(vec![
            "--direct-io",
            "--mode=auto",
            "--mode=buffered",
            "--mode=uring",
            "--stats=json",
        ]),
        any::<bool>(),
    );
    check(file!(), &strategy, |(one, two, channels, flag, exists)| {
        let dir = dir();
        let (one_path, one_memory) = ram_file(&dir, "one", &one);
        let (two_path, two_memory) = ram_file(&dir, "two", &two);
        let out = dir.path().join("guest.mram");
        let rams = [format!("pc.ram={}", text(&one_path)), format!("/rom={}", text(&two_path))];
        expect(0, &["save", "--ram", &rams[0], "--ram", &rams[1], text(&out)]);
        let saved = fs::read(&out).unwrap();
        let into = [dir.path().join("into one"), dir.path().join("into two")];
        if exists {
            // What an earlier guest left there must not show.
            fs::write(&into[0], vec![0xEE; one_memory.len()]).unwrap();
        }
        let channels = channels.to_string();
        let mut arguments = vec!["restore", "--block", "/rom", "--into", text(&into[1])];
        arguments.extend(["--block", "pc.ram", "--into", text(&into[0]), "--channels", &channels]);
        arguments.extend([flag, text(&out)]);
        let (said, _) = expect(0, &arguments);
        if flag == "--stats=json" {
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            let pages = one.iter().chain(&two).filter(|kind| **kind != 0).count();
            prop_assert_eq!(&said["pages_read"], pages);
            prop_assert_eq!(&said["guest_bytes"], one_memory.len() + two_memory.len());
            prop_assert_eq!(&said["restored"][1]["block"], "pc.ram");
        } else {
            prop_assert!(said.contains("block `pc.ram`") && said.contains("pages read"), "{}", said);
        }
        prop_assert!(fs::read(&into[0]).unwrap() == one_memory);
        prop_assert!(fs::read(&into[1]).unwrap() == two_memory);
        let present = one.iter().filter(|kind| **kind != 0).count();
        prop_assert!(used(&into[0]) <= (present * PAGE) as u64 + 8192);
        prop_assert!(fs::read(&out).unwrap() == saved);
        Ok(())
    });
}

#[test]
fn a_memfd_is_restored_into() {
    let dir = dir();
    let (guest, memory) = saved(&dir, "guest", &[1, 0, 2]);
    let memfd = File::from(memfd_create("ram", MFdFlags::empty()).unwrap());
    memfd.write_all_at(&[0xEE; 3 * PAGE], 0).unwrap();
    let into = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
    expect(0, &["restore", text(&guest), "--block", "ram0", "--into", &into]);
    let mut back = vec![0; memory.len()];
    memfd.read_exact_at(&mut back, 0).unwrap();
    assert!(back == memory);
}

/// More huge pages than any machine has: the error tells how many there would have to be.
#[test]
fn a_pool_of_huge_pages_that_is_too_small_is_named() {
    const LENGTH: u64 = 8 << 40;
    let dir = dir();
    let (ram, guest) = (dir.path().join("ram"), dir.path().join("guest.mram"));
    File::create(&ram).unwrap().set_len(LENGTH).unwrap();
    expect(0, &["save", "--ram", &format!("ram0={}", text(&ram)), text(&guest)]);
    let memfd = File::from(memfd_create("ram", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB).unwrap());
    memfd.set_len(LENGTH).unwrap();
    let into = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
    let (_, err) = expect(4, &["restore", text(&guest), "--block", "ram0", "--into", &into]);
    assert!(err.contains("block `ram0`: that takes 4194304 free huge pages of 2097152 bytes"), "{err}");
}

#[test]
fn a_restore_that_cannot_be_leaves_files_as_they_were() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 0, 2]);
    let (ram, before) = ram_file(&dir, "other", &[9, 9]);
    let new = dir.path().join("new");
    let restore = |arguments: &[&str]| expect(2, &[&["restore", text(&guest)], arguments].concat()).1;
    let err = restore(&["--block", "ram0", "--into", text(&ram)]);
    assert!(err.contains("8192 bytes") && err.contains("`ram0` 12288") && !err.contains("half"), "{err}");
    let err = restore(&["--block", "ram1", "--into", text(&new)]);
    assert!(err.contains("no block `ram1`; it has `ram0`"), "{err}");
    let err = restore(&["--block", "ram0", "--into", text(&guest)]);
    assert!(err.contains("is the input"), "{err}");
    let err = restore(&["--block", "ram0", "--into", text(dir.path())]);
    assert!(err.contains("no regular file"), "{err}");
    let err = restore(&["--block", "ram0", "--into", text(&new), "--into", text(&ram)]);
    assert!(err.contains("1 times --block and 2 times --into"), "{err}");
    let twice = ["--block", "ram0", "--into", text(&new), "--block", "ram0", "--into", text(&ram)];
    assert!(restore(&twice).contains("once only"));
    assert!(fs::read(&ram).unwrap() == before);
    assert!(!new.exists());
}

/// Two blocks in one file would be a mixture of both, by whatever paths it is named, and whether it is there or not.
#[test]
fn two_blocks_never_go_into_one_file() {
    let dir = dir();
    let (ram, before) = ram_file(&dir, "ram", &[1, 0, 2]);
    let two = dir.path().join("two.mram");
    let named = |name: &str| format!("{name}={}", text(&ram));
    expect(0, &["save", "--ram", &named("a"), "--ram", &named("b"), text(&two)]);
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let (here, new) = (dir.path().join("here"), dir.path().join("new"));
    std::os::unix::fs::symlink(dir.path(), &here).unwrap();
    let hard = dir.path().join("hard");
    fs::hard_link(&ram, &hard).unwrap();
    for (one, other) in [
        (&new, new.clone()),
        (&new, folder.join("../new")),
        (&new, here.join("new")),
        (&ram, ram.clone()),
        (&ram, folder.join("../ram")),
        (&ram, hard),
    ] {
        let arguments = ["--block", "a", "--into", text(one), "--block", "b", "--into", text(&other)];
        let (_, err) = expect(2, &[&["restore", text(&two)], &arguments[..]].concat());
        assert!(err.contains("once only") && !err.contains("half"), "{err}");
        assert!(!new.exists(), "{}", other.display());
        assert!(fs::read(&ram).unwrap() == before);
    }
}

#[test]
fn a_restore_that_fails_half_way_says_which_memory_is_spoilt() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1; 3]);
    // The second file is refused when the first is made already: it is taken away again.
    let (ram, before) = ram_file(&dir, "ram", &[9, 9]);
    let (new, two) = (dir.path().join("new"), dir.path().join("two.mram"));
    let named = |name: &str, path| format!("{name}={}", text(path));
    let (ram_a, _) = ram_file(&dir, "a", &[1; 3]);
    expect(0, &["save", "--ram", &named("a", &ram_a), "--ram", &named("b", &ram_a), text(&two)]);
    let (new_arg, ram_arg) = (text(&new), text(&ram));
    let both = ["restore", text(&two), "--block", "a", "--into", new_arg, "--block", "b", "--into", ram_arg];
    let (_, err) = expect(2, &both);
    assert!(!err.contains("half"), "{err}");
    assert!(!new.exists() && fs::read(&ram).unwrap() == before);

    // No more than a channel can be started with: the memory is given up by then.
    let (old, _) = ram_file(&dir, "old", &[9; 3]);
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 12 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mapped-ram")])
        .args(["restore", text(&guest), "--block", "ram0", "--into", text(&old), "--channels", "200"])
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{err}");
    assert!(err.contains(&format!("{}: half restored", text(&old))), "{err}");
}

/// A guest of 1 TiB of which two pages are in use, and what was in its memory: with holes read, these would take an hour.
#[test]
fn holes_are_equal_to_absent_pages_without_being_read() {
    const LENGTH: u64 = 1 << 40;
    let dir = dir();
    let (guest, ram) = (dir.path().join("guest"), dir.path().join("ram"));
    let pages = [0, LENGTH / 2 + 5 * PAGE as u64];
    let mut writer = SaveOptions::new()
        .sync(SyncMode::None)
        .create(&guest, vec![RamBlock::detached("ram0", LENGTH)])
        .unwrap();
    let raw = File::create(&ram).unwrap();
    raw.set_len(LENGTH).unwrap();
    for page in pages {
        writer.write_from(0, page, &[7; PAGE]).unwrap();
        raw.write_all_at(&[7; PAGE], page).unwrap();
    }
    writer.finish(&Tail::minimal()).unwrap();
    let ram0 = format!("ram0={}", text(&ram));
    let (said, _) = expect(0, &["verify", "--against", &ram0, text(&guest)]);
    assert!(said.contains("the same"), "{said}");
    let (copy, all) = (dir.path().join("copy"), dir.path().join("all"));
    expect(0, &["copy", "--sync", "none", text(&guest), text(&copy)]);
    expect(0, &["compare", text(&guest), text(&copy)]);
    expect(0, &["extract", "--all", "--output", text(&all), text(&guest)]);

    // Data against an absent page, and a hole against a present one.
    let differs_at = |page: u64| {
        let (said, _) = expect(1, &["verify", "--against", &ram0, text(&guest)]);
        assert!(said.contains(&format!("1 page differs, the first at offset {page:#x}")), "{said}");
    };
    let dig = |page: u64| {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&raw, hole, page.cast_signed(), 4096).unwrap();
    };
    raw.write_all_at(&[1; PAGE], LENGTH / 4).unwrap();
    differs_at(LENGTH / 4);
    dig(LENGTH / 4);
    dig(pages[1]);
    differs_at(pages[1]);
}

#[test]
fn bytes_behind_the_end_of_the_stream_are_a_warning_and_zeros_are_padding() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 2]);
    let whole = fs::read(&guest).unwrap();
    let behind = |bytes: &[u8]| {
        fs::write(&guest, [&whole, bytes].concat()).unwrap();
        let (said, err) = expect(0, &["verify", text(&guest)]);
        assert!(said.contains("sound"), "{said}");
        err
    };
    assert_eq!(behind(&[0; 5000]), "");
    let err = behind(&[&[0; 700][..], &[9; 4300]].concat());
    let words = format!("warning: {}: offset {:#x}: 5000 bytes", text(&guest), whole.len());
    assert!(err.contains(&words), "{err}");
}

/// Clears the bitmap of the n-th block, as if it had never been written. A file of its own, so that no note is left from before.
fn clear_bitmap(file: &std::path::Path, block: usize) {
    let reader = mapped_ram::Reader::open(file).unwrap();
    let at = usize::try_from(reader.blocks()[block].layout().bitmap_offset()).unwrap();
    let mut bytes = fs::read(file).unwrap();
    bytes[at..at + 8].fill(0);
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn pages_that_are_not_marked_are_told_and_not_thrown_away() {
    let dir = dir();
    let (one, _) = ram_file(&dir, "one", &[1, 0, 2, 2]);
    let (two, _) = ram_file(&dir, "two", &[3, 0]);
    let guest = dir.path().join("guest");
    let save = || {
        let (one, two) = (format!("one={}", text(&one)), format!("two={}", text(&two)));
        // One bridged page of zeros stands in the file too; that is no page that is lost.
        expect(0, &["save", "--ram", &one, "--ram", &two, "--bridge", "16", text(&guest)]);
    };
    let copy = dir.path().join("copy");
    let words = "block `one`, offset 0x100000: no page is marked present, but 12288 bytes";

    // Beside a block of which pages are present, it may be all zeros by the guest's own doing.
    save();
    clear_bitmap(&guest, 0);
    let (said, err) = expect(0, &["verify", text(&guest)]);
    assert!(said.contains("sound") && err.contains("warning: ") && err.contains(words), "{said}{err}");
    assert!(!err.contains("`two`"), "{err}");
    let (_, err) = expect(0, &["copy", text(&guest), text(&copy)]);
    assert!(err.contains("warning: ") && err.contains(words), "{err}");

    // Not a page of any block: nobody means that.
    clear_bitmap(&guest, 1);
    let before = fs::read(&guest).unwrap();
    let (said, err) = expect(3, &["verify", text(&guest)]);
    assert!(!said.contains("sound") && err.contains("error: ") && err.contains(words), "{said}{err}");
    assert!(err.contains("block `two`"), "{err}");
    for out in [&guest, &copy] {
        let before_out = fs::read(out).unwrap();
        let (_, err) = expect(3, &["copy", text(&guest), text(out)]);
        assert!(err.contains(words) && err.contains("--discard-unmarked"), "{err}");
        assert!(fs::read(out).unwrap() == before_out);
    }
    assert!(fs::read(&guest).unwrap() == before);
    let (_, err) = expect(0, &["copy", "--discard-unmarked", text(&guest), text(&copy)]);
    assert!(err.contains("warning: ") && err.contains(words), "{err}");
    // The copy has nothing of it.
    let (_, err) = expect(0, &["verify", text(&copy)]);
    assert_eq!(err, "");

    // A guest of zeros in the room of an older file: data, and all of it zeros.
    let zeros = dir.path().join("zeros");
    fs::write(&zeros, vec![0; 6 * PAGE]).unwrap();
    let ram0 = format!("ram0={}", text(&zeros));
    save();
    expect(0, &["save", "--ram", &ram0, "--recycle", text(&guest), text(&guest)]);
    for file in [&guest, &dir.path().join("written")] {
        if file != &guest {
            // The same with zeros written out, and no note.
            fs::write(file, fs::read(&guest).unwrap()).unwrap();
        }
        let (said, err) = expect(0, &["verify", text(file)]);
        assert!(said.contains("sound") && err.is_empty(), "{said}{err}");
        let (_, err) = expect(0, &["copy", text(file), text(&copy)]);
        assert_eq!(err, "");
    }
}
