//! What a guest's processor meets where a page of its memory cannot be had.

use std::fs::File;
use std::path::Path;

use kvm_ioctls::Kvm;
use mapped_ram::{RamBlock, SaveOptions, SyncMode, Tail};

use crate::guest::Guest;
use crate::machine::{Failure, Machine};
use crate::{dir, kvm, new};

const GUEST: Guest = Guest { pages: 600, mask: u32::MAX, is_kernel: false };

/// A machine that stands at the start of its third wave, in a file.
fn saved(kvm: &Kvm, path: &Path) -> Machine {
    saved_of(kvm, GUEST, 2 * 596, path)
}

fn saved_of(kvm: &Kvm, guest: Guest, done: u64, path: &Path) -> Machine {
    let mut machine = new(kvm, guest);
    machine.run(done).unwrap();
    let ram = &machine.board.ram;
    // SAFETY: `machine` lives longer than the writer.
    let block = unsafe { RamBlock::from_raw("ram0", ram.start(), ram.length()) };
    let mut writer = SaveOptions::new().sync(SyncMode::None).create(path, vec![block]).unwrap();
    writer.write_all().unwrap();
    writer.finish(&Tail::devices(machine.cpu.state().unwrap())).unwrap();
    machine
}

/// A program that touches a page behind the cut is ended by SIGBUS; a guest is not: KVM says EFAULT, and the monitor lives.
#[test]
fn a_file_that_is_cut_under_a_mapping_is_efault() {
    let Some(kvm) = kvm() else { return };
    let dir = dir();
    let path = dir.path().join("guest");
    saved(&kvm, &path);
    let mut machine = crate::snapshot::Way::Mapped.restore(&kvm, &path).unwrap();
    let offset = mapped_ram::Reader::open(&path).unwrap().blocks()[0].layout().pages_offset();
    File::options().write(true).open(&path).unwrap().set_len(offset + 300 * 4096).unwrap();
    let before = machine.done();
    let failure = machine.run(596).unwrap_err();
    assert!(matches!(failure, Failure::NoMemory), "{failure}");
    assert_eq!(machine.done() - before, 296, "all pages before the cut but the guest's own");
}

