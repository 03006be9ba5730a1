//! Messages that a fuzzer makes up, with what they mean.

use std::fmt::Write as _;

use arbitrary::Arbitrary;
use mapped_ram::fault::GuestRegion;

use crate::message::{BLOCKS, LARGEST_PAGE, host_page};

#[derive(Arbitrary, Debug)]
pub(crate) struct Input {
    /// How many bytes come first.
    pub(crate) first: u16,
    /// In which block offsets count that name none.
    pub(crate) block: Name,
    pub(crate) changes: Vec<Change>,
    pub(crate) regions: Vec<Region>,
}

#[derive(Arbitrary, Debug)]
pub(crate) struct Region {
    place: Place,
    page_size: PageSize,
    spelling: Spelling,
    /// How the members are turned, and what stands between them.
    turn: u8,
    space: u8,
    unknown: Unknown,
}

#[derive(Arbitrary, Clone, Debug)]
enum Place {
    Any {
        address: Number,
        size: Number,
        offset: Number,
        block: Name,
    },
    /// Behind the regions before it, in memory and in a block, so that it fits as long as the block has room.
    Next {
        index: u8,
        pages: u8,
        gap: u8,
        skip: u8,
        is_named: bool,
        nudge: Nudge,
    },
}

/// A number of a region that fits, and by how much it is changed.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Nudge {
    Nothing,
    Pages {
        field: u8,
        by: i8,
    },
    Bytes {
        field: u8,
        by: i8,
    },
    /// To where what programs may address ends, or around there.
    Half {
        pages: u8,
    },
}

/// A region as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Made<'i> {
    numbers: [u64; 3],
    page_size: u64,
    block: Name,
    how: &'i Region,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Pages(u8),
    HugePages(u8),
    Bytes(u16),
    /// In the memory of all blocks: from where one begins on.
    Block {
        index: u8,
        pages: u8,
    },
    /// Below the end of what programs may address.
    Half {
        pages: u8,
    },
    Top(u16),
    Any(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum PageSize {
    Usual,
    Huge,
    /// No power of two, most of the time.
    Pages(u8),
    Bits(u8),
    Any(u64),
}

#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Name {
    None,
    Of(u8),
    Null,
    Any(String),
}

