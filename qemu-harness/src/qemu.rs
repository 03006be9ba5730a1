//! Which QEMU is used.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// The oldest QEMU that knows mapped-ram.
const OLDEST: u32 = 9;

/// A `qemu-system-x86_64` that knows mapped-ram.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    version: String,
}

impl Qemu {
    /// The program that `MAPPED_RAM_QEMU` names, else the one in `PATH`.
    ///
    /// # Errors
    /// When it cannot be run, or is older than 9.0.
    pub fn find() -> Result<Self> {
        Self::at(env::var_os("MAPPED_RAM_QEMU").map_or_else(|| "qemu-system-x86_64".into(), PathBuf::from))
    }

    /// This program.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn at(program: PathBuf) -> Result<Self> {
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .map_err(|error| Error::new(format!("{} cannot be run: {error}", program.display())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version =
            text.split("version ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("");
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < OLDEST {
            return Err(Error::new(format!(
                "{} is version `{version}`; mapped-ram needs {OLDEST}.0 or later (scripts/install-qemu)",
                program.display()
            )));
        }
        Ok(Self { program, version: version.to_owned() })
    }

    /// As [`find`](Self::find), for tests: `None`, said aloud, where there is no QEMU.
    ///
    /// # Panics
    /// Where there is none although `MAPPED_RAM_REQUIRE_QEMU=1` says that there must be.
    pub fn for_test() -> Option<Self> {
        match Self::find() {
            Ok(qemu) => Some(qemu),
            Err(error) => {
                let required = env::var_os("MAPPED_RAM_REQUIRE_QEMU").is_some_and(|value| value == "1");
                assert!(!required, "MAPPED_RAM_REQUIRE_QEMU=1, but {error}");
                // Past the capture of the test harness, so that it is heard.
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    format!("NOT TESTED against QEMU: {error}\n").as_bytes(),
                );
                None
            }
        }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its version, such as `10.0.2`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_or_missing_program_is_an_error() {
        // A program that states its version as QEMU does, and is below 9.
        let old = Qemu::at("bash".into()).unwrap_err().to_string();
        assert!(old.contains("bash is version `") && old.contains("needs 9.0 or later"), "{old}");
        let silent = Qemu::at("true".into()).unwrap_err().to_string();
        assert!(silent.contains("needs 9.0 or later"), "{silent}");
        let missing = Qemu::at("/no/such/qemu".into()).unwrap_err().to_string();
        assert!(missing.contains("/no/such/qemu cannot be run"), "{missing}");
    }
}
