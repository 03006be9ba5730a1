//! Power cuts at any point: under the final name is the old snapshot whole or the new one whole; a save in place is called
//! incomplete until it is finished.
//!
//! A storage in memory writes down what is written, cut, synced and named. For each point of that list, what a disk may hold
//! then is put together: everything that was synced, and of the rest any sectors, chosen by a seed that a failure prints.

mod disk;

use std::sync::Arc;

use mapped_ram::format::libvirt::SaveHeader;
use mapped_ram::{
    Destination, ErrorKind, PageBitmap, RamBlock, ReaderOptions, SaveOptions, Tail, VerifyOptions,
};

use crate::disk::{Event, Log, Recorder, Snapshot};

const PAGE: usize = 256;
const PAGES: usize = 90;

fn guest(byte: u8) -> Vec<u8> {
    let mut memory = vec![0; PAGES * PAGE];
    memory[5 * PAGE..30 * PAGE].fill(byte);
    memory[64 * PAGE..65 * PAGE].fill(byte + 1);
    memory
}

/// Saves a guest in two rounds; gives what was done to the disk.
fn record(base: &[u8], offset: u64, is_in_place: bool, byte: u8) -> Log {
    record_on(Recorder::new(base.to_vec(), is_in_place), offset, byte)
}

fn record_on(recorder: Recorder, offset: u64, byte: u8) -> Log {
    record_by(SaveOptions::new().stream_offset(offset), recorder, byte)
}

fn record_by(options: SaveOptions<'_>, recorder: Recorder, byte: u8) -> Log {
    let log = recorder.log();
    let memory = guest(byte);
    let mut writer = options
        .channels(2)
        .page_size(PAGE as u64)
        .alignment(PAGE as u64)
        .with_storage(Box::new(recorder), vec![RamBlock::new("ram0", &memory)])
        .unwrap();
    writer.write_all().unwrap();
    let mut dirty = PageBitmap::new(PAGES as u64);
    dirty.insert(3..12);
    writer.write_pages(0, &dirty).unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    log.read()
}

/// What a reader makes of a disk: the guest's memory, or why not.
fn open(bytes: Vec<u8>, offset: u64) -> Result<Vec<u8>, ErrorKind> {
    open_by(ReaderOptions::new().stream_offset(offset), bytes)
}

fn open_by(options: ReaderOptions, bytes: Vec<u8>) -> Result<Vec<u8>, ErrorKind> {
    let reader = options.from_source(Arc::new(Snapshot(bytes))).map_err(|error| error.kind())?;
    let report = reader.verify(VerifyOptions::new().channels(1)).map_err(|error| error.kind())?;
    assert_eq!(report.problems, []);
    let mut memory = vec![0xEE; PAGES * PAGE];
    reader.blocks()[0].load(&mut memory, Destination::Used).map_err(|error| error.kind())?;
    Ok(memory)
}

#[test]
fn a_new_file_is_whole_before_it_has_its_name() {
    let log = record(&[], 0, false, 7);
    let named = log.events.iter().position(|event| matches!(event, Event::Publish)).expect("it got its name");
    assert_eq!(named, log.events.len() - 1, "something was written behind the name");
    // Whenever the name is seen, durable or not, this is what it leads to: nothing of the file may be unsynced then.
    for seed in 0..200 {
        let bytes = log.after_a_cut(named, seed);
        assert_eq!(open(bytes, 0), Ok(guest(7)), "seed {seed}");
    }
    // And before it has the name nobody sees it: the older file under that name is another file.
    assert!(log.events[..named].iter().any(|event| matches!(event, Event::Sync)));
}

