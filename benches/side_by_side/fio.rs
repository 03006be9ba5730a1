//! What the disk can do at most: fio, with the settings that were found best, and as many bytes as the guest has.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use crate::Result;
use crate::contender::Sample;

pub(crate) fn run(out: &Path, bytes: u64, uring: bool, over: bool) -> Result<Option<Sample>> {
    static MISSING: Once = Once::new();
    if Command::new("fio").arg("--version").output().is_err() {
        MISSING.call_once(|| {
            println!("NOT MEASURED: fio is not installed, so there is no ceiling to compare with");
        });
        return Ok(None);
    }
    if over {
        // Allotted and written once.
        fio(out, bytes, uring, false)?;
    }
    fio(out, bytes, uring, over).map(Some)
}

fn fio(out: &Path, bytes: u64, uring: bool, over: bool) -> Result<Sample> {
    let bytes = bytes.next_multiple_of(8 << 20);
    let mut command = Command::new("fio");
    command
        .args([
            "--name=x",
            "--direct=1",
            "--rw=write",
            "--bs=4M",
            "--end_fsync=1",
            "--thread",
            "--group_reporting",
        ])
        .args(["--output-format=json", if over { "--overwrite=1" } else { "--fallocate=native" }])
        .arg(format!("--filename={}", out.display()));
    if uring {
        command.args(["--ioengine=io_uring", "--iodepth=16", &format!("--size={bytes}")]);
    } else {
        let half = bytes / 2;
        command.args(["--ioengine=psync", "--numjobs=2"]);
        command.args([format!("--size={half}"), format!("--offset_increment={half}")]);
    }
    let output = command.output().map_err(|error| format!("fio: {error}"))?;
    let said = || {
        format!("fio: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let start = output.stdout.iter().position(|byte| *byte == b'{').ok_or_else(said)?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout[start..]).map_err(|_| said())?;
    let job = &json["jobs"][0];
    let number = |value: &serde_json::Value| value.as_f64().ok_or_else(said);
    let seconds = number(&job["write"]["runtime"])? / 1000.0;
    // Percent of the run time, added up over the threads' own.
    let threads = if uring { 1.0 } else { 2.0 };
    let cpu = (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0 * seconds * threads;
    Ok(Sample { seconds: seconds.max(0.001), cpu, beside: None, disk: bytes })
}
