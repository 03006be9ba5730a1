//! A mapped block, looked at and written.

use mapped_ram::{Block, MapOptions, Mapping, Prefetch};

use crate::memory::{HOST_PAGE, Memory};

/// Maps `block` each way: it holds `expected`, and a write stays where it is.
pub(crate) fn expect_mapped(block: &Block, prefetch: &Prefetch, expected: &[u8]) {
    let options = MapOptions::new().prefetch(prefetch.clone());
    let mut mapping = options.map(block).unwrap();
    if !matches!(prefetch, Prefetch::Nothing) {
        mapping.wait_for_prefetch().unwrap();
    }
    assert!(bytes(&mapping) == expected, "mapped other bytes than loaded");
    assert!(mapping.touched().unwrap().count() > 0);
    mapping.check_file().unwrap();
    // SAFETY: inside the mapping, which nobody else uses.
    unsafe { mapping.as_ptr().write_bytes(0xC3, mapping.len()) };

    let reserved = Memory::reserve(expected.len().next_multiple_of(HOST_PAGE));
    // SAFETY: the range was reserved for this, and is not used otherwise while the mapping lives.
    let into = unsafe { options.map_into(block, reserved.start(), expected.len()) }.unwrap();
    assert!(bytes(&into) == expected, "mapped other bytes, or a write reached the file");
    assert_eq!(into.as_ptr(), reserved.start());
}

fn bytes(mapping: &Mapping) -> &[u8] {
    // SAFETY: all of the mapping, which nobody writes while it is borrowed here.
    unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) }
}
