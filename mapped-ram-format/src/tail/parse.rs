//! Finds the devices in a tail.
//!
//! A device's section does not tell its own length. The description at the end tells it, and the footer that must stand
//! behind confirms it. Where the two disagree, or a section is not described, the section ends at the first footer of its number
//! that is followed by something legal.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Range;

use crate::configuration::lossy;
use crate::error::{DecodeError, Defect};
use crate::input::{Input, Stop};
use crate::wire::{flag, section};

use super::description::{self, Description};

const FOOTER_LEN: usize = 5;

/// The devices in a tail, and where their state stands.
///
/// ```
/// use mapped_ram_format::tail::{Tail, TailBuilder};
///
/// let bytes = TailBuilder::with_section(2, 4096).build()?;
/// let tail = Tail::parse(&bytes)?;
/// assert_eq!(tail.ram_section_id(), 2);
/// assert!(tail.devices().is_empty());
/// assert_eq!(bytes[tail.description().unwrap()], *br#"{"page_size": 4096, "devices": []}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    ram_section_id: u32,
    page_size: Option<u64>,
    devices: Vec<DeviceSection>,
    description: Option<Range<usize>>,
    length: usize,
}

/// A device's section in the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSection {
    name: Box<str>,
    instance: u32,
    version: u32,
    section_id: u32,
    range: Range<usize>,
    described: bool,
}

impl DeviceSection {
    /// Name of the device, with bytes that are no UTF-8 replaced, and control characters escaped.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells devices of one name apart.
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// Version of the data's layout.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Number of the section.
    pub fn section_id(&self) -> u32 {
        self.section_id
    }

    /// Where the device's state stands in the tail, without the section's header and footer.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Whether the description confirms the length. If not, the length is where the next thing that looks like a footer
    /// stands, which the state itself could imitate.
    pub fn is_described(&self) -> bool {
        self.described
    }
}

impl Tail {
    /// Finds the devices in the bytes from a layout's [`tail_offset`](crate::Layout::tail_offset) to the end of the file.
    ///
    /// Bytes behind the end of the stream are ignored. The description may be missing: then only zeros can be told from more state.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], with offsets from the tail's first byte, if a section does not end in its footer, or if the
    /// description is no JSON or names a device that has no section.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Usually the description ends where the file does, and then it can be had before the sections. But a longer
        // stream that stood here before may have left its own there: only if all agrees is it this stream's.
        let agrees = |result: &Result<Self, DecodeError>| {
            result.as_ref().is_ok_and(|tail| tail.devices.iter().all(DeviceSection::is_described))
        };
        let at_end =
            description_at_end(bytes).map(|(mark, range)| Walk::with_description(bytes, mark, range));
        match at_end {
            Some(backward) if agrees(&backward) => backward,
            Some(backward) => {
                let forward = Self::parse_forward(bytes);
                if agrees(&forward) || backward.is_err() && forward.is_ok() { forward } else { backward }
            }
            None => Self::parse_forward(bytes),
        }
    }

    /// Finds the end of the stream by the footers alone, then looks again with the description that stands there.
    fn parse_forward(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (tail, mark) = Walk::new(bytes, None, None).run()?;
        match tail.description {
            Some(range) => Walk::with_description(bytes, mark, range),
            None => Ok(tail),
        }
    }

    /// Number of the `ram` section that the tail ends; the layout before it must have the same.
    pub fn ram_section_id(&self) -> u32 {
        self.ram_section_id
    }

    /// Page size in the description.
    pub fn page_size(&self) -> Option<u64> {
        self.page_size
    }

    /// The devices in the order of the stream.
    pub fn devices(&self) -> &[DeviceSection] {
        &self.devices
    }

    /// The device of this name and instance.
    pub fn device(&self, name: &str, instance: u32) -> Option<&DeviceSection> {
        self.devices.iter().find(|device| device.name() == name && device.instance == instance)
    }

    /// Where the description's JSON stands in the tail.
    pub fn description(&self) -> Option<Range<usize>> {
        self.description.clone()
    }

    /// Bytes from the tail's first to the end of the stream.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// Where the end mark and the JSON behind it stand, if the JSON is the last thing in `bytes` but zeros.
