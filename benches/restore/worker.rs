//! A run in a process of its own: this program, started again, loads the guest once and tells its figures in one line of
//! JSON. So CPU time is the load's, and the memory is as fresh as a new monitor's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use mapped_ram::Reader;
use serde_json::{Value, json};

use crate::Result;
use crate::args::Cache;
use crate::contender::Contender;
use crate::measure::{Sample, own_cpu};
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
        let words: Vec<String> = words.collect();
        let [name, path, bytes, memory] = &words[..] else {
            return Err("--worker is for this program itself".to_owned());
        };
        let mut all = [Cache::Warm, Cache::Cold].into_iter().flat_map(Contender::all);
        let contender = all.find(|contender| contender.name() == *name);
        let contender = contender.ok_or_else(|| format!("no contender `{name}`"))?;
        let bytes = bytes.parse().map_err(|_| format!("{bytes} bytes"))?;
        Ok(Self { contender, path: path.into(), bytes, memory: memory.parse()? })
    }
}

/// Lets a process load `saved` as `contender` does.
pub(crate) fn run(contender: Contender, saved: &Saved, memory: Kind) -> Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--worker", &contender.name()]).arg(&saved.path).arg(saved.bytes.to_string());
    command.arg(memory.name());
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("its process ended with {}", output.status).into());
    }
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| told[key].as_f64().ok_or_else(|| format!("no `{key}` in {told}"));
    Ok(Sample::timed(number("wall")?, number("cpu")?))
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
