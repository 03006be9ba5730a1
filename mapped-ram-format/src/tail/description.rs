//! The vmdescription: JSON that tells how long each device's state is.
//!
//! ```text
//! {"page_size": 4096, "devices": [
//!    {"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2,
//!     "fields": [{"name": "cpu_ticks_offset", "type": "int64", "size": 8},
//!                {"name": "regs", "array_len": 4, "type": "uint8", "size": 1}],
//!     "subsections": [{"vmsd_name": "timer/more", "version": 1, "fields": [..], "subsections": [..]}]}]}
//! ```
//!
//! A field takes `size` bytes, `array_len` times. A subsection stands behind the fields as 0x05, u8 length, name, u32
//! version, then its own fields and subsections. Only these sums are kept; structs are not looked into, since their
//! `size` counts what is in them. Depth is bounded by the JSON parser's own limit.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::Device;

#[derive(Debug, Deserialize)]
pub(super) struct Description {
    #[serde(default)]
    pub(super) page_size: Option<u64>,
    #[serde(default)]
    pub(super) devices: Vec<DeviceDescription>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeviceDescription {
    pub(super) name: String,
    pub(super) instance_id: u32,
    #[serde(default)]
    fields: Sum<Field>,
    #[serde(default)]
    subsections: Sum<Subsection>,
}

impl DeviceDescription {
    /// Bytes of the device's state; `None` if no such number of bytes can be.
    pub(super) fn size(&self) -> Option<u64> {
        self.fields.bytes?.checked_add(self.subsections.bytes?)
    }
}

pub(super) fn parse(json: &[u8]) -> Option<Description> {
    // An array of the fields would pass for the object too.
    json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}

/// The description of `devices`, each with one field of bytes.
pub(super) fn write(page_size: u64, devices: &[Device]) -> String {
    let mut json = String::new();
    // Writing to a string cannot fail.
    let _ = write!(json, r#"{{"page_size": {page_size}, "devices": ["#);
    for (index, Device { name, instance, version, data }) in devices.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let name = serde_json::Value::from(name.as_str());
        let size = data.len();
        let _ = write!(
            json,
            r#"{comma}{{"name": {name}, "instance_id": {instance}, "vmsd_name": {name}, "version": {version}, "fields": [{{"name": "data", "type": "buffer", "size": {size}}}]}}"#
        );
    }
    json.push_str("]}");
    json
}

#[derive(Deserialize)]
struct Field {
    #[serde(default)]
    size: u64,
    array_len: Option<u64>,
}

#[derive(Deserialize)]
struct Subsection {
    vmsd_name: String,
    #[serde(default)]
    fields: Sum<Field>,
    #[serde(default)]
    subsections: Sum<Subsection>,
}

trait Size {
    fn size(&self) -> Option<u64>;
}

impl Size for Field {
    fn size(&self) -> Option<u64> {
        self.size.checked_mul(self.array_len.unwrap_or(1))
    }
}

impl Size for Subsection {
    fn size(&self) -> Option<u64> {
        let header = 1 + 1 + self.vmsd_name.len() as u64 + 4;
        header.checked_add(self.fields.bytes?)?.checked_add(self.subsections.bytes?)
    }
}

/// The sum over a JSON array, whose elements are dropped as they come: the array may be long.
struct Sum<T> {
    /// `None` once it does not fit 64 bits.
    bytes: Option<u64>,
    of: PhantomData<T>,
}

impl<T> Default for Sum<T> {
    fn default() -> Self {
        Self { bytes: Some(0), of: PhantomData }
    }
}

impl<T> fmt::Debug for Sum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.fmt(f)
    }
}

impl<'de, T: Deserialize<'de> + Size> Deserialize<'de> for Sum<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(SumVisitor(PhantomData))
    }
}

struct SumVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Size> Visitor<'de> for SumVisitor<T> {
    type Value = Sum<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Sum<T>, A::Error> {
        let mut bytes = Some(0u64);
        while let Some(element) = elements.next_element::<T>()? {
            bytes = bytes.zip(element.size()).and_then(|(sum, size)| sum.checked_add(size));
        }
        Ok(Sum { bytes, of: PhantomData })
    }
}
