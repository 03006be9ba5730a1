//! The harness itself: guests of every machine start, are saved and loaded in every way, and run on; and what goes wrong
//! is told in QEMU's own words. No code of ours reads or writes a file here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, GuestBuilder, Qemu, Result, SmallDisk, Transfer, boot};
use tempfile::TempDir;

const MACHINES: [&str; 4] = ["none", "pc", "q35", "microvm"];
const RAM: u64 = 16 << 20;

/// On the disk that the build is on, for `O_DIRECT` is not to be had everywhere.
fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn empty(dir: &TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path).unwrap().set_len(RAM).unwrap();
    path
}

fn filled(dir: &TempDir, name: &str) -> (PathBuf, Vec<u8>) {
    let mut memory = vec![0; usize::try_from(RAM).unwrap()];
    Pattern::Ragged.fill(&mut memory, 1);
    let path = dir.path().join(name);
    fs::write(&path, &memory).unwrap();
    (path, memory)
}

fn builder(qemu: &Qemu, machine: &str, ram: &Path) -> GuestBuilder {
    Guest::builder(qemu).machine(machine).memory(RAM).ram_file(ram)
}

/// A guest that runs `program`: as firmware where there is no disk to boot from.
fn running(qemu: &Qemu, machine: &str, ram: &Path, program: Vec<u8>) -> GuestBuilder {
    let guest = builder(qemu, machine, ram);
    if machine == "microvm" { guest.firmware(boot::firmware(&program)) } else { guest.boot_sector(program) }
}

fn ways(file: &Path) -> [Transfer; 4] {
    let way = || Transfer::new(file);
    [
        way(),
        way().offset(12345),
        way().channels(2).zero_page_detection("none"),
        way().channels(3).direct_io(true).offset(8192),
    ]
}

fn complete(transfer: &Transfer, over: Result<qemu_harness::Migration>) {
    let over = over.unwrap_or_else(|error| panic!("{transfer:?}: {error}"));
    assert!(over.is_completed(), "{transfer:?}: {over:?}");
}

fn count(guest: &mut Guest) -> Result<u32> {
    Ok(u32::from_le_bytes(guest.physical(boot::COUNTER, 4)?.try_into().unwrap()))
}

