//! `mapped-ram serve`: this test program is the guest. Needs a userfaultfd (root, or access to /dev/userfaultfd), and FAILS without.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::ptr::NonNull;

use mapped_ram::WorkingSet;
use mapped_ram::fault::{GuestRegion, register, send};
use nix::libc::{self, c_void};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::Pid;
use support::{PAGE, command, dir, expect, saved, text, with_signals};

/// How long the command may take to say a word, in milliseconds: on a machine that is busy with other things.
const PATIENCE: u16 = 60_000;

/// Memory that a command fills.
struct Guest {
    start: NonNull<c_void>,
    length: usize,
    stream: Option<UnixStream>,
    fd: Option<OwnedFd>,
}

impl Guest {
    fn connect(socket: &Path, pages: usize, block: Option<&str>) -> Self {
        let length = pages * PAGE;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: touches no existing mapping.
        let start = unsafe {
            mmap_anonymous(None, NonZeroUsize::new(length).unwrap(), protection, MapFlags::MAP_SHARED)
        }
        .unwrap();
        let region = GuestRegion {
            base_host_virt_addr: start.as_ptr() as u64,
            size: length as u64,
            offset: 0,
            page_size: PAGE as u64,
            block: block.map(str::to_owned),
        };
        // SAFETY: mapped for this, and touched through raw pointers only.
        let fd = unsafe { register(std::slice::from_ref(&region), false) }.unwrap();
        let stream = UnixStream::connect(socket).unwrap();
        send(&stream, fd.as_fd(), &[region]).unwrap();
        Self { start, length, stream: Some(stream), fd: Some(fd) }
    }

    fn read(&self, page: usize) -> u8 {
        assert!(page * PAGE < self.length);
        // SAFETY: inside the mapping, never a reference.
        unsafe { self.start.as_ptr().cast::<u8>().add(page * PAGE).read_volatile() }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.stream.take());
        // Without a handler nobody hears that memory is unmapped: the kernel would wait for that for good.
        drop(self.fd.take());
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { munmap(self.start, self.length) }.unwrap();
    }
}

/// Starts the command and waits until it says that it waits.
fn serve(arguments: &[&str]) -> Child {
    let mut child = with_signals(&mut command())
        .arg("serve")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for a guest"), "{line}");
    child
}

fn end(mut child: Child, code: i32) -> String {
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code), "{out}");
    out
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

#[test]
fn one_guest_is_served_counted_and_recorded() {
    let dir = dir();
    let kinds: Vec<u8> = (0..100).map(|page| page % 5).collect();
    let (file, _) = saved(&dir, "guest", &kinds);
    let (socket, record) = (dir.path().join("socket"), dir.path().join("record"));
    let arguments = ["--socket", text(&socket), text(&file), "--stats", "json"];

    let child = serve(&[&arguments[..], &["--fill", "none", "--record", text(&record)]].concat());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let guest = Guest::connect(&socket, 100, None);
    let order = (0..100).rev().collect::<Vec<usize>>();
    for page in &order {
        assert_eq!(guest.read(*page), kinds[*page]);
    }
    let stats: serde_json::Value = serde_json::from_str(&end(child, 0)).unwrap();
    assert_eq!((&stats["ending"], &stats["on_demand"]), (&"complete".into(), &80.into()), "{stats}");
    assert_eq!((&stats["missing"], &stats["in_background"]), (&0.into(), &0.into()), "{stats}");
    assert!(!socket.exists());
    drop(guest);
    let sets = WorkingSet::read_file(&record).unwrap();
    assert_eq!(sets[0].block(), "ram0");
    // When the last page of the file is there, nobody is asked for zeros any more.
    let order: Vec<u64> = order.into_iter().map(|page| page as u64).take(sets[0].order().len()).collect();
    assert_eq!(sets[0].order(), order);
    assert!(order.len() >= 99);

    let child = serve(&[&arguments[..], &["--prefetch", text(&record), "--channels", "1"]].concat());
    let guest = Guest::connect(&socket, 100, Some("ram0"));
    for (page, kind) in kinds.iter().enumerate() {
        assert_eq!(guest.read(page), *kind);
    }
    let stats: serde_json::Value = serde_json::from_str(&end(child, 0)).unwrap();
    let sum = stats["on_demand"].as_u64().unwrap() + stats["in_background"].as_u64().unwrap();
    assert_eq!((sum, &stats["ending"]), (80, &"complete".into()), "{stats}");
}

#[test]
fn many_guests_are_served_until_an_interruption() {
    let dir = dir();
    let (file, _) = saved(&dir, "guest", &[7; 50]);
    let socket = dir.path().join("socket");
    let child = serve(&["--socket", text(&socket), text(&file), "--keep", "--block", "ram0"]);
    // One that sends nonsense, and is not the others' business.
    drop(UnixStream::connect(&socket).unwrap());
    let guests: Vec<Guest> = (0..3).map(|_| Guest::connect(&socket, 50, None)).collect();
    for page in 0..50 {
        for guest in &guests {
            assert_eq!(guest.read(page), 7);
        }
    }
    interrupt(&child);
    end(child, 130);
    assert!(!socket.exists());
}

/// How many descriptors a process may have; gives how many it might have before.
fn limit_descriptors(process: &Child, most: u64) -> u64 {
    let pid = process.id().try_into().unwrap();
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads the limits into what is ours.
    assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) }, 0);
    let limits = libc::rlimit { rlim_cur: most, ..before };
    // SAFETY: only reads what is ours.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limits, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    before.rlim_cur
}

