//! What a save tells of itself while it runs, and how it ends when it is cancelled, or when who listens panics.

use std::fs;

use mapped_ram::{Bridge, Cancel, ErrorKind, PageBitmap, Progress, RamBlock, SaveOptions, Tail};
use tempfile::TempDir;

const PAGE: usize = 4096;

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn progress_ends_at_the_total_and_counts_each_operation_from_zero() {
    let dir = dir();
    let memory = [0, 3, 3, 0].map(|byte| [byte; PAGE]).concat().repeat(1000);
    let mut seen: Vec<Progress> = Vec::new();
    {
        let mut writer = SaveOptions::new()
            .progress(|progress| seen.push(*progress))
            .bridge(Bridge::None)
            .create(dir.path().join("guest.mram"), vec![RamBlock::new("ram0", &memory)])
            .unwrap();
        writer.write_all().unwrap();
        let mut dirty = PageBitmap::new(4000);
        dirty.insert(1..3);
        writer.write_pages(0, &dirty).unwrap();
        writer.finish(&Tail::minimal()).unwrap();
    }
    let last = seen.pop().unwrap();
    assert_eq!((last.total_bytes, last.done_bytes, last.transferred_bytes), (2 * 4096, 2 * 4096, 2 * 4096));
    let of_first: Vec<_> = seen.iter().filter(|progress| progress.total_bytes == 4000 * 4096).collect();
    let last = of_first.last().unwrap();
    assert_eq!((last.done_bytes, last.transferred_bytes), (4000 * 4096, 2000 * 4096));
    assert!(of_first.windows(2).all(|pair| pair[0].done_bytes <= pair[1].done_bytes));
}

#[test]
fn cancelling_ends_a_save_and_leaves_no_file() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = vec![3; 5000 * PAGE];
    let cancel = Cancel::new();
    let handle = cancel.clone();
    let error = SaveOptions::new()
        .cancel(cancel)
        .progress(move |_| handle.cancel())
        .save(&path, vec![RamBlock::new("ram0", &memory)])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What the file holds is not known then, and must not get a name.
#[test]
fn a_writer_whose_callback_panicked_is_of_no_more_use() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    fs::write(&path, "old").unwrap();
    let memory = vec![3; 2000 * PAGE];
    for round in 0..2 {
        let mut calls = 0;
        let mut writer = SaveOptions::new()
            .progress(|_| {
                calls += 1;
                assert_ne!(calls, 1, "in the callback");
            })
            .create(&path, vec![RamBlock::new("ram0", &memory)])
            .unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.write_all()));
        assert!(caught.is_err());
        let after = match round {
            0 => writer.finish(&Tail::minimal()).map(drop),
            _ => writer.write_pages(0, &PageBitmap::full(2000)),
        };
        let error = after.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}

#[test]
fn a_panic_in_the_callback_leaves_no_channel_behind() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = vec![3; 5000 * PAGE];
    let result = std::panic::catch_unwind(|| {
        SaveOptions::new()
            .progress(|_| panic!("in the callback"))
            .save(&path, vec![RamBlock::new("ram0", &memory)])
    });
    assert!(result.is_err());
    drop(memory);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
