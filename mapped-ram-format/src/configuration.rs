//! The configuration section: which machine was saved, and with which capabilities.
//!
//! This module decides how the section stands in bytes, and what a configuration may hold. Whether it fits the machine
//! that will load it is the loader's question.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::Defect;
use crate::input::{Input, Stop};
use crate::output::{put_short_name, put_u32};
use crate::wire::section;

/// The capability that makes a stream a mapped-ram stream.
pub const MAPPED_RAM: &str = "mapped-ram";
/// The capability that leaves shared memory out of the file, and puts a guest address into every block record.
pub const IGNORE_SHARED: &str = "x-ignore-shared";

/// Machine names are a few dozen bytes; the file could claim 4 GiB.
const MAX_MACHINE: usize = 4096;
/// QEMU knows about two dozen capabilities; the file could claim 4 billion.
const MAX_CAPABILITIES: usize = 256;
const SUBSECTION_VERSION: u32 = 1;

/// A part of the configuration section that is there only when it has something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subsection {
    /// Bits of the target's page size, where it is not the target's default.
    TargetPageBits(u32),
    /// Capabilities that were on.
    Capabilities(Vec<String>),
    /// The guest's UUID.
    Uuid([u8; 16]),
}

impl Subsection {
    const PAGE_BITS: &str = "configuration/target-page-bits";
    const CAPABILITIES: &str = "configuration/capabilities";
    const UUID: &str = "configuration/uuid";

    /// Name in the stream.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TargetPageBits(_) => Self::PAGE_BITS,
            Self::Capabilities(_) => Self::CAPABILITIES,
            Self::Uuid(_) => Self::UUID,
        }
    }

    /// Place among the others in a stream that QEMU writes.
    fn rank(&self) -> u8 {
        match self {
            Self::TargetPageBits(_) => 0,
            Self::Capabilities(_) => 1,
            Self::Uuid(_) => 2,
        }
    }
}

/// The configuration section.
///
/// ```
/// use mapped_ram_format::{Configuration, IGNORE_SHARED};
///
/// let configuration = Configuration::new("none").with_capability(IGNORE_SHARED).with_target_page_bits(14);
/// assert_eq!(configuration.machine(), "none");
/// assert_eq!(configuration.capabilities(), ["mapped-ram", "x-ignore-shared"]);
/// assert_eq!(configuration.target_page_bits(), Some(14));
/// assert_eq!(configuration.uuid(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    machine: String,
    subsections: Vec<Subsection>,
}

impl Configuration {
    /// For this machine, with the capability `mapped-ram` and no other.
    pub fn new(machine: impl Into<String>) -> Self {
        let capabilities = Subsection::Capabilities(vec![MAPPED_RAM.into()]);
        Self { machine: machine.into(), subsections: vec![capabilities] }
    }

    /// Name of the machine type, such as `pc-i440fx-10.0`.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The subsections in the order of the stream.
    pub fn subsections(&self) -> &[Subsection] {
        &self.subsections
    }

