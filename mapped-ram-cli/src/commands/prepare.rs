//! `mapped-ram prepare`.

use mapped_ram::Cancel;

use super::{expect_marked, open_args};
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
    let found = format!(
        "{file}: block `{}`: page {} is zero, and its room at offset {:#x} holds stale bytes",
        stale.idstr, stale.page, stale.offset
    );
    // To write it anew would lose what stands there.
    expect_marked(&reader, reader.blocks().iter(), "prepared", &Cancel::new()).inspect_err(|_| {
        let _ = say::line(&found);
    })?;
    say::line(&format!("{found}; write the file anew with `mapped-ram copy`"))?;
    Ok(Outcome::Differs)
}
