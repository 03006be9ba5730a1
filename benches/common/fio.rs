//! fio's figures: of one group of jobs that read or write, and do nothing else.

use std::process::Command;

use serde_json::Value;

use super::Result;
use super::measure::{Sample, float};

/// fio's version, or why there is none.
pub(crate) fn version() -> Result<String> {
    let output = Command::new("fio").arg("--version").output().map_err(|error| format!("fio: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `fio`, which prints JSON of one group. Its jobs transfer whole blocks in `direction`, `read` or `write`; what that adds
/// to `bytes` is taken out of the time again.
pub(crate) fn run(mut fio: Command, direction: &str, bytes: u64) -> Result<Sample> {
    let output = fio.output()?;
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let job = &told["jobs"][0];
    let number = |value: &Value| value.as_f64().ok_or("fio's JSON lacks a figure");
    let scale = float(bytes) / number(&job[direction]["io_bytes"])?;
    // Milliseconds: the slowest job's, and those of all jobs together.
    let (wall, all) = (number(&job[direction]["runtime"])?, number(&job["job_runtime"])?);
    let cpu = (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0 * all;
    Ok(Sample::timed((wall * scale / 1e3).max(1e-3), cpu * scale / 1e3))
}
