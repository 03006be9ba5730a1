//! The command when things go wrong: signals, full disks, closed pipes, files that are not what they should be, and names
//! that mean harm. What matters each time: the exit code, a word about it, and that nothing of anybody's is lost.

mod support;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use support::{command, dir, expect, expect_output, listing, ram_file, saved, text, with_signals};

/// Waits until the command has a file of the folder `dir` open that is not one of `inputs`: it is writing then.
fn wait_until_it_writes(child: &mut Child, dir: &Path, inputs: &[&Path]) {
    loop {
        assert!(child.try_wait().unwrap().is_none(), "ended too early");
        let open = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        let mut targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        if targets.any(|target| target.starts_with(dir) && !inputs.contains(&target.as_path())) {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn an_interrupted_save_leaves_no_file_or_one_that_is_called_incomplete() {
    for (signal, offset) in [(Signal::SIGINT, None), (Signal::SIGTERM, None), (Signal::SIGINT, Some("5000"))]
    {
        let dir = dir();
        let folder = dir.path().canonicalize().unwrap();
        let (ram, out) = (folder.join("ram"), folder.join("out"));
        fs::write(&ram, vec![7; 1 << 20]).unwrap();
        fs::write(&out, [7; 6000]).unwrap();
        let ram0 = format!("ram0={}", text(&ram));
        // So slow that the signal comes in time.
        let mut arguments = vec!["save", "--ram", &ram0, "--max-bandwidth", "1k", text(&out)];
        if let Some(offset) = offset {
            arguments.extend(["--offset", offset]);
        }
        let mut child = with_signals(&mut command()).args(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_it_writes(&mut child, &folder, &[&ram]);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let (_, err) = expect_output(130, child.wait_with_output().unwrap(), &arguments);
        assert!(err.contains(text(&out)) && err.contains("cancelled"), "{err}");
        assert_eq!(listing(&folder), ["out", "ram"]);
        match offset {
            None => assert!(fs::read(&out).unwrap() == [7; 6000]),
            Some(offset) => {
                // It may have its whole length already, which is more than memory holds.
                let mut left = [0; 5000];
                File::open(&out).unwrap().read_exact(&mut left).unwrap();
                assert!(left == [7; 5000]);
                expect(3, &["verify", "--offset", offset, text(&out)]);
            }
        }
    }
}

/// The signals that a process ignores, or handles, as its status tells.
fn signals(child: &Child, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_so() {
    let bit = |signal: Signal| 1_u64 << (signal as u32 - 1);
    for (ignored, names) in
        [(&[][..], ""), (&[Signal::SIGHUP], "HUP"), (&[Signal::SIGINT, Signal::SIGHUP], "INT HUP")]
    {
        let dir = dir();
        let folder = dir.path().canonicalize().unwrap();
        let (ram, out) = (folder.join("ram"), folder.join("out"));
        fs::write(&ram, vec![7; 1 << 20]).unwrap();
        let ram0 = format!("ram0={}", text(&ram));
        // So slow that the signals come in time.
        let arguments = ["save", "--ram", &ram0, "--max-bandwidth", "1k", text(&out)];
        // As nohup and shells do: it stays over exec.
        let mut child = with_signals(&mut Command::new("sh"))
            .args(["-c", "[ -z \"$1\" ] || trap '' $1; shift; exec \"$@\"", "sh", names])
            .arg(env!("CARGO_BIN_EXE_mapped-ram"))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_it_writes(&mut child, &folder, &[&ram]);
        let (kept, handled) = (signals(&child, "SigIgn"), signals(&child, "SigCgt"));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        for signal in ignored.iter().chain([&Signal::SIGTERM]) {
            kill(pid, *signal).unwrap();
        }
        let (_, err) = expect_output(130, child.wait_with_output().unwrap(), &arguments);
        assert!(err.contains("cancelled"), "{err}");
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let is_ignored = ignored.contains(&signal);
            assert_eq!(kept & bit(signal) != 0, is_ignored, "{names}: {signal}");
            assert_eq!(handled & bit(signal) != 0, !is_ignored, "{names}: {signal}");
        }
        assert_eq!(listing(&folder), ["ram"]);
    }
}

/// Runs the command where no file may grow past 2 MiB (4 MiB where the shell counts in KiB).
fn expect_on_a_full_disk(code: i32, arguments: &[&str]) -> String {
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 4096 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mapped-ram")])
        .args(arguments)
        .output()
        .unwrap();
    expect_output(code, output, arguments).1
}

#[test]
fn a_full_disk_is_exit_code_4_with_block_and_offset_and_the_old_file_stays() {
    let dir = dir();
    let (guest, out) = (dir.path().join("guest"), dir.path().join("out"));
    expect(0, &["save", "--synthetic", "12M", text(&guest)]);
    fs::write(&out, "precious").unwrap();
    for arguments in [
        &["save", "--synthetic", "12M", text(&out)][..],
        &["save", "--synthetic", "12M", "--direct-io", text(&out)],
        &["copy", text(&guest), text(&out)],
    ] {
        let err = expect_on_a_full_disk(4, arguments);
        for word in ["mapped-ram: error: ", text(&out), "block `ram0`", "offset 0x", "too large"] {
            assert!(err.to_lowercase().contains(&word.to_lowercase()), "{word}: {err}");
        }
        assert_eq!(fs::read_to_string(&out).unwrap(), "precious");
        assert_eq!(listing(dir.path()), ["guest", "out"]);
    }
    let err = expect_on_a_full_disk(4, &["extract", text(&guest), "--block", "ram0", "--output", text(&out)]);
    assert!(err.contains(text(&out)) && err.contains("block `ram0`"), "{err}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "precious");

    expect_on_a_full_disk(4, &["save", "--synthetic", "12M", "--offset", "8", text(&out)]);
    assert!(fs::read(&out).unwrap().starts_with(b"precious"));
    expect(3, &["verify", "--offset", "8", text(&out)]);

    // Where there was none there is none.
    let new = dir.path().join("new");
    expect_on_a_full_disk(4, &["save", "--synthetic", "12M", "--offset", "8", text(&new)]);
    expect_on_a_full_disk(4, &["copy", "--offset", "8", text(&guest), text(&new)]);
    assert_eq!(listing(dir.path()), ["guest", "out"]);
}

#[test]
fn a_made_up_guest_that_memory_has_no_room_for_is_exit_code_4() {
    let dir = dir();
    for size in ["1000000G", "0x7ffffffffffff000"] {
        let (_, err) = expect(4, &["save", "--synthetic", size, text(&dir.path().join("out"))]);
        assert!(err.contains("--synthetic") && err.contains("bytes of memory"), "{err}");
    }
    assert!(listing(dir.path()).is_empty());
}

#[test]
fn a_file_system_without_notes_is_exit_code_4_and_the_file_is_called_clean() {
    if !can_mount() {
        return;
    }
    let dir = dir();
    let (mount, (guest, _)) = (dir.path().join("mount"), saved(&dir, "guest", &[1, 0, 2]));
    fs::create_dir(&mount).unwrap();
    let run = "mount -t ramfs none \"$0\" && cp \"$1\" \"$0/guest\" && shift && \"$@\"";
    let arguments =
        ["-rm", "sh", "-c", run, text(&mount), text(&guest), env!("CARGO_BIN_EXE_mapped-ram"), "prepare"];
    let output = Command::new("unshare").args(arguments).arg(mount.join("guest")).output().unwrap();
    let (_, err) = expect_output(4, output, &arguments);
    assert!(
        err.contains("its clear pages are zeros in the file, but") && err.contains("cannot be noted"),
        "{err}"
    );
}

#[test]
fn hugetlbfs_is_called_by_its_name() {
    let dir = dir();
    let (mount, (guest, _)) = (dir.path().join("mount"), saved(&dir, "guest", &[1, 0, 2]));
    fs::create_dir(&mount).unwrap();
    let run = "mount -t hugetlbfs none \"$0\" || exit 99; \"$@\"";
    let out = mount.join("out");
    let (out, guest) = (text(&out), text(&guest));
    for arguments in [
        &["copy", guest, out][..],
        &["save", "--synthetic", "2M", out],
        &["save", "--offset", "4096", "--synthetic", "2M", out],
        &["extract", guest, "--block", "ram0", "--output", out],
    ] {
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", run, text(&mount), env!("CARGO_BIN_EXE_mapped-ram")])
            .args(arguments)
            .output();
        let is_missing = |output: &Output| {
            output.status.code() == Some(99)
                || String::from_utf8_lossy(&output.stderr).starts_with("unshare:")
        };
        match output {
            Ok(output) if !is_missing(&output) => {
                let (_, err) = expect_output(2, output, arguments);
                assert!(err.contains("is on hugetlbfs"), "{err}");
            }
            _ => eprintln!("NOT TESTED: an output on hugetlbfs, since none can be mounted here"),
        }
    }
}

/// Whether a file system of one's own can be mounted. Says so if not.
fn can_mount() -> bool {
    let can = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
    if !can {
        eprintln!(
            "NOT TESTED: full file systems, and ones without attributes, since none can be mounted here"
        );
    }
    can
}

#[test]
fn a_restore_into_a_full_file_system_says_which_and_how_much_it_lacks() {
    if !can_mount() {
        return;
    }
    let dir = dir();
    let (small, mount) = (dir.path().join("small"), dir.path().join("mount"));
    fs::create_dir(&mount).unwrap();
    let guest = dir.path().join("guest");
    // Of 4096 pages, most in holes, 300 are there, and there is room for 128.
    let ram = dir.path().join("ram");
    let mut memory = vec![0; 4096 << 12];
    for page in 0..300 {
        memory[page * 13 * 4096] = 1;
    }
    fs::write(&ram, memory).unwrap();
    fs::write(&small, [7; 4096]).unwrap();
    let rams = [("small", &small), ("large", &ram)].map(|(name, path)| format!("{name}={}", text(path)));
    expect(0, &["save", "--ram", &rams[0], "--ram", &rams[1], text(&guest)]);
    // The file system is gone when the shell is.
    let restore = "mount -t tmpfs -o size=512k none \"$1\" && truncate -s 16M \"$1/old\" && cd / && shift && \"$@\"; code=$?; \
                   ls \"$0\"; exit $code";
    for (mode, name) in
        ["auto", "buffered", "direct", "uring"].into_iter().flat_map(|mode| [(mode, "new"), (mode, "old")])
    {
        let (large, small) = (mount.join(name), dir.path().join("elsewhere"));
        let output = Command::new("unshare")
            .args(["-rm", "sh", "-c", restore, text(&mount), text(&mount)])
            .args([env!("CARGO_BIN_EXE_mapped-ram"), "restore", "--mode", mode, text(&guest)])
            .args(["--block", "large", "--into", text(&large), "--block", "small", "--into", text(&small)])
            .output()
            .unwrap();
        let (left, err) = expect_output(4, output, &[mode, name]);
        for word in [
            &format!("{}: fill the file with block `large`: No space left on device", text(&large)),
            "bytes are free on its file system, and",
            "block `large` partly",
        ] {
            assert!(err.contains(word), "{mode} {word}: {err}");
        }
        assert!(!err.contains("Bad address"), "{err}");
        // What was made is gone, and what was there is named.
        assert_eq!(left, "old\n");
        assert!(!small.exists());
        assert_eq!(err.contains(&format!("{}: half restored", text(&large))), name == "old", "{err}");
    }
}

#[test]
fn an_input_is_never_overwritten() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 0, 2]);
    let ram = dir.path().join("guest.ram");
    let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
    fs::hard_link(&ram, &hard).unwrap();
    symlink(&ram, &soft).unwrap();
    let all = dir.path().join("all");
    fs::create_dir(&all).unwrap();
    let inside = all.join("ram0.raw");
    fs::copy(&guest, &inside).unwrap();
    let ram0 = format!("ram0={}", text(&ram));
    let before = (fs::read(&guest).unwrap(), fs::read(&ram).unwrap());
    for arguments in [
        &["save", "--ram", &ram0, text(&ram)][..],
        &["save", "--ram", &ram0, text(&hard)],
        &["save", "--ram", &ram0, text(&soft)],
        &["save", "--ram", &ram0, "--offset", "4096", text(&ram)],
        &["copy", "--offset", "4096", text(&guest), text(&guest)],
        &["extract", text(&guest), "--block", "ram0", "--output", text(&guest)],
        &["extract", text(&inside), "--all", "--output", text(&all)],
    ] {
        let (_, err) = expect(2, arguments);
        assert!(err.contains("name another file"), "{err}");
    }
    assert!((fs::read(&guest).unwrap(), fs::read(&ram).unwrap()) == before);
    assert!(fs::read(&inside).unwrap() == before.0);
    // A copy as a new file may take its source's place.
    expect(0, &["copy", text(&guest), text(&guest)]);
    expect(0, &["verify", "--against", &ram0, text(&guest)]);
}

#[test]
fn what_is_printed_never_lands_in_an_output() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 0, 2]);
    let ram0 = format!("ram0={}", text(&dir.path().join("guest.ram")));
    let (out, new) = (dir.path().join("out"), dir.path().join("new"));
    let out_arg = text(&out);
    for (arguments, output) in [
        (&["restore", text(&guest), "--block", "ram0", "--into"][..], out_arg),
        (&["restore", text(&guest), "--block", "ram0", "--into"], "/dev/stdout"),
        (&["restore", text(&guest), "--block", "ram0", "--into"], "/dev/stderr"),
        (&["save", "--ram", &ram0, "--offset", "4096"], "/dev/stdout"),
        (&["save", "--ram", &ram0, "--offset", "4096"], out_arg),
        (&["save", "--ram", &ram0], out_arg),
        (&["save", "--ram", &ram0, "--recycle", out_arg], text(&new)),
        (&["copy", text(&guest)], out_arg),
        (&["extract", text(&guest), "--block", "ram0", "--output"], out_arg),
    ] {
        for is_stdout in [true, false] {
            if output == "/dev/stdout" && !is_stdout || output == "/dev/stderr" && is_stdout {
                continue;
            }
            fs::write(&out, [7; 3 * 4096]).unwrap();
            let stream = File::options().read(true).append(true).open(&out).unwrap();
            let mut command = command();
            command.args(arguments).arg(output).stdout(Stdio::piped()).stderr(Stdio::piped());
            let command = if is_stdout { command.stdout(stream) } else { command.stderr(stream) };
            let ended = command.spawn().unwrap().wait_with_output().unwrap();
            assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
            let mut left = fs::read(&out).unwrap();
            // An error is still told where it was to be told.
            let said = if is_stdout { ended.stderr } else { left.split_off(3 * 4096) };
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains("what is printed would stand in it; name another file"), "{said}");
            assert!(left == [7; 3 * 4096], "{arguments:?}");
            assert!(!new.exists());
        }
    }
}

