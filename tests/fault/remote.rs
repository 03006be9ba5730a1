//! Guest and handler in two processes, with the message that Firecracker sends; each of them may end first.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mapped_ram::fault::{
    Ending, FaultOptions, Fill, GuestRegion, LONGEST_MESSAGE, Received, receive, register, send,
};
use mapped_ram::{Cancel, ErrorKind, ReaderOptions};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

use crate::failing::Broken;
use crate::memory::{Kind, Memory, PAGE, expect_same, is_readable, save};
use crate::{PAGES, dir, open, pages};

const PATIENCE: Duration = Duration::from_secs(60);

const ROLE: &str = "MAPPED_RAM_TEST_ROLE";
const SOCKET: &str = "MAPPED_RAM_TEST_SOCKET";
const FILE: &str = "MAPPED_RAM_TEST_FILE";

/// This test program again, as another process.
fn child(role: &str, socket: &Path, file: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "remote::other_process", "--nocapture"])
        .envs([(ROLE, role.as_ref()), (SOCKET, socket.as_os_str()), (FILE, file.as_os_str())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the other process does; nothing when it is no other process.
#[test]
fn other_process() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let socket = std::env::var_os(SOCKET).unwrap();
    let file = std::env::var_os(FILE).unwrap();
    match role.to_str().unwrap() {
        "guest that reads all" => guest(Path::new(&socket), Path::new(&file), PAGES),
        "guest that reads nothing" => guest(Path::new(&socket), Path::new(&file), 0),
        "guest that reads some" => guest(Path::new(&socket), Path::new(&file), 10),
        "handler" => {
            let stream = UnixListener::bind(socket).unwrap().accept().unwrap().0;
            let guest = receive(stream, PATIENCE, &Cancel::new()).unwrap();
            let handler =
                FaultOptions::new().fill(Fill::Nothing).serve(&open(Path::new(&file)), guest).unwrap();
            let _ = handler.wait();
        }
        other => panic!("{other}"),
    }
}

/// Reads the first pages of memory that another process fills, and says on stdout what it saw.
fn guest(socket: &Path, _file: &Path, count: usize) {
    let memory = Memory::new(Kind::Memfd, PAGES * PAGE).unwrap();
    let regions = regions(&memory);
    // SAFETY: mapped for this, and touched through raw pointers only.
    let fd = unsafe { register(&regions, false) }.unwrap();
    let stream = UnixStream::connect(socket).unwrap();
    send(&stream, fd.as_fd(), &regions).unwrap();
    let mut seen = Vec::new();
    for page in 0..count {
        seen.extend([memory.read(page * PAGE), memory.read(page * PAGE + PAGE - 1)]);
    }
    let mut out = std::io::stdout();
    out.write_all(b"\nSEEN").unwrap();
    out.write_all(&seen).unwrap();
    out.flush().unwrap();
    // Ends without a word, as a guest that is killed does.
    std::process::exit(0);
}

fn regions(memory: &Memory) -> Vec<GuestRegion> {
    let half = memory.length as u64 / 2;
    let region = |offset| GuestRegion {
        base_host_virt_addr: memory.start.as_ptr() as u64 + offset,
        size: half,
        offset,
        page_size: PAGE as u64,
        block: None,
    };
    vec![region(half), region(0)]
}

fn seen(mut child: Child) -> Vec<u8> {
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    let at = out.windows(5).position(|word| word == b"\nSEEN").expect("the guest says what it saw");
    out.split_off(at + 5)
}

#[test]
fn a_guest_in_another_process_sees_the_saved_memory() {
    let dir = dir();
    let (path, socket) = (dir.path().join("guest"), dir.path().join("socket"));
    let saved = save(&path, &[("ram0", &pages())]).remove(0);
    let expected: Vec<u8> = saved.chunks(PAGE).flat_map(|page| [page[0], page[PAGE - 1]]).collect();
    let listener = UnixListener::bind(&socket).unwrap();
    for fill in [Fill::All, Fill::Nothing] {
        let child = child("guest that reads all", &socket, &path);
        let received = receive(listener.accept().unwrap().0, PATIENCE, &Cancel::new()).unwrap();
        assert_eq!(received.regions().len(), 2);
        let handler = FaultOptions::new().fill(fill).channels(2).serve(&open(&path), received).unwrap();
        assert_eq!(seen(child), expected);
        handler.wait().unwrap();
        let report = handler.stop();
        assert_eq!(report.ending, Ending::Complete);
        assert_eq!(report.counters.on_demand + report.counters.in_background, 100, "{report:?}");
    }
}

#[test]
fn a_guest_that_ends_ends_its_handler() {
    let dir = dir();
    let (path, socket) = (dir.path().join("guest"), dir.path().join("socket"));
    let saved = save(&path, &[("ram0", &pages())]).remove(0);
    let listener = UnixListener::bind(&socket).unwrap();
    let child = child("guest that reads some", &socket, &path);
    let received = receive(listener.accept().unwrap().0, PATIENCE, &Cancel::new()).unwrap();
    let handler = FaultOptions::new().fill(Fill::Nothing).serve(&open(&path), received).unwrap();
    let expected: Vec<u8> = saved.chunks(PAGE).take(10).flat_map(|page| [page[0], page[PAGE - 1]]).collect();
    assert_eq!(seen(child), expected);
    let report = handler.wait().unwrap();
    assert_eq!(report.ending, Ending::GuestGone);
    assert_eq!((report.counters.on_demand, report.counters.zero_pages), (4, 6), "{report:?}");
}

/// What a guest sends, without its socket: nothing but the descriptor is left to tell of its end.
fn received_by_itself(stream: &UnixStream) -> Received {
    let mut text = vec![0; LONGEST_MESSAGE];
    let mut control = nix::cmsg_space!([i32; 1]);
    let mut parts = [std::io::IoSliceMut::new(&mut text)];
    let message =
        recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
            .unwrap();
    let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
        panic!("no descriptor came")
    };
    let length = message.bytes;
    // SAFETY: the kernel has just made it for this process, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    Received::new(fd, GuestRegion::from_json(&text[..length]).unwrap())
}

