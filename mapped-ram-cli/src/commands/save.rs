//! `mapped-ram save`.

use mapped_ram::{RamBlock, Tail};

use super::summary::{Pages, tell};
use super::{begin, write_options};
use crate::args::SaveArgs;
use crate::exit::{Outcome, Problem};
use crate::files::expect_another;
use crate::progress;
use crate::ram_file::RamFile;
use crate::signals::interruptible;
use crate::synthetic;

pub(crate) fn run(args: &SaveArgs) -> Result<Outcome, Problem> {
    if args.page_size == 0 {
        return Err(Problem::Usage("--page-size 0: use a power of two, such as 4096".to_owned()));
    }
    let cancel = interruptible();
    for named in &args.ram {
        expect_another(&named.path, &args.out)?;
        if let Some(old) = &args.write.recycle {
            expect_another(&named.path, old)?;
        }
    }
    let files: Vec<RamFile> =
        args.ram.iter().map(|named| RamFile::open(named, args.page_size)).collect::<Result<_, _>>()?;
    let made_up = match args.synthetic {
        Some(bytes) if bytes == 0 || !bytes.is_multiple_of(args.page_size) => {
            return Err(Problem::Usage(format!(
                "--synthetic {bytes}: use a multiple of the page size {} (and not 0)",
                args.page_size
            )));
        }
        Some(bytes) => Some(synthetic::memory(bytes, args.seed, || cancel.is_cancelled())?),
        None => None,
    };
    let mut blocks: Vec<RamBlock<'_>> = files.iter().map(RamFile::block).collect();
    blocks.extend(made_up.as_ref().map(|memory| RamBlock::new(synthetic::NAME, &memory[..])));

    let bar = progress::bar("save", 0);
    let options = write_options(&args.write, &cancel)
        .machine(args.machine.as_str())
        .page_size(args.page_size)
        .progress(progress::callback(&bar));
    let (report, mut warnings) = std::thread::scope(|scope| {
        // While whoever maps the files is still there, and while they are saved: on a machine of many processes it takes a while.
        let hidden = scope.spawn(|| -> Vec<String> {
            files.iter().zip(&args.ram).filter_map(|(file, named)| file.hidden_memory(&named.path)).collect()
        });
        let mut writer = begin(options, &args.write, &args.out, blocks)?;
        writer.write_all()?;
        bar.finish_and_clear();
        let report = writer.finish(&Tail::minimal())?;
        // A panic there is a bug, and no reason to fail a save that is done.
        Ok::<_, Problem>((report, hidden.join().unwrap_or_default()))
    })?;
    for ((file, named), present) in files.iter().zip(&args.ram).zip(&report.present_pages) {
        if *present == 0 {
            warnings.push(file.emptiness(&named.path));
        }
    }
    tell(&args.out, &args.write, &report, Pages::of(&report), &warnings)?;
    Ok(Outcome::Good)
}