#[cfg(feature = "userfaultfd")]
mod on_demand {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock};

    use kvm_ioctls::Kvm;
    use mapped_ram::fault::{Ending, FaultOptions, Fill};
    use mapped_ram::{Reader, ReaderOptions};
    use nix::libc;

    use super::{GUEST, saved, saved_of};
    use crate::failing::Broken;
    use crate::guest::Guest;
    use crate::machine::{Failure, Machine, Progress};
    use crate::memory::{PAGE, Ram};
    use crate::{dir, expect_same, kvm};

    const BAD: usize = 301;

    fn restore(kvm: &Kvm, reader: &Reader, options: FaultOptions, shared: bool) -> Machine {
        let ram = Ram::on_demand(reader.block("ram0").unwrap(), options, shared).unwrap();
        Machine::restored(kvm, ram, &reader.devices().unwrap()).unwrap()
    }

    /// As the monitor does, in user mode.
    fn touch(ram: &Ram, page: usize) {
        assert!(page < ram.length() / PAGE);
        // SAFETY: inside the memory, which is never a reference.
        unsafe { ram.start().add(page * PAGE).read_volatile() };
    }

    fn handler(machine: &Machine) -> &mapped_ram::fault::FaultHandler {
        match &*machine.board.ram {
            Ram::OnDemand(handler, _) => handler,
            _ => panic!("not on demand"),
        }
    }

    /// With all pages missing a guest is served, one page at a time, and the channels are not needed.
    #[test]
    fn a_guest_is_served_by_demand_alone() {
        let Some(kvm) = kvm() else { return };
        let dir = dir();
        let path = dir.path().join("guest");
        let mut original = saved(&kvm, &path);
        original.run(596).unwrap();
        let reader = Reader::open(&path).unwrap();
        for shared in [false, true] {
            let mut machine = restore(&kvm, &reader, FaultOptions::new().fill(Fill::Nothing), shared);
            machine.run(596).unwrap();
            assert_eq!(handler(&machine).wait().unwrap().ending, Ending::Complete);
            let counters = handler(&machine).counters();
            assert_eq!((counters.on_demand, counters.present), (600, 600), "{counters:?}");
            expect_same(&machine.board.ram.words(), &original.board.ram.words(), "memory");
        }
    }

    /// Faults of a guest are the kernel's: they are not told, and `KVM_RUN` fails with EFAULT for as long as the page is missing. The
    /// monitor may touch it, or fill all and wait; then the guest goes on.
    #[test]
    fn user_mode_only_is_efault_until_the_page_is_there() {
        let Some(kvm) = kvm() else { return };
        let dir = dir();
        let path = dir.path().join("guest");
        let mut original = saved(&kvm, &path);
        original.run(596).unwrap();
        let expected = original.board.ram.words();
        let reader = Reader::open(&path).unwrap();
        for shared in [false, true] {
            let options = FaultOptions::new().user_mode_only(true).fill(Fill::Nothing);
            // With nothing there, it depends on who looks at the guest's page tables: EFAULT where the hardware does; where KVM does,
            // they are unreadable to it, and the guest takes a fault of its own, for which it has no handler.
            let mut machine = restore(&kvm, &reader, options.clone(), shared);
            let failure = machine.run(596).unwrap_err();
            println!("without its page tables: {failure}");
            assert!(matches!(failure, Failure::NoMemory | Failure::Kvm(_)), "{failure}");
            assert_eq!((handler(&machine).counters().faults, machine.done()), (0, 2 * 596));

            let mut machine = restore(&kvm, &reader, options, shared);
            for page in 0..4 {
                touch(&machine.board.ram, page);
            }
            for _ in 0..3 {
                let failure = machine.run(596).unwrap_err();
                assert!(matches!(failure, Failure::NoMemory), "{failure}");
            }
            assert_eq!((handler(&machine).counters().faults, machine.done()), (4, 2 * 596));
            for page in 4..600 {
                touch(&machine.board.ram, page);
            }
            machine.run(596).unwrap();
            expect_same(&machine.board.ram.words(), &expected, "memory that was touched");

            let mut machine = restore(&kvm, &reader, FaultOptions::new().user_mode_only(true), shared);
            assert_eq!(handler(&machine).wait().unwrap().ending, Ending::Complete);
            machine.run(596).unwrap();
            expect_same(&machine.board.ram.words(), &expected, "memory that was waited for");
        }
    }

    /// An instruction that KVM emulates meets a missing page otherwise: what cannot be read of RAM is taken for a device's, and the
    /// exit is MMIO. The guest gets no bytes unless the monitor makes some up. Where the hardware runs rings alike it is EFAULT.
    #[test]
    fn what_is_emulated_is_not_served_either() {
        let Some(kvm) = kvm() else { return };
        let dir = dir();
        let path = dir.path().join("guest");
        let guest = Guest { is_kernel: true, ..GUEST };
        saved_of(&kvm, guest, 10, &path);
        let reader = Reader::open(&path).unwrap();
        for shared in [false, true] {
            let options = FaultOptions::new().user_mode_only(true).fill(Fill::Nothing);
            let mut machine = restore(&kvm, &reader, options, shared);
            for page in 0..4 {
                touch(&machine.board.ram, page);
            }
            let failure = machine.run(1).unwrap_err();
            println!("ring 0: {failure}");
            assert!(matches!(failure, Failure::NoMemory | Failure::Kvm(_)), "{failure}");
            assert_eq!((handler(&machine).counters().faults, machine.done()), (4, 10));
        }
    }

    /// The path of the guest whose page cannot be read, and whether the signal is handled.
    const CHILD: &str = "MAPPED_RAM_TEST_KVM_CHILD";
    const HANDLED: &str = "MAPPED_RAM_TEST_KVM_HANDLED";

    static PROGRESS: OnceLock<Arc<Progress>> = OnceLock::new();
    static CODE: AtomicI32 = AtomicI32::new(0);
    static ADDRESS: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel gives what it knows of a SIGBUS.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
        CODE.store(code, Ordering::SeqCst);
        ADDRESS.store(address.addr(), Ordering::SeqCst);
        if let Some(progress) = PROGRESS.get() {
            progress.limit.store(0, Ordering::SeqCst);
        }
    }

    /// A page that cannot be read is poisoned (Linux 6.6): the processor's thread gets SIGBUS with BUS_MCEERR_AR and the page's
    /// address, as from broken memory; a monitor that handles it is still there, and `KVM_RUN` has ended with EINTR. One that does
    /// not is ended. The guest never sees zeros.
    #[test]
    fn a_page_that_cannot_be_read_is_sigbus() {
        let Some(kvm) = kvm() else { return };
        let dir = dir();
        let path = dir.path().join("guest");
        saved(&kvm, &path);
        for handled in [false, true] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "missing::on_demand::child", "--nocapture"]).env(CHILD, &path);
            if handled {
                command.env(HANDLED, "1");
            }
            let done = command.output().unwrap();
            let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            println!("{out}{err}");
            assert!(out.contains("THE GUEST RUNS"), "it did not come so far");
            let ended_by = (!handled).then_some(libc::SIGBUS);
            assert_eq!(done.status.signal(), ended_by, "handled: {handled}; {}", done.status);
            assert_eq!(done.status.success(), handled);
            assert_eq!(out.contains("IT WAS TOLD"), handled);
        }
    }

    #[test]
    fn child() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        let kvm = kvm().unwrap();
        let path = Path::new(&path);
        let at = Reader::open(path).unwrap().blocks()[0].layout().pages_offset() + (BAD * PAGE) as u64;
        let reader = ReaderOptions::new().from_source(Arc::new(Broken::new(path, at..at + 1))).unwrap();
        let mut machine = restore(&kvm, &reader, FaultOptions::new().fill(Fill::Nothing), false);
        let before = machine.done();
        if std::env::var_os(HANDLED).is_some() {
            vmm_sys_util::signal::register_signal_handler(libc::SIGBUS, on_bus_error).unwrap();
            PROGRESS.set(Arc::clone(&machine.cpu.progress)).unwrap();
        }
        println!("THE GUEST RUNS");
        machine.run(u64::from(GUEST.pages)).unwrap();
        // Only the signal's handler sets a limit that ends it here.
        assert_eq!(machine.done() - before, BAD as u64 - 4, "all pages before it, but the guest's own");
        assert_eq!(CODE.load(Ordering::SeqCst), libc::BUS_MCEERR_AR);
        assert_eq!(ADDRESS.load(Ordering::SeqCst) / PAGE, machine.board.ram.start().addr() / PAGE + BAD);
        // The counter follows the poison.
        while handler(&machine).counters().lost == 0 {
            std::thread::yield_now();
        }
        let told = handler(&machine).wait().unwrap_err().to_string();
        assert!(told.contains("1 are lost"), "{told}");
        println!("IT WAS TOLD");
    }
}
