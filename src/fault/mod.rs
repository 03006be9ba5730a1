//! Memory that is filled while it is used: a guest runs at once, and its pages come when it touches them.
//!
//! For memory that cannot be a private mapping of the file ([`MapOptions`](crate::MapOptions)): shared with another process, pinned
//! for a device, in huge pages. The kernel (userfaultfd) stops whoever touches a page that is not there and tells a handler, which
//! reads it from the file and puts it there; meanwhile channels fill the rest.
//!
//! ```text
//!   guest's thread   touch ..... waits ................ goes on
//!   fault thread          event -> claim -> read -> put
//!   channels         claim -> read -> put   claim -> read -> put   ...      then the range is the kernel's again
//! ```
//!
//! Decided here: who fills a page, what it holds, and what happens when that cannot be. A page is claimed before it is read, so that it
//! is filled once, and never after the guest wrote it: the kernel puts a page only where none is. Absent pages are zeros, whatever the
//! file holds in their room; the channels leave them alone. When all present pages are there, the range is given back to the kernel,
//! which makes zeros of what is still missing: nobody is asked any more.
//!
//! - `uffd` makes the system calls and says what their answers mean.
//! - `claims` says who fills which page; `places` where it is now, for a guest may move or unmap its memory.
//! - `region` checks what is to be filled; `pages` reads it from the file.
//! - `shared` puts pages and counts them; `serve` is the thread that is told of faults; `background` the channels.
//! - `message` and `socket` hand the descriptor and the layout to a handler in another process, as Firecracker does.
//!
//! # What must hold
//! - Every process that maps shared memory must be registered with the handler, or must not touch it before it is all there:
//!   the kernel gives zeros to who is not, and they stay.
//! - A child made by `fork(2)` has no handler: what is missing reads as zeros there.
//! - Memory that is touched before it is registered keeps what it holds; it is counted as
//!   [`already_there`](FaultCounters::already_there).
//! - Who calls `munmap(2)`, `mremap(2)` or `madvise(2)` on the memory waits until the handler has heard of it; where the handler is
//!   gone and the descriptor open, for good: close it first.
//!
//! # When it goes wrong
//! A page that cannot be read is poisoned (Linux 6.6): who touches it gets SIGBUS, as from broken memory; an older kernel leaves who
//! touches it waiting, for good. For a guest under KVM, the thread of its processor gets the signal (`BUS_MCEERR_AR`, the page's address), and
//! `KVM_RUN` ends with EINTR if it handles it. All other pages go on being filled, and [`FaultHandler::wait`] says what is lost. A page that only the
//! channels failed to read is tried again when it is touched.
//!
//! A [`FaultHandler`] that is dropped before all is there poisons what is missing, so that nobody takes it for zeros (on a kernel before
//! 6.6 whoever touches it waits, and a thread is left behind that hears of its unmapping). One that runs
//! in another process, and ends or is killed, cannot: then the descriptor decides. As long as the guest's process has it open,
//! whoever touches a missing page waits, and another handler may be given the same descriptor and layout; it fills what is not there.
//! If the guest's process has closed it, missing pages read as ZEROS from then on. So keep it ([`send`] borrows it), and
//! watch the socket: its end says that the handler is gone.
//!
//! # Who may
//! `/dev/userfaultfd` is open to those whom its access rights name, the system call to those with `CAP_SYS_PTRACE`, and to all if
//! the sysctl `vm.unprivileged_userfaultfd` is 1. Without permission starting fails, and says so: there is no silent weaker mode.
//! Everybody may handle faults that are no system call's, who asks for it ([`FaultOptions::user_mode_only`]): then `read(2)` into
//! missing memory fails with EFAULT or comes short, and KVM, whose guests' faults are the kernel's, cannot run on it: `KVM_RUN` fails
//! with EFAULT, again and again until the page is there (touched by the monitor, or by the channels). Where KVM itself has to read
//! the page, it is otherwise: with page tables that it cannot read the guest takes a fault of its own, and shuts down; and what an
//! instruction that it emulates cannot read of RAM it takes for a device's, and exits for MMIO at an address of RAM, which a monitor
//! must never answer. `tests/kvm` shows all three. Wait until all is there ([`FaultHandler::wait`]) before such a guest runs.

mod background;
mod claims;
mod counters;
mod handler;
mod message;
#[expect(unsafe_code, reason = "fills memory that a caller hands over by its address")]
mod options;
mod pages;
mod places;
mod region;
mod serve;
mod shared;
mod socket;
#[expect(unsafe_code, reason = "the system calls that fill memory by its address")]
mod uffd;

pub use counters::FaultCounters;
pub use handler::{Ending, FaultHandler, FaultReport};
pub use message::{GuestRegion, LONGEST_MESSAGE, MOST_REGIONS};
pub use options::{FaultOptions, FaultTarget, Fill, register};
pub use socket::{Received, receive, send};
