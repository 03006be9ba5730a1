//! Tables of cells as text or Markdown, and the median that goes into them.

/// Of the middle two, half-way between them; `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// `table[0]` is the head; all rows are as long.
pub(crate) fn print(table: &[Vec<String>], markdown: bool) -> String {
    if markdown { as_markdown(table) } else { as_text(table) }
}

fn as_markdown(table: &[Vec<String>]) -> String {
    let line = |cells: &Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&table[0]);
    text.extend(["|---", &"|---:".repeat(table[0].len() - 1), "|\n"]);
    text.extend(table[1..].iter().map(line));
    text
}

fn as_text(table: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..table[0].len())
        .map(|column| table.iter().map(|cells| cells[column].len()).max().unwrap_or(0))
        .collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ") + "\n"
    };
    table.iter().map(line).collect()
}
