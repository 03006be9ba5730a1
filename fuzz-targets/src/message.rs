//! The layout that a guest's process sends to whom it has its page faults handled by, from the bytes to the file's blocks.
//!
//! Nothing is ever filled: a handler is begun with a descriptor that is no userfaultfd, and it looks at that only when it has taken the
//! layout. So no right to handle faults is needed, and either answer is told from the other.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use mapped_ram::fault::{
    FaultOptions, Fill, GuestRegion, LONGEST_MESSAGE, MOST_REGIONS, Received, receive, send,
};
use mapped_ram::{Cancel, ErrorKind, Reader, ReaderOptions};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::{SysconfVar, sysconf};
use reference_model::{Block, Stream};
use serde_json::Value;

use crate::allocator::bounded;
use crate::disk::{Countdown, Disk, Kind};
use crate::made_message::{Input, changed, laid_out, meant, name, written};

/// May be allocated whatever the message: an error.
const BASE: usize = 64 << 10;

/// What may be allocated for each byte of a message: a region of 56 bytes has 80, then 56; an error may quote it, escaped.
const PER_BYTE: usize = 32;

/// What may be allocated for each region that is matched with a block.
const PER_REGION: usize = 2048;

/// The longest error about a stranger's message, in bytes: it is a line of somebody's log.
const LONGEST_ERROR: usize = 1024;

/// So many bytes are one buffer of a socket, however they are sent.
const ONE_BUFFER: usize = 8 << 10;

/// The most regions that are compared with each other, one by one.
const MOST_COMPARED: usize = 64;

/// Pages of the file, in bytes. Smaller than the host's, so that a block may end inside of one of those.
const FILE_PAGE: u64 = 256;

/// The largest page that memory may have, in bytes.
pub(crate) const LARGEST_PAGE: u64 = 2 << 20;

/// A file with blocks of several kinds: one that is left out, one that ends inside of a page of the host, one for huge pages.
pub(crate) static BLOCKS: LazyLock<Vec<(&str, u64, bool)>> = LazyLock::new(|| {
    let page = host_page();
    vec![
        ("one", 8 * page, false),
        ("gone", 3 * page, true),
        ("ragged", 2 * page + FILE_PAGE, false),
        ("huge", 2 * LARGEST_PAGE, false),
    ]
});

static READER: LazyLock<Reader> = LazyLock::new(|| {
    let blocks = BLOCKS.iter().map(|(name, length, left_out)| Block {
        name: name.as_bytes().to_vec(),
        used_length: *length,
        address: Some(0),
        left_out: *left_out,
        pages: [(1, vec![7; 256])].into_iter().filter(|_| !left_out).collect(),
    });
    let mut stream = Stream::new(blocks.collect());
    (stream.page_size, stream.alignment) = (FILE_PAGE, host_page());
    // A configuration with the capabilities that these blocks need.
    stream.head = [
        &b"\x07\0\0\0\x04none\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x02"[..],
        b"\x0amapped-ram\x0fx-ignore-shared",
    ]
    .concat();
    let file = stream.write();
    let disk = Disk::new(file.read(0, file.length()), &Countdown::new(None, false), Kind::default());
    let reader = ReaderOptions::new().from_source(Arc::new(disk)).unwrap();
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        // Kept by the reader from here on: no message's business.
        block.present_pages().unwrap();
    }
    reader
});

static OPTIONS: LazyLock<FaultOptions> =
    LazyLock::new(|| FaultOptions::new().channels(1).fill(Fill::Nothing));

static NO_USERFAULTFD: LazyLock<File> = LazyLock::new(|| File::open("/dev/null").unwrap());

pub(crate) fn host_page() -> u64 {
    u64::try_from(sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap()
}

/// The bytes as a message, then a message made up of them: decoded as it was meant, from a socket too, and taken for a file's memory if
/// and only if it fits.
pub fn message(data: &[u8]) {
    if let Some(regions) = decoded(data) {
        fitted(&regions, None);
    }
    if data.starts_with(b"[") {
        over_a_socket(data, data.len() / 2);
    }
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        made_up(&input);
    }
}

