//! A monitor in small: saves a guest while it "runs", with its device state, and brings it back.

use mapped_ram::{
    Destination, Device, LoadOptions, LoadTarget, PageBitmap, RamBlock, Reader, SaveOptions, Tail,
};

const PAGE: usize = 4096;
const PAGES: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest.mram");

    // The guest's memory. It is only touched through `start` from here on, as a monitor does with memory that a guest owns.
    let mut ram = vec![0_u8; PAGES * PAGE];
    ram[..100 * PAGE].fill(1);
    let start = ram.as_mut_ptr();

    // SAFETY: `ram` lives until the end of `main`, longer than the writer.
    let block = unsafe { RamBlock::from_raw("pc.ram", start, PAGES * PAGE) };
    let mut writer = SaveOptions::new().machine("my-monitor-1").channels(2).create(&path, vec![block])?;

    // First round: everything, while the guest runs and writes page 7.
    writer.write_all()?;
    // SAFETY: inside `ram`; no channel is at work between two calls of the writer.
    unsafe { start.add(7 * PAGE).write_bytes(2, PAGE) };

    // Last round: the guest stands still, and what it dirtied is written again.
    let mut dirty = PageBitmap::new(PAGES as u64);
    dirty.insert(7..8);
    writer.write_pages(0, &dirty)?;
    let state = Device { name: "my-timer".into(), instance: 0, version: 1, data: vec![0xC0, 0xFF, 0xEE] };
    let report = writer.finish(&Tail::devices(vec![state]))?;
    println!("saved: {} pages written, {} zero", report.pages_written(), report.zero_pages());

    // Back into memory that was never touched.
    let reader = Reader::open(&path)?;
    let block = reader.block("pc.ram").ok_or("no such block")?;
    let mut back = vec![0_u8; PAGES * PAGE];
    LoadOptions::new().channels(2).load(&mut [LoadTarget::new(block, &mut back, Destination::Zeroed)])?;
    assert!(back == ram);
    for device in reader.devices()? {
        println!("device {} (instance {}): {} bytes", device.name, device.instance, device.data.len());
    }
    Ok(())
}
