//! `mapped-ram info`.

use std::fmt::Write;

use mapped_ram::format::Configuration;
use mapped_ram::{Block, Reader};
use serde_json::{Value, json};

use super::open_args;
use crate::args::InfoArgs;
use crate::exit::{Outcome, Problem};
use crate::names::file_name;
use crate::say;
use crate::size::show;

pub(crate) fn run(args: &InfoArgs) -> Result<Outcome, Problem> {
    let reader = open_args(&args.read)?;
    if args.json {
        say::raw(&format!("{:#}", as_json(&reader)?))?;
    } else {
        print(&reader)?;
    }
    Ok(Outcome::Good)
}

fn as_json(reader: &Reader) -> Result<Value, Problem> {
    let layout = reader.layout();
    let blocks = reader
        .blocks()
        .iter()
        .enumerate()
        .map(|(index, block)| block_as_json(index, block))
        .collect::<Result<Vec<_>, _>>()?;
    let devices: Vec<Value> = reader
        .devices()?
        .iter()
        .map(|device| {
            json!({
                "name": device.name,
                "instance": device.instance,
                "version": device.version,
                "bytes": device.data.len(),
            })
        })
        .collect();
    let configuration = layout.configuration();
    Ok(json!({
        "file": reader.file(),
        "file_length": reader.file_length(),
        "stream_offset": layout.stream_offset(),
        "libvirt": reader.libvirt().map(|header| json!({ "was_running": header.was_running() })),
        "machine": configuration.map(Configuration::machine),
        "capabilities": configuration.map_or(&[][..], Configuration::capabilities),
        "target_page_bits": configuration.and_then(Configuration::target_page_bits),
        "uuid": configuration.and_then(Configuration::uuid).map(|uuid| hex(&uuid)),
        "page_size": layout.page_size(),
        "noted_clean": reader.is_noted_clean(),
        "blocks": blocks,
        "tail_offset": layout.tail_offset(),
        "devices": devices,
    }))
}

fn block_as_json(index: usize, block: &Block) -> Result<Value, Problem> {
    let layout = block.layout();
    let held = !block.is_left_out();
    Ok(json!({
        "name": block.idstr(),
        "file_name": file_name(layout.idstr_bytes(), index),
        "used_length": block.used_length(),
        "guest_address": layout.guest_address(),
        "left_out": block.is_left_out(),
        "pages": block.pages(),
        "present_pages": if held { Some(block.present_pages()?) } else { None },
        "bitmap_offset": held.then(|| layout.bitmap_offset()),
        "pages_offset": held.then(|| layout.pages_offset()),
    }))
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
