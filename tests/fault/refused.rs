//! What cannot be is refused in words, before anything is done.

use mapped_ram::fault::{FaultOptions, FaultTarget, Fill, GuestRegion, Received, register};
use mapped_ram::{ErrorKind, WorkingSet};

use crate::memory::{Kind, Memory, PAGE, Page, expect_same, save};
use crate::{dir, open};

#[test]
fn targets_that_cannot_be_filled() {
    let dir = dir();
    let path = dir.path().join("guest");
    let saved = save(&path, &[("ram0", &[Page::Present(3); 8])]).remove(0);
    let reader = open(&path);
    let other_path = dir.path().join("other");
    save(&other_path, &[("ram0", &[Page::Present(3); 8])]);
    let other = open(&other_path);
    let (block, other) = (reader.block("ram0").unwrap(), other.block("ram0").unwrap());
    let memory = Memory::new(Kind::Private, saved.len()).unwrap();
    let start = memory.start.as_ptr();
    let whole = || FaultTarget::new(block, start, saved.len());
    for (targets, said) in [
        (vec![], "no memory"),
        (vec![FaultTarget::new(block, start, 0)], "multiple of its page size"),
        (vec![FaultTarget::new(block, start, PAGE + 1)], "multiple of its page size"),
        (vec![FaultTarget::new(block, start, 9 * PAGE)], "past the block's end"),
        (vec![FaultTarget::new(block, start, usize::MAX - PAGE + 1)], "end of all addresses"),
        (vec![FaultTarget::new(block, start.wrapping_add(1), PAGE)], "its address"),
        (vec![FaultTarget::new(block, std::ptr::null_mut(), PAGE)], "its address"),
        (vec![FaultTarget::new(block, start, PAGE).offset(1)], "its offset"),
        (vec![FaultTarget::new(block, start, PAGE).offset(8 * PAGE as u64)], "past the block's end"),
        (vec![FaultTarget::new(block, start, PAGE).offset(u64::MAX - 4095)], "past the block's end"),
        (vec![whole().page_size(0)], "pages of 0 bytes"),
        (vec![whole().page_size(2048)], "pages of 2048 bytes"),
        (vec![whole().page_size(12288)], "pages of 12288 bytes"),
        (vec![whole().page_size(1 << 62)], "pages of 4611686018427387904 bytes"),
        (vec![whole(), FaultTarget::new(block, start, PAGE)], "overlaps"),
        (
            vec![
                FaultTarget::new(block, start, 4 * PAGE),
                FaultTarget::new(block, start.wrapping_add(4 * PAGE), 4 * PAGE).offset(3 * PAGE as u64),
            ],
            "filled in twice",
        ),
        (vec![whole(), FaultTarget::new(other, start, PAGE)], "one file only"),
    ] {
        // SAFETY: nothing is ever filled.
        let error = unsafe { FaultOptions::new().start(&targets) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    for channels in [0, 256] {
        // SAFETY: nothing is ever filled.
        let error = unsafe { FaultOptions::new().channels(channels).start(&[whole()]) }.unwrap_err();
        assert!(error.to_string().contains("1 to 255"), "{error}");
    }
    let set = WorkingSet::new("ram0", 4096, 9, vec![1]).unwrap();
    // SAFETY: nothing is ever filled.
    let error = unsafe { FaultOptions::new().prefetch(vec![set]).start(&[whole()]) }.unwrap_err();
    assert!(error.to_string().contains("another guest"), "{error}");

    // Memory that is not mapped, and of a file, is the kernel's to refuse.
    // SAFETY: nothing is ever filled.
    let gone =
        unsafe { FaultOptions::new().start(&[FaultTarget::new(block, 0x10_0000_usize as *mut u8, PAGE)]) };
    let error = gone.unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("register 0x1000 bytes"), "{error}");
    assert_eq!(memory.read(0), 0, "never registered");
}

fn region(memory: &Memory, offset: u64) -> GuestRegion {
    GuestRegion {
        base_host_virt_addr: memory.start.as_ptr() as u64,
        size: memory.length as u64,
        offset,
        page_size: PAGE as u64,
        block: None,
    }
}

#[test]
fn layouts_that_do_not_fit_the_file() {
    let dir = dir();
    let path = dir.path().join("guest");
    save(&path, &[("one", &[Page::Present(3); 8]), ("two", &[Page::Present(4); 4])]);
    let reader = open(&path);
    let memory = Memory::new(Kind::Private, 4 * PAGE).unwrap();
    let page = PAGE as u64;
    let good = region(&memory, 0);
    let with = |change: fn(&mut GuestRegion)| {
        let mut region = good.clone();
        change(&mut region);
        region
    };
    for (regions, said) in [
        (vec![region(&memory, 12 * page)], "behind all blocks"),
        (vec![region(&memory, u64::MAX)], "behind all blocks"),
        (vec![region(&memory, 6 * page)], "past the block's end"),
        (vec![region(&memory, 10 * page)], "past the block's end"),
        (vec![region(&memory, 100)], "its offset"),
        (vec![with(|region| region.block = Some("three".into()))], "`three`"),
        (
            vec![with(|region| (region.block, region.offset) = (Some("two".into()), 4096))],
            "past the block's end",
        ),
        (vec![with(|region| region.page_size = 0)], "pages of 0 bytes"),
        (vec![with(|region| region.page_size = u64::MAX)], "pages of"),
        (vec![with(|region| region.size = 0)], "multiple of its page size"),
        (vec![with(|region| region.size = u64::MAX - 4095)], "past the end"),
        (vec![with(|region| region.base_host_virt_addr = u64::MAX - 4095)], "past the end"),
        (vec![with(|region| region.base_host_virt_addr += 8)], "its address"),
        (vec![good.clone(), good.clone()], "overlaps"),
        (vec![], "no memory"),
    ] {
        // SAFETY: nothing is ever filled.
        let fd = unsafe { register(&[], false) }.unwrap();
        let error = FaultOptions::new().serve(&reader, Received::new(fd, regions)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    let file = std::fs::File::open(&path).unwrap();
    let error =
        FaultOptions::new().serve(&reader, Received::new(file.into(), vec![good.clone()])).unwrap_err();
    assert!(error.to_string().contains("is no userfaultfd"), "{error}");
    // Whatever it is called: its bytes would be taken for the kernel's word, and descriptors in them closed.
    let path = dir.path().join("anon_inode:[userfaultfd]");
    std::fs::write(&path, [0; 32]).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let error = FaultOptions::new().serve(&reader, Received::new(file.into(), vec![good])).unwrap_err();
    assert!(error.to_string().contains("is no userfaultfd"), "{error}");
}

/// Offsets count through all blocks, or in the block that is named, by the region or by the options.
#[test]
fn offsets_count_through_the_blocks_or_in_one() {
    let dir = dir();
    let path = dir.path().join("guest");
    let pages: Vec<Page> = (1..=4).map(Page::Present).collect();
    let saved = save(&path, &[("one", &[Page::Present(9); 8]), ("two", &pages)]);
    let reader = open(&path);
    for (options, offset, name) in [
        (FaultOptions::new(), 8 * PAGE, None),
        (FaultOptions::new(), 0, Some("two")),
        (FaultOptions::new().block("two"), 0, None),
        (FaultOptions::new().block("one"), 0, Some("two")),
    ] {
        let memory = Memory::new(Kind::Private, 4 * PAGE).unwrap();
        let region = GuestRegion { block: name.map(str::to_owned), ..region(&memory, offset as u64) };
        // SAFETY: mapped for this, and touched through raw pointers only.
        let fd = unsafe { register(std::slice::from_ref(&region), false) }.unwrap();
        let handler = options.fill(Fill::Nothing).serve(&reader, Received::new(fd, vec![region])).unwrap();
        expect_same(&memory.all(), &saved[1], "memory");
        handler.wait().unwrap();
    }
}
