//! A running QEMU, driven over QMP.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use qapi::qmp;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::qemu::Qemu;

/// How long QEMU may take to come up, or to carry out a command, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// How often QEMU is asked what it has no simple way to say by itself.
pub(crate) const POLL: Duration = Duration::from_millis(2);

type Client = qapi::Qmp<qapi::Stream<BufReader<UnixStream>, UnixStream>>;

/// What a guest is made of.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct GuestBuilder {
    qemu: Qemu,
    machine: String,
    memory: u64,
    ram_file: Option<PathBuf>,
    preallocated: bool,
    boot_sector: Option<Vec<u8>>,
    firmware: Option<Vec<u8>>,
    paused: bool,
    incoming: bool,
    args: Vec<String>,
    file_size_limit: Option<u64>,
}

impl GuestBuilder {
    /// The machine type, such as `none`, `pc`, `q35`, `microvm`.
    pub fn machine(mut self, machine: &str) -> Self {
        machine.clone_into(&mut self.machine);
        self
    }

    /// The size of the RAM in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// The file that is the guest's RAM, shared, as the block `ram0`; as long as the RAM.
    pub fn ram_file(mut self, path: &Path) -> Self {
        self.ram_file = Some(path.to_owned());
        self
    }

    /// The RAM file is all in QEMU's page tables before the guest runs, for measuring.
    pub fn preallocated(mut self) -> Self {
        self.preallocated = true;
        self
    }

    /// What the guest boots: 512 bytes, see [`crate::boot`].
    pub fn boot_sector(mut self, sector: Vec<u8>) -> Self {
        self.boot_sector = Some(sector);
        self
    }

    /// What the guest runs in place of QEMU's firmware, see [`crate::boot::firmware`].
    pub fn firmware(mut self, image: Vec<u8>) -> Self {
        self.firmware = Some(image);
        self
    }

    /// Whether the guest stands still until [`Guest::cont`].
    pub fn paused(mut self, paused: bool) -> Self {
        self.paused = paused;
        self
    }

    /// Waits for [`Guest::load`] instead of booting.
    pub fn incoming(mut self) -> Self {
        self.incoming = true;
        self
    }

    /// A further argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// The longest file that QEMU may write, in bytes (`RLIMIT_FSIZE`, with the signal ignored): a full disk for who may
    /// not mount one.
    pub fn file_size_limit(mut self, bytes: u64) -> Self {
        self.file_size_limit = Some(bytes);
        self
    }

    fn command(&self, dir: &Path) -> Result<Command> {
        let mut command = match self.file_size_limit {
            None => Command::new(self.qemu.program()),
            Some(bytes) => {
                // The shell counts in KiB; the ignored signal makes a write fail instead of killing.
                let mut shell = Command::new("bash");
                let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes >> 10);
                shell.arg("-c").arg(script).arg("bash").arg(self.qemu.program());
                shell
            }
        };
        command.args(["-accel", "tcg", "-nodefaults", "-display", "none", "-no-user-config"]);
        let mut machine = self.machine.clone();
        if let Some(ram) = &self.ram_file {
            machine.push_str(",memory-backend=ram0");
            let ram = option_value(ram);
            let mut object =
                format!("memory-backend-file,id=ram0,mem-path={ram},share=on,size={}", self.memory);
            if self.preallocated {
                object.push_str(",prealloc=on");
            }
            command.args(["-object", &object]);
        }
        command.args(["-machine", &machine, "-m", &format!("{}k", self.memory >> 10)]);
        command.arg("-chardev").arg(format!("socket,id=qmp,path={}", option_value(&dir.join("qmp"))));
        command.args(["-mon", "chardev=qmp,mode=control"]);
        if let Some(sector) = &self.boot_sector {
            let image = dir.join("boot.img");
            fs::write(&image, sector)?;
            File::options().write(true).open(&image)?.set_len(1 << 20)?;
            command.arg("-drive").arg(format!("file={},format=raw,if=ide,snapshot=on", option_value(&image)));
        }
        if let Some(image) = &self.firmware {
            let path = dir.join("firmware.img");
            fs::write(&path, image)?;
            command.arg("-bios").arg(path);
        }
        if self.paused {
            command.arg("-S");
        }
        if self.incoming {
            command.args(["-incoming", "defer"]);
        }
        command.args(&self.args);
        Ok(command)
    }

    /// Starts QEMU and waits until it answers.
    ///
    /// # Errors
    /// What it says on stderr when it does not come up.
    pub fn start(&self) -> Result<Guest> {
        let dir = tempfile::tempdir()?;
        let listener = UnixListener::bind(dir.path().join("qmp"))?;
        let stderr_path = dir.path().join("stderr");
        let mut child = self
            .command(dir.path())?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr_path)?)
            .spawn()?;
        let connected = accept(&listener, &mut child).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            let reader = BufReader::new(stream.try_clone()?);
            let mut client = Client::new(qapi::Stream::new(reader, stream));
            client.handshake().map_err(|error| Error::new(format!("QMP: {error}")))?;
            Ok(client)
        });
        match connected {
            Ok(client) => Ok(Guest { child, client, dir }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(&stderr_path).unwrap_or_default();
                Err(Error::new(format!("QEMU did not come up: {error}\n{said}")))
            }
        }
    }
}

