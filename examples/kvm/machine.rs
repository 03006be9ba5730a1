//! A virtual machine of KVM's: one slot of memory, one processor. A [`Machine`] stands still, a [`Running`] one has a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use mapped_ram::{Device, DeviceState, PageBitmap};
use nix::libc;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::guest::{BAD, DONE, Guest};
use crate::memory::{Error, PAGE, Ram};

/// Why a guest does not go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It found other memory than it had left; the page's address.
    BadPage(u32),
    /// It reported the first, and the second was due.
    Report(u32, u32),
    /// KVM could not have a page of its memory: `KVM_RUN` failed with EFAULT.
    NoMemory,
    /// Anything else.
    Kvm(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadPage(address) => {
                write!(f, "the guest found what it had not left in the page at {address:#x}")
            }
            Self::Report(found, due) => write!(f, "the guest reported {found:#x}, and {due:#x} was due"),
            Self::NoMemory => write!(f, "KVM cannot have a page of the guest's memory"),
            Self::Kvm(what) => write!(f, "the guest ended: {what}"),
        }
    }
}

impl std::error::Error for Failure {}

/// How many signals the processors' threads of this process have taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// How far a guest is, and how far it may go, in pages that it has reported since it began.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) done: AtomicU64,
    pub(crate) limit: AtomicU64,
}

/// What a machine has beside its processor.
pub(crate) struct Board {
    vm: VmFd,
    pub(crate) ram: Arc<Ram>,
}

impl Board {
    /// Tells KVM of the memory, and whether it is to note which pages the guest writes.
    pub(crate) fn set_memory(&self, log_dirty: bool) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: if log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: 0,
            memory_size: self.ram.length() as u64,
            userspace_addr: self.ram.start().expose_provenance() as u64,
        };
        // SAFETY: the memory is mapped as long as `ram` lives; a guest runs only by its processor, which holds it too.
        Ok(unsafe { self.vm.set_user_memory_region(region) }?)
    }

    /// The pages that the guest wrote since it was last asked.
    pub(crate) fn dirty(&self) -> Result<PageBitmap, Error> {
        let words = self.vm.get_dirty_log(0, self.ram.length())?;
        Ok(PageBitmap::from_words(words, (self.ram.length() / PAGE) as u64))
    }
}

/// The processor.
pub(crate) struct Cpu {
    fd: VcpuFd,
    guest: Guest,
    pub(crate) progress: Arc<Progress>,
    /// What the guest runs in.
    _ram: Arc<Ram>,
}

pub(crate) struct Machine {
    pub(crate) cpu: Cpu,
    pub(crate) board: Board,
}

impl Machine {
    pub(crate) fn new(kvm: &Kvm, guest: Guest, ram: Ram) -> Result<Self, Error> {
        let board = Board { vm: kvm.create_vm()?, ram: Arc::new(ram) };
        board.set_memory(false)?;
        let fd = board.vm.create_vcpu(0)?;
        let (regs, sregs) = guest.registers(fd.get_sregs()?);
        fd.set_sregs(&sregs)?;
        fd.set_regs(&regs)?;
        let cpu = Cpu { fd, guest, progress: Arc::default(), _ram: Arc::clone(&board.ram) };
        Ok(Self { cpu, board })
    }

    pub(crate) fn done(&self) -> u64 {
        self.cpu.progress.done.load(Ordering::Relaxed)
    }

    /// Runs until the guest has done `pages` more.
    pub(crate) fn run(&mut self, pages: u64) -> Result<(), Failure> {
        self.cpu.progress.limit.store(self.done() + pages, Ordering::Relaxed);
        self.cpu.run()
    }

    /// Lets it run in a thread of its own.
    pub(crate) fn start(mut self) -> Result<Running, Error> {
        extern "C" fn taken(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
            TAKEN.fetch_add(1, Ordering::Relaxed);
        }
        // It ends `KVM_RUN`, and is counted.
        register_signal_handler(SIGRTMIN(), taken)?;
        let progress = Arc::clone(&self.cpu.progress);
        progress.limit.store(u64::MAX, Ordering::Relaxed);
        let thread = std::thread::spawn(move || {
            let result = self.cpu.run();
            (self.cpu, result)
        });
        Ok(Running { board: self.board, thread, progress })
    }

    /// Whether all of memory is what the guest must have left.
    pub(crate) fn check(&self) -> Result<(), Error> {
        Ok(self.cpu.guest.check(&self.board.ram.words(), self.done())?)
    }
}

