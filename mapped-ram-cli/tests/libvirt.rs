//! libvirt's images: every command opens them by itself, and a copy is one too, unless it is said otherwise. The header is a real one;
//! that libvirt takes the copies shows `scripts/check-libvirt`.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use support::{check, dir, expect, listing, ram_file, text, used};

/// What libvirt 11.3.0 wrote before a stream, but for the padding.
const HEAD: &[u8] = include_bytes!("../../tests/data/libvirt/11.3.0.head");

/// How much there was of it with the padding, in bytes.
const HEAD_LENGTH: usize = 67_245;

/// The header with so many bytes of padding behind it.
fn head(padding: usize) -> Vec<u8> {
    let mut head = HEAD.to_vec();
    head.resize(HEAD.len() + padding, 0);
    let length = u32::try_from(head.len() - 92).unwrap();
    head[20..24].copy_from_slice(&length.to_le_bytes());
    head
}

/// An image of libvirt's with a made-up guest of 1 MiB, and what stands before its stream.
fn libvirt_image(path: &Path) -> Vec<u8> {
    let head = head(HEAD_LENGTH - HEAD.len());
    assert_eq!(head[..HEAD.len()], *HEAD);
    fs::write(path, &head).unwrap();
    expect(0, &["save", "--synthetic", "1M", "--offset", &head.len().to_string(), text(path)]);
    head
}

#[test]
fn every_copy_of_an_image_is_one() {
    let strategy = (
        prop::collection::vec(0_u8..3, 1..200),
        prop_oneof![Just(0), 0_usize..100_000],
        prop::sample::select(vec![
            &[][..],
            &["--zero-detection", "none"],
            &["--direct-io"],
            &["--sync", "none", "--bridge", "auto"],
            &["--recycle"],
            &["--offset", "0"],
        ]),
        any::<bool>(),
    );
    check(file!(), &strategy, |(pages, padding, flags, onto_itself)| {
        let dir = dir();
        let (ram, _) = ram_file(&dir, "ram", &pages);
        let ram0 = format!("pc.ram={}", text(&ram));
        let (image, old) = (dir.path().join("image"), dir.path().join("old"));
        let head = head(padding);
        fs::write(&image, &head).unwrap();
        expect(0, &["save", "--ram", &ram0, "--offset", &head.len().to_string(), text(&image)]);
        let first = dir.path().join("first");
        fs::copy(&image, &first).unwrap();
        fs::write(&old, vec![0xA5; padding]).unwrap();

        let out = if onto_itself { image.clone() } else { dir.path().join("out") };
        let mut arguments = vec!["copy"];
        arguments.extend(flags);
        if flags == ["--recycle"] {
            arguments.push(text(&old));
        }
        let (_, err) = expect(0, &[arguments, vec![text(&image), text(&out)]].concat());
        prop_assert!(!err.contains("libvirt"), "{}", err);

        prop_assert!(fs::read(&out).unwrap()[..head.len()] == head[..]);
        expect(0, &["compare", text(&first), text(&out)]);
        let (said, _) = expect(0, &["verify", "--against", &ram0, text(&out)]);
        prop_assert!(said.contains("sound"), "{}", said);
        let (said, _) = expect(0, &["info", text(&out)]);
        prop_assert!(said.contains("libvirt"), "{}", said);
        let names = listing(dir.path());
        prop_assert!(!names.iter().any(|name| text(name.as_ref()).starts_with('.')), "{:?}", names);
        Ok(())
    });
}

/// The room of a file in very many pieces is given back, and the copy begun anew in it: it keeps the header all the same.
#[test]
fn a_copy_over_an_expendable_file_in_many_pieces_is_an_image_too() {
    let dir = dir();
    let (image, old, out) = (dir.path().join("image"), dir.path().join("old"), dir.path().join("out"));
    let head = libvirt_image(&image);
    for flags in [&[][..], &["--bridge", "auto"]] {
        let pieces = File::create(&old).unwrap();
        for piece in 0..1500 {
            pieces.write_all_at(&[7; 4096], piece * 2 * 4096).unwrap();
        }
        pieces.sync_all().unwrap();
        let arguments = [&["copy", "--recycle", text(&old), text(&image), text(&out)], flags].concat();
        let (_, err) = expect(0, &arguments);
        if !err.contains("1500 small pieces") {
            eprintln!("NOT TESTED: files in many pieces: this file system does not tell of them: {err}");
        }
        assert!(fs::read(&out).unwrap()[..head.len()] == head[..]);
        expect(0, &["compare", text(&image), text(&out)]);
        expect(0, &["verify", text(&out)]);
        assert!(!old.exists());
    }
}

