//! A run in a process of its own: this program, started again, loads the guest once and tells its figures in one line of
//! JSON. So CPU time is the load's, and the memory is as fresh as a new monitor's.

use std::path::{Path, PathBuf};
use std::time::Instant;

use mapped_ram::Reader;
use serde_json::json;

use crate::Result;
use crate::args::Cache;
use crate::common::measure::{Sample, own_cpu};
use crate::common::worker;
use crate::contender::Contender;
use crate::memory::{Kind, Memory};
use crate::saved::{PAGE, Saved};

/// How much of what was loaded is compared with the file, evenly spread.
const LOOKS: usize = 256;

/// What the process is told behind `--worker`.
pub(crate) struct Job {
    contender: Contender,
    path: PathBuf,
    bytes: u64,
    memory: Kind,
}

impl Job {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> std::result::Result<Self, String> {
        let [name, path, bytes, memory] = worker::job(words)?;
        let mut all = [Cache::Warm, Cache::Cold].into_iter().flat_map(Contender::all);
        let contender = all.find(|contender| contender.name() == name);
        let contender = contender.ok_or_else(|| format!("no contender `{name}`"))?;
        let bytes = bytes.parse().map_err(|_| format!("{bytes} bytes"))?;
        Ok(Self { contender, path: path.into(), bytes, memory: memory.parse()? })
    }
}

/// Lets a process load `saved` as `contender` does.
pub(crate) fn run(contender: Contender, saved: &Saved, memory: Kind) -> Result<Sample> {
    let (name, bytes) = (contender.name(), saved.bytes.to_string());
    worker::run([name.as_ref(), saved.path.as_ref(), bytes.as_ref(), memory.name().as_ref()])
}

/// Does the run and tells the figures.
pub(crate) fn work(job: &Job) -> Result<()> {
    let mut memory = Memory::new(job.bytes, job.memory)?;
    let cpu = own_cpu()?;
    let began = Instant::now();
    job.contender.load(&job.path, &mut memory)?;
    let wall = began.elapsed().as_secs_f64();
    let cpu = own_cpu()? - cpu;
    compare(&job.path, memory.bytes())?;
    println!("{}", json!({ "wall": wall, "cpu": cpu }));
    Ok(())
}

/// What was loaded must be what the file says.
fn compare(path: &Path, memory: &[u8]) -> Result<()> {
    let reader = Reader::open(path)?;
    let block = reader.block("ram0").ok_or("no block `ram0`")?;
    let page = usize::try_from(PAGE)?;
    let mut expected = vec![0; page];
    for at in (0..memory.len()).step_by((memory.len() / LOOKS).next_multiple_of(page)) {
        block.read_at(at as u64, &mut expected)?;
        if memory[at..at + page] != expected {
            return Err(format!("{} loaded something else at {at:#x}", path.display()).into());
        }
    }
    Ok(())
}