#[test]
fn a_link_in_the_folder_is_not_followed_out_of_it() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1]);
    let (all, precious) = (dir.path().join("all"), dir.path().join("precious"));
    fs::create_dir(&all).unwrap();
    fs::write(&precious, "precious").unwrap();
    symlink("../precious", all.join("ram0.raw")).unwrap();
    let (_, err) = expect(2, &["extract", text(&guest), "--all", "--output", text(&all)]);
    assert!(err.contains("symbolic link"), "{err}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn pipes_and_folders_are_refused_at_once() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1]);
    let (pipe, out) = (dir.path().join("pipe"), dir.path().join("out"));
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for path in [pipe.as_path(), dir.path()] {
        let ram0 = format!("ram0={}", text(path));
        for arguments in [
            &["info", text(path)][..],
            &["verify", text(path)],
            &["verify", "--against", &ram0, text(&guest)],
            &["save", "--ram", &ram0, text(&out)],
            &["save", "--synthetic", "1M", "--offset", "10", text(path)],
            &["save", "--synthetic", "1M", text(path)],
            &["extract", text(&guest), "--block", "ram0", "--output", text(path)],
            &["copy", text(path), text(&out)],
            &["compare", text(&guest), text(path)],
        ] {
            let (_, err) = expect(2, arguments);
            assert!(err.contains(text(path)) && err.contains("no regular file"), "{err}");
        }
    }
    assert!(!out.exists());
}