/// Which of the names of the page size there are.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Spelling {
    /// Both, as Firecracker has sent them for a while.
    Both,
    New,
    /// `page_size_kib`, in bytes all the same.
    Old,
    Neither,
    /// They do not agree.
    Two(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Unknown {
    Nothing,
    Number(i64),
    /// An array as deep as this, and an object in it.
    Deep(u8),
    /// A name that is escaped, and means the same.
    Escaped,
    /// A member that there is already.
    Twice,
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Change {
    Byte {
        at: u16,
        value: u8,
    },
    Insert {
        at: u16,
        bytes: [u8; 2],
    },
    Remove {
        at: u16,
        count: u8,
    },
    Cut {
        at: u16,
    },
    /// A part comes again.
    Again {
        at: u16,
        count: u8,
    },
}

pub(crate) fn laid_out(regions: &[Region]) -> Vec<Made<'_>> {
    let mut next = 16 * LARGEST_PAGE;
    let mut used = [0; 4];
    let made = regions.iter().map(|region| {
        let page_size = match region.page_size {
            odd @ (PageSize::Pages(_) | PageSize::Bits(_) | PageSize::Any(_)) if is_odd(region) => {
                page_size(odd)
            }
            PageSize::Huge => LARGEST_PAGE,
            _ => host_page(),
        };
        let (numbers, block) = match &region.place {
            Place::Any { address, size, offset, block } => {
                ([number(*address), number(*size), number(*offset)], block.clone())
            }
            Place::Next { index, pages, gap, skip, is_named, nudge } => {
                let index =
                    if is_odd(region) { usize::from(*index % 4) } else { [0, 2, 3][usize::from(*index % 3)] };
                let unit = page_size.clamp(host_page(), LARGEST_PAGE);
                let start = next.next_multiple_of(unit) + u64::from(*gap % 4) * unit;
                let length = (u64::from(*pages % 4) + 1) * unit;
                let offset = used[index] + u64::from(*skip % 2) * host_page();
                next = start + length;
                used[index] = offset + length;
                let before = if *is_named { 0 } else { before(index) };
                let mut numbers = [start, length, offset + before];
                match nudge {
                    _ if !is_odd(region) => {}
                    Nudge::Nothing => {}
                    Nudge::Half { pages } => numbers[0] = number(Number::Half { pages: *pages % 4 }),
                    Nudge::Pages { field, by } => {
                        let number = &mut numbers[usize::from(field % 3)];
                        *number = number.wrapping_add_signed(i64::from(*by) * host_page().cast_signed());
                    }
                    Nudge::Bytes { field, by } => {
                        let number = &mut numbers[usize::from(field % 3)];
                        *number = number.wrapping_add_signed(i64::from(*by));
                    }
                }
                (numbers, if *is_named { Name::Of(u8::try_from(index).unwrap()) } else { Name::None })
            }
        };
        Made { numbers, page_size, block, how: region }
    });
    made.collect()
}

/// Where a block begins in the memory of all.
fn before(index: usize) -> u64 {
    let held = BLOCKS[..index].iter().filter(|(_, _, left_out)| !left_out);
    held.map(|(_, length, _)| length).sum()
}

fn number(number: Number) -> u64 {
    match number {
        Number::Pages(pages) => u64::from(pages) * host_page(),
        Number::HugePages(pages) => u64::from(pages) * LARGEST_PAGE,
        Number::Bytes(bytes) => u64::from(bytes),
        Number::Block { index, pages } => before(usize::from(index % 5)) + u64::from(pages) * host_page(),
        Number::Half { pages } => (1 << 63) - u64::from(pages) * host_page(),
        Number::Top(below) => u64::MAX - u64::from(below),
        Number::Any(any) => any,
    }
}

fn page_size(size: PageSize) -> u64 {
    match size {
        PageSize::Usual => host_page(),
        PageSize::Huge => LARGEST_PAGE,
        PageSize::Pages(pages) => u64::from(pages) * host_page(),
        PageSize::Bits(bits) => 1 << (bits % 64),
        PageSize::Any(any) => any,
    }
}

pub(crate) fn name(name: &Name) -> Option<&str> {
    match name {
        Name::None | Name::Null => None,
        Name::Of(index) => Some(BLOCKS[usize::from(*index) % BLOCKS.len()].0),
        Name::Any(name) => Some(name),
    }
}

/// The text of a message, not by the library's own encoder.
pub(crate) fn written(regions: &[Made<'_>]) -> String {
    let objects: Vec<String> = regions.iter().map(object).collect();
    format!("[{}]", objects.join(","))
}

fn object(region: &Made<'_>) -> String {
    let how = region.how;
    let mut members = vec![
        format!("\"base_host_virt_addr\":{}", region.numbers[0]),
        format!("\"size\":{}", region.numbers[1]),
        format!("\"offset\":{}", region.numbers[2]),
    ];
    let (new, old) = spelled(region);
    members.extend(new.map(|size| format!("\"page_size\":{size}")));
    members.extend(old.map(|size| format!("\"page_size_kib\":{size}")));
    match &region.block {
        Name::None => {}
        Name::Null => members.push("\"block\":null".into()),
        named => members.push(format!("\"block\":{}", quoted(name(named).unwrap()))),
    }
    match how.unknown {
        Unknown::Nothing => {}
        Unknown::Number(number) => members.push(format!("\"pages\":{number}")),
        Unknown::Deep(depth) => {
            let depth = usize::from(depth);
            members.push(format!("\"x]\":{}{{\"size\":[]}}{}", "[".repeat(depth), "]".repeat(depth)));
        }
        Unknown::Escaped => members[1] = members[1].replace('s', "\\u0073"),
        Unknown::Twice if !is_twice(how) => {}
        Unknown::Twice => members.push(members[usize::from(how.turn) % members.len()].clone()),
    }
    let turn = usize::from(how.turn) % members.len();
    members.rotate_left(turn);
    let space = ["", " ", "\n", "\t\r\n "][usize::from(how.space % 4)];
    format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
}

/// Whether there is something about a region that may be unsound; seldom, so that many messages have several regions and fit.
fn is_odd(how: &Region) -> bool {
    how.space >= 224
}

fn is_twice(how: &Region) -> bool {
    matches!(how.unknown, Unknown::Twice) && is_odd(how)
}

/// What `page_size` and `page_size_kib` say.
fn spelled(region: &Made<'_>) -> (Option<u64>, Option<u64>) {
    let size = region.page_size;
    match region.how.spelling {
        Spelling::New => (Some(size), None),
        Spelling::Old => (None, Some(size)),
        Spelling::Neither if is_odd(region.how) => (None, None),
        Spelling::Two(other) if is_odd(region.how) => (Some(size), Some(other)),
        _ => (Some(size), Some(size)),
    }
}

/// Every character that could be one of JSON's own as a number.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii_alphanumeric() => quoted.push(char::from(byte)),
            _ => write!(quoted, "\\u{unit:04x}").unwrap(),
        }
    }
    quoted + "\""
}

/// What a message means, or nothing if it must be refused.
pub(crate) fn meant(regions: &[Made<'_>]) -> Option<Vec<GuestRegion>> {
    let sound = |region: &Made<'_>| match spelled(region) {
        (Some(new), Some(old)) => new == old,
        (new, old) => new.or(old).is_some(),
    };
    let known = |region: &Made<'_>| name(&region.block).is_none_or(|name| name.len() <= 255);
    let once = |region: &Made<'_>| !is_twice(region.how);
    if regions.is_empty() || !regions.iter().all(|region| sound(region) && known(region) && once(region)) {
        return None;
    }
    let regions = regions.iter().map(|region| GuestRegion {
        base_host_virt_addr: region.numbers[0],
        size: region.numbers[1],
        offset: region.numbers[2],
        page_size: region.page_size,
        block: name(&region.block).map(str::to_owned),
    });
    Some(regions.collect())
}

pub(crate) fn changed(text: &mut Vec<u8>, change: &Change) {
    let at = |at: &u16| usize::from(*at) % (text.len() + 1);
    let part = |at: usize, count: &u8| at..text.len().min(at + usize::from(*count));
    match change {
        Change::Byte { at: place, value } => {
            let place = at(place);
            if let Some(byte) = text.get_mut(place) {
                *byte = *value;
            }
        }
        Change::Insert { at: place, bytes } => {
            let place = at(place);
            text.splice(place..place, *bytes);
        }
        Change::Remove { at: place, count } => drop(text.drain(part(at(place), count))),
        Change::Cut { at: place } => text.truncate(at(place)),
        Change::Again { at: place, count } => {
            let range = part(at(place), count);
            let again = text[range.clone()].to_vec();
            text.splice(range.end..range.end, again);
        }
    }
}