#[test]
fn a_stopped_guest_is_saved_and_loaded_in_every_way() {
    let Some(qemu) = Qemu::for_test() else { return };
    for machine in MACHINES {
        let dir = dir();
        let (ram, memory) = filled(&dir, "ram");
        let file = dir.path().join("guest");
        for way in ways(&file) {
            let mut guest = builder(&qemu, machine, &ram).start().unwrap();
            let blocks = guest.ram_blocks().unwrap();
            assert!(blocks.iter().any(|block| block.used_length == RAM), "{machine}: {blocks:?}");
            complete(&way, guest.save(&way));
            drop(guest);

            let again = empty(&dir, "again");
            let mut guest = builder(&qemu, machine, &again).incoming().start().unwrap();
            complete(&way, guest.load(&way));
            assert_eq!(guest.ram_blocks().unwrap(), blocks, "{machine}");
            assert!(fs::read(&again).unwrap() == memory, "{machine}, {way:?}: memory differs");
            fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
fn a_running_guest_is_saved_and_runs_on() {
    let Some(qemu) = Qemu::for_test() else { return };
    for machine in ["pc", "q35", "microvm"] {
        let dir = dir();
        let file = dir.path().join("guest");
        for way in ways(&file) {
            let ram = empty(&dir, "ram");
            let mut guest = running(&qemu, machine, &ram, boot::counter()).paused(false).start().unwrap();
            guest.wait_until("it counts", |guest| Ok(count(guest)? > 1000)).unwrap();
            complete(&way, guest.save(&way));
            assert!(!guest.is_running().unwrap());
            let saved_at = count(&mut guest).unwrap();
            drop(guest);

            let again = empty(&dir, "again");
            let mut guest = running(&qemu, machine, &again, boot::counter()).incoming().start().unwrap();
            complete(&way, guest.load(&way));
            assert_eq!(count(&mut guest).unwrap(), saved_at, "{machine}, {way:?}");
            assert!(
                fs::read(&ram).unwrap() == fs::read(&again).unwrap(),
                "{machine}, {way:?}: memory differs"
            );
            guest.cont().unwrap();
            guest.wait_until("it counts on", |guest| Ok(count(guest)? > saved_at)).unwrap();
            guest.stop().unwrap();
            assert!(!guest.is_running().unwrap());
            fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
fn the_programs_write_the_pages_that_they_say() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let ram = empty(&dir, "ram");
    let pages = |guest: &mut Guest| -> Result<Vec<[u8; 4]>> {
        let memory = guest.physical(boot::FIRST, boot::PAGES * 4096)?;
        Ok(memory.chunks(4096).map(|page| page[..4].try_into().unwrap()).collect())
    };

    let program = boot::firmware(&boot::counter());
    let mut guest = builder(&qemu, "pc", &ram).firmware(program).paused(false).start().unwrap();
    let all = |guest: &mut Guest| Ok(pages(guest)?.iter().all(|start| *start != [0; 4]));
    guest.wait_until("every page holds a count", all).unwrap();
    drop(guest);

    fs::remove_file(&ram).unwrap();
    let ram = empty(&dir, "ram");
    let program = boot::firmware(&boot::zeroing());
    let mut guest = builder(&qemu, "pc", &ram).firmware(program).paused(false).start().unwrap();
    for (what, wanted) in [("set", [0xA5; 4]), ("zero again", [0; 4]), ("set again", [0xA5; 4])] {
        for page in [0, boot::PAGES - 1] {
            let page = usize::try_from(page).unwrap();
            guest.wait_until(what, |guest| Ok(pages(guest)?[page] == wanted)).unwrap();
        }
    }
}

#[test]
fn what_goes_wrong_is_told_in_qemus_words() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let ram = empty(&dir, "ram");

    let error = builder(&qemu, "no-such-machine", &ram).start().err().expect("there is no such machine");
    assert!(error.to_string().contains("no-such-machine"), "{error}");

    // QEMU ends when a load fails, and has said why.
    let file = dir.path().join("guest");
    fs::write(&file, b"this is no stream of QEMU's").unwrap();
    let mut guest = builder(&qemu, "none", &ram).incoming().start().unwrap();
    match guest.load(&Transfer::new(&file)) {
        Ok(over) => assert!(!over.is_completed(), "{over:?}"),
        Err(error) => assert!(error.to_string().contains("QEMU ended with"), "{error}"),
    }

    let mut guest = builder(&qemu, "none", &ram).start().unwrap();
    let nowhere = dir.path().join("no such folder").join("guest");
    let error = guest.save(&Transfer::new(&nowhere)).expect_err("there is no such folder");
    assert!(error.to_string().contains("no such folder"), "{error}");
}

#[test]
fn a_limit_on_the_length_of_files_is_felt() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let (ram, _) = filled(&dir, "ram");
    let file = dir.path().join("guest");
    let mut guest = builder(&qemu, "none", &ram).file_size_limit(4 << 20).start().unwrap();
    let over = guest.save(&Transfer::new(&file).channels(1)).unwrap();
    // Whether QEMU notices is not asked here.
    assert!(fs::metadata(&file).unwrap().len() <= 4 << 20, "{over:?}");
}

#[test]
fn a_small_disk_fills_up_and_goes_away() {
    let disk = match SmallDisk::new(256 << 10) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("NOT TESTED with a small disk: {error}");
            return;
        }
    };
    let path = disk.path().to_owned();
    let error = fs::write(path.join("too long"), vec![1; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    // Also while something has it open.
    let open = File::open(path.join("too long")).unwrap();
    drop(disk);
    assert!(!path.exists());
    drop(open);
}