#[test]
fn the_stream_alone_is_what_was_asked_for() {
    let dir = dir();
    let (path, out) = (dir.path().join("saved.img"), dir.path().join("out"));
    let head = libvirt_image(&path);
    let place = head.len().to_string();
    let (_, err) = expect(0, &["copy", "--stream-only", text(&path), text(&out)]);
    assert!(!err.contains("libvirt"), "{err}");
    assert!(fs::read(&out).unwrap().starts_with(b"QEVM"));
    expect(0, &["compare", text(&path), text(&out)]);

    // In place there is no room for it, unless it is there already: a note.
    fs::write(&out, [7; 5000]).unwrap();
    let (said, err) = expect(0, &["copy", "--offset", "5000", "--stats", "json", text(&path), text(&out)]);
    assert!(err.contains("note") && err.contains("libvirt's header") && err.contains("--offset"), "{err}");
    let stats: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(stats["notes"].to_string().contains("libvirt"), "{said}");
    assert!(fs::read(&out).unwrap()[..5000] == [7; 5000]);
    fs::write(&out, &head).unwrap();
    let (_, err) = expect(0, &["copy", "--offset", &place, text(&path), text(&out)]);
    assert!(!err.contains("libvirt"), "{err}");
    assert!(fs::read(&out).unwrap()[..head.len()] == head[..]);
}

#[test]
fn what_stands_before_a_stream_is_never_lost_by_a_copy_onto_itself() {
    let dir = dir();
    let path = dir.path().join("saved.img");
    let place = libvirt_image(&path).len().to_string();
    let image = fs::read(&path).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for onto in [&path, &link] {
        let (_, err) = expect(2, &["copy", "--stream-only", text(&path), text(onto)]);
        assert!(err.contains(text(onto)) && err.contains(&place) && err.contains("XML"), "{err}");
    }
    // What is no header of libvirt's nobody can be sure to know.
    let plain = dir.path().join("plain");
    fs::write(&plain, [7; 5000]).unwrap();
    expect(0, &["save", "--synthetic", "1M", "--offset", "5000", text(&plain)]);
    let (_, err) = expect(2, &["copy", "--in-offset", "5000", text(&plain), text(&plain)]);
    assert!(err.contains("5000 bytes"), "{err}");
    let (_, err) = expect(2, &["copy", "--in-offset", &place, text(&path), text(&path)]);
    assert!(err.contains(&place), "{err}");
    assert!(fs::read(&path).unwrap() == image && fs::read(&plain).unwrap()[..5000] == [7; 5000]);

    // With its header it is the same image, smaller.
    expect(0, &["copy", text(&path), text(&link)]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read(&path).unwrap()[..HEAD.len()] == *HEAD);
    expect(0, &["verify", text(&path)]);
}

#[test]
fn an_image_is_opened_by_itself() {
    let dir = dir();
    let path = dir.path().join("saved.img");
    let offset = libvirt_image(&path).len();
    let (said, _) = expect(0, &["info", text(&path)]);
    assert!(
        said.contains("libvirt") && said.contains("running") && said.contains(&format!("at offset {offset}")),
        "{said}"
    );
    expect(0, &["verify", text(&path)]);

    let part = File::options().write(true).open(&path).unwrap();
    part.write_all_at(b"LibvirtQemudPart", 0).unwrap();
    expect(3, &["verify", text(&path)]);
    part.write_all_at(b"LibvirtQemudSave", 0).unwrap();
    // Saved by `virsh save` without a format: the error says what to ask for.
    part.write_all_at(&[0], 28).unwrap();
    let (_, err) = expect(3, &["info", text(&path)]);
    assert!(err.contains("(raw)") && err.contains("--image-format sparse"), "{err}");
}

/// A header can claim 4 GiB of XML. It is a hole of the file's, and one of the copy's.
#[test]
fn a_header_of_4_gib_costs_nothing() {
    let dir = dir();
    let (path, out) = (dir.path().join("saved.img"), dir.path().join("out"));
    let mut head = HEAD.to_vec();
    head[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&path, &head).unwrap();
    let offset = u64::from(u32::MAX) + 92;
    expect(0, &["save", "--synthetic", "1M", "--offset", &offset.to_string(), text(&path)]);
    expect(0, &["copy", text(&path), text(&out)]);
    expect(0, &["compare", text(&path), text(&out)]);
    assert!(used(&out) < 4 << 20, "{} bytes", used(&out));
    // And one that ends before its XML does is an incomplete one.
    File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    fs::remove_file(&out).unwrap();
    let (_, err) = expect(3, &["copy", text(&path), text(&out)]);
    assert!(err.contains("incomplete"), "{err}");
    assert!(!out.exists());
}
