//! The RAM blocks that QEMU itself says a guest has: the judge of what a file must hold. Lengths in bytes.

use crate::error::{Error, Result};
use crate::guest::Guest;

/// One RAM block of a running guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RamBlock {
    /// Its name in a migration stream, such as `pc.ram`.
    pub idstr: String,
    /// How much of it is in use.
    pub used_length: u64,
    /// What it may grow to.
    pub max_length: u64,
}

impl Guest {
    /// The guest's RAM blocks, as `info ramblock` tells them.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), and when the answer is not the table that QEMU 9 and 10 print.
    pub fn ram_blocks(&mut self) -> Result<Vec<RamBlock>> {
        parse(&self.monitor("info ramblock")?)
    }
}

/// The rows behind the headline: `name, "4 KiB", offset, used, total, host address, ro or rw`.
fn parse(table: &str) -> Result<Vec<RamBlock>> {
    let row = |line: &str| {
        let mut words = line.split_whitespace().rev();
        let total = number(words.nth(2)?)?;
        let used = number(words.next()?)?;
        // The offset, and the page size with its unit.
        let name = words.nth(3)?;
        Some(RamBlock { idstr: name.to_owned(), used_length: used, max_length: total })
    };
    let rows = table.lines().skip(1).filter(|line| !line.trim().is_empty());
    rows.map(|line| row(line).ok_or_else(|| Error::new(format!("`info ramblock` says `{line}`")))).collect()
}

fn number(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
              Block Name    PSize              Offset               Used              Total                HVA  RO\r
                    ram0    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000008000000 0x00007f1c3be00000  rw\r
    /rom@etc/acpi/tables    4 KiB  0x0000000004100000 0x0000000000020000 0x0000000000200000 0x00007f1c3b600000  ro\r
";

    #[test]
    fn rows_are_blocks() {
        let blocks = parse(TABLE).unwrap();
        let told: Vec<_> =
            blocks.iter().map(|block| (&*block.idstr, block.used_length, block.max_length)).collect();
        assert_eq!(told, [("ram0", 64 << 20, 128 << 20), ("/rom@etc/acpi/tables", 128 << 10, 2 << 20)]);
    }

    #[test]
    fn another_table_is_an_error() {
        for table in ["head\nram0 4 KiB 0x0 64M 64M 0x0 rw", "head\nram0", "head\n0x0 0x0 0x0 0x0 rw"] {
            assert!(parse(table).is_err(), "{table}");
        }
    }
}