/// A path as part of one of QEMU's comma-separated options.
fn option_value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Waits until QEMU connects, or ends.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(100_u8)).map_err(std::io::Error::from)?;
        if ready > 0 {
            return Ok(listener.accept()?.0);
        }
        if let Some(status) = child.try_wait()? {
            return Err(Error::new(format!("it ended with {status}")));
        }
        if Instant::now() > deadline {
            return Err(Error::new("it never connected"));
        }
    }
}

/// A running QEMU. Dropping it kills it.
pub struct Guest {
    child: Child,
    client: Client,
    dir: TempDir,
}

impl Guest {
    /// A guest of machine `none` with 64 MiB, paused.
    pub fn builder(qemu: &Qemu) -> GuestBuilder {
        GuestBuilder {
            qemu: qemu.clone(),
            machine: "none".to_owned(),
            memory: 64 << 20,
            ram_file: None,
            preallocated: false,
            boot_sector: None,
            firmware: None,
            paused: true,
            incoming: false,
            args: Vec::new(),
            file_size_limit: None,
        }
    }

    /// Carries out one QMP command.
    ///
    /// # Errors
    /// What QEMU answers, and what it said on stderr.
    pub fn execute<C: qapi::Command>(&mut self, command: &C) -> Result<C::Ok> {
        self.client.execute(command).map_err(|error| {
            let ended = match &error {
                // The socket is closed a little before the process is gone.
                qapi::ExecuteError::Io(_) => match self.wait_for_end(Duration::from_secs(10)) {
                    Some(status) => format!(" (QEMU ended with {status})"),
                    None => " (QEMU has not ended)".to_owned(),
                },
                qapi::ExecuteError::Qapi(_) => String::new(),
            };
            Error::new(format!("{}: {error}{ended}\n{}", C::NAME, self.stderr()))
        })
    }

    /// What QEMU has said on stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    fn wait_for_end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                over => return over.ok().flatten(),
            }
        }
    }

    /// Asks `is_so` of the guest until it is; `what` names it where it never is.
    ///
    /// # Errors
    /// What `is_so` returns; when it is not so after some minutes.
    pub fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self)? {
            if Instant::now() > deadline {
                return Err(Error::new(format!("still not so: {what}\n{}", self.stderr())));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// How QEMU ended, once it has.
    ///
    /// # Errors
    /// What the system says.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn cont(&mut self) -> Result<()> {
        self.execute(&qmp::cont {}).map(drop)
    }

    /// Stops the guest.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn stop(&mut self) -> Result<()> {
        self.execute(&qmp::stop {}).map(drop)
    }

    /// Whether the guest runs.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.execute(&qmp::query_status {})?.running)
    }

    /// The guest's physical memory, as its processor sees it.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn physical(&mut self, address: u64, length: u64) -> Result<Vec<u8>> {
        let path = self.dir.path().join("pmemsave");
        let filename = path.display().to_string();
        self.execute(&qmp::pmemsave { filename, size: length, val: address })?;
        Ok(fs::read(path)?)
    }

    /// What a command of the human monitor answers.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn monitor(&mut self, command_line: &str) -> Result<String> {
        self.execute(&qmp::human_monitor_command { command_line: command_line.to_owned(), cpu_index: None })
    }

    /// The process, for measuring.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
