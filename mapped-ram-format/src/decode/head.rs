//! Everything before the first block's record: magic, configuration, commands, start of the `ram` section, total.
//!
//! ```text
//! "QEVM", u32 version = 3
//! [0x07 configuration, with 0x05 subsections]
//! any number of commands: 0x08, u16 command, u16 length, that many bytes
//! 0x01, u32 section id, u8 length, "ram", u32 instance = 0, u32 version = 4
//! u64 total | 0x4
//! ```

use crate::configuration::{Configuration, lossy};
use crate::error::Defect;
use crate::input::{Input, Stop};
use crate::wire::{
    INCOMPLETE_MAGIC, MAGIC, MIN_PAGE_SIZE, RAM, RAM_INSTANCE, RAM_VERSION, STREAM_VERSION, flag, section,
};

use super::record::Records;
use super::{Decoder, Step};

impl Decoder {
    /// Takes the item that `self.step` names, and says which one comes next.
    pub(super) fn head_item(&mut self, input: &mut Input<'_>) -> Result<Step, Stop> {
        match self.step {
            Step::Magic => magic(input),
            Step::Configuration => match peek(input)? {
                section::CONFIGURATION => {
                    self.head.configuration = Some(Configuration::decode_machine(input)?);
                    Ok(Step::Subsection)
                }
                _ => Ok(Step::Section),
            },
            Step::Subsection => match (peek(input)?, &mut self.head.configuration) {
                (section::SUBSECTION, Some(configuration)) => {
                    configuration.decode_subsection(input)?;
                    Ok(Step::Subsection)
                }
                _ => Ok(Step::Section),
            },
            Step::Section => match peek(input)? {
                section::COMMAND => {
                    input.take(3)?;
                    let len = input.u16()?;
                    input.take(usize::from(len))?;
                    Ok(Step::Section)
                }
                section::START => {
                    self.head.ram_section_id = ram_start(input)?;
                    Ok(Step::Total)
                }
                other => input.bad(Defect::UnexpectedSection(other), 0),
            },
            Step::Total => {
                let total = total(input)?;
                self.records = Records::new(total, &self.head);
                Ok(if total == 0 { Step::End } else { Step::Record })
            }
            Step::Record | Step::End | Step::Done => Ok(self.step),
        }
    }

    /// ```text
    /// u64 0x10, 0x7e, u32 section id
    /// ```
    pub(super) fn check_end(&self, input: &mut Input<'_>) -> Result<(), Stop> {
        let word = input.u64()?;
        if word != flag::EOS {
            let flags = word & flag::OF_STREAMED_PAGES;
            let what = if flags != 0 && (word % MIN_PAGE_SIZE) & !flags == 0 {
                Defect::RamFlags(flags)
            } else {
                Defect::EndOfRam(word)
            };
            return input.bad(what, 8);
        }
        let (mark, id) = (input.u8()?, input.u32()?);
        if let section::START | section::PART | section::END | section::FULL | section::COMMAND = mark {
            return input.bad(Defect::NoFooters, 5);
        }
        if (mark, id) != (section::FOOTER, self.head.ram_section_id) {
            return input.bad(Defect::Footer(self.head.ram_section_id), 5);
        }
        Ok(())
    }
}

fn peek(input: &Input<'_>) -> Result<u8, Stop> {
    input.clone().u8()
}

fn magic(input: &mut Input<'_>) -> Result<Step, Stop> {
    let magic = input.array()?;
    // A writer in place goes from whatever stood there to the mark, and from the mark to the magic. Where the four bytes
    // lie across two sectors of a disk, a power cut can leave a part of each.
    let unfinished = |(at, byte): (usize, &u8)| [0, INCOMPLETE_MAGIC[at], MAGIC[at]].contains(byte);
    if magic != MAGIC && magic.iter().enumerate().all(unfinished) {
        return input.bad(Defect::NeverFinished, MAGIC.len());
    }
    if magic != MAGIC {
        return input.bad(Defect::Magic(magic), MAGIC.len());
    }
    let version = input.u32()?;
    if version != STREAM_VERSION {
        return input.bad(Defect::Version { of: "the stream", found: version }, 4);
    }
    Ok(Step::Configuration)
}

fn ram_start(input: &mut Input<'_>) -> Result<u32, Stop> {
    input.u8()?;
    let id = input.u32()?;
    let name = input.short_name()?;
    if name != RAM {
        return input.bad(Defect::ForeignSection(lossy(name)), name.len());
    }
    let instance = input.u32()?;
    if instance != RAM_INSTANCE {
        return input.bad(Defect::RamInstance(instance), 4);
    }
    let version = input.u32()?;
    if version != RAM_VERSION {
        return input.bad(Defect::Version { of: "the ram section", found: version }, 4);
    }
    Ok(id)
}

/// The blocks' total length. The page size is not known yet: the bits that are flags for every page size are checked
/// here, the others when the first record tells.
fn total(input: &mut Input<'_>) -> Result<u64, Stop> {
    let word = input.u64()?;
    let flags = word % MIN_PAGE_SIZE;
    if flags == flag::MEM_SIZE { Ok(word - flags) } else { input.bad(Defect::RamFlags(flags), 8) }
}
