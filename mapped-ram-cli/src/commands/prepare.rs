//! `mapped-ram prepare`.

use super::open_args;
use crate::args::ReadArgs;
use crate::exit::{Outcome, Problem};
use crate::say;

pub(crate) fn run(args: &ReadArgs) -> Result<Outcome, Problem> {
    let reader = open_args(args)?;
    let file = reader.file();
    if reader.is_noted_clean() {
        say::line(&format!("{file}: noted already: its zero pages are zeros in the file"))?;
        return Ok(Outcome::Good);
    }
    let Some(stale) = reader.note_clean()? else {
        say::line(&format!(
            "{file}: noted that its zero pages are zeros in the file; mapping it takes no look at it"
        ))?;
        return Ok(Outcome::Good);
    };
    say::line(&format!(
        "{file}: block `{}`: page {} is zero, and its room at offset {:#x} holds stale bytes; write the file anew with `mapped-ram copy`",
        stale.idstr, stale.page, stale.offset
    ))?;
    Ok(Outcome::Differs)
}
