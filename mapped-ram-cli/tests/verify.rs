//! What `verify` finds, and what `compare`, `copy` and `extract` make of the same files.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mapped_ram::{RamBlock, Reader, SaveOptions, SyncMode, Tail};
use nix::fcntl::{FallocateFlags, fallocate};

use support::{PAGE, dir, expect, ram_file, saved, text};

#[test]
fn lost_pages_and_a_cut_file_are_exit_code_3() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1; 64]);
    let bytes = fs::read(&guest).unwrap();
    let holed = dir.path().join("holed");
    let file = File::create(&holed).unwrap();
    let (from, to) = ((1 << 20) + 10 * PAGE, (1 << 20) + 20 * PAGE);
    file.write_all_at(&bytes[..from], 0).unwrap();
    file.write_all_at(&bytes[to..], to as u64).unwrap();
    let (_, err) = expect(3, &["verify", text(&holed)]);
    assert!(err.contains("block `ram0`") && err.contains("10 pages") && err.contains("page 10"), "{err}");
    expect(0, &["verify", "--allow-holes", text(&holed)]);

    for length in [0, 3, 100, 1 << 20, bytes.len() - 1] {
        file.set_len(length as u64).unwrap();
        expect(3, &["verify", "--allow-holes", text(&holed)]);
    }
}

/// A guest of 1 TiB of which two pages are in use, and what was in its memory: with holes read, these would take an hour.
#[test]
fn holes_are_equal_to_absent_pages_without_being_read() {
    const LENGTH: u64 = 1 << 40;
    let dir = dir();
    let (guest, ram) = (dir.path().join("guest"), dir.path().join("ram"));
    let pages = [0, LENGTH / 2 + 5 * PAGE as u64];
    let mut writer = SaveOptions::new()
        .sync(SyncMode::None)
        .create(&guest, vec![RamBlock::detached("ram0", LENGTH)])
        .unwrap();
    let raw = File::create(&ram).unwrap();
    raw.set_len(LENGTH).unwrap();
    for page in pages {
        writer.write_from(0, page, &[7; PAGE]).unwrap();
        raw.write_all_at(&[7; PAGE], page).unwrap();
    }
    writer.finish(&Tail::minimal()).unwrap();
    let ram0 = format!("ram0={}", text(&ram));
    let (said, _) = expect(0, &["verify", "--against", &ram0, text(&guest)]);
    assert!(said.contains("the same"), "{said}");
    let (copy, all) = (dir.path().join("copy"), dir.path().join("all"));
    expect(0, &["copy", "--sync", "none", text(&guest), text(&copy)]);
    expect(0, &["compare", text(&guest), text(&copy)]);
    expect(0, &["extract", "--all", "--output", text(&all), text(&guest)]);

    // Data against an absent page, and a hole against a present one.
    let differs_at = |page: u64| {
        let (said, _) = expect(1, &["verify", "--against", &ram0, text(&guest)]);
        assert!(said.contains(&format!("1 page differs, the first at offset {page:#x}")), "{said}");
    };
    let dig = |page: u64| {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&raw, hole, page.cast_signed(), 4096).unwrap();
    };
    raw.write_all_at(&[1; PAGE], LENGTH / 4).unwrap();
    differs_at(LENGTH / 4);
    dig(LENGTH / 4);
    dig(pages[1]);
    differs_at(pages[1]);
}

#[test]
fn bytes_behind_the_end_of_the_stream_are_a_warning_and_zeros_are_padding() {
    let dir = dir();
    let (guest, _) = saved(&dir, "guest", &[1, 2]);
    let whole = fs::read(&guest).unwrap();
    let behind = |bytes: &[u8]| {
        fs::write(&guest, [&whole, bytes].concat()).unwrap();
        let (said, err) = expect(0, &["verify", text(&guest)]);
        assert!(said.contains("sound"), "{said}");
        err
    };
    assert_eq!(behind(&[0; 5000]), "");
    let err = behind(&[&[0; 700][..], &[9; 4300]].concat());
    let words = format!("warning: {}: offset {:#x}: 5000 bytes", text(&guest), whole.len());
    assert!(err.contains(&words), "{err}");

    // A copy has them too, and says so; no part of the guest differs for them.
    let (copy, plain) = (dir.path().join("copy"), dir.path().join("plain"));
    fs::write(&plain, &whole).unwrap();
    let (_, err) = expect(0, &["copy", text(&guest), text(&copy)]);
    let words = format!("note: {}: offset {:#x}: 5000 bytes", text(&guest), whole.len());
    assert!(err.contains(&words) && err.contains("they are copied as they are"), "{err}");
    assert!(fs::read(&copy).unwrap() == fs::read(&guest).unwrap());
    assert_eq!(expect(0, &["compare", text(&guest), text(&copy)]).1, "");
    let (said, err) = expect(0, &["compare", text(&plain), text(&copy)]);
    assert!(said.contains("device state: the same"), "{said}");
    assert!(err.contains(&format!("{} has 0 bytes and {} 5000", text(&plain), text(&copy))), "{err}");
    behind(&[0; 5000]);
    assert_eq!(expect(0, &["copy", text(&guest), text(&copy)]).1, "");
    assert_eq!(expect(0, &["compare", text(&plain), text(&copy)]).1, "");
}

