//! Where the kernel gives this process no io_uring, saves and loads do without, and say so.

use std::os::unix::process::CommandExt;
use std::process::Command;

use mapped_ram::storage::{FileSource, IoMode, Source};
use mapped_ram::{Destination, LoadOptions, LoadTarget, RamBlock, Reader, SaveOptions};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Set in the process that has no rings.
const FORBIDDEN: &str = "MAPPED_RAM_TEST_NO_RINGS";

/// From now on `io_uring_setup(2)` fails with `EPERM` in this process, as under a container's filter.
fn forbid() -> std::io::Result<()> {
    let statement =
        |code: u32, k, jt, jf| libc::sock_filter { code: code.try_into().unwrap_or(0), jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap_or(0);
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let mut filter = [
        // The call's number is the first field of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, setup, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, refused, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len()).unwrap_or(0), filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers, and a program that outlives the call.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn without_rings_saves_and_loads_are_what_they_are_with_them() {
    if std::env::var_os(FORBIDDEN).is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "without_rings_saves_and_loads_are_what_they_are_with_them", "--nocapture"]);
        again.env(FORBIDDEN, "1");
        // SAFETY: between fork and exec it makes two system calls and allocates nothing.
        unsafe { again.pre_exec(forbid) };
        let output = again.output().unwrap();
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    #[cfg(feature = "io-uring")]
    assert!(!multifd_pool::UringChannel::is_available());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let mut memory = vec![0; 600 << 12];
    for page in (0..600).filter(|page| page % 3 != 0) {
        memory[page << 12..][..1 << 12].fill(7);
    }
    let saved =
        SaveOptions::new().io_mode(IoMode::Uring).save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let source = FileSource::open(&path).unwrap();
    // What a ring is replaced by for a save, and for a load; and where the file system has no direct I/O, that one's substitute.
    let (mixed, direct) = (source.effective_mode(IoMode::Mixed), source.effective_mode(IoMode::Direct));
    assert_eq!(saved.io_mode, mixed);
    assert_ne!(mixed, IoMode::Uring);
    let reader = Reader::open(&path).unwrap();
    for asked in [IoMode::Uring, IoMode::Direct, IoMode::Auto, IoMode::Buffered] {
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        posix_fadvise(source.file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        let mut back = vec![0xEE; memory.len()];
        let target = LoadTarget::new(reader.block("ram0").unwrap(), &mut back, Destination::Used);
        let report = LoadOptions::new().io_mode(asked).load(&mut [target]).unwrap();
        assert!(back == memory);
        match asked {
            // Whether it is cold is the system's to say.
            IoMode::Auto => {
                assert!([direct, IoMode::Buffered].contains(&report.io_mode), "{}", report.io_mode);
            }
            IoMode::Buffered => assert_eq!(report.io_mode, IoMode::Buffered),
            _ => assert_eq!(report.io_mode, direct),
        }
    }
}
