//! `mapped-ram extract`.

use mapped_ram::Block;

use super::{find_block, interruptible, open_args};
use crate::args::ExtractArgs;
use crate::exit::{Outcome, Problem};
use crate::names::{file_name, shown};
use crate::output::{make_dir, write_block};
use crate::progress;

pub(crate) fn run(args: &ExtractArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open_args(&args.read)?;
    if let Some(name) = &args.block {
        let block = find_block(&reader, name)?;
        let bar = progress::bar("extract", block.used_length());
        write_block(block, &args.output, &cancel, &bar)?;
        bar.finish_and_clear();
        return Ok(Outcome::Good);
    }
    let dir = make_dir(&args.output)?;
    let held = || reader.blocks().iter().enumerate().filter(|(_, block)| !block.is_left_out());
    let bar = progress::bar("extract", held().map(|(_, block)| Block::used_length(block)).sum());
    for (index, block) in held() {
        let path = dir.join(file_name(block.layout().idstr_bytes(), index));
        write_block(block, &path, &cancel, &bar)?;
        bar.suspend(|| println!("{}\t{}", shown(&block.idstr()), path.display()));
    }
    bar.finish_and_clear();
    Ok(Outcome::Good)
}