/// Clears the bitmap of the n-th block, as if it had never been written. A file of its own, so that no note is left from before.
fn clear_bitmap(file: &Path, block: usize) {
    let reader = Reader::open(file).unwrap();
    let at = usize::try_from(reader.blocks()[block].layout().bitmap_offset()).unwrap();
    let mut bytes = fs::read(file).unwrap();
    bytes[at..at + 8].fill(0);
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn pages_that_are_not_marked_are_told_and_not_thrown_away() {
    let dir = dir();
    let (one, _) = ram_file(&dir, "one", &[1, 0, 2, 2]);
    let (two, _) = ram_file(&dir, "two", &[3, 0]);
    let guest = dir.path().join("guest");
    let save = || {
        let (one, two) = (format!("one={}", text(&one)), format!("two={}", text(&two)));
        // One bridged page of zeros stands in the file too; that is no page that is lost.
        expect(0, &["save", "--ram", &one, "--ram", &two, "--bridge", "16", text(&guest)]);
    };
    let copy = dir.path().join("copy");
    let words = "block `one`, offset 0x100000: no page is marked present, but 12288 bytes";

    // Beside a block of which pages are present, it may be all zeros by the guest's own doing.
    save();
    clear_bitmap(&guest, 0);
    let (said, err) = expect(0, &["verify", text(&guest)]);
    assert!(said.contains("sound") && err.contains("warning: ") && err.contains(words), "{said}{err}");
    assert!(!err.contains("`two`"), "{err}");
    let (_, err) = expect(0, &["copy", text(&guest), text(&copy)]);
    assert!(err.contains("warning: ") && err.contains(words), "{err}");

    // Not a page of any block: nobody means that.
    clear_bitmap(&guest, 1);
    let before = fs::read(&guest).unwrap();
    let (said, err) = expect(3, &["verify", text(&guest)]);
    assert!(!said.contains("sound") && err.contains("error: ") && err.contains(words), "{said}{err}");
    assert!(err.contains("block `two`"), "{err}");
    for out in [&guest, &copy] {
        let before_out = fs::read(out).unwrap();
        let (_, err) = expect(3, &["copy", text(&guest), text(out)]);
        assert!(err.contains(words) && err.contains("--discard-unmarked"), "{err}");
        assert!(fs::read(out).unwrap() == before_out);
    }
    // Nor does any other command make zeros of it without a word.
    let (ram, images) = (dir.path().join("ram"), dir.path().join("images"));
    fs::write(&ram, [7; 4 * PAGE]).unwrap();
    for arguments in [
        &["restore", text(&guest), "--block", "one", "--into", text(&ram)][..],
        &["extract", text(&guest), "--block", "one", "--output", text(&ram)],
        &["extract", text(&guest), "--all", "--output", text(&images)],
        &["compare", text(&guest), text(&guest)],
        &["prepare", text(&guest)],
    ] {
        let (said, err) = expect(3, arguments);
        assert!(err.contains(words) && err.contains("background-snapshot"), "{err}");
        assert!(!said.contains("mapped-ram copy"), "{said}");
    }
    assert!(fs::read(&ram).unwrap() == [7; 4 * PAGE] && !images.exists());
    let (_, err) = expect(3, &["extract", "--salvage", text(&guest), "--all", "--output", text(&images)]);
    assert!(err.contains("warning: ") && err.contains(words), "{err}");
    assert!(fs::read(&guest).unwrap() == before);
    let (_, err) = expect(0, &["copy", "--discard-unmarked", text(&guest), text(&copy)]);
    assert!(err.contains("warning: ") && err.contains(words), "{err}");
    // The copy has nothing of it.
    let (_, err) = expect(0, &["verify", text(&copy)]);
    assert_eq!(err, "");

    // A guest of zeros in the room of an older file: data, and all of it zeros.
    let zeros = dir.path().join("zeros");
    fs::write(&zeros, vec![0; 6 * PAGE]).unwrap();
    let ram0 = format!("ram0={}", text(&zeros));
    save();
    expect(0, &["save", "--ram", &ram0, "--recycle", text(&guest), text(&guest)]);
    for file in [&guest, &dir.path().join("written")] {
        if file != &guest {
            // The same with zeros written out, and no note.
            fs::write(file, fs::read(&guest).unwrap()).unwrap();
        }
        let (said, err) = expect(0, &["verify", text(file)]);
        assert!(said.contains("sound") && err.is_empty(), "{said}{err}");
        let (_, err) = expect(0, &["copy", text(file), text(&copy)]);
        assert_eq!(err, "");
    }
}

/// Cut anywhere, a page of a block is in its image as it was, or named as lost and zeros; a block of which nothing is known has no image.
#[test]
fn what_can_be_had_of_a_cut_file_is_extracted_and_the_rest_is_named() {
    let dir = dir();
    let (one, memory_one) = ram_file(&dir, "one", &[1, 0, 2, 3]);
    let (two, memory_two) = ram_file(&dir, "two", &[0, 4, 0, 0, 5, 6, 7, 0, 8]);
    let rams = [("one", &one), ("two", &two)].map(|(name, path)| format!("{name}={}", text(path)));
    let guest = dir.path().join("guest");
    expect(0, &["save", "--ram", &rams[0], "--ram", &rams[1], text(&guest)]);
    let layouts: Vec<(u64, u64)> = Reader::open(&guest)
        .unwrap()
        .blocks()
        .iter()
        .map(|block| (block.layout().bitmap_offset(), block.layout().pages_offset()))
        .collect();
    let whole = fs::metadata(&guest).unwrap().len();
    let page = PAGE as u64;
    let mut cuts = vec![whole, whole - 1, 0, 100, layouts[0].0 + 7];
    for (bitmap, pages) in &layouts {
        cuts.extend([*bitmap + 8, *pages, pages + 1, pages + page, pages + 3 * page - 1, pages + 5 * page]);
    }
    for cut in cuts {
        let (file, out) = (dir.path().join("cut"), dir.path().join("out"));
        fs::copy(&guest, &file).unwrap();
        File::options().write(true).open(&file).unwrap().set_len(cut).unwrap();
        let code = if cut == whole { 0 } else { 3 };
        // Of the tail nothing is extracted.
        if cut <= layouts[1].1 + 9 * page {
            let (_, err) = expect(3, &["extract", text(&file), "--all", "--output", text(&out)]);
            let has_salvage = layouts.iter().any(|(bitmap, _)| cut >= bitmap + 8);
            assert_eq!(err.contains("extract --salvage"), has_salvage, "{cut:#x}: {err}");
        }
        // What was there before is no image of this file's.
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join("two.raw"), "of another guest").unwrap();
        let (said, err) =
            expect(code, &["extract", "--salvage", text(&file), "--all", "--output", text(&out)]);
        assert_eq!(err.is_empty(), cut == whole, "{err}");
        if cut < layouts[1].0 + 8 {
            assert!(!said.contains("two.raw"), "{cut:#x}: {said}");
            assert_eq!(fs::read(out.join("two.raw")).unwrap(), b"of another guest");
            fs::remove_file(out.join("two.raw")).unwrap();
            let (_, err) = expect(
                3,
                &["extract", "--salvage", text(&file), "--block", "two", "--output", text(&out.join("two"))],
            );
            // Where not even its record was found it is not said that there was none.
            assert!(!err.contains("has no block"), "{cut:#x}: {err}");
            assert!(!out.join("two").exists());
        }
        for ((name, memory), (bitmap, pages)) in
            [("one", &memory_one), ("two", &memory_two)].iter().zip(&layouts)
        {
            let image = out.join(format!("{name}.raw"));
            // The record stands before its bitmap.
            if cut < bitmap + 8 {
                assert!(!image.exists(), "{cut:#x} {name}");
                continue;
            }
            let mut expected = (*memory).clone();
            let mut named = Vec::new();
            for (number, bytes) in expected.chunks_mut(PAGE).enumerate() {
                let start = number as u64 * page;
                if bytes[0] != 0 && cut < pages + start + page {
                    bytes.fill(0);
                    named.push(start);
                }
            }
            assert!(fs::read(&image).unwrap() == expected, "{cut:#x} {name}");
            let prefix = format!("{name}\tlost\t");
            let told: Vec<u64> = said
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix)?.split_once('\t'))
                .flat_map(|(start, length)| {
                    let (start, length): (u64, u64) = (start.parse().unwrap(), length.parse().unwrap());
                    (start..start + length).step_by(PAGE)
                })
                .collect();
            assert_eq!(told, named, "{cut:#x} {name}: {said}");
            fs::remove_file(image).unwrap();
        }
    }

    // Where the disk gave nothing, rescue tools leave holes.
    let rescued = dir.path().join("rescued");
    let file = File::create(&rescued).unwrap();
    let bytes = fs::read(&guest).unwrap();
    let hole = usize::try_from(layouts[0].1).unwrap();
    file.write_all_at(&bytes[..hole], 0).unwrap();
    file.write_all_at(&bytes[hole + PAGE..], (hole + PAGE) as u64).unwrap();
    let image = dir.path().join("image");
    let (said, err) =
        expect(3, &["extract", "--salvage", text(&rescued), "--block", "one", "--output", text(&image)]);
    assert_eq!(said, "one\tlost\t0\t4096\n");
    assert!(err.contains("1 of the 3 pages"), "{err}");
    assert!(fs::read(&image).unwrap()[PAGE..] == memory_one[PAGE..]);

    // What was never finished has no bitmaps: nothing can be had of it.
    File::options().write(true).open(&rescued).unwrap().write_all_at(&[0; 4], 0).unwrap();
    expect(3, &["extract", "--salvage", text(&rescued), "--block", "one", "--output", text(&image)]);
}
