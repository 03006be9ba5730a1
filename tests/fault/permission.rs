//! Without permission: faults of the kernel's are refused with what to do, and those of user mode alone are handled.
//!
//! Root may everything, so this test program runs again as nobody.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mapped_ram::fault::{Ending, FaultOptions, FaultTarget, Fill, GuestRegion, receive, register, send};
use mapped_ram::{Cancel, Error, ErrorKind};
use nix::libc;

use crate::memory::{Kind, Memory, PAGE, Page, expect_same, is_readable, save};
use crate::{PAGES, open, pages, start};

const NOBODY: u32 = 65534;
const DIR: &str = "MAPPED_RAM_TEST_NOBODYS_DIR";
const KINDS: [Kind; 3] = [Kind::Private, Kind::Anonymous, Kind::Memfd];

/// Nobody may not reach the target's directory: all that is needed is put elsewhere.
#[test]
fn as_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    for test in ["refused", "handled", "dropped", "registered", "calls"] {
        let mut command = Command::new(&program);
        command.args(["--exact", &format!("permission::nobody_{test}"), "--nocapture"]);
        command.env(DIR, dir.path()).current_dir(dir.path());
        if is_root() {
            // Takes the other groups away too.
            command.uid(NOBODY).gid(NOBODY);
        }
        let done =
            command.output().unwrap_or_else(|error| panic!("run {} as nobody: {error}", program.display()));
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        println!("{out}{err}");
        assert!(done.status.success(), "{test}, as nobody: {}", done.status);
        assert!(out.contains("NOBODY WAS HERE"), "{test} did not run");
    }
}

/// The directory of who runs as nobody; nothing for others.
fn nobodys(test: impl FnOnce(&Path)) {
    let Some(dir) = std::env::var_os(DIR) else { return };
    assert!(!is_root());
    test(Path::new(&dir));
    println!("NOBODY WAS HERE");
}

fn is_root() -> bool {
    // SAFETY: asks for a number, and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether even nobody may handle the kernel's faults here.
fn may_everything() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let sysctl = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    sysctl.is_ok_and(|value| value.trim() == "1")
        || u64::from_str_radix(capabilities.trim(), 16).unwrap() & CAP_SYS_PTRACE != 0
        || File::options().read(true).write(true).open("/dev/userfaultfd").is_ok()
}

#[test]
fn nobody_refused() {
    nobodys(|dir| {
        let path = dir.join("refused");
        let saved = save(&path, &[("ram0", &pages())]).remove(0);
        let reader = open(&path);
        let memory = Memory::new(Kind::Private, saved.len()).unwrap();
        let target = FaultTarget::new(reader.block("ram0").unwrap(), memory.start.as_ptr(), memory.length);
        // SAFETY: mapped by the test, and touched through raw pointers only.
        let started = unsafe { FaultOptions::new().start(&[target]) };
        // SAFETY: nothing is registered.
        let registered = unsafe { register(&[], false) };
        if may_everything() {
            eprintln!("NOT TESTED what is said without permission: everybody has it here");
            started.unwrap().wait().unwrap();
            registered.unwrap();
            expect_same(&memory.all(), &saved, "memory");
            return;
        }
        for error in [started.unwrap_err(), registered.unwrap_err()] {
            expect_advice(&error);
        }
        // It was not registered: nobody would serve who touches it.
        assert_eq!(memory.read(2 * PAGE), 0);
    });
}