impl Cpu {
    fn run(&mut self) -> Result<(), Failure> {
        while self.progress.done.load(Ordering::Relaxed) < self.progress.limit.load(Ordering::Relaxed) {
            self.run_once()?;
        }
        // An `out` is only over when the processor was entered again, for which it need not execute anything.
        self.fd.set_kvm_immediate_exit(1);
        let result = self.run_once();
        self.fd.set_kvm_immediate_exit(0);
        result
    }

    /// Enters the processor once.
    fn run_once(&mut self) -> Result<(), Failure> {
        let done = self.progress.done.load(Ordering::Relaxed);
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, &[a, b, c, d])) => {
                let (word, due) = (u32::from_le_bytes([a, b, c, d]), self.guest.report(done));
                match port {
                    DONE if word == due => self.progress.done.store(done + 1, Ordering::Relaxed),
                    BAD => return Err(Failure::BadPage(word)),
                    _ => return Err(Failure::Report(word, due)),
                }
                Ok(())
            }
            Ok(VcpuExit::MemoryFault { .. }) => Err(Failure::NoMemory),
            Ok(exit) => Err(Failure::Kvm(format!("{exit:?}"))),
            Err(error) => match error.errno() {
                libc::EINTR => Ok(()),
                libc::EFAULT => Err(Failure::NoMemory),
                _ => Err(Failure::Kvm(error.to_string())),
            },
        }
    }

    /// All that the guest is beside its memory. A guest with a clock, interrupts or floating point has more.
    pub(crate) fn state(&self) -> Result<Vec<Device>, Error> {
        let device = |name: &str, data| Device { name: name.into(), instance: 0, version: 1, data };
        let done = self.progress.done.load(Ordering::Relaxed);
        Ok(vec![
            device("cpu", serde_json::to_vec(&(self.fd.get_regs()?, self.fd.get_sregs()?))?),
            device("guest", serde_json::to_vec(&(self.guest.mask, self.guest.is_kernel, done))?),
        ])
    }
}

impl Machine {
    /// A machine that goes on where another one stood.
    pub(crate) fn restored(kvm: &Kvm, ram: Ram, devices: &[DeviceState]) -> Result<Self, Error> {
        let device = |name| devices.iter().find(|device| device.name == name).ok_or("a device is missing");
        let (mask, is_kernel, done): (u32, bool, u64) = serde_json::from_slice(&device("guest")?.data)?;
        let (regs, sregs): (kvm_regs, kvm_sregs) = serde_json::from_slice(&device("cpu")?.data)?;
        let guest = Guest { pages: u32::try_from(ram.length() / PAGE)?, mask, is_kernel };
        let this = Self::new(kvm, guest, ram)?;
        this.cpu.fd.set_sregs(&sregs)?;
        this.cpu.fd.set_regs(&regs)?;
        this.cpu.progress.done.store(done, Ordering::Relaxed);
        Ok(this)
    }
}

/// A machine whose guest runs.
pub(crate) struct Running {
    pub(crate) board: Board,
    thread: JoinHandle<(Cpu, Result<(), Failure>)>,
    progress: Arc<Progress>,
}

impl Running {
    /// Waits until the guest has done `pages` more, or ended.
    pub(crate) fn wait(&self, pages: u64) {
        let until = self.progress.done.load(Ordering::Relaxed) + pages;
        while self.progress.done.load(Ordering::Relaxed) < until && !self.thread.is_finished() {
            std::thread::yield_now();
        }
    }

    /// Stops it where it is, in the midst of a page as a rule.
    pub(crate) fn pause(self) -> Result<Machine, Error> {
        self.progress.limit.store(0, Ordering::Relaxed);
        // A signal that comes just before `KVM_RUN` does not end it: again, until one did. But only when the last one was taken: they
        // are queued, and a thread that takes one after the other comes to nothing else.
        while !self.thread.is_finished() {
            let taken = TAKEN.load(Ordering::Relaxed);
            self.thread.kill(SIGRTMIN())?;
            while TAKEN.load(Ordering::Relaxed) == taken && !self.thread.is_finished() {
                std::thread::yield_now();
            }
        }
        let (cpu, result) = self.thread.join().map_err(|_| "the processor's thread panicked")?;
        result?;
        Ok(Machine { cpu, board: self.board })
    }
}