/// Channels that find no process to fill are no failure: the guest is gone, also where no socket tells so.
#[test]
fn a_guest_that_ends_while_channels_fill_is_no_failure() {
    let dir = dir();
    let (path, socket) = (dir.path().join("guest"), dir.path().join("socket"));
    save(&path, &[("ram0", &pages())]);
    let listener = UnixListener::bind(&socket).unwrap();
    for is_watched in [false, true] {
        let child = child("guest that reads nothing", &socket, &path);
        let stream = listener.accept().unwrap().0;
        let received = if is_watched {
            receive(stream, PATIENCE, &Cancel::new()).unwrap()
        } else {
            received_by_itself(&stream)
        };
        seen(child);
        let handler = FaultOptions::new().channels(2).serve(&open(&path), received).unwrap();
        let report = handler.wait().unwrap();
        assert_eq!(report.ending, Ending::GuestGone);
        assert_eq!(report.counters.missing, 100, "{report:?}");
    }
}

/// A guest that ends of a page that could not be read: that it is gone is not all there is to say.
#[test]
fn a_guest_that_a_lost_page_has_ended_is_a_failure() {
    const BAD: usize = 102;
    let dir = dir();
    let (path, socket) = (dir.path().join("guest"), dir.path().join("socket"));
    save(&path, &[("ram0", &pages())]);
    let offset = open(&path).block("ram0").unwrap().layout().pages_offset() + (BAD * PAGE) as u64;
    let source = Arc::new(Broken::new(&path, offset..offset + 1));
    let reader = ReaderOptions::new().from_source(source).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = child("guest that reads all", &socket, &path);
    let received = receive(listener.accept().unwrap().0, PATIENCE, &Cancel::new()).unwrap();
    let handler = FaultOptions::new().fill(Fill::Nothing).serve(&reader, received).unwrap();
    assert!(!child.wait().unwrap().success(), "the guest read a page that cannot be read");
    while !handler.is_over() {
        std::thread::yield_now();
    }
    let error = handler.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(
        error.to_string().contains(&format!("file offset {offset:#x}; of 100 pages 50 are there")),
        "{error}"
    );
    assert_eq!(handler.stop().ending, Ending::GuestGone);
}

