//! Under KVM: a guest that is saved while it runs goes on, by each way back, exactly where it stood; and what its processor meets
//! where a page cannot be had.
//!
//! The guest and its monitor are those of the example. It checks itself, since it looks at each page before it writes it; the
//! monitor checks the order of its reports, all of memory against what must be there after so many of them, and a machine that was
//! brought back against the one that was saved, when both have gone on as far.
//!
//! Where /dev/kvm cannot be opened nothing is tested, and each test says so; with `MAPPED_RAM_REQUIRE_KVM=1` it fails.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[cfg(feature = "userfaultfd")]
#[macro_use]
#[path = "../support/forward.rs"]
mod forward;

#[cfg(feature = "userfaultfd")]
#[path = "../fault/failing.rs"]
mod failing;
#[path = "../../examples/kvm/guest.rs"]
mod guest;
#[path = "../../examples/kvm/machine.rs"]
mod machine;
#[path = "../../examples/kvm/memory.rs"]
mod memory;
mod missing;
#[path = "../../examples/kvm/snapshot.rs"]
mod snapshot;
mod ways;

use guest::Guest;
use kvm_ioctls::Kvm;
use machine::Machine;
use memory::{PAGE, Pages, Ram};
use tempfile::TempDir;

/// Nothing, aloud, where there is no KVM.
fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            let required = std::env::var_os("MAPPED_RAM_REQUIRE_KVM").is_some_and(|value| value == "1");
            assert!(!required, "/dev/kvm cannot be opened: {error}");
            eprintln!("NOT TESTED under KVM: /dev/kvm cannot be opened: {error}");
            None
        }
    }
}

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn new(kvm: &Kvm, guest: Guest) -> Machine {
    let ram = Ram::Own(Pages::new(guest.length(), false).unwrap());
    guest.put(&ram);
    Machine::new(kvm, guest, ram).unwrap()
}

/// Fails, without printing it all, if two memories differ.
fn expect_same(found: &[u32], expected: &[u32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    if let Some(at) = found.iter().zip(expected).position(|(one, two)| one != two) {
        let (page, word) = (at * 4 / PAGE, at % (PAGE / 4));
        panic!("{what}: word {word} of page {page} is {:#x}, not {:#x}", found[at], expected[at]);
    }
}
