//! The layout of a guest's memory as a message: JSON, as Firecracker sends it to its page-fault handlers.
//!
//! ```json
//! [{"base_host_virt_addr": 140247643750400, "size": 3221225472, "offset": 0, "page_size": 4096, "page_size_kib": 4096}]
//! ```
//!
//! Firecracker's `offset` counts in its file of the guest's memory. Here it counts in the memory of all blocks that the file holds,
//! one behind the other in the file's order, without gaps; with the key `block`, which is ours, in that block alone. `page_size_kib` is
//! the old name of `page_size`, in bytes all the same; either will do, and both must agree. Keys that are not known are passed over.
//!
//! Only what is in one region is looked at here; whether regions fit a file is [`super::region`]'s business.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The longest message that is taken, in bytes.
pub const LONGEST_MESSAGE: usize = 1 << 20;

/// The most regions that a message may have.
pub const MOST_REGIONS: usize = 4096;

/// The longest name that a block has in a file, in bytes.
const LONGEST_NAME: usize = 255;

/// So much of what the decoder says is passed on, in characters: it quotes what it does not like, however long that is.
const LONGEST_QUOTE: usize = 200;

/// A part of a guest's memory, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRegion {
    /// The address of its first byte in the guest's process.
    pub base_host_virt_addr: u64,
    /// How many bytes it has.
    pub size: u64,
    /// Where its first byte is: in the memory of all blocks in the file's order, or in `block`. In bytes.
    pub offset: u64,
    /// The size of the memory's pages, in bytes: 4096, or 2 MiB in huge pages.
    pub page_size: u64,
    /// The block, if the offset is to count in it; a message may name it in at most 255 bytes, as a file does.
    pub block: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_size_kib: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<String>,
}

/// A region that is a JSON object. A derived decoder alone takes an array as well, its elements in the order of the fields here.
struct Object(Wire);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only;

        impl<'de> Visitor<'de> for Only {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, a region")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
                Wire::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Only)
    }
}

/// What the bytes received so far are.
#[derive(Debug)]
pub(super) enum Parsed {
    Whole(Vec<GuestRegion>),
    /// More must come.
    Part,
}

impl GuestRegion {
    /// Decodes a whole message.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Vec<Self>, String> {
        match parse(bytes)? {
            Parsed::Whole(regions) => Ok(regions),
            Parsed::Part => Err("the layout ends in the middle".into()),
        }
    }

    /// Encodes a message; both names of the page size are in it.
    pub fn to_json(regions: &[Self]) -> String {
        let wires: Vec<Wire> = regions
            .iter()
            .map(|region| Wire {
                base_host_virt_addr: region.base_host_virt_addr,
                size: region.size,
                offset: region.offset,
                page_size: Some(region.page_size),
                page_size_kib: Some(region.page_size),
                block: region.block.clone(),
            })
            .collect();
        // Numbers and text always make JSON.
        serde_json::to_string(&wires).unwrap_or_default()
    }
}

/// Decodes a message of which perhaps not all has come.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let text = bytes.trim_ascii();
    if text.len() > LONGEST_MESSAGE {
        return Err(format!("the layout is longer than {LONGEST_MESSAGE} bytes"));
    }
    // Looked at only when it may be whole, so that a message that comes in drops is not decoded again and again.
    if !text.ends_with(b"]") {
        return match text.first() {
            None | Some(b'[') => Ok(Parsed::Part),
            Some(_) => Err("the layout is no JSON array".into()),
        };
    }
    let objects: Vec<Object> = match serde_json::from_slice(text) {
        Ok(objects) => objects,
        Err(error) if error.is_eof() => return Ok(Parsed::Part),
        Err(error) => {
            let said = shortened(error.to_string());
            return Err(format!("the layout is not as it should be: {said}"));
        }
    };
    if objects.is_empty() || objects.len() > MOST_REGIONS {
        return Err(format!("the layout has {} regions; it has 1 to {MOST_REGIONS}", objects.len()));
    }
    objects.into_iter().map(region).collect::<Result<_, _>>().map(Parsed::Whole)
}

fn shortened(mut said: String) -> String {
    if let Some((end, _)) = said.char_indices().nth(LONGEST_QUOTE) {
        said.truncate(end);
        said.push_str("...");
    }
    said
}

