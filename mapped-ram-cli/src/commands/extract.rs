//! `mapped-ram extract`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use mapped_ram::{Block, Reader};

use super::{find_block, open_args};
use crate::args::ExtractArgs;
use crate::exit::{Outcome, Problem};
use crate::files::{expect_another, expect_no_link, expect_writable};
use crate::names::file_name;
use crate::output::{MadeFolders, write_block};
use crate::signals::interruptible;
use crate::{progress, say};

pub(crate) fn run(args: &ExtractArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open_args(&args.read)?;
    let wanted = match &args.block {
        Some(name) => vec![(find_block(&reader, name.as_bytes())?, args.output.clone())],
        None => all(&reader, args)?,
    };
    for (_, path) in &wanted {
        expect_writable(path)?;
        expect_another(&args.read.file, path)?;
    }
    let made = if args.all { Some(MadeFolders::make(&args.output)?) } else { None };
    let bar = progress::bar("extract", wanted.iter().map(|(block, _)| block.used_length()).sum());
    for (block, path) in &wanted {
        write_block(block, path, &cancel, &bar)?;
        if args.all {
            bar.suspend(|| say::line(&format!("{}\t{}", block.idstr(), path.display())))?;
        }
    }
    bar.finish_and_clear();
    if let Some(made) = made {
        made.keep();
    }
    Ok(Outcome::Good)
}

/// Every block that the file holds, and where it goes: always right inside the folder.
fn all<'r>(reader: &'r Reader, args: &ExtractArgs) -> Result<Vec<(&'r Block, PathBuf)>, Problem> {
    let mut wanted = Vec::new();
    for (index, block) in reader.blocks().iter().enumerate() {
        if block.is_left_out() {
            say::note(&format!(
                "{}: block `{}` is left out of the file (x-ignore-shared), and passed over",
                reader.file(),
                block.idstr()
            ));
            continue;
        }
        let name = file_name(block.layout().idstr_bytes(), index);
        let path = args.output.join(OsStr::new(&name));
        expect_no_link(&path)?;
        wanted.push((block, path));
    }
    Ok(wanted)
}
