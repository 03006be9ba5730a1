//! libvirt's header, in both byte orders.

use mapped_ram_format::bitmap::ByteOrder;
use mapped_ram_format::libvirt::SaveHeader;
use mapped_ram_format::{Defect, ErrorKind};
use proptest::prelude::*;

fn order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
}

proptest! {
    #[test]
    fn encoded_equals_decoded(
        order in order(), len in 1u32.., cookie in any::<u32>(), running in any::<bool>(), more in any::<[u8; 8]>(),
    ) {
        let header = SaveHeader::new(len).with_byte_order(order).with_was_running(running);
        let header = header.with_cookie_offset(cookie % len).unwrap();
        let mut bytes = header.encode().to_vec();
        bytes.extend(more);
        prop_assert_eq!(SaveHeader::decode(&bytes), Ok(Some(header)));
        prop_assert_eq!(header.stream_offset(), 92 + u64::from(len));
        prop_assert_eq!(header.was_running(), running);
        prop_assert_eq!(header.byte_order(), order);
        let cookie_start = header.cookie_range().map_or(header.stream_offset(), |range| range.start);
        prop_assert_eq!(header.xml_range(), 92..cookie_start);
        prop_assert!(header.xml_range().end <= header.stream_offset());
    }

    #[test]
    fn what_decodes_encodes_to_the_same(order in order(), at in 16usize..92, byte in any::<u8>()) {
        let mut bytes = SaveHeader::new(1000).with_byte_order(order).encode();
        bytes[at] = byte;
        if let Ok(header) = SaveHeader::decode(&bytes) {
            prop_assert_eq!(header.unwrap().encode(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_image(bytes in any::<[u8; 92]>()) {
        prop_assert_eq!(SaveHeader::decode(&bytes), Ok(None));
    }

    #[test]
    fn a_header_cut_anywhere_is_incomplete(len in 12usize..92) {
        let error = SaveHeader::decode(&SaveHeader::new(5).encode()[..len]).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Incomplete);
    }
}

/// The fields by hand, little-endian.
fn listing() -> Vec<u8> {
    let mut bytes = b"LibvirtQemudSave".to_vec();
    bytes.extend(b"\x02\0\0\0\xe8\x03\0\0\x01\0\0\0\x06\0\0\0\x20\x03\0\0");
    bytes.extend([0; 56]);
    bytes
}

#[test]
fn fields_stand_where_libvirt_puts_them() {
    let header = SaveHeader::new(1000).with_byte_order(ByteOrder::Little).with_was_running(true);
    assert_eq!(header.with_cookie_offset(800).unwrap().encode().to_vec(), listing());
    let mut big = listing();
    big[16..36].chunks_mut(4).for_each(<[u8]>::reverse);
    assert_eq!(SaveHeader::decode(&big).unwrap().unwrap().xml_range(), 92..892);
}

/// What libvirt 11.3.0 wrote, but for the zeros at the end of the data.
#[test]
fn a_real_header_says_what_libvirt_meant() {
    let bytes = include_bytes!("../../tests/data/libvirt/11.3.0.head");
    let header = SaveHeader::decode(bytes).unwrap().unwrap();
    assert_eq!(header.encode(), bytes[..SaveHeader::LEN]);
    assert_eq!((header.stream_offset(), header.was_running()), (67_245, true));
    assert_eq!(header.byte_order(), ByteOrder::Little);
    let place = |at: u64| usize::try_from(at).unwrap();
    let xml = &bytes[place(header.xml_range().start)..place(header.xml_range().end)];
    assert!(xml.starts_with(b"<domain") && xml.ends_with(b"</domain>\n\0"));
    let cookie = &bytes[place(header.cookie_range().unwrap().start)..];
    assert!(cookie.starts_with(b"<cookie>") && cookie.ends_with(b"</cookie>\n\0"));
}

#[test]
fn images_that_are_refused() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut image = listing();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let error = SaveHeader::decode(&image).unwrap_err();
        (error.kind(), error.what().clone(), error.offset())
    };
    assert_eq!(refused(0, b"LibvirtQemudPart"), (ErrorKind::Incomplete, Defect::NeverFinished, 0));
    assert_eq!(refused(12, b"Xave"), (ErrorKind::Damaged, Defect::Magic(*b"Xave"), 12));
    assert_eq!(refused(28, &[5]), (ErrorKind::Unsupported, Defect::LibvirtFormat(5), 28));
    // Whoever saved the guest so is told how libvirt calls that, and what to ask for.
    let said = |format| Defect::LibvirtFormat(format).to_string();
    assert!(said(0).contains("0 (raw)") && said(5).contains("5 (zstd)") && said(77).contains("77,"));
    assert!(said(0).contains("--image-format sparse"));
    let version = |found| Defect::Version { of: "the libvirt header", found };
    assert_eq!(refused(16, &[0]), (ErrorKind::Damaged, version(0), 16));
    assert_eq!(refused(16, &[3]), (ErrorKind::Unsupported, version(3), 16));
    let cookie = Defect::LibvirtCookie { cookie_offset: 1000, data_len: 1000 };
    assert_eq!(refused(32, &1000u32.to_le_bytes()), (ErrorKind::Damaged, cookie, 32));
}
