//! `mapped-ram info`.

use std::borrow::Cow;
use std::fmt::Write;

use mapped_ram::format::Configuration;
use mapped_ram::{Block, Reader};
use serde::{Serialize, Serializer};

use super::open_args;
use crate::args::InfoArgs;
use crate::exit::{Outcome, Problem};
use crate::names::file_name;
use crate::say;
use crate::size::show;

pub(crate) fn run(args: &InfoArgs) -> Result<Outcome, Problem> {
    let reader = open_args(&args.read)?;
    if args.json {
        print_json(&reader)?;
    } else {
        print(&reader)?;
    }
    Ok(Outcome::Good)
}

/// What programs are told. A file may have a hundred thousand blocks: their objects are made as they are printed.
#[derive(Serialize)]
struct Info<'a> {
    file: &'a str,
    file_length: u64,
    stream_offset: u64,
    libvirt: Option<LibvirtInfo>,
    machine: Option<&'a str>,
    capabilities: &'a [String],
    target_page_bits: Option<u32>,
    uuid: Option<String>,
    page_size: u64,
    noted_clean: bool,
    #[serde(serialize_with = "each_block")]
    blocks: (&'a [Block], Vec<Option<u64>>),
    tail_offset: u64,
    devices: Vec<DeviceInfo<'a>>,
}

#[derive(Serialize)]
struct LibvirtInfo {
    was_running: bool,
}

#[derive(Serialize)]
struct BlockInfo<'a> {
    name: Cow<'a, str>,
    file_name: String,
    used_length: u64,
    guest_address: Option<u64>,
    left_out: bool,
    pages: u64,
    present_pages: Option<u64>,
    bitmap_offset: Option<u64>,
    pages_offset: Option<u64>,
}

#[derive(Serialize)]
struct DeviceInfo<'a> {
    name: &'a str,
    instance: u32,
    version: u32,
    bytes: usize,
}

/// The blocks, each with how many of its pages are present, as an array.
fn each_block<S: Serializer>(
    (blocks, present): &(&[Block], Vec<Option<u64>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(blocks.iter().zip(present).enumerate().map(|(index, (block, present))| {
        let layout = block.layout();
        let held = !block.is_left_out();
        BlockInfo {
            name: block.idstr(),
            file_name: file_name(layout.idstr_bytes(), index),
            used_length: block.used_length(),
            guest_address: layout.guest_address(),
            left_out: block.is_left_out(),
            pages: block.pages(),
            present_pages: *present,
            bitmap_offset: held.then(|| layout.bitmap_offset()),
            pages_offset: held.then(|| layout.pages_offset()),
        }
    }))
}

fn print_json(reader: &Reader) -> Result<(), Problem> {
    let layout = reader.layout();
    // All that can fail comes first: half an object is of no use to anybody.
    let present = |block: &Block| (!block.is_left_out()).then(|| block.present_pages()).transpose();
    let present = reader.blocks().iter().map(present).collect::<Result<_, _>>()?;
    let devices = reader.devices()?;
    let configuration = layout.configuration();
    say::json(&Info {
        file: reader.file(),
        file_length: reader.file_length(),
        stream_offset: layout.stream_offset(),
        libvirt: reader.libvirt().map(|header| LibvirtInfo { was_running: header.was_running() }),
        machine: configuration.map(Configuration::machine),
        capabilities: configuration.map_or(&[], Configuration::capabilities),
        target_page_bits: configuration.and_then(Configuration::target_page_bits),
        uuid: configuration.and_then(Configuration::uuid).map(|uuid| hex(&uuid)),
        page_size: layout.page_size(),
        noted_clean: reader.is_noted_clean(),
        blocks: (reader.blocks(), present),
        tail_offset: layout.tail_offset(),
        devices: devices
            .iter()
            .map(|device| DeviceInfo {
                name: &device.name,
                instance: device.instance,
                version: device.version,
                bytes: device.data.len(),
            })
            .collect(),
    })
}

fn print(reader: &Reader) -> Result<(), Problem> {
    let layout = reader.layout();
    say::line(&format!("file        {} ({})", reader.file(), show(reader.file_length())))?;
    if let Some(header) = reader.libvirt() {
        let state = if header.was_running() { "running" } else { "paused" };
        say::line(&format!("libvirt     save image of a guest that was {state}"))?;
    }
    say::line(&format!("stream      at offset {}", layout.stream_offset()))?;
    match layout.configuration() {
        Some(configuration) => {
            say::line(&format!("machine     {}", configuration.machine()))?;
            say::line(&format!("capability  {}", configuration.capabilities().join(", ")))?;
            if let Some(uuid) = configuration.uuid() {
                say::line(&format!("uuid        {}", hex(&uuid)))?;
            }
        }
        None => say::line("machine     not said (no configuration section)")?,
    }
    say::line(&format!("page size   {}", layout.page_size()))?;
    if reader.is_noted_clean() {
        say::line("note        its zero pages are zeros in the file: mapping it takes no look at it")?;
    }
    say::line("")?;
    say::line(&format!(
        "{:<28} {:>12} {:>12} {:>12} {:>16}",
        "BLOCK", "SIZE", "PAGES", "PRESENT", "PAGES AT"
    ))?;
    for block in reader.blocks() {
        if block.is_left_out() {
            say::line(&format!(
                "{:<28} {:>12} {:>12}     left out",
                block.idstr(),
                show(block.used_length()),
                block.pages()
            ))?;
            continue;
        }
        say::line(&format!(
            "{:<28} {:>12} {:>12} {:>12} {:>#16x}",
            block.idstr(),
            show(block.used_length()),
            block.pages(),
            block.present_pages()?,
            block.layout().pages_offset()
        ))?;
    }
    say::line("")?;
    let devices = reader.devices()?;
    say::line(&format!("tail        at offset {:#x}, {} devices", layout.tail_offset(), devices.len()))?;
    for device in devices {
        say::line(&format!(
            "  {} (instance {}, version {}): {} bytes",
            device.name,
            device.instance,
            device.version,
            device.data.len()
        ))?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