fn description_at_end(bytes: &[u8]) -> Option<(usize, Range<usize>)> {
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    // JSON has no NUL, so the last one is the end mark or in the length that follows it: 0x00, 0x06, u32.
    let last_nul = bytes[..end].iter().rposition(|byte| *byte == 0)?;
    (last_nul.saturating_sub(5)..=last_nul).rev().find_map(|mark| {
        let range = description_behind(bytes, mark).ok()??;
        (range.end == end && bytes[range.clone()].starts_with(b"{")).then_some((mark, range))
    })
}

/// Where the JSON stands that follows the end mark at `mark`, if any does.
fn description_behind(bytes: &[u8], mark: usize) -> Result<Option<Range<usize>>, Stop> {
    let mut input = Input::starting_at(bytes, mark);
    if input.u8()? != section::END_OF_STREAM || bytes.get(input.at()) != Some(&section::DESCRIPTION) {
        return Ok(None);
    }
    input.u8()?;
    let len = usize::try_from(input.u32()?).unwrap_or(usize::MAX);
    let start = input.at();
    input.take(len)?;
    Ok(Some(start..input.at()))
}

/// What is known at one place of a walk through the sections.
struct Walk<'a> {
    input: Input<'a>,
    bytes: &'a [u8],
    /// Where the stream is known to end.
    mark: Option<usize>,
    /// Behind the last byte that is not zero: whatever follows may be padding.
    used_end: usize,
    /// Length of each device, and whether its section was met.
    described: BTreeMap<(&'a str, u32), (Option<u64>, bool)>,
    /// Numbers of sections that were started.
    started: BTreeSet<u32>,
    tail: Tail,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], mark: Option<usize>, description: Option<&'a Description>) -> Self {
        let devices = description.map(|description| description.devices.as_slice()).unwrap_or_default();
        let described =
            devices.iter().map(|device| ((device.name.as_str(), device.instance_id), (device.size(), false)));
        Self {
            input: Input::new(bytes),
            bytes,
            mark,
            used_end: bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
            described: described.collect(),
            started: BTreeSet::new(),
            tail: Tail {
                ram_section_id: 0,
                page_size: description.and_then(|description| description.page_size),
                devices: Vec::new(),
                description: None,
                length: 0,
            },
        }
    }

    fn with_description(bytes: &[u8], mark: usize, range: Range<usize>) -> Result<Tail, DecodeError> {
        let Some(description) = description::parse(&bytes[range.clone()]) else {
            return Err(DecodeError::new(Defect::Description, range.start as u64));
        };
        let (tail, _) = Walk::new(bytes, Some(mark), Some(&description)).run()?;
        Ok(tail)
    }

    /// The tail, and where its end mark stands.
    fn run(mut self) -> Result<(Tail, usize), DecodeError> {
        let mark = self.sections().map_err(|stop| match stop {
            Stop::Short(_) => {
                DecodeError::new(Defect::EndsInside("the device state"), self.bytes.len() as u64)
            }
            Stop::Bad { what, at } => DecodeError::new(what, at as u64),
        })?;
        Ok((self.tail, mark))
    }

    fn sections(&mut self) -> Result<usize, Stop> {
        self.tail.ram_section_id = self.end_of_ram_part(None)?;
        self.started.insert(self.tail.ram_section_id);
        loop {
            let at = self.input.at();
            match self.input.u8()? {
                section::END_OF_STREAM if self.mark.is_none_or(|mark| mark == at) => {
                    self.finish(at)?;
                    return Ok(at);
                }
                kind @ (section::START | section::FULL) => self.whole_section(kind)?,
                section::PART | section::END => {
                    let id = self.input.u32()?;
                    if id == self.tail.ram_section_id {
                        self.end_of_ram_part(Some(id))?;
                    } else if self.started.contains(&id) {
                        self.body(id, None)?;
                    } else {
                        return self.input.bad(Defect::SectionNumber(id), 4);
                    }
                }
                section::COMMAND => {
                    self.input.u16()?;
                    let len = self.input.u16()?;
                    self.input.take(usize::from(len))?;
                }
                other => return self.input.bad(Defect::UnknownSection(other), 1),
            }
        }
    }

    /// EOS and footer; the section's number, which must be `id` where that is known.
    fn end_of_ram_part(&mut self, id: Option<u32>) -> Result<u32, Stop> {
        let word = self.input.u64()?;
        if word != flag::EOS {
            return self.input.bad(Defect::EndOfRam(word), 8);
        }
        let (footer, found) = (self.input.u8()?, self.input.u32()?);
        if footer != section::FOOTER || id.is_some_and(|id| id != found) {
            return self.input.bad(Defect::Footer(id.unwrap_or(found)), FOOTER_LEN);
        }
        Ok(found)
    }

    fn whole_section(&mut self, kind: u8) -> Result<(), Stop> {
        let section_id = self.input.u32()?;
        if !self.started.insert(section_id) {
            return self.input.bad(Defect::SectionNumber(section_id), 4);
        }
        let name = self.input.short_name()?;
        if name.is_empty() || name.contains(&0) {
            return self.input.bad(Defect::Name, name.len());
        }
        let instance = self.input.u32()?;
        let version = self.input.u32()?;
        if kind == section::START {
            return self.body(section_id, None).map(drop);
        }
        let device =
            core::str::from_utf8(name).ok().and_then(|name| self.described.get_mut(&(name, instance)));
        let size = device.and_then(|(size, met)| {
            *met = true;
            *size
        });
        let (range, described) = self.body(section_id, size)?;
        let name = lossy(name);
        self.tail.devices.push(DeviceSection { name, instance, version, section_id, range, described });
        Ok(())
    }

    /// Takes a body and its footer: where the body stands, and whether it has the described size.
    fn body(&mut self, id: u32, size: Option<u64>) -> Result<(Range<usize>, bool), Stop> {
        let start = self.input.at();
        let described = size.and_then(|size| start.checked_add(usize::try_from(size).ok()?));
        let confirmed = described.filter(|end| self.ends_at(*end, id));
        let Some(end) = confirmed.or_else(|| (start..self.limit()).find(|end| self.ends_at(*end, id))) else {
            // With the end of the stream at hand it is the footer that is missing.
            return match self.mark {
                Some(_) => self.input.bad(Defect::Footer(id), 0),
                None => Err(Stop::Short(usize::MAX)),
            };
        };
        self.input = Input::starting_at(self.bytes, end + FOOTER_LEN);
        Ok((start..end, confirmed.is_some()))
    }

    /// Where no section can go on.
    fn limit(&self) -> usize {
        self.mark.unwrap_or(self.bytes.len())
    }

    /// Whether the footer of section `id` stands at `at`, with something legal behind it.
    fn ends_at(&self, at: usize, id: u32) -> bool {
        // Most bytes of a body are no footer: this is the loop of the search.
        self.bytes.get(at) == Some(&section::FOOTER) && self.footer_and_more(at, id).unwrap_or(false)
    }

    fn footer_and_more(&self, at: usize, id: u32) -> Result<bool, Stop> {
        let mut input = Input::starting_at(&self.bytes[..self.limit()], at);
        if (input.u8()?, input.u32()?) != (section::FOOTER, id) {
            return Ok(false);
        }
        let next = input.at();
        if self.mark == Some(next) {
            return Ok(true);
        }
        Ok(match input.u8()? {
            // Where the stream ends is only open without a mark.
            section::END_OF_STREAM if self.mark.is_none() => {
                description_behind(self.bytes, next)?.is_some() || next >= self.used_end
            }
            section::START | section::FULL => {
                let id = input.u32()?;
                let name = input.short_name()?;
                input.take(8)?;
                !self.started.contains(&id) && !name.is_empty() && name.iter().all(|byte| *byte >= b' ')
            }
            section::PART | section::END => self.started.contains(&input.u32()?),
            section::COMMAND => {
                input.u16()?;
                let len = input.u16()?;
                input.take(usize::from(len))?;
                true
            }
            _ => false,
        })
    }

    /// At the end mark: the description, and whether every device that it names was met.
    fn finish(&mut self, mark: usize) -> Result<(), Stop> {
        self.tail.description = description_behind(self.bytes, mark)?;
        self.tail.length = self.tail.description.as_ref().map_or(mark + 1, |range| range.end);
        match self.described.iter().find(|(_, (_, met))| !met) {
            Some(((name, _), _)) => {
                let at = self.tail.description.as_ref().map_or(mark, |range| range.start);
                Err(Stop::Bad { what: Defect::DescriptionMismatch((*name).into()), at })
            }
            None => Ok(()),
        }
    }
}
