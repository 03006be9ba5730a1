//! How much memory a save takes beside the guest's own. Alone in its program: the system keeps one peak for all children.

mod support;

use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};

use support::{PAGE, dir, expect, text};

#[test]
fn memory_beside_the_guest_stays_under_32_mib() {
    // With huge pages the system would back pages of the guest that nobody wrote.
    prctl::set_thp_disable(true).unwrap();
    let dir = dir();
    let guest = dir.path().join("guest.mram");
    expect(0, &["save", "--synthetic", "1G", "--channels", "2", text(&guest)]);
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    let peak = u64::try_from(peak).unwrap() << 10;
    // Pages of the made-up guest that are zero were never touched, but by the scan, which maps the system's page of zeros.
    let (json, _) = expect(0, &["info", "--json", text(&guest)]);
    let info: serde_json::Value = serde_json::from_str(&json).unwrap();
    let touched = info["blocks"][0]["present_pages"].as_u64().unwrap() * PAGE as u64;
    let beside = peak.checked_sub(touched).expect("the guest's memory was counted");
    assert!(beside < 32 << 20, "{} MiB beside the guest's {} MiB", beside >> 20, touched >> 20);
}
