//! Group 5: A full disk: ours is an error that names block and offset, and no file is left; QEMU says "completed", and pages are
//! lost. Our `verify` finds them.

use std::fs;

use mapped_ram::{ErrorKind, RamBlock, Reader, SaveOptions, VerifyOptions};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, Qemu, SmallDisk, Transfer};

use crate::{RAM, dir, memory, ram_file};

/// How many pages are in use: one batch of one channel of QEMU's, so that its last write is the one that falls short.
const PAGES: usize = 128;

/// Room for some of them only.
const ROOM: u64 = 300 << 10;

#[test]
fn ours_is_an_error_and_qemus_is_silent() {
    let Some(qemu) = Qemu::for_test() else { return };
    let mut source = memory(Pattern::Zero, RAM);
    Pattern::Dense.fill(&mut source[..PAGES * 4096], 7);
    let ram_dir = dir();
    let ram = ram_file(&ram_dir, "ram", &source);

    let disk = SmallDisk::new(ROOM);
    let (path, limited) = match &disk {
        Ok(disk) => (disk.path().to_owned(), false),
        // Mounting is not allowed here: a limit on the length of files, for QEMU alone. Ours is tested with a tmpfs only.
        Err(error) => {
            eprintln!("without a small disk of its own ({error}): QEMU under RLIMIT_FSIZE");
            (ram_dir.path().to_owned(), true)
        }
    };

    let theirs = path.join("theirs");
    let mut builder = Guest::builder(&qemu).ram_file(&ram);
    if limited {
        builder = builder.file_size_limit((1 << 20) + ROOM / 2);
    }
    let mut guest = builder.start().unwrap();
    let over = guest.save(&Transfer::new(&theirs).channels(1)).unwrap();
    drop(guest);
    println!("QEMU {}: {over:?}", qemu.version());
    if over.is_completed() {
        // Either what is behind the pages is missing, or pages stand in holes: a reader must not take it for whole.
        match Reader::open(&theirs).and_then(|reader| reader.verify(VerifyOptions::new())) {
            Ok(report) => {
                println!("verify: {:?}", report.problems);
                assert!(!report.problems.is_empty(), "pages were lost, and nobody says so");
                assert!(report.blocks[0].present_in_holes > 0 || report.devices == 0);
            }
            Err(error) => {
                println!("verify: {error}");
                assert!(matches!(error.kind(), ErrorKind::Incomplete | ErrorKind::Damaged), "{error}");
            }
        }
    }
    let _ = fs::remove_file(&theirs);
    if limited {
        return;
    }

    let ours = path.join("ours");
    let error = SaveOptions::new().channels(2).save(&ours, vec![RamBlock::new("ram0", &source)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = error.to_string();
    assert!(
        text.contains("block `ram0`") && text.contains("offset 0x") && text.contains("No space left"),
        "{text}"
    );
    assert!(text.contains(&ours.display().to_string()), "{text}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "something was left behind");
}