/// Memory that is registered and not told of is poisoned when it is touched: an error, even if the rest is all there.
#[test]
fn memory_that_nobody_told_of_is_a_failure() {
    let dir = dir();
    let path = dir.path().join("guest");
    save(&path, &[("ram0", &pages())]);
    let memory = Memory::new(Kind::Memfd, PAGES * PAGE).unwrap();
    let other = Memory::new(Kind::Private, PAGES * PAGE).unwrap();
    let told = regions(&memory);
    // SAFETY: mapped for this, and touched through raw pointers only.
    let fd = unsafe { register(&[told.clone(), regions(&other)].concat(), false) }.unwrap();
    let options = FaultOptions::new().fill(Fill::Nothing);
    let handler = options.serve(&open(&path), Received::new(fd, told)).unwrap();
    assert!(!is_readable(&other, 7 * PAGE));
    memory.all();
    while !handler.is_over() {
        std::thread::yield_now();
    }
    let error = handler.wait().unwrap_err().to_string();
    assert!(error.contains("no memory that was told of; of 100 pages 100 are there"), "{error}");
    assert_eq!(handler.stop().ending, Ending::Complete);
}

/// Addresses of something else, or of nothing: the guest's own memory would never be served, and nobody would know.
#[test]
fn a_layout_of_other_memory_is_a_failure() {
    let dir = dir();
    let path = dir.path().join("guest");
    save(&path, &[("ram0", &pages())]);
    for is_mapped in [true, false] {
        let memory = Memory::new(Kind::Memfd, PAGES * PAGE).unwrap();
        let other = Memory::new(Kind::Private, PAGES * PAGE).unwrap();
        // SAFETY: mapped for this, and touched through raw pointers only.
        let fd = unsafe { register(&regions(&memory), false) }.unwrap();
        let mut told = regions(&other);
        if !is_mapped {
            // Where the kernel maps nothing by itself.
            for region in &mut told {
                region.base_host_virt_addr = 0x10_0000 + region.offset;
            }
        }
        let handler = FaultOptions::new().channels(2).serve(&open(&path), Received::new(fd, told)).unwrap();
        let error = handler.wait().unwrap_err().to_string();
        for part in ["of 100 pages 0 are there", "none of it is registered with the descriptor"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        drop(handler);
        assert_eq!(other.read(3 * PAGE), 0);
    }
}

/// A handler that is killed leaves who touches a missing page waiting, as long as the descriptor is open; another one goes on.
#[test]
fn another_handler_goes_on_for_one_that_was_killed() {
    let dir = dir();
    let (path, socket) = (dir.path().join("guest"), dir.path().join("socket"));
    let saved = save(&path, &[("ram0", &pages())]).remove(0);
    let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
    let regions = regions(&memory);
    // SAFETY: mapped for this, and touched through raw pointers only.
    let fd = unsafe { register(&regions, false) }.unwrap();
    let mut first = child("handler", &socket, &path);
    let mut stream = connect(&socket);
    send(&stream, fd.as_fd(), &regions).unwrap();
    assert_eq!(memory.read(2 * PAGE), saved[2 * PAGE]);
    memory.write(3 * PAGE, 255);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the socket tells of its end");

    std::thread::scope(|scope| {
        // This one waits for a handler.
        let touches = scope.spawn(|| memory.read(6 * PAGE));
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, fd.as_fd(), &regions).unwrap();
        let received = receive(theirs, PATIENCE, &Cancel::new()).unwrap();
        let handler = FaultOptions::new().channels(2).serve(&open(&path), received).unwrap();
        assert_eq!(touches.join().unwrap(), saved[6 * PAGE]);
        let report = handler.wait().unwrap();
        assert_eq!(report.counters.already_there, 2, "{report:?}");
    });
    let mut expected = saved;
    expected[3 * PAGE] = 255;
    expect_same(&memory.all(), &expected, "memory");
}

/// The other case, which the documentation warns of: nobody has the descriptor any more.
#[test]
fn without_a_descriptor_missing_pages_are_zeros_when_the_handler_is_killed() {
    let dir = dir();
    let (path, socket) = (dir.path().join("guest"), dir.path().join("socket"));
    let saved = save(&path, &[("ram0", &pages())]).remove(0);
    let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
    let regions = regions(&memory);
    // SAFETY: mapped for this, and touched through raw pointers only.
    let fd = unsafe { register(&regions, false) }.unwrap();
    let mut handler = child("handler", &socket, &path);
    let stream = connect(&socket);
    send(&stream, fd.as_fd(), &regions).unwrap();
    assert_eq!(memory.read(2 * PAGE), saved[2 * PAGE]);
    drop(fd);
    handler.kill().unwrap();
    handler.wait().unwrap();
    assert_ne!(saved[3 * PAGE], 0);
    assert_eq!(memory.read(3 * PAGE), 0);
}

/// Connects once the other process listens.
fn connect(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Sends bytes with descriptors beside them.
fn send_raw(stream: &UnixStream, bytes: &[u8], fds: &[i32]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    let parts = [std::io::IoSlice::new(bytes)];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, rights, MsgFlags::empty(), None).unwrap();
}

