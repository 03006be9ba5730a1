//! A run in a process of its own, which is this program, started again with `--worker` and its job: it tells its figures in
//! one line of JSON.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Result;
use super::measure::Sample;

/// The words behind `--worker`, of which there are to be `N`.
pub(crate) fn job<const N: usize>(
    words: impl Iterator<Item = String>,
) -> std::result::Result<[String; N], String> {
    let words: Vec<String> = words.collect();
    words.try_into().map_err(|_| "--worker is for this program itself".to_owned())
}

/// Lets a process do the job that `words` describe: what it measured.
pub(crate) fn run<const N: usize>(words: [&OsStr; N]) -> Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.arg("--worker").args(words).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("its process ended with {}", output.status).into());
    }
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| told[key].as_f64().ok_or_else(|| format!("no `{key}` in {told}"));
    Ok(Sample { peak: told["peak"].as_u64(), ..Sample::timed(number("wall")?, number("cpu")?) })
}
