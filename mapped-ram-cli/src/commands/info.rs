//! `mapped-ram info`.

use std::fmt::Write;

use mapped_ram::format::Configuration;
use mapped_ram::{Block, Reader};
use serde_json::{Value, json};

use super::open_args;
use crate::args::InfoArgs;
use crate::exit::{Outcome, Problem};
use crate::names::shown;
use crate::size::show;

pub(crate) fn run(args: &InfoArgs) -> Result<Outcome, Problem> {
    let reader = open_args(&args.read)?;
    if args.json {
        println!("{:#}", as_json(&reader)?);
    } else {
        print(&reader)?;
    }
    Ok(Outcome::Good)
}

fn as_json(reader: &Reader) -> Result<Value, Problem> {
    let layout = reader.layout();
    let blocks = reader.blocks().iter().map(block_as_json).collect::<Result<Vec<_>, _>>()?;
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
        "blocks": blocks,
        "tail_offset": layout.tail_offset(),
        "devices": devices,
    }))
}

fn block_as_json(block: &Block) -> Result<Value, Problem> {
    let layout = block.layout();
    let held = !block.is_left_out();
    Ok(json!({
        "name": block.idstr(),
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
    println!("file        {} ({})", reader.file(), show(reader.file_length()));
    if let Some(header) = reader.libvirt() {
        let state = if header.was_running() { "running" } else { "paused" };
        println!("libvirt     save image of a guest that was {state}");
    }
    println!("stream      at offset {}", layout.stream_offset());
    match layout.configuration() {
        Some(configuration) => {
            println!("machine     {}", shown(configuration.machine()));
            println!("capability  {}", shown(&configuration.capabilities().join(", ")));
            if let Some(uuid) = configuration.uuid() {
                println!("uuid        {}", hex(&uuid));
            }
        }
        None => println!("machine     not said (no configuration section)"),
    }
    println!("page size   {}", layout.page_size());
    println!();
    println!("{:<28} {:>12} {:>12} {:>12} {:>16}", "BLOCK", "SIZE", "PAGES", "PRESENT", "PAGES AT");
    for block in reader.blocks() {
        if block.is_left_out() {
            println!(
                "{:<28} {:>12} {:>12}     left out",
                shown(&block.idstr()),
                show(block.used_length()),
                block.pages()
            );
            continue;
        }
        println!(
            "{:<28} {:>12} {:>12} {:>12} {:>#16x}",
            shown(&block.idstr()),
            show(block.used_length()),
            block.pages(),
            block.present_pages()?,
            block.layout().pages_offset()
        );
    }
    println!();
    let devices = reader.devices()?;
    println!("tail        at offset {:#x}, {} devices", layout.tail_offset(), devices.len());
    for device in devices {
        println!(
            "  {} (instance {}, version {}): {} bytes",
            shown(&device.name),
            device.instance,
            device.version,
            device.data.len()
        );
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
