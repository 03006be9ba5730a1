//! The command `mapped-ram`: saves guests, and looks into saved ones.
//!
//! Here the command line becomes calls of the library, and errors become messages and exit codes. Each command has a
//! module of its own in `commands`.

#![deny(unsafe_code)]

mod args;
mod chunks;
mod commands;
mod exit;
mod files;
#[cfg(feature = "serve")]
mod listener;
mod names;
mod output;
mod private_mappings;
mod progress;
#[expect(unsafe_code, reason = "a mapped file is memory that others may write")]
mod ram_file;
mod salvage;
mod say;
#[expect(unsafe_code, reason = "how a signal is taken is the whole process's business")]
mod signals;
mod size;
mod synthetic;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Outcome, Problem};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, but are none.
            if error.use_stderr() {
                let _ = error.print();
                return ExitCode::from(exit::USAGE);
            }
            return match say::printed(error.print()) {
                Ok(()) => ExitCode::from(exit::OK),
                Err(problem) => fail(&problem),
            };
        }
    };
    signals::ignore_file_size_limit();
    match run(&cli.command) {
        Ok(Outcome::Good) => ExitCode::from(exit::OK),
        Ok(Outcome::Differs) => ExitCode::from(exit::DIFFERS),
        Ok(Outcome::Damaged) => ExitCode::from(exit::DAMAGED),
        Err(problem) => fail(&problem),
    }
}

fn fail(problem: &Problem) -> ExitCode {
    say::error(&problem.to_string());
    ExitCode::from(problem.exit_code())
}

fn run(command: &Command) -> Result<Outcome, Problem> {
    match command {
        Command::Save(args) => commands::save::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::Extract(args) => commands::extract::run(args),
        Command::Restore(args) => commands::restore::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(args),
        #[cfg(not(feature = "serve"))]
        Command::Serve(_) => Err(Problem::Usage(
            "this mapped-ram was built without `serve`, which needs libclang to be built: scripts/install-libclang, then cargo install \
             --path mapped-ram-cli --features serve"
                .to_owned(),
        )),
        Command::Copy(args) => commands::copy::run(args),
        Command::Compare(args) => commands::compare::run(args),
        Command::Prepare(args) => commands::prepare::run(args),
    }
}
