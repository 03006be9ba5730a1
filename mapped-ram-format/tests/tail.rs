//! Tails: ours are found again, and tails with everything that a stream may hold are walked.

mod common;

use common::{devices, plain_devices};
use mapped_ram_format::tail::{Device, Tail, TailBuilder, TailError};
use mapped_ram_format::{Defect, ErrorKind};
use proptest::prelude::*;
use proptest::sample::Index;

proptest! {
    #[test]
    fn devices_are_found_again(devices in devices(), id in any::<u32>(), bits in 8u32..20) {
        let bytes = TailBuilder::with_section(id, 1 << bits).devices(devices.clone()).build().unwrap();
        let tail = Tail::parse(&bytes).unwrap();
        prop_assert_eq!(tail.ram_section_id(), id);
        prop_assert_eq!(tail.page_size(), Some(1 << bits));
        prop_assert_eq!(tail.length(), bytes.len());
        let described = tail.description().unwrap();
        prop_assert_eq!(described.end, bytes.len());
        let start: &[u8] = br#"{"page_size""#;
        prop_assert!(bytes[described].starts_with(start));
        prop_assert_eq!(tail.devices().len(), devices.len());
        for (found, device) in tail.devices().iter().zip(&devices) {
            prop_assert_eq!(found.name(), &device.name);
            prop_assert_eq!((found.instance(), found.version()), (device.instance, device.version));
            prop_assert_eq!(&bytes[found.range()], &device.data);
            prop_assert!(found.is_described());
            prop_assert_eq!(tail.device(&device.name, device.instance), Some(found));
        }

        // Zeros behind the stream change nothing.
        let padded = [&bytes[..], &[0; 100]].concat();
        prop_assert_eq!(Tail::parse(&padded), Ok(tail.clone()));
    }

    #[test]
    fn bytes_behind_the_stream_change_nothing(
        devices in plain_devices(), behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let bytes = TailBuilder::with_section(2, 4096).devices(devices).build().unwrap();
        let more = [&bytes[..], &behind].concat();
        prop_assert_eq!(Tail::parse(&more), Tail::parse(&bytes));
    }

    #[test]
    fn a_longer_tail_that_stood_there_before_is_not_mistaken(
        devices in plain_devices(), old in plain_devices(), more in 0usize..50,
    ) {
        let bytes = TailBuilder::with_section(2, 4096).devices(devices).build().unwrap();
        let mut file = TailBuilder::with_section(2, 4096).devices(old).build().unwrap();
        file.splice(0..0, vec![0xee; (bytes.len() + more).saturating_sub(file.len())]);
        file[..bytes.len()].copy_from_slice(&bytes);
        prop_assert_eq!(Tail::parse(&file), Tail::parse(&bytes));
    }

    #[test]
    fn a_tail_cut_anywhere_is_incomplete(devices in plain_devices(), at in any::<Index>()) {
        let bytes = TailBuilder::with_section(2, 4096).devices(devices).build().unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        match Tail::parse(cut) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Incomplete, "{}", error),
            // A stream may end without a description.
            Ok(tail) => prop_assert_eq!((tail.length(), tail.description(), cut.last()), (cut.len(), None, Some(&0))),
        }
    }

    #[test]
    fn mutated_tails(devices in devices(), changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut bytes = TailBuilder::with_section(2, 4096).devices(devices).build().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match Tail::parse(&bytes) {
            Ok(tail) => {
                let mut end = 0;
                for device in tail.devices() {
                    prop_assert!(end < device.range().start && device.range().start <= device.range().end);
                    end = device.range().end;
                }
                prop_assert!(end < tail.length() && tail.length() <= bytes.len());
            }
            Err(error) => prop_assert!(error.offset() <= bytes.len() as u64),
        }
    }
}

const END_OF_RAM: &[u8] = b"\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02";
const RAM_END: &[u8] = b"\x03\0\0\0\x02\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02";

fn footer(id: u8) -> Vec<u8> {
    vec![0x7e, 0, 0, 0, id]
}

fn section(kind: u8, id: u8, name: &str, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    [&[kind, 0, 0, 0, id, len], name.as_bytes(), &[0, 0, 0, 0, 0, 0, 0, 3], body, &footer(id)].concat()
}

fn description(json: &str) -> Vec<u8> {
    let len = u32::try_from(json.len()).unwrap().to_be_bytes();
    [&[0, 6], &len[..], json.as_bytes()].concat()
}

