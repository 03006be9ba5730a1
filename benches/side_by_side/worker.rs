//! A run in a process of its own: this program, started again, maps the guest, saves it once and tells its figures in
//! one line of JSON. So CPU time and peak memory are the save's, and no run inherits another's heap.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::contender::{Contender, Setting};
use crate::measure::{Sample, Sync, own_cpu, peak_beside_guest};
use crate::ram::Mapped;

/// What the process is told behind `--worker`.
pub(crate) struct Job {
    contender: Contender,
    ram: PathBuf,
    out: PathBuf,
    sync: Sync,
}

impl Job {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> std::result::Result<Self, String> {
        let words: Vec<String> = words.collect();
        let [name, ram, out, sync] = &words[..] else {
            return Err("--worker is for this program itself".to_owned());
        };
        let sync = sync.parse()?;
        let contender = Contender::all(sync).into_iter().find(|contender| contender.name() == *name);
        let contender = contender.ok_or_else(|| format!("no contender `{name}`"))?;
        Ok(Self { contender, ram: ram.into(), out: out.into(), sync })
    }
}

/// Lets a process do the run of `name`.
pub(crate) fn run(name: &str, setting: &Setting<'_>) -> Result<Sample> {
    let args: [OsString; 5] = [
        "--worker".into(),
        name.into(),
        setting.ram.path().into(),
        setting.out.into(),
        setting.sync.to_string().into(),
    ];
    let output = Command::new(std::env::current_exe()?).args(args).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("its process ended with {}", output.status).into());
    }
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| told[key].as_f64().ok_or_else(|| format!("no `{key}` in {told}"));
    let (wall, cpu) = (number("wall")?, number("cpu")?);
    Ok(Sample { peak: told["peak"].as_u64(), ..Sample::timed(wall, cpu) })
}

/// Does the run and tells the figures.
pub(crate) fn work(job: &Job) -> Result<()> {
    let memory = Mapped::populated(&job.ram)?;
    let old = job.out.with_extension("old");
    if let Contender::Ours(way) = job.contender {
        way.prepare(&memory, &old)?;
    }
    let cpu = own_cpu()?;
    let began = Instant::now();
    match job.contender {
        Contender::Ours(way) => way.save(&memory, &old, &job.out, job.sync)?,
        Contender::Plain(way) => way.save(&memory, &job.out, job.sync)?,
        Contender::Uring(way) => way.save(&memory, &job.out, job.sync)?,
        Contender::Qemu(_) | Contender::Fio(_) => return Err("it has a program of its own".into()),
    }
    let wall = began.elapsed().as_secs_f64();
    let cpu = own_cpu()? - cpu;
    // A save that took it over has left nothing there.
    let _ = fs::remove_file(&old);
    println!("{}", json!({ "wall": wall, "cpu": cpu, "peak": peak_beside_guest("self")? }));
    Ok(())
}