#[test]
fn names_that_no_file_can_be_made_under_are_refused_in_words() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1]);
    let ram0 = format!("ram0={}", text(&dir.path().join("guest.ram")));
    let link = dir.path().join("link");
    symlink("nothing", &link).unwrap();
    let slash = format!("{}/x/", text(dir.path()));
    for (path, word) in [(text(&link), "a symbolic link to nothing"), (slash.as_str(), "ends in a slash")] {
        for arguments in [
            &["save", "--ram", &ram0, path][..],
            &["save", "--ram", &ram0, "--offset", "4096", path],
            &["copy", text(&guest), path],
            &["extract", text(&guest), "--block", "ram0", "--output", path],
            &["restore", text(&guest), "--block", "ram0", "--into", path],
        ] {
            let (_, err) = expect(2, arguments);
            assert!(err.contains(path) && err.contains(word), "{arguments:?}: {err}");
        }
    }
    assert_eq!(listing(dir.path()), ["guest", "guest.ram", "link"]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_file_that_may_not_be_written_and_read_is_said_to_need_both() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1]);
    // A program that runs cannot be written, whoever asks.
    let running = env!("CARGO_BIN_EXE_mapped-ram");
    let (_, err) = expect(4, &["restore", text(&guest), "--block", "ram0", "--into", running]);
    assert!(err.contains(&format!("{running}: open the file for reading and writing")), "{err}");
}