#[test]
fn fields_arrays_and_nested_subsections_add_up() {
    // A body with a false end in it: footer, then what looks like another section.
    let fields = [&footer(7)[..], &section(4, 9, "x", b"yy"), &[0; 13]].concat();
    let inner = [&b"\x05\x03a/c\0\0\0\x01"[..], &[1, 2, 3]].concat();
    let outer = [&b"\x05\x03a/b\0\0\0\x01"[..], &[9; 4], &inner].concat();
    let body = [fields.clone(), outer].concat();
    let json = format!(
        r#"{{"configuration": {{"vmsd_name": "configuration", "fields": []}}, "page_size": 4096, "devices": [
            {{"name": "a", "instance_id": 0, "vmsd_name": "a", "version": 3, "fields": [
                {{"name": "s", "type": "struct", "struct": {{"vmsd_name": "s", "version": 1, "fields":
                    [{{"name": "i", "type": "int8", "size": 100}}]}}, "size": {}}},
                {{"name": "array", "array_len": 5, "type": "uint16", "size": 2}},
                {{"name": "index", "index": 0, "type": "uint8", "size": 1}}],
              "subsections": [{{"vmsd_name": "a/b", "version": 1,
                "fields": [{{"name": "f", "type": "uint32", "size": 4}}],
                "subsections": [{{"vmsd_name": "a/c", "version": 1,
                    "fields": [{{"name": "g", "array_len": 3, "type": "uint8", "size": 1}}]}}]}}]}}]}}"#,
        fields.len() - 11,
    );
    let bytes = [END_OF_RAM, &section(4, 7, "a", &body), RAM_END, &description(&json)].concat();
    let tail = Tail::parse(&bytes).unwrap();
    let [device] = tail.devices() else { panic!("{tail:?}") };
    assert_eq!(bytes[device.range()], body);
    assert!(device.is_described());
    assert_eq!((device.version(), device.section_id()), (3, 7));

    // One byte less in the description: the footer must be searched, and the first that fits is the false one.
    let wrong = json.replace(r#""size": 4}"#, r#""size": 3}"#);
    let bytes = [END_OF_RAM, &section(4, 7, "a", &body), RAM_END, &description(&wrong)].concat();
    let tail = Tail::parse(&bytes);
    assert!(tail.is_err() || tail.is_ok_and(|tail| !tail.devices()[0].is_described()));
}

/// The description at the file's end is an older, longer stream's; this stream's own leaves a device out, as descriptions of
/// devices without fields do.
#[test]
fn a_device_that_is_not_described_is_no_reason_to_believe_an_older_description() {
    let json = r#"{"page_size": 4096, "devices": [{"name": "a", "instance_id": 0, "version": 3, "fields":
        [{"name": "data", "size": 2, "type": "buffer"}]}]}"#;
    let devices = [section(4, 7, "a", b"xx"), section(4, 8, "b", b"yyy")].concat();
    let bytes = [END_OF_RAM, &devices, RAM_END, &description(json)].concat();
    let tail = Tail::parse(&bytes).unwrap();
    let described: Vec<_> =
        tail.devices().iter().map(|device| (device.name(), device.is_described())).collect();
    assert_eq!(described, [("a", true), ("b", false)]);
    let older = TailBuilder::with_section(2, 4096).devices(vec![]).build().unwrap();
    let file = [&bytes[..], &[0xee; 40], &older].concat();
    assert_eq!(Tail::parse(&file), Ok(tail));
}

#[test]
fn everything_that_may_stand_in_a_tail() {
    let json = r#"{"page_size": 4096, "devices": [{"name": "dev", "instance_id": 0, "version": 3,
        "vmsd_name": "dev", "fields": [{"name": "data", "size": 4, "type": "buffer"}]}]}"#;
    let other_part = |kind: u8| [&[kind, 0, 0, 0, 5][..], b"part\x7e", &footer(5)].concat();
    let parts = [
        END_OF_RAM,
        &section(1, 5, "dirty-bitmap", b"setup"),
        b"\x08\0\x0b\0\0",
        b"\x02\0\0\0\x02\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02",
        &other_part(2),
        RAM_END,
        &other_part(3),
        b"\x08\0\x01\0\x04data",
        &section(4, 6, "dev", b"\x7e\0\0\0"),
        &section(4, 8, "undescribed", &[&footer(9)[..], &footer(8), b"\xff"].concat()),
    ]
    .concat();
    let described = description(json);
    let length = described.len();
    // Zeros behind it may be padding.
    for (end, length) in [(described, length), (vec![0], 1), (vec![0; 101], 1)] {
        let bytes = [&parts[..], &end].concat();
        let result = Tail::parse(&bytes);
        let tail = result.unwrap();
        let names: Vec<_> =
            tail.devices().iter().map(|device| (device.name(), device.range().len())).collect();
        assert_eq!(names, [("dev", 4), ("undescribed", 11)]);
        assert_eq!(tail.devices()[0].is_described(), length > 1);
        assert!(!tail.devices()[1].is_described());
        assert_eq!(tail.length(), parts.len() + length);
    }
}

