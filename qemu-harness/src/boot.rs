//! Programs that keep a guest's memory moving, assembled by hand: 16-bit real mode, at any address, for every jump is
//! relative. Each is a boot sector; [`firmware`] makes it run where there is nothing to boot from.

/// Where both programs count their steps: four bytes, little-endian, physical.
pub const COUNTER: u64 = 0x5000;

/// Where the pages begin that both programs write: the first four bytes of each of [`PAGES`] pages.
pub const FIRST: u64 = 0x1_0000;

/// How many pages they write, one after the other, over and over.
pub const PAGES: u64 = 128;

/// Counts, and writes the count into page after page.
pub fn counter() -> Vec<u8> {
    sector(&[
        0xFA, // cli
        0x31, 0xC0, // xor ax, ax
        0x8E, 0xD8, // mov ds, ax
        0xBB, 0x00, 0x10, // mov bx, 0x1000
        // next:
        0x66, 0xFF, 0x06, 0x00, 0x50, // inc dword [0x5000]
        0x66, 0xA1, 0x00, 0x50, // mov eax, [0x5000]
        0x8E, 0xC3, // mov es, bx
        0x26, 0x66, 0xA3, 0x00, 0x00, // mov es:[0], eax
        0x81, 0xC3, 0x00, 0x01, // add bx, 0x100
        0x81, 0xFB, 0x00, 0x90, // cmp bx, 0x9000
        0x72, 0xE6, // jb next
        0xBB, 0x00, 0x10, // mov bx, 0x1000
        0xEB, 0xE1, // jmp next
    ])
}

/// Sets the first bytes of page after page, then makes them zero again, over and over: pages that go from set to zero
/// while a live save runs.
pub fn zeroing() -> Vec<u8> {
    sector(&[
        0xFA, // cli
        0x31, 0xC0, // xor ax, ax
        0x8E, 0xD8, // mov ds, ax
        0x66, 0xB9, 0xA5, 0xA5, 0xA5, 0xA5, // mov ecx, 0xa5a5a5a5
        0xBB, 0x00, 0x10, // mov bx, 0x1000
        // next:
        0x66, 0xFF, 0x06, 0x00, 0x50, // inc dword [0x5000]
        0x8E, 0xC3, // mov es, bx
        0x26, 0x66, 0x89, 0x0E, 0x00, 0x00, // mov es:[0], ecx
        0x81, 0xC3, 0x00, 0x01, // add bx, 0x100
        0x81, 0xFB, 0x00, 0x90, // cmp bx, 0x9000
        0x72, 0xE9, // jb next
        0x66, 0x81, 0xF1, 0xA5, 0xA5, 0xA5, 0xA5, // xor ecx, 0xa5a5a5a5
        0xBB, 0x00, 0x10, // mov bx, 0x1000
        0xEB, 0xDD, // jmp next
    ])
}

/// A whole firmware that runs `sector` and nothing else, for `GuestBuilder::firmware`: machines without a disk to boot
/// from, such as `microvm`, and no firmware of QEMU's in between.
pub fn firmware(sector: &[u8]) -> Vec<u8> {
    // The last 64 KiB below 4 GiB, which the processor's first code segment is.
    let mut image = sector.to_vec();
    image.resize(0xFFF0, 0);
    // The reset vector. jmp 0
    image.extend([0xE9, 0x0D, 0x00]);
    image.resize(0x1_0000, 0);
    image
}

fn sector(code: &[u8]) -> Vec<u8> {
    let mut sector = code.to_vec();
    sector.resize(510, 0);
    // What makes the firmware take it for bootable.
    sector.extend([0x55, 0xAA]);
    sector
}
