//! A tiny monitor under KVM: its guest counts through memory, is saved while it runs, and goes on in new machines, where it stood.
//!
//! Needs Linux on x86-64 and access to /dev/kvm. With the feature `userfaultfd` (and access to /dev/userfaultfd), also on demand.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod machine;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod memory;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod snapshot;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> Result<(), memory::Error> {
    use std::time::Instant;

    /// 64 MiB, of which every other run of 64 pages is zero, one page further in each wave.
    const GUEST: guest::Guest = guest::Guest { pages: 16 << 10, mask: 64, is_kernel: false };

    let kvm = match kvm_ioctls::Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("NOT RUN: /dev/kvm cannot be opened: {error}");
            return Ok(());
        }
    };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest.mram");

    let ram = memory::Ram::Own(memory::Pages::new(GUEST.length(), false)?);
    GUEST.put(&ram);
    let mut machine = machine::Machine::new(&kvm, GUEST, ram)?;
    // One wave, and half of the next.
    machine.run(u64::from(GUEST.pages) * 3 / 2)?;
    let (machine, report) = snapshot::save(machine, mapped_ram::SaveOptions::new(), &path, 3, 1000)?;
    let report = report?;
    machine.check()?;
    let stood = machine.done();
    println!(
        "saved while it ran: {} pages written, {} zero, stopped after the guest's page {stood}",
        report.pages_written(),
        report.zero_pages()
    );

    for way in snapshot::Way::ALL {
        let began = Instant::now();
        let mut again = way.restore(&kvm, &path)?;
        again.run(1)?;
        let took = began.elapsed();
        // One whole wave: the guest looks at all that it had left before it writes it anew.
        again.run(u64::from(GUEST.pages))?;
        again.check()?;
        #[cfg(feature = "userfaultfd")]
        if let memory::Ram::OnDemand(handler, _) = &*again.board.ram {
            let counters = handler.wait()?.counters;
            println!("asked for: {} pages, filled beside: {}", counters.on_demand, counters.in_background);
        }
        println!("{way:?}: the guest's first page done after {took:?}; went on to page {}", again.done());
    }
    Ok(())
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("NOT RUN: the guest is one for KVM on x86-64");
}
