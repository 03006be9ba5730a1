//! Group 7: A background snapshot of QEMU's: it says "completed", and marks no page of any block as present. Our `verify` says so.

use mapped_ram::{Reader, VerifyOptions};
use qemu_harness::{Guest, Qemu, Transfer, boot};

use crate::{RAM, dir};

#[test]
fn its_pages_stand_in_the_file_and_none_is_marked() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let file = dir.path().join("guest.mram");
    // Of memory that is QEMU's own: what a snapshot writes first it protects from the guest, which not every memory lets it.
    let builder = Guest::builder(&qemu).machine("pc").memory(RAM as u64).boot_sector(boot::counter());
    let mut guest = builder.paused(false).start().unwrap();
    while guest.physical(boot::COUNTER, 4).unwrap() == [0; 4] {}
    let over = match guest.save(&Transfer::new(&file).background_snapshot()) {
        Ok(over) => over,
        // A kernel or a container that gives it no userfaultfd.
        Err(error) => return eprintln!("no background snapshot here, nothing is checked: {error}"),
    };
    drop(guest);
    println!("QEMU {}: {over:?}", qemu.version());
    if !over.is_completed() {
        return eprintln!("no background snapshot here, nothing is checked: {over:?}");
    }
    let reader = Reader::open(&file).unwrap();
    let report = reader.verify(VerifyOptions::new()).unwrap();
    println!("verify: {:?}", report.warnings);
    if report.blocks.iter().any(|block| block.present > 0) {
        // A QEMU that marks them: then nothing must be said against the file.
        return assert_eq!((report.problems, report.warnings), (vec![], vec![]));
    }
    assert!(report.is_unmarked());
    let ram = report.blocks.iter().position(|block| block.idstr == "pc.ram").unwrap();
    assert!(report.blocks[ram].unmarked_bytes > 0);
    assert!(
        report.warnings.iter().any(|warning| warning.block.as_deref() == Some("pc.ram")),
        "{:?}",
        report.warnings
    );
}
