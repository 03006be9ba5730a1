//! Copies a file with several channels: `copy_file FROM TO`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use multifd_pool::{ChannelContext, Pool, WorkError, Worker};

/// Copies one stretch at a time through a buffer of its own.
struct Copier {
    from: Arc<File>,
    to: Arc<File>,
    buffer: Vec<u8>,
}

impl Worker for Copier {
    type Batch = u64;

    fn run(&mut self, offset: u64, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
        let mut copy = || -> io::Result<usize> {
            let got = self.from.read_at(&mut self.buffer, offset)?;
            self.to.write_all_at(&self.buffer[..got], offset)?;
            Ok(got)
        };
        let got = copy().map_err(|error| WorkError::Other(Box::new(error)))?;
        context.counters().bytes += got as u64;
        Ok(())
    }
}

const STRETCH: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(from), Some(to)) = (args.next(), args.next()) else {
        return Err("usage: copy_file FROM TO".into());
    };
    let (from, to) = (Arc::new(File::open(from)?), Arc::new(File::create(to)?));
    let length = from.metadata()?.len();

    let pool = Pool::builder()
        .channels(4)
        .name("copy")
        .spawn(|_| Ok(Copier { from: Arc::clone(&from), to: Arc::clone(&to), buffer: vec![0; STRETCH] }))?;
    for offset in (0..length).step_by(STRETCH) {
        pool.submit(offset)?;
    }
    for (index, channel) in pool.finish()?.iter().enumerate() {
        println!("channel {index} copied {} bytes", channel.bytes);
    }
    Ok(())
}