#[test]
fn an_extraction_that_fails_removes_the_folders_that_it_made_if_they_are_empty() {
    let dir = dir();
    let guest = dir.path().join("guest");
    expect(0, &["save", "--synthetic", "12M", text(&guest)]);
    let extract = |all: &Path| {
        let err = expect_on_a_full_disk(4, &["extract", text(&guest), "--all", "--output", text(all)]);
        assert!(err.contains("ram0.raw"), "{err}");
    };
    let all = dir.path().join("new/all");
    extract(&all);
    assert_eq!(listing(dir.path()), ["guest"]);
    // Not what was there, nor what somebody needs.
    fs::create_dir(dir.path().join("new")).unwrap();
    extract(&all);
    assert_eq!(listing(&dir.path().join("new")).len(), 0);
    fs::create_dir(&all).unwrap();
    extract(&all);
    assert_eq!(listing(&dir.path().join("new")), ["all"]);
    expect(0, &["extract", text(&guest), "--all", "--output", text(&dir.path().join("other/all"))]);
    assert_eq!(listing(&dir.path().join("other/all")), ["ram0.raw"]);
}

#[test]
fn what_was_restored_stays_when_only_printing_fails() {
    let dir = dir();
    let (guest, memory) = saved(&dir, "guest", &[1, 0, 2]);
    let new = dir.path().join("new");
    let arguments = ["restore", text(&guest), "--block", "ram0", "--into", text(&new)];
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command().args(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let (_, err) = expect_output(4, output.wait_with_output().unwrap(), &arguments);
    assert!(err.starts_with("mapped-ram: error: standard output: "), "{err}");
    assert!(fs::read(&new).unwrap() == memory);
}

#[test]
fn a_reader_that_went_away_changes_no_exit_code() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 2]);
    let (other, _) = ram_file(&dir, "other", &[1, 3]);
    let against = format!("ram0={}", text(&other));
    for (code, arguments) in [
        (0, &["info", text(&guest)][..]),
        (0, &["info", "--json", text(&guest)]),
        (1, &["verify", "--against", &against, text(&guest)]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command().args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let (_, err) = expect_output(code, output.wait_with_output().unwrap(), arguments);
        assert_eq!(err, "");
    }
    for arguments in [&["info", text(&guest)][..], &["--help"], &["save", "--help"], &["--version"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command().args(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let (_, err) = expect_output(4, output.wait_with_output().unwrap(), arguments);
        assert!(err.starts_with("mapped-ram: error: standard output: "), "{err}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command().args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let (_, err) = expect_output(0, output.wait_with_output().unwrap(), arguments);
        assert_eq!(err, "");
    }
}

#[test]
fn progress_bars_on_a_terminal_alone() {
    let dir = dir();
    let guest = dir.path().join("guest");
    let arguments = ["save", "--synthetic", "12M", text(&guest)];
    let (_, err) = expect(0, &arguments);
    assert_eq!(err, "");

    let terminal = openpty(&Winsize { ws_row: 25, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }, None).unwrap();
    let mut child = command().args(arguments).stdout(Stdio::null()).stderr(terminal.slave).spawn().unwrap();
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    let mut master = File::from(terminal.master);
    // The end of a terminal is an error.
    while let Ok(length @ 1..) = master.read(&mut bytes) {
        seen.extend(&bytes[..length]);
    }
    assert!(child.wait().unwrap().success());
    assert!(String::from_utf8_lossy(&seen).contains("save ["), "{}", String::from_utf8_lossy(&seen));
}

#[test]
fn names_and_paths_of_any_bytes_work_and_never_reach_the_terminal_raw() {
    let dir = dir();
    for (name, file) in [
        (&b"a\x1b[31m\nb\x7f"[..], "a%1B%5B31m%0Ab%7F.raw"),
        (b"\xff\xfe", "%FF%FE.raw"),
        (b"..", "%2E..raw"),
        (b"/rom@etc/acpi/tables", "%2From@etc%2Facpi%2Ftables.raw"),
    ] {
        let mut ram = dir.path().to_owned();
        ram.push(OsStr::from_bytes(b"ram=\xf0\n"));
        fs::write(&ram, [9; 8192]).unwrap();
        let (guest, raw, all) = (dir.path().join("guest"), dir.path().join("raw"), dir.path().join("all"));
        let named = OsString::from_vec([name, b"=", ram.as_os_str().as_bytes()].concat());
        let name = OsStr::from_bytes(name);
        let os = OsStr::new;
        for arguments in [
            &[os("save"), os("--ram"), &named, guest.as_os_str()][..],
            &[os("info"), guest.as_os_str()],
            &[os("verify"), os("--against"), &named, guest.as_os_str()],
            &[os("extract"), guest.as_os_str(), os("--block"), name, os("--output"), raw.as_os_str()],
            &[os("extract"), guest.as_os_str(), os("--all"), os("--output"), all.as_os_str()],
            &[os("compare"), guest.as_os_str(), guest.as_os_str()],
        ] {
            let (out, err) = expect(0, arguments);
            assert!(!out.contains(|char: char| char.is_control() && char != '\n' && char != '\t'), "{out:?}");
            assert_eq!(err, "");
        }
        let (_, err) = expect(
            2,
            &[os("extract"), guest.as_os_str(), os("--block"), os("no\x1b"), os("-o"), raw.as_os_str()],
        );
        assert!(err.ends_with('\n') && !err.trim_end().contains(char::is_control), "{err:?}");
        assert_eq!(fs::read(&raw).unwrap(), [9; 8192]);
        assert_eq!(listing(&all), [file]);
        let (json, _) = expect(0, &["info", "--json", text(&guest)]);
        let info: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(info["blocks"][0]["file_name"], file);
        fs::remove_dir_all(&all).unwrap();
    }
}

#[test]
fn an_offset_of_0_is_a_new_file() {
    let dir = dir();
    let (out, held) = (dir.path().join("out"), dir.path().join("held"));
    fs::write(&out, "old").unwrap();
    fs::hard_link(&out, &held).unwrap();
    expect(0, &["save", "--synthetic", "1M", "--offset", "0", text(&out)]);
    expect(0, &["verify", text(&out)]);
    let mut old = String::new();
    File::open(&held).unwrap().read_to_string(&mut old).unwrap();
    assert_eq!(old, "old");
}

/// A file that is whole stays, though its folder may not be read, which it takes to make the name durable; and that is said.
#[test]
fn a_finished_file_in_a_folder_that_cannot_be_read_stays() {
    let dir = dir();
    let folder = dir.path().join("drop");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o733)).unwrap();
    let path = folder.join("guest");
    for (sync, code) in [("none", 0), ("full", 4)] {
        let arguments = ["save", "--synthetic", "1M", "--offset", "0", "--sync", sync, text(&path)];
        let output = command().args(arguments).uid(65_534).gid(65_534).output();
        let output = match output {
            Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("create") => output,
            other => {
                eprintln!("NOT TESTED: folders that cannot be read: {other:?}");
                return;
            }
        };
        let (_, err) = expect_output(code, output, &arguments);
        assert!(code == 0 || err.contains("the file is whole") && err.contains("folder"), "{err}");
        expect(0, &["verify", text(&path)]);
        fs::remove_file(&path).unwrap();
    }
}

/// With fewer descriptors than all channels' rings would take the last channels do without.
#[test]
fn the_most_channels_fit_into_the_usual_limit_of_descriptors() {
    let dir = dir();
    let (ram, _) = ram_file(&dir, "ram", &[1; 600]);
    let (ram0, out) = (format!("ram0={}", text(&ram)), dir.path().join("out"));
    let arguments = ["save", "--ram", &ram0, "--channels", "255", text(&out)];
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 1024 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mapped-ram")])
        .args(arguments)
        .output()
        .unwrap();
    expect_output(0, output, &arguments);
    expect(0, &["verify", "--against", &ram0, text(&out)]);
}

/// Whether the standard library ended the program since a small piece of memory was not to be had: nothing can be said then.
fn has_no_memory_for_a_word(err: &str) -> bool {
    let sizes = err.lines().filter_map(|line| {
        line.strip_prefix("memory allocation of ")?.split(' ').next()?.parse::<u64>().ok()
    });
    let largest = sizes.max();
    largest.is_some_and(|largest| largest < 64 << 10)
}

/// Whatever memory there is: either it is enough, or an error says how much was wanted. No large piece of it ends the program.
#[test]
fn without_memory_it_is_an_error_and_no_abort() {
    let dir = dir();
    let guest = dir.path().join("guest");
    expect(0, &["save", "--synthetic", "64M", "--sync", "none", text(&guest)]);
    let (out, all) = (dir.path().join("out"), dir.path().join("all"));
    let mut refused = 0;
    // In KiB of address space. With less the program itself is not loaded on some machines.
    for limit in (12_000..60_000).step_by(4_000) {
        for arguments in [
            &["verify", text(&guest)][..],
            &["copy", "--sync", "none", text(&guest), text(&out)],
            &["extract", "--all", "--output", text(&all), text(&guest)],
            &["compare", text(&guest), text(&guest)],
        ] {
            let output = Command::new("sh")
                .args(["-c", &format!("ulimit -v {limit} && exec \"$0\" \"$@\"")])
                .arg(env!("CARGO_BIN_EXE_mapped-ram"))
                .args(arguments)
                .output()
                .unwrap();
            // The loader's own word for too little.
            let too_little = output.status.code() == Some(127);
            if too_little || has_no_memory_for_a_word(&String::from_utf8_lossy(&output.stderr)) {
                continue;
            }
            let code = if output.status.success() { 0 } else { 4 };
            let (_, err) = expect_output(code, output, arguments);
            refused += usize::from(code == 4 && err.contains("bytes of memory to read into"));
        }
    }
    assert!(refused > 0, "it was always enough");
}
