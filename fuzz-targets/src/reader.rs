//! The reader on a sound stream of which fields were changed, so that it gets deep before anything is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use mapped_ram::{Destination, Reader, ReaderOptions, VerifyOptions};
use reference_model::{Block, Stream};

use crate::disk::Disk;

const PAGE: u64 = 256;

#[derive(Arbitrary, Debug)]
enum Change {
    /// A field of a block's record becomes this number.
    Field { block: u8, field: u8, value: u64 },
    /// A field of a block's record moves by a little.
    Nudge { block: u8, field: u8, by: i8 },
    /// A byte anywhere.
    Byte { at: u16, value: u8 },
    /// The file ends here.
    Cut { at: u16 },
    /// Bytes of the tail.
    Tail { at: u16, bytes: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Input {
    offset: u8,
    explicit: bool,
    blocks: Vec<(u8, u64)>,
    changes: Vec<Change>,
    countdown: Option<u16>,
}

fn build(input: &Input) -> (Stream, Vec<u8>) {
    let blocks = input.blocks.iter().take(4).enumerate().map(|(index, (pages, set))| {
        let pages = u64::from(*pages % 64) + 1;
        let present: BTreeMap<u64, Vec<u8>> = (0..pages)
            .filter(|page| set >> page & 1 == 1)
            .map(|page| (page, vec![page.to_le_bytes()[0]; 256]))
            .collect();
        Block {
            name: format!("block{index}").into_bytes(),
            used_length: pages * PAGE,
            address: None,
            left_out: false,
            pages: present,
        }
    });
    let mut stream = Stream::new(blocks.collect());
    (stream.page_size, stream.alignment) = (PAGE, PAGE);
    stream.offset = if input.explicit { u64::from(input.offset) } else { 0 };
    let file = stream.write();
    let bytes = file.read(0, file.length());
    (stream, bytes)
}

/// Where a field of a block's record is: length, version and page size, bitmap offset, pages offset, bitmap.
fn place(bytes: &[u8], block: u8, field: u8) -> Option<usize> {
    let name = format!("\x06block{}", block % 4);
    let record = bytes.windows(name.len()).position(|part| part == name.as_bytes())? + name.len();
    Some(record + [0, 8, 12, 20, 28, 36][usize::from(field % 6)])
}

fn change(bytes: &mut Vec<u8>, tail: usize, change: &Change) {
    let mut put = |at: usize, new: &[u8]| {
        for (old, new) in bytes.iter_mut().skip(at).zip(new) {
            *old = *new;
        }
    };
    match change {
        Change::Field { block, field, value } => {
            if let Some(at) = place(bytes, *block, *field) {
                put_at(bytes, at, &value.to_be_bytes());
            }
        }
        Change::Nudge { block, field, by } => {
            if let Some(at) = place(bytes, *block, *field)
                && let Some(old) = bytes.get(at..at + 8)
            {
                let old = u64::from_be_bytes(old.try_into().unwrap());
                let new = old.wrapping_add_signed(i64::from(*by) * if by % 2 == 0 { 128 } else { 1 });
                put_at(bytes, at, &new.to_be_bytes());
            }
        }
        Change::Byte { at, value } => put(usize::from(*at), &[*value]),
        Change::Cut { at } => bytes.truncate(usize::from(*at)),
        Change::Tail { at, bytes: new } => put(tail + usize::from(*at % 200), new),
    }
}

fn put_at(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (old, new) in bytes.iter_mut().skip(at).zip(new) {
        *old = *new;
    }
}

/// No panic, whatever is changed; an unchanged stream reads as the model says.
pub fn reader(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let (stream, mut bytes) = build(&input);
    let tail = bytes.len() - stream.tail.len();
    for each in input.changes.iter().take(20) {
        change(&mut bytes, tail, each);
    }
    let disk = Disk::new(bytes, input.countdown.map(u32::from), false, false);
    let mut options = ReaderOptions::new();
    if input.explicit {
        options = options.stream_offset(stream.offset);
    }
    let opened = options.from_source(Arc::new(disk));
    let untouched = input.changes.is_empty() && input.countdown.is_none();
    match opened {
        Ok(reader) if untouched => as_the_model(&reader, &stream),
        Ok(reader) => {
            // Whatever comes out is fine, as long as something does.
            let _ = everything(&reader);
        }
        Err(error) => {
            assert!(!untouched || stream.blocks.is_empty(), "{error}");
            assert!(error.to_string().contains("disk"));
        }
    }
}

fn everything(reader: &Reader) -> mapped_ram::Result<()> {
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        block.present_pages()?;
        block.read_at(block.used_length() - 1, &mut [0])?;
        if block.used_length() <= 1 << 20 {
            let mut memory = vec![0; usize::try_from(block.used_length()).unwrap()];
            block.load(&mut memory, Destination::Used)?;
        }
    }
    reader.devices()?;
    reader.verify(VerifyOptions::new().channels(1)).map(drop)
}

fn as_the_model(reader: &Reader, stream: &Stream) {
    assert_eq!(reader.blocks().len(), stream.blocks.len());
    for (block, model) in reader.blocks().iter().zip(&stream.blocks) {
        for page in 0..block.pages() {
            let mut bytes = [0xEE; 256];
            block.read_at(page * PAGE, &mut bytes).unwrap();
            let zeros = vec![0; 256];
            assert_eq!(&bytes[..], model.pages.get(&page).unwrap_or(&zeros));
        }
    }
    assert_eq!(reader.tail().unwrap(), stream.tail);
}
