//! A file of very many blocks. Alone in its program: the system keeps one peak of memory for all children.

mod support;

use mapped_ram::{RamBlock, SaveOptions};
use nix::sys::resource::{UsageWho, getrusage};

use support::{PAGE, dir, expect, text};

/// As many as take a minute for what looks at every block for each, and hundreds of MiB for what keeps some KB of each.
const BLOCKS: u64 = 300_000;

#[test]
fn neither_time_grows_with_their_square_nor_memory_with_kilobytes_for_each() {
    let dir = dir();
    let guest = dir.path().join("guest.mram");
    let page = PAGE as u64;
    let blocks = (0..BLOCKS).map(|block| RamBlock::left_out(block.to_string(), page, block * page)).collect();
    SaveOptions::new().save(&guest, blocks).unwrap();

    let (json, _) = expect(0, &["info", "--json", text(&guest)]);
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    let peak = u64::try_from(peak).unwrap() << 10;
    assert!(peak < BLOCKS * 700, "{} bytes for each block", peak / BLOCKS);
    let info: serde_json::Value = serde_json::from_str(&json).unwrap();
    let last = info["blocks"].as_array().unwrap().last().unwrap();
    assert_eq!(last["name"], (BLOCKS - 1).to_string());
    assert!(last["left_out"] == true && last["present_pages"].is_null());

    let (said, _) = expect(0, &["compare", text(&guest), text(&guest)]);
    assert_eq!(said.lines().count() as u64, BLOCKS + 1);
}