/// One guest too many waits, and neither it nor those that are served are lost.
#[test]
fn guests_wait_while_there_are_too_many() {
    let dir = dir();
    let (file, _) = saved(&dir, "guest", &[7; 50]);
    let socket = dir.path().join("socket");
    let mut child = serve(&["--socket", text(&socket), text(&file), "--keep", "--fill", "none"]);
    let first = Guest::connect(&socket, 50, None);
    assert_eq!(first.read(0), 7);
    let descriptors = format!("/proc/{}/fd", child.id());
    let free = (0..1024).find(|number| !Path::new(&descriptors).join(number.to_string()).exists()).unwrap();
    let before = limit_descriptors(&child, free);

    let second = Guest::connect(&socket, 50, None);
    let stderr = child.stderr.as_mut().unwrap();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, PATIENCE).unwrap() == 0 {
        // First: what is on its way to it holds the second guest's descriptor, and memory that nobody serves cannot be unmapped.
        child.kill().unwrap();
        panic!("nothing is said of the second guest");
    }
    let mut line = String::new();
    BufReader::new(stderr).read_line(&mut line).unwrap();
    assert!(line.contains("waits until one has ended") && line.contains("os error 24"), "{line}");
    assert_eq!(first.read(1), 7);

    limit_descriptors(&child, before);
    assert_eq!(second.read(2), 7);
    interrupt(&child);
    end(child, 130);
}

/// Descriptors that came with a message which is refused, for want of room for all of them, are closed.
#[test]
fn a_message_with_too_many_descriptors_costs_none() {
    let dir = dir();
    let (file, _) = saved(&dir, "guest", &[7; 5]);
    let socket = dir.path().join("socket");
    let mut child = serve(&["--socket", text(&socket), text(&file), "--keep"]);
    let descriptors = format!("/proc/{}/fd", child.id());
    let open = || fs::read_dir(&descriptors).unwrap().count() as u64;
    let before = open();
    limit_descriptors(&child, before + 20);
    let stream = UnixStream::connect(&socket).unwrap();
    let held = File::open(&file).unwrap();
    let fds = [held.as_raw_fd(); 100];
    let parts = [std::io::IoSlice::new(b"[]")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("descriptors"), "{line}");
    drop(stream);
    // The guest's own socket is closed a moment later.
    while open() > before {
        std::thread::yield_now();
    }
    interrupt(&child);
    end(child, 130);
}

#[test]
fn an_interruption_leaves_a_guest_waiting_for_the_next_handler() {
    let dir = dir();
    let (file, _) = saved(&dir, "guest", &[7; 50]);
    let socket = dir.path().join("socket");
    let child = serve(&["--socket", text(&socket), text(&file), "--no-background"]);
    let guest = Guest::connect(&socket, 50, None);
    assert_eq!(guest.read(3), 7);
    interrupt(&child);
    let out = end(child, 130);
    assert!(out.contains("1 on demand") && out.contains("49 missing"), "{out}");
    assert!(!socket.exists());

    let child = serve(&["--socket", text(&socket), text(&file)]);
    interrupt(&child);
    end(child, 130);
    assert!(!socket.exists());
}

#[test]
fn what_has_the_sockets_name_is_left_alone() {
    let dir = dir();
    let (file, _) = saved(&dir, "guest", &[7; 5]);
    let path = dir.path().join("taken");
    fs::write(&path, "precious").unwrap();
    let (_, err) = expect(2, &["serve", text(&file), "--socket", text(&path)]);
    assert!(err.contains("is no socket"), "{err}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let (_, err) = expect(2, &["serve", text(&file), "--socket", text(&socket)]);
    assert!(err.contains("somebody listens"), "{err}");
    // Whoever listens there does not hear of it, and waits on for a guest.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Left behind by somebody who was killed: made anew.
    drop(listener);
    let child = serve(&["--socket", text(&socket), text(&file)]);
    interrupt(&child);
    end(child, 130);

    let (_, err) = expect(2, &["serve", text(&file), "--socket", text(&socket), "--block", "none"]);
    assert!(err.contains("ram0"), "{err}");
    let (_, err) = expect(3, &["serve", text(&file), "--socket", text(&socket), "--prefetch", text(&file)]);
    assert!(err.contains("working set"), "{err}");
    // Of another guest: said before anybody connects, with the list's name.
    let list = dir.path().join("list");
    WorkingSet::write_file(&list, &[WorkingSet::new("ram0", PAGE as u64, 6, vec![3]).unwrap()]).unwrap();
    let (_, err) = expect(2, &["serve", text(&file), "--socket", text(&socket), "--prefetch", text(&list)]);
    assert!(err.contains(text(&list)) && err.contains("another guest"), "{err}");
    // The saved guest is never written over, whatever it is called.
    let link = dir.path().join("link");
    fs::hard_link(&file, &link).unwrap();
    let before = fs::read(&file).unwrap();
    for record in [&file, &link] {
        let (_, err) =
            expect(2, &["serve", text(&file), "--socket", text(&socket), "--record", text(record)]);
        assert!(err.contains("name another file"), "{err}");
    }
    assert!(fs::read(&file).unwrap() == before && !socket.exists());
}