#[test]
fn messages_that_are_refused() {
    let memory = Memory::new(Kind::Private, 2 * PAGE).unwrap();
    let text = GuestRegion::to_json(&regions(&memory));
    // SAFETY: nothing is registered.
    let fd = unsafe { register(&[], false) }.unwrap();
    let raw = fd.as_raw_fd();
    let long = vec![b'['; 2 << 20];
    let cases: [(&[u8], &[i32], &str); 8] = [
        (text.as_bytes(), &[], "without a descriptor"),
        (text.as_bytes(), &[raw, raw], "2 descriptors"),
        (text.as_bytes(), &[raw; 200], "200 descriptors"),
        (b"hello", &[raw], "no JSON array"),
        (b"[{}]", &[raw], "missing field"),
        (b"[]", &[raw], "0 regions"),
        (&text.as_bytes()[..20], &[raw], "was closed behind 20 bytes"),
        (&long, &[raw], "longer than"),
    ];
    for (bytes, fds, said) in cases {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let receives = scope.spawn(|| receive(theirs, PATIENCE, &Cancel::new()));
            let (first, rest) = bytes.split_at(bytes.len().min(60));
            send_raw(&ours, first, fds);
            // The other side hangs up when it has seen enough.
            let _ = (&ours).write_all(rest);
            drop(ours);
            let error = receives.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            assert!(error.to_string().contains(said), "{said}: {error}");
        });
    }
    // In drops, it is a message like any other.
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let receives = scope.spawn(|| receive(theirs, PATIENCE, &Cancel::new()));
        send_raw(&ours, &text.as_bytes()[..1], &[raw]);
        for byte in &text.as_bytes()[1..] {
            (&ours).write_all(&[*byte]).unwrap();
        }
        assert_eq!(receives.join().unwrap().unwrap().regions(), regions(&memory));
    });
}

#[test]
fn nobody_waits_for_ever_for_a_message() {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let other = theirs.try_clone().unwrap();
    let error = receive(theirs, Duration::ZERO, &Cancel::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("timed out"), "{error}");
    let cancel = Cancel::new();
    cancel.cancel();
    assert_eq!(receive(other, PATIENCE, &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
}

/// Who always finds something to read never waits, and would never be late: the clock is looked at all the same.
#[test]
fn nobody_reads_on_for_ever_because_there_is_more() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let other = theirs.try_clone().unwrap();
    // As much of no layout as the socket holds.
    ours.set_nonblocking(true).unwrap();
    while (&ours).write(&[b' '; 1024]).is_ok() {}
    let error = receive(theirs, Duration::ZERO, &Cancel::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("timed out"), "{error}");
    other.set_nonblocking(true).unwrap();
    assert_ne!((&other).read(&mut [0; 1024]).unwrap(), 0);
}

/// The flag is the guest's as much as the handler's. Without it the handler would wait where nothing can end it.
#[test]
fn a_guest_that_makes_its_descriptor_wait_ends_its_handler() {
    let dir = dir();
    let path = dir.path().join("guest");
    let saved = save(&path, &[("ram0", &pages())]).remove(0);
    let memory = Memory::new(Kind::Private, saved.len()).unwrap();
    // SAFETY: mapped for this, and touched through raw pointers only.
    let fd = unsafe { register(&regions(&memory), false) }.unwrap();
    let received = Received::new(fd.try_clone().unwrap(), regions(&memory));
    let handler = FaultOptions::new().fill(Fill::Nothing).serve(&open(&path), received).unwrap();
    assert_eq!(memory.read(2 * PAGE), saved[2 * PAGE]);
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
    fcntl(&fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).unwrap();
    let error = handler.wait().unwrap_err();
    assert!(error.to_string().contains("O_NONBLOCK"), "{error}");
    assert_eq!(handler.stop().ending, Ending::Stopped);
    // Who unmaps it would wait until it is heard.
    drop(fd);
}

#[test]
fn a_refused_message_closes_what_came_with_it() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (end, other_end) = UnixStream::pair().unwrap();
    send_raw(&ours, b"[]", &[other_end.as_raw_fd(), other_end.as_raw_fd()]);
    drop(other_end);
    receive(theirs, PATIENCE, &Cancel::new()).unwrap_err();
    // Only closed everywhere does the other end say so.
    assert_eq!((&end).read(&mut [0]).unwrap(), 0);
}
