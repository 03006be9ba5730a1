//! A bitmap that has to come from the disk: what mapping a block will read of it is asked for first, all of it at once.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mapped_ram::storage::{FileSource, Source};
use mapped_ram::{RamBlock, ReaderOptions, SaveOptions, Tail};

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

const PAGE: u64 = 4096;

/// What a source was told to do, in bytes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Asked(Range<u64>),
    Read(Range<u64>),
}

/// A file that says whether it is in the page cache as the test wants it.
struct Told {
    file: FileSource,
    is_cached: bool,
    events: Mutex<Vec<Event>>,
}

impl Told {
    fn open(path: &Path, is_cached: bool) -> Arc<Self> {
        Arc::new(Self { file: FileSource::open(path).unwrap(), is_cached, events: Mutex::default() })
    }

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

impl Source for Told {
    forward!(file: name, len, channel, next_data, first_data, file);

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        self.events.lock().unwrap().push(Event::Read(offset..offset + read as u64));
        Ok(read)
    }

    fn is_cached(&self, offset: u64) -> bool {
        // What stands beside the head was brought in with it.
        self.is_cached || offset < 16 << 10
    }

    fn ask_for(&self, offset: u64, length: u64) {
        self.events.lock().unwrap().push(Event::Asked(offset..offset + length));
        self.file.ask_for(offset, length);
    }
}

#[test]
fn all_that_is_read_of_a_cold_bitmap_was_asked_for_before_the_first_read() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    // 512 KiB of bitmap, of which each run needs a piece of its own.
    let (length, runs) = (16_u64 << 30, 20);
    let mut writer = SaveOptions::new().create(&path, vec![RamBlock::detached("ram0", length)]).unwrap();
    let data = vec![7; usize::try_from(40 * PAGE).unwrap()];
    for run in 0..runs {
        writer.write_from(0, run * (length / runs / PAGE * PAGE), &data).unwrap();
    }
    writer.finish(&Tail::minimal()).unwrap();

    let told = Told::open(&path, false);
    let reader = ReaderOptions::new().from_source(Arc::<Told>::clone(&told)).unwrap();
    told.events();
    drop(reader.blocks()[0].map().unwrap());
    let events = told.events();
    let is_read = |event: &Event| matches!(event, Event::Read(_));
    let (asked, read) = events.split_at(events.iter().position(is_read).unwrap());
    assert_eq!(asked.len() as u64, runs, "{asked:?}");
    assert!(read.iter().all(is_read), "{events:?}");
    for event in read {
        let Event::Read(read) = event else { continue };
        let holds = |event: &Event| matches!(event, Event::Asked(asked) if asked.start <= read.start && read.end <= asked.end);
        assert!(asked.iter().any(holds), "{read:?} in {asked:?}");
    }

    // Nothing is asked for that is there, or was read already.
    let told = Told::open(&path, true);
    let reader = ReaderOptions::new().from_source(Arc::<Told>::clone(&told)).unwrap();
    drop(reader.blocks()[0].map().unwrap());
    assert!(told.events().iter().all(is_read));
    let told = Told::open(&path, false);
    let reader = ReaderOptions::new().from_source(Arc::<Told>::clone(&told)).unwrap();
    reader.blocks()[0].bitmap().unwrap();
    told.events();
    drop(reader.blocks()[0].map().unwrap());
    assert_eq!(told.events(), []);
}