fn made_up(input: &Input) {
    let made = &laid_out(&input.regions[..input.regions.len().min(MOST_COMPARED)]);
    let mut text = written(made).into_bytes();
    let first = usize::from(input.first);
    let regions = decoded(&text);
    assert_eq!(regions, meant(made), "{}", String::from_utf8_lossy(&text));
    over_a_socket(&text, first);
    // Offsets count in the memory of all blocks most of the time, as they are made.
    let block = name(&input.block).filter(|_| input.first.is_multiple_of(8));
    if let Some(regions) = regions {
        fitted(&regions, block);
        sent(&regions);
    }
    for change in input.changes.iter().take(20) {
        changed(&mut text, change);
    }
    if let Some(regions) = decoded(&text) {
        fitted(&regions, block);
    }
    over_a_socket(&text, first);
}

/// What a message decodes to: in bounded memory, the same when it is encoded and decoded again, and no more than it says.
fn decoded(bytes: &[u8]) -> Option<Vec<GuestRegion>> {
    let regions = match bounded(BASE + PER_BYTE * bytes.len(), || GuestRegion::from_json(bytes)) {
        Ok(regions) => regions,
        Err(what) => {
            assert!(what.len() <= LONGEST_ERROR, "an error of {} bytes", what.len());
            return None;
        }
    };
    let text = bytes.trim_ascii();
    assert!((1..=MOST_REGIONS).contains(&regions.len()) && text.len() <= LONGEST_MESSAGE);
    let again = GuestRegion::to_json(&regions);
    assert_eq!(GuestRegion::from_json(again.as_bytes()).as_ref(), Ok(&regions), "{again}");
    for part in [&text[..text.len() - 1], &text[..text.len() / 2], &text[1..]] {
        assert!(GuestRegion::from_json(part).is_err(), "a part is taken for all");
    }
    if let Ok(value) = serde_json::from_slice(text) {
        as_it_says(&value, &regions);
    }
    Some(regions)
}

/// The same by a look at any JSON. It gives up where members that nobody looks at are too deep or no text, which is no fault.
fn as_it_says(value: &Value, regions: &[GuestRegion]) {
    let objects = value.as_array().expect("what decodes is an array");
    assert_eq!(objects.len(), regions.len());
    for (object, region) in objects.iter().zip(regions) {
        let object = object.as_object().expect("a region is an object");
        let number =
            |key| object.get(key).filter(|value| !value.is_null()).map(|value| value.as_u64().unwrap());
        assert_eq!(number("base_host_virt_addr"), Some(region.base_host_virt_addr));
        assert_eq!(number("size"), Some(region.size));
        assert_eq!(number("offset"), Some(region.offset));
        let (new, old) = (number("page_size"), number("page_size_kib"));
        assert_eq!(new.or(old), Some(region.page_size));
        assert!(old.is_none_or(|old| old == region.page_size));
        let block = object.get("block").filter(|value| !value.is_null());
        assert_eq!(block.map(|value| value.as_str().unwrap()), region.block.as_deref());
    }
}

/// Begins a handler of the file's memory: the layout is taken if and only if it fits.
fn fitted(regions: &[GuestRegion], block: Option<&str>) {
    if regions.len() > MOST_COMPARED {
        return;
    }
    let (reader, fd) = (&*READER, NO_USERFAULTFD.try_clone().unwrap().into());
    let mut options = OPTIONS.clone();
    if let Some(block) = block {
        options = options.block(block);
    }
    let bytes: usize = regions.iter().filter_map(|region| region.block.as_ref()).map(String::len).sum();
    let error = bounded(BASE + PER_REGION * regions.len() + PER_BYTE * bytes, || {
        options.serve(reader, Received::new(fd, regions.to_vec())).unwrap_err()
    });
    let said = error.to_string();
    let was_taken = said.contains("is no userfaultfd");
    assert_eq!(error.kind(), if was_taken { ErrorKind::Io } else { ErrorKind::Usage }, "{said}");
    assert_eq!(was_taken, fits(regions, block), "{said}\n{regions:?} in {block:?}");
}