fn region(Object(wire): Object) -> Result<GuestRegion, String> {
    let page_size = match (wire.page_size, wire.page_size_kib) {
        (Some(one), Some(other)) if one != other => {
            return Err(format!(
                "a region says page_size {one} and page_size_kib {other}; both are in bytes and must agree"
            ));
        }
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) => return Err("a region says no page_size".into()),
    };
    if let Some(name) = wire.block.as_ref().filter(|name| name.len() > LONGEST_NAME) {
        return Err(format!(
            "a region names a block in {} bytes; a name has at most {LONGEST_NAME}",
            name.len()
        ));
    }
    Ok(GuestRegion {
        base_host_virt_addr: wire.base_host_virt_addr,
        size: wire.size,
        offset: wire.offset,
        page_size,
        block: wire.block,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regions() -> impl Strategy<Value = Vec<GuestRegion>> {
        let region = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<Option<String>>())
            .prop_map(|(base_host_virt_addr, size, offset, page_size, block)| GuestRegion {
                base_host_virt_addr,
                size,
                offset,
                page_size,
                block,
            });
        prop::collection::vec(region, 1..5)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_no_part_of_it_is_taken_for_all(regions in regions(), at: prop::sample::Index) {
            let text = GuestRegion::to_json(&regions);
            prop_assert_eq!(GuestRegion::from_json(text.as_bytes()).unwrap(), regions);
            let part = &text.as_bytes()[..at.index(text.len())];
            prop_assert!(matches!(parse(part), Ok(Parsed::Part)), "{:?}", part);
            prop_assert!(GuestRegion::from_json(part).is_err());
        }

        #[test]
        fn any_bytes_are_an_error_or_regions(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn what_firecracker_sends() {
        let region = |page_size| GuestRegion {
            base_host_virt_addr: 4096,
            size: 8192,
            offset: 0,
            page_size,
            block: None,
        };
        let numbers = r#""base_host_virt_addr":4096,"size":8192,"offset":0"#;
        for (text, page_size) in [
            (r#","page_size":4096,"page_size_kib":4096"#, 4096),
            (r#","page_size":2097152"#, 2 << 20),
            (r#","page_size_kib":4096"#, 4096),
            (r#","page_size":4096,"new":{"a":[1]}"#, 4096),
        ] {
            let text = format!("[{{{numbers}{text}}}]\n");
            assert_eq!(GuestRegion::from_json(text.as_bytes()), Ok(vec![region(page_size)]), "{text}");
        }
    }

    #[test]
    fn messages_that_are_refused() {
        let numbers = r#""base_host_virt_addr":4096,"size":8192,"offset":0"#;
        let many =
            format!("[{}]", vec![format!("{{{numbers},\"page_size\":4096}}"); MOST_REGIONS + 1].join(","));
        let long = format!("[{}", " ".repeat(LONGEST_MESSAGE + 1)) + "]";
        for text in [
            "",
            "]",
            "[",
            "[]",
            "{}",
            "[1]",
            "[[]]",
            "null",
            "[{}]",
            "[{}]]",
            &format!("[{{{numbers}}}]"),
            &format!("[{{{numbers},\"page_size\":4096,\"page_size_kib\":4}}]"),
            &format!("[{{{numbers},\"page_size\":-1}}]"),
            &format!("[{{{numbers},\"page_size\":1e3}}]"),
            &format!("[{{{numbers},\"page_size\":99999999999999999999}}]"),
            &format!("[{{{numbers},{numbers},\"page_size\":4096}}]"),
            &format!("[{{{numbers},\"page_size\":4096}}] x ]"),
            &format!("[{{{numbers},\"page_size\":4096,\"block\":7}}]"),
            &format!("[{{{numbers},\"page_size\":4096,\"block\":\"{}\"}}]", "b".repeat(LONGEST_NAME + 1)),
            "[[4096,8192,0,4096]]",
            "[[4096,8192,0,4096,4096,null]]",
            &format!("[{{\"size\":\"{}\"}}]", "\\u0001".repeat(1000)),
            &format!("{}]", "[".repeat(5000)),
            &many,
            &long,
        ] {
            let shown = &text[..text.len().min(80)];
            let error = GuestRegion::from_json(text.as_bytes()).expect_err(shown);
            assert!(error.len() < 1024, "{shown}: an error of {} bytes", error.len());
        }
    }
}
