//! What the tests share: streams in memory, and generators of plans.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

pub(crate) mod spoiled;

use mapped_ram_format::tail::{Device, TailBuilder};
use mapped_ram_format::{BlockPlan, Configuration, IGNORE_SHARED, Layout, LayoutPlan, Need};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// What stands where nobody said anything: padding must not matter.
pub(crate) const FILLER: u8 = 0xa5;

pub(crate) fn size(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// The file of a layout, with filler for bitmaps, pages and padding, and `tail` behind it.
pub(crate) fn file(layout: &Layout, tail: &[u8]) -> Vec<u8> {
    let mut file = vec![FILLER; size(layout.tail_offset())];
    for piece in layout.pieces() {
        file[size(piece.offset)..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
    file.extend(tail);
    file
}

pub(crate) fn file_with_tail(layout: &Layout) -> Vec<u8> {
    file(layout, &TailBuilder::new(layout).build().unwrap())
}

/// Whether every byte that the layout describes stands in the file.
pub(crate) fn describes(layout: &Layout, file: &[u8]) -> bool {
    layout.pieces().iter().all(|piece| file[size(piece.offset)..][..piece.bytes.len()] == piece.bytes)
}

/// The bytes that a need asks for, with the promises about needs checked.
pub(crate) fn window(file: &[u8], stream_offset: u64, need: Need) -> &[u8] {
    assert!(need.len > 0, "asks for nothing");
    assert!(need.offset >= stream_offset, "asks for bytes before the stream");
    let start = size(need.offset);
    let end = start.checked_add(need.len).expect("a need that wraps");
    assert!(end <= file.len(), "asks for {need:?} of {} bytes", file.len());
    &file[start..end]
}

/// Like `mapped_ram_format::decode`, but every need is checked, and the sum of the needs is bounded.
pub(crate) fn decode_checked(
    file: &[u8],
    stream_offset: u64,
) -> Result<Layout, mapped_ram_format::DecodeError> {
    let mut decoder = mapped_ram_format::Decoder::new(stream_offset, file.len() as u64);
    let mut steps = 0;
    while let Some(need) = decoder.need() {
        let result = decoder.supply(window(file, stream_offset, need));
        steps += 1;
        assert!(steps <= file.len() + 1, "more needs than bytes");
        if let Err(error) = result {
            assert_eq!(decoder.need(), None, "goes on after an error");
            assert_eq!(decoder.supply(&[]), Err(error.clone()), "forgets its error");
            assert_eq!(decoder.finish(), Err(error.clone()));
            return Err(error);
        }
    }
    decoder.finish()
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) plan: LayoutPlan,
    pub(crate) stream_offset: u64,
    pub(crate) page_size: u64,
    pub(crate) alignment: u64,
    pub(crate) word: mapped_ram_format::bitmap::WordSize,
}

fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = prop_oneof![
        "[a-z./:@0-9]{1,20}".prop_map(String::into_bytes),
        vec(1u8.., 1..4),
        vec(1u8.., 254..=255),
        Just(b"pc.ram".to_vec()),
    ];
    btree_set(name, 0..6).prop_map(|names| names.into_iter().collect::<Vec<_>>()).prop_shuffle()
}

pub(crate) fn configurations() -> impl Strategy<Value = Configuration> {
    let capability = prop_oneof!["[a-z-]{1,12}", Just(IGNORE_SHARED.to_string())];
    ("[a-z0-9.-]{0,30}", vec(capability, 0..4), any::<Option<[u8; 16]>>()).prop_map(
        |(machine, names, uuid)| {
            let mut configuration = Configuration::new(machine);
            for name in names {
                configuration = configuration.with_capability(&name);
            }
            uuid.into_iter().fold(configuration, Configuration::with_uuid)
        },
    )
}

/// Plans that fit in memory: small pages, ragged bitmaps, blocks left out, all kinds of heads.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let page_bits = 8u32..=13;
    let geometry = (page_bits, 0u32..4, prop_oneof![Just(0u64), 1u64..5000], any::<bool>());
    let head = (prop::option::of(configurations()), any::<bool>(), any::<u32>());
    let block = (1u64..=130, any::<u64>(), any::<bool>());
    (geometry, head, names(), vec(block, 6)).prop_map(
        |((bits, align, stream_offset, w32), (configuration, page_bits, id), names, blocks)| {
            use mapped_ram_format::bitmap::WordSize;
            let (page_size, alignment) = (1u64 << bits, 1u64 << (bits + align));
            let word = if w32 { WordSize::W32 } else { WordSize::W64 };
            let shared = configuration.as_ref().is_some_and(|with| with.has_capability(IGNORE_SHARED));
            let mut plan = LayoutPlan::new()
                .stream_offset(stream_offset)
                .page_size(page_size)
                .alignment(alignment)
                .word(word)
                .ram_section_id(id);
            plan = match configuration {
                // Without blocks only the configuration can tell the page size.
                Some(with) if page_bits || names.is_empty() => {
                    plan.configuration(with.with_target_page_bits(bits))
                }
                Some(with) => plan.configuration(with),
                None if names.is_empty() => {
                    plan.page_size(4096).alignment(4096.max(alignment)).no_configuration()
                }
                None => plan.no_configuration(),
            };
            for (name, (pages, address, left_out)) in names.into_iter().zip(blocks) {
                let mut block = BlockPlan::new(name, pages * page_size);
                if shared {
                    block = block.guest_address(address);
                    if left_out {
                        block = block.left_out();
                    }
                }
                plan = plan.block(block);
            }
            Case { plan, stream_offset, page_size, alignment, word }
        },
    )
}

pub(crate) fn devices() -> impl Strategy<Value = Vec<Device>> {
    let name = prop_oneof!["[a-z/\"\\\\ é]{1,12}", "[a-z]{80}"];
    // Bytes that make up footers and section headers, and any others.
    let bytes = prop_oneof![
        vec(prop_oneof![Just(0x7eu8), 0u8..9], 0..60),
        vec(any::<u8>(), 0..300),
        Just(b"\x7e\0\0\0\x03\0\x06\0\0\0\x02{}".to_vec()),
    ];
    let device = (name, 0u32..3, any::<u32>(), bytes);
    vec(device, 0..8).prop_map(|devices| {
        let mut seen = std::collections::BTreeSet::new();
        let mut unique = Vec::new();
        for (name, instance, version, data) in devices {
            if seen.insert((name.clone(), instance)) {
                unique.push(Device { name, instance, version, data });
            }
        }
        unique
    })
}

/// Devices whose state holds nothing that could be taken for a footer or a description.
pub(crate) fn plain_devices() -> impl Strategy<Value = Vec<Device>> {
    devices().prop_map(|mut devices| {
        let bytes = devices.iter_mut().flat_map(|device| &mut device.data);
        bytes.filter(|byte| matches!(**byte, 0x7e | b'{')).for_each(|byte| *byte = 0x7f);
        devices
    })
}
