//! `mapped-ram serve`: fills guests' memory as they touch it, each in its own process, over a Unix socket.
//!
//! A guest whose pages are missing waits for as long as its process has the descriptor; this command may end, and another one go on.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mapped_ram::fault::{Ending, FaultCounters, FaultHandler, FaultOptions, Fill, receive};
use mapped_ram::storage::IoMode;
use mapped_ram::{Block, Cancel, Reader, WorkingSet};
use nix::errno::Errno;
use serde_json::json;

use super::{expect_marked, find_block, open_args};
use crate::args::{FillArg, ServeArgs, Stats};
use crate::exit::{Outcome, Problem};
use crate::files::{expect_another, expect_writable};
use crate::listener::Listener;
use crate::signals::interruptible;
use crate::{progress, say};

/// How long a guest that has connected may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the progress is shown.
const SHOWN: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &ServeArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open_args(&args.read)?;
    let mut options = FaultOptions::new()
        .fill(if args.no_background || args.fill == FillArg::None { Fill::Nothing } else { Fill::All })
        .io_mode(if args.direct_io { IoMode::Direct } else { IoMode::Buffered })
        .record(args.record.is_some())
        .cancel(cancel.clone());
    let mut wanted: Vec<&Block> = reader.blocks().iter().collect();
    if let Some(name) = &args.block {
        let block = find_block(&reader, name.as_encoded_bytes())?;
        options = options.block(block.layout().idstr_bytes());
        wanted = vec![block];
    }
    if let Some(channels) = args.channels {
        options = options.channels(usize::from(channels));
    }
    if let Some(path) = &args.prefetch {
        options = options.prefetch(prefetch_list(&reader, path)?);
    }
    if let Some(path) = &args.record {
        expect_writable(path)?;
        expect_another(&args.read.file, path)?;
    }
    expect_marked(&reader, wanted.into_iter(), "served", &cancel)?;
    let listener = Listener::bind(&args.socket)?;
    say::note(&format!("waiting for a guest at {}", args.socket.display()));
    if args.keep {
        serve_many(args, &reader, &options, &listener, &cancel)
    } else {
        let stream = listener.accept(&cancel)?;
        let received = receive(stream, PATIENCE, &cancel)?;
        serve_one(args, &reader, options.serve(&reader, received)?, &cancel)
    }
}

/// The lists of a file, all of which can be of this guest: found out now, and not when somebody waits for pages.
fn prefetch_list(reader: &Reader, path: &Path) -> Result<Vec<WorkingSet>, Problem> {
    let sets = WorkingSet::read_file(path)?;
    for set in &sets {
        if let Some(block) = reader.block(set.block()) {
            set.check_block(set.block(), block.used_length())
                .map_err(|error| Problem::Usage(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(sets)
}

/// Serves any number of guests at the same time, until it is interrupted. One guest's failure is told, and no other's business; who
/// connects while there are too many waits until one has ended.
fn serve_many(
    args: &ServeArgs,
    reader: &Reader,
    options: &FaultOptions,
    listener: &Listener,
    cancel: &Cancel,
) -> Result<Outcome, Problem> {
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        let mut is_short = false;
        loop {
            let stream = match listener.accept(cancel) {
                Err(Problem::Io { source, .. })
                    if is_shortage(&source) && served.load(Ordering::Relaxed) > 0 =>
                {
                    if !is_short {
                        say::note(&format!("the next guest waits until one has ended: {source}"));
                    }
                    is_short = true;
                    thread::sleep(SHOWN);
                    continue;
                }
                accepted => accepted?,
            };
            is_short = false;
            let guest = Counted::new(&served);
            scope.spawn(move || {
                let _guest = guest;
                let served = receive(stream, PATIENCE, cancel)
                    .and_then(|received| options.clone().serve(reader, received))
                    .map_err(Problem::from)
                    .and_then(|handler| serve_one(args, reader, handler, cancel));
                if let Err(problem) = served
                    && !cancel.is_cancelled()
                {
                    say::error(&problem.to_string());
                }
            });
        }
    })
}

/// Whether there are too many descriptors, or too little memory, which may be otherwise when a guest has ended.
fn is_shortage(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// One more guest, for as long as this lives.
struct Counted<'c>(&'c AtomicUsize);

impl<'c> Counted<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve_one(
    args: &ServeArgs,
    reader: &Reader,
    handler: FaultHandler,
    cancel: &Cancel,
) -> Result<Outcome, Problem> {
    let began = Instant::now();
    let present = handler.counters().present;
    let bar = progress::bar("serve", present * reader.layout().page_size());
    let waited = thread::scope(|scope| {
        let waits = scope.spawn(|| handler.wait());
        while !waits.is_finished() {
            let counters = handler.counters();
            bar.set_position((present - counters.missing) * reader.layout().page_size());
            thread::sleep(SHOWN);
        }
        waits.join()
    });
    bar.finish_and_clear();
    let waited = waited.map_err(|_| Problem::Io {
        file: reader.file().to_owned(),
        what: "serve a guest".to_owned(),
        source: io::Error::other("a thread panicked"),
    })?;
    // What is lost is told at once; what is not is served to the end.
    if let Err(error) = &waited
        && !cancel.is_cancelled()
        && !handler.is_over()
    {
        say::error(&error.to_string());
        while !handler.is_over() && !cancel.is_cancelled() {
            thread::sleep(SHOWN);
        }
    }
    if let Some(path) = &args.record {
        WorkingSet::write_file(path, &handler.working_sets()?)?;
    }
    let report = handler.stop();
    tell(args, reader.file(), report.ending, &report.counters, began.elapsed())?;
    if cancel.is_cancelled() {
        return Err(Problem::cancelled(Path::new(reader.file())));
    }
    waited?;
    Ok(Outcome::Good)
}

fn tell(
    args: &ServeArgs,
    file: &str,
    ending: Ending,
    counters: &FaultCounters,
    took: Duration,
) -> Result<(), Problem> {
    let ending = match ending {
        Ending::Complete => "complete",
        Ending::GuestGone => "the guest is gone",
        _ => "stopped",
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    match args.stats {
        Stats::Text => say::line(&format!(
            "{file}: {ending}; of {} pages {} on demand, {} in the background, {} were there, {} given up or unmapped, {} lost, {} \
             missing; {} pages of zeros; {} faults, half of them served within {:.0} us, 99 of 100 within {:.0} us; {:.2} s",
            counters.present,
            counters.on_demand,
            counters.in_background,
            counters.already_there,
            counters.given_up + counters.unmapped,
            counters.lost,
            counters.missing,
            counters.zero_pages,
            counters.faults,
            micros(counters.service_p50),
            micros(counters.service_p99),
            took.as_secs_f64(),
        )),
        Stats::Json => say::json_line(&json!({
            "file": file,
            "ending": ending,
            "present_pages": counters.present,
            "on_demand": counters.on_demand,
            "in_background": counters.in_background,
            "already_there": counters.already_there,
            "given_up": counters.given_up,
            "unmapped": counters.unmapped,
            "lost": counters.lost,
            "missing": counters.missing,
            "zero_pages": counters.zero_pages,
            "faults": counters.faults,
            "service_p50_us": micros(counters.service_p50),
            "service_p99_us": micros(counters.service_p99),
            "seconds": took.as_secs_f64(),
        })),
    }
}
