//! A run in a process of its own: this program, started again, maps the guest, saves it once and tells its figures in
//! one line of JSON. So CPU time and peak memory are the save's, and no run inherits another's heap.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use crate::Result;
use crate::common::measure::{Sample, Sync, own_cpu, peak_beside_guest};
use crate::common::worker;
use crate::contender::{Contender, Setting};
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
        let [name, ram, out, sync] = worker::job(words)?;
        let sync = sync.parse()?;
        let contender = Contender::all(sync).into_iter().find(|contender| contender.name() == name);
        let contender = contender.ok_or_else(|| format!("no contender `{name}`"))?;
        Ok(Self { contender, ram: ram.into(), out: out.into(), sync })
    }
}

/// Lets a process do the run of `name`.
pub(crate) fn run(name: &str, setting: &Setting<'_>) -> Result<Sample> {
    let sync = setting.sync.to_string();
    worker::run([name.as_ref(), setting.ram.path().as_ref(), setting.out.as_ref(), sync.as_ref()])
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