    /// The capabilities that were on, as far as a stream tells; empty where the subsection is missing.
    pub fn capabilities(&self) -> &[String] {
        self.find(|subsection| match subsection {
            Subsection::Capabilities(names) => Some(names.as_slice()),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// Whether this capability was on.
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities().iter().any(|capability| capability == name)
    }

    /// Bits of the page size, where it is not the target's default.
    pub fn target_page_bits(&self) -> Option<u32> {
        self.find(|subsection| match subsection {
            Subsection::TargetPageBits(bits) => Some(*bits),
            _ => None,
        })
    }

    /// The guest's UUID, where it has one.
    pub fn uuid(&self) -> Option<[u8; 16]> {
        self.find(|subsection| match subsection {
            Subsection::Uuid(uuid) => Some(*uuid),
            _ => None,
        })
    }

    /// With this machine name.
    #[must_use]
    pub fn with_machine(mut self, machine: impl Into<String>) -> Self {
        self.machine = machine.into();
        self
    }

    /// With this capability too.
    #[must_use]
    pub fn with_capability(self, name: &str) -> Self {
        if self.has_capability(name) {
            return self;
        }
        let mut names = self.capabilities().to_vec();
        if names.is_empty() {
            names.push(MAPPED_RAM.into());
        }
        if name != MAPPED_RAM {
            names.push(name.into());
        }
        self.with(Subsection::Capabilities(names))
    }

    /// With a page size of `1 << bits`.
    #[must_use]
    pub fn with_target_page_bits(self, bits: u32) -> Self {
        self.with(Subsection::TargetPageBits(bits))
    }

    /// With the guest's UUID.
    #[must_use]
    pub fn with_uuid(self, uuid: [u8; 16]) -> Self {
        self.with(Subsection::Uuid(uuid))
    }

    /// In place of the subsection of the same name, or where QEMU would write it.
    fn with(mut self, new: Subsection) -> Self {
        if let Some(old) = self.subsections.iter_mut().find(|old| old.rank() == new.rank()) {
            *old = new;
        } else {
            let at = self.subsections.iter().take_while(|old| old.rank() < new.rank()).count();
            self.subsections.insert(at, new);
        }
        self
    }

    fn find<'a, T>(&'a self, pick: impl FnMut(&'a Subsection) -> Option<T>) -> Option<T> {
        self.subsections.iter().find_map(pick)
    }

    /// Appends the section:
    ///
    /// ```text
    /// 0x07, u32 length, machine name
    /// subsections, each: 0x05, u8 length, name, u32 version = 1, body
    ///   capabilities       u32 count, then for each: u8 length, name
    ///   target-page-bits   u32
    ///   uuid               16 bytes
    /// ```
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let machine = self.machine.as_bytes();
        check_machine(machine)?;
        out.push(section::CONFIGURATION);
        put_u32(out, u32::try_from(machine.len()).map_err(|_| TOO_LONG_MACHINE)?);
        out.extend_from_slice(machine);
        for subsection in &self.subsections {
            out.push(section::SUBSECTION);
            put_short_name(out, subsection.name().as_bytes());
            put_u32(out, SUBSECTION_VERSION);
            match subsection {
                Subsection::TargetPageBits(bits) => {
                    check_page_bits(*bits)?;
                    put_u32(out, *bits);
                }
                Subsection::Uuid(uuid) => out.extend_from_slice(uuid),
                Subsection::Capabilities(names) => {
                    let count = u32::try_from(names.len()).map_err(|_| TOO_MANY_CAPABILITIES)?;
                    check_count(count)?;
                    put_u32(out, count);
                    for name in names {
                        check_capability(name.as_bytes())?;
                        if !put_short_name(out, name.as_bytes()) {
                            return Err("a capability's name is longer than 255 bytes");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes 0x07 and the machine name; the subsections follow one by one.
    pub(crate) fn decode_machine(input: &mut Input<'_>) -> Result<Self, Stop> {
        input.u8()?;
        // Checked before as many bytes are asked for.
        let len = usize::try_from(input.u32()?).unwrap_or(usize::MAX);
        if len > MAX_MACHINE {
            return input.bad(Defect::Configuration(TOO_LONG_MACHINE), 4);
        }
        let machine = input.take(len)?;
        if let Err(what) = check_machine(machine) {
            return input.bad(Defect::Configuration(what), len);
        }
        match core::str::from_utf8(machine) {
            Ok(machine) => Ok(Self { machine: machine.into(), subsections: Vec::new() }),
            Err(_) => input.bad(Defect::Configuration("the machine name is no UTF-8"), len),
        }
    }

    /// Takes 0x05 and one subsection.
    pub(crate) fn decode_subsection(&mut self, input: &mut Input<'_>) -> Result<(), Stop> {
        input.u8()?;
        let name = input.short_name()?;
        let known = [Subsection::PAGE_BITS, Subsection::CAPABILITIES, Subsection::UUID];
        let Some(name) = known.into_iter().find(|known| known.as_bytes() == name) else {
            // Its body has no length: what follows cannot be found.
            return input.bad(Defect::UnknownSubsection(lossy(name)), name.len());
        };
        // Each at most once, so that there is no end of subsections only where there is an end of names.
        if self.subsections.iter().any(|before| before.name() == name) {
            return input.bad(Defect::TwiceInConfiguration(name.into()), name.len());
        }
        let version = input.u32()?;
        if version != SUBSECTION_VERSION {
            return input.bad(Defect::Version { of: "a configuration subsection", found: version }, 4);
        }
        let subsection = match name {
            Subsection::PAGE_BITS => {
                let bits = input.u32()?;
                if let Err(what) = check_page_bits(bits) {
                    return input.bad(Defect::Configuration(what), 4);
                }
                Subsection::TargetPageBits(bits)
            }
            Subsection::CAPABILITIES => decode_capabilities(input)?,
            _ => Subsection::Uuid(input.array()?),
        };
        self.subsections.push(subsection);
        Ok(())
    }
}

fn decode_capabilities(input: &mut Input<'_>) -> Result<Subsection, Stop> {
    let count = input.u32()?;
    if let Err(what) = check_count(count) {
        return input.bad(Defect::Configuration(what), 4);
    }
    let mut names: Vec<String> = Vec::new();
    for _ in 0..count {
        let bytes = input.short_name()?;
        let back = bytes.len();
        if let Err(what) = check_capability(bytes) {
            return input.bad(Defect::Configuration(what), back);
        }
        let Ok(name) = core::str::from_utf8(bytes) else {
            return input.bad(Defect::Configuration("a capability's name is no UTF-8"), back);
        };
        if names.iter().any(|before| before == name) {
            return input.bad(Defect::TwiceInConfiguration(name.into()), back);
        }
        names.push(name.into());
    }
    if !names.iter().any(|name| name == MAPPED_RAM) {
        return input.bad(Defect::NotMappedRam, 0);
    }
    Ok(Subsection::Capabilities(names))
}

/// A name out of a stream as errors show it: what is not UTF-8 replaced, and control characters escaped, for they would be
/// obeyed by the terminal that the error ends up on.
pub(crate) fn lossy(name: &[u8]) -> Box<str> {
    let mut shown = String::new();
    for character in String::from_utf8_lossy(name).chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown.into()
}

const TOO_LONG_MACHINE: &str = "the machine name is longer than 4096 bytes";
const TOO_MANY_CAPABILITIES: &str = "more than 256 capabilities";

fn check_machine(machine: &[u8]) -> Result<(), &'static str> {
    match machine {
        _ if machine.len() > MAX_MACHINE => Err(TOO_LONG_MACHINE),
        _ if machine.contains(&0) => Err("a NUL in the machine name"),
        _ => Ok(()),
    }
}

fn check_count(count: u32) -> Result<(), &'static str> {
    match usize::try_from(count) {
        Ok(count) if count <= MAX_CAPABILITIES => Ok(()),
        _ => Err(TOO_MANY_CAPABILITIES),
    }
}

fn check_capability(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || name.contains(&0) {
        Err("a capability's name is empty or has a NUL in it")
    } else {
        Ok(())
    }
}

/// 256 bytes is the smallest page size of the format, and 1 << 62 the largest whose double still fits.
fn check_page_bits(bits: u32) -> Result<(), &'static str> {
    if (8..=62).contains(&bits) { Ok(()) } else { Err("target-page-bits out of range") }
}
