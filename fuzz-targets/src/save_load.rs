//! Saves and loads as sequences of operations, on a disk that may fail at any call.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use mapped_ram::{
    Destination, ErrorKind, PageBitmap, RamBlock, ReaderOptions, SaveOptions, Tail, VerifyOptions,
};
use reference_model::{Operation, Session};

use crate::disk::Disk;

const PAGE: usize = 256;

#[derive(Arbitrary, Debug)]
enum Step {
    Dirty { page: u8, byte: u8 },
    WriteAll,
    WritePages { words: [u64; 2] },
}

#[derive(Arbitrary, Debug)]
struct Input {
    pages: u8,
    channels: u8,
    zero_detection: bool,
    in_place: Option<u8>,
    countdown: Option<u16>,
    short: bool,
    steps: Vec<Step>,
}

/// Either an error and no finished file, or exactly what the model says.
pub fn save_load(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let pages = u64::from(input.pages % 100) + 1;
    let length = usize::try_from(pages).unwrap() * PAGE;
    let mut memory = vec![0_u8; length];
    let start = memory.as_mut_ptr();
    let mut model = Session::new(PAGE as u64, pages, input.zero_detection);
    let offset = u64::from(input.in_place.unwrap_or(0));
    let disk = Disk::new(
        vec![0x55; usize::try_from(offset).unwrap()],
        input.countdown.map(|calls| u32::from(calls % 512)),
        input.short,
        input.in_place.is_some(),
    );

    let saved = (|| -> mapped_ram::Result<()> {
        // SAFETY: `memory` outlives the writer, and is changed through `start` alone while there is one.
        let block = unsafe { RamBlock::from_raw("ram0", start, length) };
        let mut writer = SaveOptions::new()
            .channels(usize::from(input.channels % 3) + 1)
            .zero_detection(input.zero_detection)
            .page_size(PAGE as u64)
            .alignment(PAGE as u64)
            .stream_offset(offset)
            .with_storage(Box::new(disk.clone()), vec![block])?;
        for step in input.steps.iter().take(50) {
            match step {
                Step::Dirty { page, byte } => {
                    let page = u64::from(*page) % pages;
                    let at = start.wrapping_add(usize::try_from(page).unwrap() * PAGE);
                    // SAFETY: a page of `memory`; the writer does nothing between two calls.
                    unsafe { at.write_bytes(*byte, PAGE) };
                    model.apply(&Operation::Dirty(page, vec![*byte; PAGE]));
                }
                Step::WriteAll => {
                    model.apply(&Operation::WriteAll);
                    writer.write_all()?;
                }
                Step::WritePages { words } => {
                    let dirty = PageBitmap::from_words(words.to_vec(), pages);
                    model.apply(&Operation::WritePages(dirty.runs().flatten().collect()));
                    writer.write_pages(0, &dirty)?;
                }
            }
        }
        let report = writer.finish(&Tail::minimal())?;
        assert_eq!((report.pages_written(), report.zero_pages()), (model.written, model.zero));
        Ok(())
    })();

    disk.mend();
    assert!(disk.bytes().iter().take(usize::try_from(offset).unwrap()).all(|byte| *byte == 0x55));
    let opened = ReaderOptions::new().stream_offset(offset).from_source(Arc::new(disk.clone()));
    if let Err(error) = saved {
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(!disk.is_published(), "published although it failed");
        // The failing call may have been the last sync: all is there then, but nobody promised it.
        if input.in_place.is_some()
            && let Err(opened) = opened
        {
            assert_eq!(opened.kind(), ErrorKind::Incomplete, "{opened}");
        }
        return;
    }
    let reader = opened.unwrap();
    let block = &reader.blocks()[0];
    let mut back = vec![0xEE; length];
    block.load(&mut back, Destination::Used).unwrap();
    assert!(back == model.readable(), "loaded other bytes than the model's");
    let present: Vec<u64> = block.bitmap().unwrap().runs().flatten().collect();
    assert!(present.iter().eq(model.present.keys()), "other bits than the model's");
    assert_eq!(reader.verify(VerifyOptions::new().channels(1)).unwrap().problems, []);
}