/// Every cut of a save in place over `base`; gives how many there were.
fn in_place(base: &[u8], offset: u64, old: Option<&[u8]>, seeds: u64) -> usize {
    let log = record(base, offset, true, 7);
    let start = usize::try_from(offset).unwrap();
    let mut cuts = 0;
    for cut in 0..=log.events.len() {
        for seed in 0..seeds {
            let bytes = log.after_a_cut(cut, seed);
            assert_eq!(
                &bytes[..start],
                &base[..start],
                "cut {cut}, seed {seed}: what stands before was touched"
            );
            match open(bytes, offset) {
                Ok(memory) => {
                    // Whole, so one or the other: the new one only once all of it was synced.
                    let is_new = memory == guest(7);
                    assert!(
                        is_new || Some(&memory[..]) == old,
                        "cut {cut}, seed {seed}: neither old nor new"
                    );
                    assert!(
                        !is_new || cut >= log.events.len() - 1,
                        "cut {cut}, seed {seed}: whole too early"
                    );
                }
                Err(kind) => {
                    assert!(cut < log.events.len(), "seed {seed}: finished, and {kind:?}");
                    assert_eq!(kind, ErrorKind::Incomplete, "cut {cut}, seed {seed}");
                }
            }
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn a_save_in_place_is_incomplete_until_it_is_finished() {
    let mut cuts = 0;
    // The magic across two sectors, too.
    for offset in [0, 1, 512, 509, 510, 511, 1000, 12345] {
        cuts += in_place(&vec![0x55; usize::try_from(offset).unwrap()], offset, None, 40);
    }
    println!("{cuts} cuts");
}

#[test]
fn a_save_in_place_over_an_older_one_is_the_old_the_new_or_incomplete() {
    let mut cuts = 0;
    for offset in [0, 510, 1000] {
        let base = vec![0x55; usize::try_from(offset).unwrap()];
        let older = record(&base, offset, true, 3);
        let older = older.after_a_cut(older.events.len(), 0);
        assert_eq!(open(older.clone(), offset), Ok(guest(3)));
        cuts += in_place(&older, offset, Some(&guest(3)), 100);
    }
    println!("{cuts} cuts");
}

/// Every cut of a save over an expendable file, which is looked at as a reader finds it that was told nothing; gives how many there
/// were.
fn over_an_expendable_file(log: &Log) -> usize {
    let mut cuts = 0;
    let named = log.events.iter().position(|event| matches!(event, Event::Publish)).expect("it got its name");
    assert_eq!(named, log.events.len() - 1, "something was written behind the name");
    for cut in 0..=log.events.len() {
        for seed in 0..100 {
            match open_by(ReaderOptions::new(), log.after_a_cut(cut, seed)) {
                Ok(memory) => {
                    assert!(memory == guest(7), "cut {cut}, seed {seed}: neither incomplete nor the new one");
                    // The magic is the last write; before it nothing may look whole.
                    assert!(cut + 2 >= named, "cut {cut}, seed {seed}: whole too early");
                }
                Err(kind) => {
                    assert!(cut < named, "cut {cut}, seed {seed}: it has its name, and {kind:?}");
                    assert_eq!(kind, ErrorKind::Incomplete, "cut {cut}, seed {seed}");
                }
            }
            cuts += 1;
        }
    }
    cuts
}

/// A save over an expendable older file. Under the final name it is whole; under the passing name that a cut may leave, nobody
/// takes it for anything before it is.
#[test]
fn a_save_over_an_expendable_file_is_incomplete_until_it_is_finished() {
    let older = record(&[], 0, false, 3);
    let older = older.after_a_cut(older.events.len(), 0);
    assert_eq!(open(older.clone(), 0), Ok(guest(3)));
    let longer = [older.clone(), vec![0x5A; 9000]].concat();
    let mut cuts = 0;
    for base in [older, longer, vec![0x5A; 700]] {
        cuts += over_an_expendable_file(&record_on(Recorder::recycled(base), 0, 7));
    }
    println!("{cuts} cuts");
}

/// What stands before the stream comes along: then its first bytes come last, and not the stream's own. An older libvirt image is no
/// whole one either while it is written over.
#[test]
fn a_libvirt_image_over_an_expendable_one_is_incomplete_until_it_is_finished() {
    let mut head = include_bytes!("../data/libvirt/11.3.0.head").to_vec();
    let length = 3000 - SaveHeader::LEN;
    head[20..24].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    head.resize(3000, 0);
    let older = record(&head, 3000, true, 3);
    let older = older.after_a_cut(older.events.len(), 0);
    let options = || ReaderOptions::new();
    assert_eq!(open_by(options(), older.clone()), Ok(guest(3)));
    let source = options().from_source(Arc::new(Snapshot(older.clone()))).unwrap();
    let mut cuts = 0;
    for base in [older, vec![0x5A; 700]] {
        let save = SaveOptions::new().preamble_of(&source);
        let log = record_by(save, Recorder::recycled(base), 7);
        assert_eq!(log.after_a_cut(log.events.len(), 0)[..3000], head[..]);
        cuts += over_an_expendable_file(&log);
    }
    println!("{cuts} cuts");
}