#[test]
fn tails_that_are_refused() {
    let json = |json: &str| [END_OF_RAM, &description(json)].concat();
    let refused = |bytes: &[u8]| {
        let error = Tail::parse(bytes).unwrap_err();
        (error.what().clone(), error.offset())
    };
    let at = END_OF_RAM.len() as u64;
    assert_eq!(refused(b"\0\0\0\0\0\0\0\x11\x7e\0\0\0\x02"), (Defect::EndOfRam(0x11), 0));
    assert_eq!(refused(b"\0\0\0\0\0\0\0\x10\x7d\0\0\0\x02"), (Defect::Footer(2), 8));
    assert_eq!(refused(&[END_OF_RAM, b"\x09"].concat()), (Defect::UnknownSection(9), at));
    assert_eq!(refused(&[END_OF_RAM, b"\x03\0\0\0\x07"].concat()), (Defect::SectionNumber(7), at + 1));
    let both = r#"{"devices": [{"name": "a", "instance_id": 0}, {"name": "b", "instance_id": 0}]}"#;
    let twice = [END_OF_RAM, &section(4, 7, "a", b""), &section(4, 7, "b", b""), &description(both)].concat();
    assert_eq!(refused(&twice).0, Defect::DescriptionMismatch("b".into()));
    assert_eq!(
        refused(&[END_OF_RAM, &section(4, 2, "a", b""), &[0]].concat()),
        (Defect::SectionNumber(2), at + 1)
    );
    assert_eq!(refused(&[END_OF_RAM, &section(4, 7, "", b""), &[0]].concat()), (Defect::Name, at + 6));
    assert_eq!(refused(&json("{\"devices\": [}")), (Defect::Description, at + 6));
    assert_eq!(refused(&json("[]")), (Defect::Description, at + 6));
    let missing = json(r#"{"devices": [{"name": "a", "instance_id": 1, "fields": []}]}"#);
    assert_eq!(refused(&missing), (Defect::DescriptionMismatch("a".into()), at + 6));
    let no_footer = [END_OF_RAM, b"\x04\0\0\0\x07\x01a\0\0\0\0\0\0\0\0body", &description("{}")].concat();
    assert_eq!(refused(&no_footer).0, Defect::Footer(7));
}

/// Sizes that wrap, a depth that would take the stack, a list that would take the memory.
#[test]
fn descriptions_that_claim_too_much() {
    let nested = r#"{"vmsd_name": "x", "subsections": ["#.repeat(100_000);
    let cases = [
        r#"{"devices": [{"name": "a", "instance_id": 0, "fields": [{"size": 18446744073709551615, "array_len": 2}]}]}"#,
        r#"{"devices": [{"name": "a", "instance_id": 0, "fields": [{"size": 18446744073709551615}, {"size": 1}]}]}"#,
        &format!(r#"{{"devices": [{{"name": "a", "instance_id": 0, "subsections": [{nested}"#),
        &format!(r#"{{"other": {}"#, "[".repeat(100_000)),
    ];
    for json in cases {
        let bytes = [END_OF_RAM, &section(4, 7, "a", b"abc"), &description(json)].concat();
        match Tail::parse(&bytes) {
            Ok(tail) => assert_eq!(bytes[tail.device("a", 0).unwrap().range()], *b"abc"),
            Err(error) => assert!(json.len() > 1000 && *error.what() != Defect::Footer(7), "{error}"),
        }
    }
}

#[test]
fn devices_that_could_not_be_found_again() {
    let device = |name: &str| Device { name: name.into(), instance: 1, version: 1, data: vec![] };
    let build =
        |devices: &[Device]| TailBuilder::with_section(2, 4096).devices(devices.iter().cloned()).build();
    for name in ["", "a\0", "a\tb", "a\u{85}", &"a".repeat(256)] {
        assert_eq!(build(&[device(name)]), Err(TailError::Name(name.into())));
    }
    assert_eq!(build(&[device("a"), device("a")]), Err(TailError::Duplicate("a".into(), 1)));
    let other = Device { instance: 2, ..device("a") };
    assert!(build(&[device("a"), other, device(&"b".repeat(255))]).is_ok());
}
