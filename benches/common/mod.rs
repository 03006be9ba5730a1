//! What `side_by_side` and `restore` have in common: words of the command line, guests, samples and what becomes of them.
//!
//! Each takes it in by `#[path]`; cargo makes no bench of this folder, since it has no `main.rs`.
//!
//! - [`args`] reads what both understand, and [`run`] makes an exit code of what came of it;
//! - [`guest`] says which pages of a guest hold data, and fills them;
//! - [`measure`] has the clock's and the system's figures of one run, [`fio`] and [`worker`] those that other programs tell;
//! - [`rows`] makes medians and ratios of samples, [`table`] prints and [`plot`] draws them.

pub(crate) mod args;
pub(crate) mod fio;
pub(crate) mod guest;
pub(crate) mod measure;
pub(crate) mod plot;
pub(crate) mod rows;
pub(crate) mod table;
pub(crate) mod worker;

use std::process::ExitCode;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Does what the command line asked for. The exit code is 2 where it could not be understood, 1 where what it asked for failed.
pub(crate) fn run<C>(
    bench: &str,
    command: std::result::Result<C, String>,
    go: impl FnOnce(C) -> Result<()>,
) -> ExitCode {
    let failed = |error: &dyn std::fmt::Display| eprintln!("{bench}: {error}");
    match command.map(go) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            failed(&error);
            ExitCode::FAILURE
        }
        Err(error) => {
            failed(&error);
            ExitCode::from(2)
        }
    }
}
