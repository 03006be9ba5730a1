//! Group 4: A file of QEMU's, read and written again by us, its tail passed through: QEMU loads it, and the guest runs on.

use std::path::Path;

use mapped_ram::{Destination, LoadOptions, LoadTarget, RamBlock, Reader, SaveOptions, Tail};
use qemu_harness::pattern::Pattern;
use qemu_harness::{Guest, GuestBuilder, Qemu, Transfer, boot};

use crate::{RAM, dir, empty_ram_file, expect_same, expect_sound, load, memory};

/// Writes the file `theirs` once more, to `ours`.
fn write_again(theirs: &Path, ours: &Path) {
    let reader = Reader::open(theirs).unwrap();
    let mut memories: Vec<Vec<u8>> =
        reader.blocks().iter().map(|block| vec![0; usize::try_from(block.used_length()).unwrap()]).collect();
    let mut targets: Vec<LoadTarget<'_>> = reader
        .blocks()
        .iter()
        .zip(&mut memories)
        .map(|(block, memory)| LoadTarget::new(block, memory, Destination::Zeroed))
        .collect();
    LoadOptions::new().load(&mut targets).unwrap();
    let blocks = reader
        .blocks()
        .iter()
        .zip(&memories)
        .map(|(block, memory)| RamBlock::new(block.layout().idstr_bytes(), memory))
        .collect();
    let mut writer = SaveOptions::new().head_of(reader.layout()).create(ours, blocks).unwrap();
    writer.write_all().unwrap();
    writer.finish(&Tail::copied_from(&reader)).unwrap();
}

#[test]
fn a_copy_of_a_running_pc_runs_on() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    let builder = |ram: &std::path::Path| {
        Guest::builder(&qemu).machine("pc").ram_file(ram).boot_sector(boot::counter())
    };
    let count =
        |guest: &mut Guest| u32::from_le_bytes(guest.physical(boot::COUNTER, 4).unwrap().try_into().unwrap());

    let ram = empty_ram_file(&dir, "ram", RAM);
    let mut first = builder(&ram).paused(false).start().unwrap();
    while count(&mut first) < 1000 {}
    assert!(first.save(&Transfer::new(&theirs).channels(2)).unwrap().is_completed());
    let saved_at = count(&mut first);
    drop(first);

    write_again(&theirs, &ours);
    for multifd in [None, Some(2)] {
        let ram = empty_ram_file(&dir, "ram again", RAM);
        let mut second = builder(&ram).incoming().start().unwrap();
        let over = second.load(&Transfer::new(&ours).channels(multifd)).unwrap();
        assert!(over.is_completed(), "{over:?}");
        assert_eq!(count(&mut second), saved_at);
        second.cont().unwrap();
        while count(&mut second) <= saved_at {}
        assert!(second.is_running().unwrap());
    }
}

/// A guest that stands still is saved by QEMU, written again by us, loaded by the same QEMU, and saved by it once more: every block is what
/// it was. Returns the names of the blocks.
fn comes_back(builder: &GuestBuilder) -> Vec<String> {
    let dir = dir();
    let (theirs, ours, again) =
        (dir.path().join("theirs"), dir.path().join("ours"), dir.path().join("again"));
    let mut first = builder.start().unwrap();
    assert!(first.save(&Transfer::new(&theirs).channels(2)).unwrap().is_completed());
    let said = first.ram_blocks().unwrap();
    drop(first);
    let saved = Reader::open(&theirs).unwrap();
    expect_sound(&saved);
    for block in saved.blocks() {
        let told = said.iter().find(|told| told.idstr == block.idstr()).unwrap();
        assert_eq!(told.used_length, block.used_length(), "{}", told.idstr);
    }
    write_again(&theirs, &ours);
    expect_sound(&Reader::open(&ours).unwrap());

    let mut second = builder.clone().incoming().start().unwrap();
    let over = second.load(&Transfer::new(&ours)).unwrap();
    assert!(over.is_completed(), "{over:?}");
    assert!(second.save(&Transfer::new(&again)).unwrap().is_completed());
    let loaded = Reader::open(&again).unwrap();
    let names =
        |reader: &Reader| reader.blocks().iter().map(|block| block.idstr().into_owned()).collect::<Vec<_>>();
    assert_eq!(names(&loaded), names(&saved));
    for name in names(&saved) {
        expect_same(&load(&loaded, &name), &load(&saved, &name), &name);
    }
    names(&saved)
}

/// Two nodes of which one is a memfd, a DIMM, an NVDIMM in a file, memory that is plugged on demand, a large video memory; and main
/// memory that is no power of two.
#[test]
fn memory_of_every_kind_comes_back() {
    let Some(qemu) = Qemu::for_test() else { return };
    let dir = dir();
    let (data, nvdimm) = (dir.path().join("data"), empty_ram_file(&dir, "nvdimm", 8 << 20));
    std::fs::write(&data, memory(Pattern::Ragged, 4 << 20)).unwrap();
    let nvdimm = format!("memory-backend-file,id=nv,size=8M,share=on,mem-path={}", nvdimm.display());
    let mut builder = Guest::builder(&qemu).machine("q35,nvdimm=on").memory(41 << 20);
    // Into each node, and into the DIMM, which begins at 4 GiB.
    let fills = ["0x1000000", "0x2400000", "0x100000000"]
        .map(|address| format!("loader,file={},addr={address},force-raw=on", data.display()));
    let arguments = [
        ["-m", "slots=4,maxmem=1G"],
        ["-object", "memory-backend-ram,id=node0,size=33M"],
        ["-object", "memory-backend-memfd,id=node1,size=8M,share=on"],
        ["-numa", "node,nodeid=0,memdev=node0,cpus=0"],
        ["-numa", "node,nodeid=1,memdev=node1"],
        ["-object", "memory-backend-ram,id=dimm,size=16M"],
        ["-device", "pc-dimm,memdev=dimm,node=0"],
        ["-object", &nvdimm],
        ["-device", "nvdimm,memdev=nv,node=1,label-size=128k"],
        ["-object", "memory-backend-ram,id=plugged,size=32M"],
        ["-device", "virtio-mem-pci,memdev=plugged,requested-size=8M,node=0"],
        ["-device", "VGA,vgamem_mb=32"],
    ];
    let fills = fills.iter().map(|fill| ["-device", fill.as_str()]);
    for argument in arguments.into_iter().chain(fills).flatten() {
        builder = builder.arg(argument);
    }
    let names = comes_back(&builder);
    for name in ["node0", "node1", "dimm", "nv", "plugged", "vga.vram"] {
        assert!(names.iter().any(|block| block.ends_with(name)), "no {name} in {names:?}");
    }
}

/// Other processors, with pages of 1, 4 and 8 KiB, and their firmware; those that are installed.
#[test]
fn guests_of_other_processors_come_back() {
    if Qemu::for_test().is_none() {
        return;
    }
    let guests = [
        ("aarch64", "virt", 64),
        ("arm", "raspi0", 512),
        ("ppc64", "pseries", 256),
        ("riscv64", "virt", 64),
        ("s390x", "s390-ccw-virtio", 64),
        ("sparc64", "sun4u", 64),
    ];
    let mut missing = Vec::new();
    for (processor, machine, mebibytes) in guests {
        let Ok(qemu) = Qemu::at(format!("qemu-system-{processor}").into()) else {
            missing.push(processor);
            continue;
        };
        comes_back(&Guest::builder(&qemu).machine(machine).memory(mebibytes << 20));
    }
    if !missing.is_empty() {
        eprintln!("NOT TESTED against QEMU: guests of {}: not installed", missing.join(", "));
    }
}
