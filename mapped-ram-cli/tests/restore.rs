//! Restoring into the files that are guests' RAM: new ones, old ones, memfds, and what is left of each when it cannot be done.

mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;

use support::{PAGE, check, dir, expect, ram_file, saved, text, used};

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
