//! RAM files whose guest does not write into them: QEMU without `share=on` keeps its memory in private copies, and the file
//! knows nothing of it. That is said aloud.

mod support;

use std::fs::File;

use memmap2::MmapOptions;
use serde_json::Value;

use support::{PAGE, dir, expect, ram_file, text};

const PRIVATE: &str = "mapped privately";
const EMPTY: &str = "has no page that is not zero";

#[test]
fn a_guest_in_a_private_mapping_is_noticed() {
    let dir = dir();
    let (ram, _) = ram_file(&dir, "ram", &[3, 0]);
    let out = dir.path().join("out");
    let ram0 = format!("m0={}", text(&ram));
    let arguments = ["save", "--ram", &ram0, "--stats", "json", text(&out)];
    let notes = || {
        let (json, err) = expect(0, &arguments);
        let stats: Value = serde_json::from_str(&json).unwrap();
        (stats["notes"].to_string(), err)
    };
    let (said, err) = notes();
    assert!(!said.contains(PRIVATE) && err.is_empty(), "{said} {err}");

    let file = File::options().read(true).write(true).open(&ram).unwrap();
    // SAFETY: the file is this test's, and is not changed while it is mapped.
    let mut private = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
    private[PAGE] = 9;
    let (said, err) = notes();
    for said in [&said, &err] {
        for word in [PRIVATE, "`m0`", text(&ram), "share=on", &format!("process {} (", std::process::id())] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }

    // Who has it mapped shared as well sees to it that the file is the memory.
    let shared = MmapOptions::new().map_raw(&file).unwrap();
    let (said, err) = notes();
    assert!(!said.contains(PRIVATE) && err.is_empty(), "{said} {err}");
    drop(shared);

    // A reader changes nothing.
    drop(private);
    // SAFETY: as above.
    let reader = unsafe { MmapOptions::new().map(&file) }.unwrap();
    let (said, err) = notes();
    assert!(!said.contains(PRIVATE) && err.is_empty(), "{said} {err}");
    drop(reader);
}

#[test]
fn a_ram_file_of_zeros_is_noticed_block_by_block() {
    let dir = dir();
    let (used, _) = ram_file(&dir, "used", &[0, 1]);
    let (written, _) = ram_file(&dir, "written", &[0, 0]);
    let hole = dir.path().join("hole");
    File::create(&hole).unwrap().set_len(64 << 20).unwrap();
    let out = dir.path().join("out");
    let rams =
        [("a", &used), ("b", &hole), ("c", &written)].map(|(name, path)| format!("{name}={}", text(path)));
    let arguments =
        ["save", "--ram", &rams[0], "--ram", &rams[1], "--ram", &rams[2], "--stats", "json", text(&out)];
    let (json, err) = expect(0, &arguments);
    let stats: Value = serde_json::from_str(&json).unwrap();
    let notes: Vec<_> =
        stats["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    for (name, path, is_empty) in [("a", &used, false), ("b", &hole, true), ("c", &written, true)] {
        let note = format!("block `{name}`: {} {EMPTY}", text(path));
        assert_eq!(notes.iter().any(|said| said.starts_with(&note)), is_empty, "{notes:?}");
        assert_eq!(err.contains(&note), is_empty, "{err}");
    }
    assert_eq!(err.matches("share=on").count(), 2, "{err}");
}

#[test]
fn help_says_what_qemu_has_to_share() {
    for command in ["save", "restore"] {
        let (said, _) = expect(0, &[command, "--help"]);
        assert!(said.contains("share=on"), "{said}");
    }
}
