//! Saving a guest to a file and loading it, as QEMU's users do.

use std::path::Path;
use std::time::{Duration, Instant};

use qapi::qmp;

use crate::error::{Error, Result};
use crate::guest::{Guest, PATIENCE, POLL};

/// How a guest is saved or loaded.
#[derive(Clone, Debug, Default)]
#[must_use = "describes a transfer that is still to be made"]
pub struct Transfer {
    path: String,
    offset: Option<u64>,
    channels: Option<u8>,
    direct_io: bool,
    zero_page_detection: Option<qmp::ZeroPageDetection>,
    max_bandwidth: u64,
    background: bool,
}

/// What QEMU says about a transfer that is over.
#[derive(Clone, Debug)]
pub struct Migration {
    /// `completed` or `failed`.
    pub status: String,
    /// What went wrong, if QEMU says so.
    pub error: Option<String>,
    /// QEMU's own total time.
    pub total_time: Duration,
    /// From the command to the answer that it is over.
    pub outside_time: Duration,
}

impl Migration {
    /// Whether QEMU says that it completed.
    pub fn is_completed(&self) -> bool {
        self.status == "completed"
    }
}

impl Transfer {
    /// To or from the file at `path`, without multifd, as fast as it goes.
    pub fn new(path: &Path) -> Self {
        Self { path: path.display().to_string(), ..Self::default() }
    }

    /// The stream begins at this byte of the file.
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// With multifd and this many channels; without multifd if `None`.
    pub fn channels(mut self, channels: impl Into<Option<u8>>) -> Self {
        self.channels = channels.into();
        self
    }

    /// Past the page cache.
    pub fn direct_io(mut self, direct: bool) -> Self {
        self.direct_io = direct;
        self
    }

    /// Where zero pages are looked for: `none`, `legacy` or `multifd`.
    ///
    /// # Panics
    /// For any other word.
    pub fn zero_page_detection(mut self, how: &str) -> Self {
        self.zero_page_detection = Some(match how {
            "none" => qmp::ZeroPageDetection::none,
            "legacy" => qmp::ZeroPageDetection::legacy,
            "multifd" => qmp::ZeroPageDetection::multifd,
            other => panic!("no zero-page-detection `{other}`"),
        });
        self
    }

    /// At most this many bytes a second; 0 is no limit.
    pub fn max_bandwidth(mut self, bytes: u64) -> Self {
        self.max_bandwidth = bytes;
        self
    }

    /// With the capability `background-snapshot`: a guest that runs on, its memory as it was at the start.
    pub fn background_snapshot(mut self) -> Self {
        self.background = true;
        self
    }

    fn uri(&self) -> String {
        match self.offset {
            Some(offset) => format!("file:{},offset={offset}", self.path),
            None => format!("file:{}", self.path),
        }
    }
}

impl Guest {
    /// Saves the guest and waits until that is over.
    ///
    /// # Errors
    /// When a command is refused or QEMU ends; a transfer that failed is no error here.
    pub fn save(&mut self, transfer: &Transfer) -> Result<Migration> {
        self.prepare(transfer)?;
        let begin = Instant::now();
        self.execute(&qmp::migrate {
            uri: Some(transfer.uri()),
            channels: None,
            detach: None,
            resume: None,
        })?;
        self.wait_until_over(begin)
    }

    /// Loads the guest and waits until that is over.
    ///
    /// # Errors
    /// As [`save`](Self::save). QEMU ends by itself when a load fails.
    pub fn load(&mut self, transfer: &Transfer) -> Result<Migration> {
        self.prepare(transfer)?;
        let begin = Instant::now();
        self.execute(&qmp::migrate_incoming {
            uri: Some(transfer.uri()),
            channels: None,
            exit_on_error: None,
        })?;
        self.wait_until_over(begin)
    }

    fn prepare(&mut self, transfer: &Transfer) -> Result<()> {
        let on = |capability| qmp::MigrationCapabilityStatus { capability, state: true };
        let mut capabilities = vec![on(qmp::MigrationCapability::mapped_ram)];
        if transfer.channels.is_some() {
            capabilities.push(on(qmp::MigrationCapability::multifd));
        }
        if transfer.background {
            capabilities.push(on(qmp::MigrationCapability::background_snapshot));
        }
        self.execute(&qmp::migrate_set_capabilities { capabilities })?;
        self.execute(&qmp::migrate_set_parameters(qmp::MigrateSetParameters {
            multifd_channels: transfer.channels,
            direct_io: Some(transfer.direct_io),
            zero_page_detection: transfer.zero_page_detection,
            max_bandwidth: Some(transfer.max_bandwidth),
            ..Default::default()
        }))
        .map(drop)
    }

    fn wait_until_over(&mut self, begin: Instant) -> Result<Migration> {
        loop {
            let info = self.execute(&qmp::query_migrate {})?;
            let status = info.status.map_or_else(|| "none".to_owned(), |status| format!("{status:?}"));
            if status == "completed" || status == "failed" {
                let total = info.total_time.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
                return Ok(Migration {
                    status,
                    error: info.error_desc,
                    total_time: Duration::from_millis(total),
                    outside_time: begin.elapsed(),
                });
            }
            if begin.elapsed() > PATIENCE {
                return Err(Error::new(format!("the transfer is still `{status}`\n{}", self.stderr())));
            }
            std::thread::sleep(POLL);
        }
    }
}