/// Whether a layout fits the file, in numbers that do not overflow.
fn fits(regions: &[GuestRegion], block: Option<&str>) -> bool {
    let parts: Option<Vec<_>> = regions.iter().map(|region| part(region, block)).collect();
    let Some(parts) = parts else { return false };
    let pairs = (0..parts.len()).flat_map(|one| (0..one).map(move |two| (one, two)));
    let overlap = |one: &Range<u128>, two: &Range<u128>| one.start < two.end && two.start < one.end;
    !parts.is_empty()
        && pairs
            .map(|(one, two)| (&parts[one], &parts[two]))
            .all(|(one, two)| !overlap(&one.0, &two.0) && (one.1 != two.1 || !overlap(&one.2, &two.2)))
}

/// The addresses of a region, its block, and its bytes there.
fn part(region: &GuestRegion, block: Option<&str>) -> Option<(Range<u128>, &'static str, Range<u128>)> {
    let page = u128::from(region.page_size);
    let (start, length) = (u128::from(region.base_host_virt_addr), u128::from(region.size));
    let host = u128::from(host_page());
    let mut offset = u128::from(region.offset);
    let held = || BLOCKS.iter().filter(|(_, _, left_out)| !left_out);
    let (name, used, _) = match region.block.as_deref().or(block) {
        Some(wanted) => held().find(|(name, _, _)| *name == wanted)?,
        None => held().find(|(_, used, _)| {
            let is_here = offset < u128::from(*used);
            offset -= if is_here { 0 } else { u128::from(*used) };
            is_here
        })?,
    };
    let room = u128::from(*used).next_multiple_of(host);
    let is_sound = page.is_power_of_two()
        && (host..=u128::from(LARGEST_PAGE)).contains(&page)
        && length > 0
        && length.is_multiple_of(page)
        && start > 0
        && start.is_multiple_of(page)
        && start + length <= 1 << 63
        && offset.is_multiple_of(host)
        && offset + length <= room;
    is_sound.then(|| (start..start + length, *name, offset..offset + length))
}

/// A message in two parts, the descriptor beside the first: taken as soon as it is whole, and as what it is.
fn over_a_socket(bytes: &[u8], first: usize) {
    if bytes.is_empty() || bytes.len() > ONE_BUFFER {
        return;
    }
    let (first, rest) = bytes.split_at(first.clamp(1, bytes.len()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let descriptors = [NO_USERFAULTFD.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let count =
        sendmsg::<UnixAddr>(ours.as_raw_fd(), &[IoSlice::new(first)], &rights, MsgFlags::empty(), None);
    assert_eq!(count, Ok(first.len()));
    (&ours).write_all(rest).unwrap();
    drop(ours);
    let got = receive(theirs, Duration::from_secs(10), &Cancel::new());
    let expected = GuestRegion::from_json(first).or_else(|_| GuestRegion::from_json(bytes));
    match (got, expected) {
        (Ok(received), Ok(expected)) => assert_eq!(received.regions(), expected),
        (Err(error), Err(_)) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error}"),
        (got, expected) => panic!("{got:?}, not {expected:?}"),
    }
}

/// What is sent is received.
fn sent(regions: &[GuestRegion]) {
    // Both sides are this thread.
    if GuestRegion::to_json(regions).len() > ONE_BUFFER {
        return;
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&ours, NO_USERFAULTFD.as_fd(), regions).unwrap();
    let received = receive(theirs, Duration::from_secs(10), &Cancel::new()).unwrap();
    assert_eq!(received.regions(), regions);
}