fn expect_advice(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = error.to_string();
    println!("{text}");
    let said = [
        "/dev/userfaultfd",
        "CAP_SYS_PTRACE",
        "vm.unprivileged_userfaultfd",
        "user_mode_only",
        "os error 1)",
    ];
    for part in said {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn nobody_handled() {
    nobodys(|dir| {
        let path = dir.join("handled");
        let saved = save(&path, &[("ram0", &pages())]).remove(0);
        let reader = open(&path);
        for kind in KINDS {
            for fill in [Fill::Nothing, Fill::All] {
                let memory = Memory::new(kind, saved.len()).unwrap();
                let options = FaultOptions::new().user_mode_only(true).fill(fill).channels(2);
                let handler = start(options, &reader, &memory, PAGE);
                memory.write(6 * PAGE + 1, 200);
                memory.write(8 * PAGE + 1, 201);
                let mut expected = saved.clone();
                (expected[6 * PAGE + 1], expected[8 * PAGE + 1]) = (200, 201);
                expect_same(&memory.all(), &expected, "memory");
                let report = handler.wait().unwrap();
                assert_eq!(report.ending, Ending::Complete);
                assert_eq!((report.counters.present, report.counters.lost), (100, 0));
                drop(handler);
                expect_same(&memory.all(), &expected, "memory without a handler");
            }
        }
    });
}

#[test]
fn nobody_dropped() {
    nobodys(|dir| {
        let path = dir.join("dropped");
        let saved = save(&path, &[("ram0", &pages())]).remove(0);
        let reader = open(&path);
        for kind in KINDS {
            let memory = Memory::new(kind, saved.len()).unwrap();
            let options = FaultOptions::new().user_mode_only(true).fill(Fill::Nothing);
            let handler = start(options, &reader, &memory, PAGE);
            assert_eq!(memory.read(2 * PAGE), saved[2 * PAGE]);
            assert_eq!(handler.stop().ending, Ending::Stopped);
            for page in 0..PAGES {
                // The kernel reads what no handler has any more, but for what is poisoned.
                assert_eq!(is_readable(&memory, page * PAGE), page % 4 < 2 || page == 2, "page {page}");
            }
        }
    });
}

#[test]
fn nobody_registered() {
    nobodys(|dir| {
        let path = dir.join("registered");
        let saved = save(&path, &[("ram0", &pages())]).remove(0);
        let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
        let region = GuestRegion {
            base_host_virt_addr: memory.start.as_ptr() as u64,
            size: memory.length as u64,
            offset: 0,
            page_size: PAGE as u64,
            block: None,
        };
        let regions = [region];
        // SAFETY: mapped for this, and touched through raw pointers only.
        let fd = unsafe { register(&regions, true) }.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, fd.as_fd(), &regions).unwrap();
        let guest = receive(theirs, Duration::from_secs(60), &Cancel::new()).unwrap();
        let handler = FaultOptions::new().fill(Fill::Nothing).serve(&open(&path), guest).unwrap();
        expect_same(&memory.all(), &saved, "memory");
        assert_eq!(handler.wait().unwrap().ending, Ending::Complete);
    });
}

/// The price: system calls do not wait for missing pages, as is documented.
#[test]
fn nobody_calls() {
    nobodys(|dir| {
        let path = dir.join("calls");
        let saved = save(&path, &[("ram0", &[Page::Present(7); 16])]).remove(0);
        let reader = open(&path);
        let input = dir.join("input");
        std::fs::write(&input, [9; 2 * PAGE]).unwrap();
        let input = File::open(input).unwrap();
        for kind in KINDS {
            let memory = Memory::new(kind, saved.len()).unwrap();
            let options = FaultOptions::new().user_mode_only(true).fill(Fill::Nothing);
            let handler = start(options, &reader, &memory, PAGE);
            assert!(!is_readable(&memory, 0), "write(2) from a missing page");
            assert_eq!(read(&input, &memory, 0).unwrap_err().raw_os_error(), Some(libc::EFAULT));
            assert_eq!(handler.counters().faults, 0);
            assert_eq!(memory.read(0), 7);
            assert!(is_readable(&memory, 0));
            assert_eq!(read(&input, &memory, 0).unwrap(), PAGE, "short, where a missing page begins");
            assert_eq!((memory.read(0), memory.read(PAGE)), (9, 7));
            assert_eq!(read(&input, &memory, 0).unwrap(), 2 * PAGE);
            let mut expected = saved.clone();
            expected[..2 * PAGE].fill(9);
            expect_same(&memory.all(), &expected, "memory");
            assert_eq!(handler.wait().unwrap().ending, Ending::Complete);
        }
    });
}

/// Two pages of the input, by one system call.
fn read(input: &File, memory: &Memory, offset: usize) -> io::Result<usize> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(input);
    assert!(offset + 2 * PAGE <= memory.length);
    // SAFETY: the kernel writes inside of the mapping, or says that it cannot; never a reference.
    let done = unsafe { libc::pread(fd, memory.at(offset).cast(), 2 * PAGE, 0) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}
