//! The rates as bars, one panel a case, in SVG written by hand: bars and text need no library. Lengths in pixels.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 210.0;
const BARS: f64 = WIDTH - LABEL - 90.0;
const LINE: f64 = 18.0;

/// Bars that may be compared, as they are of the same work.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// Rates in GiB of guest memory a second.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// A bar is the median, the thin line over it the spread.
pub(crate) fn svg(panels: &mut [Panel]) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for panel in panels {
        y += 22.0;
        text(&mut body, 8.0, y, "start", "bold", &panel.title);
        panel.bars.sort_by(|a, b| b.median.total_cmp(&a.median));
        let widest = panel.bars.iter().map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
        for Bar { name, median, least, most } in &panel.bars {
            y += LINE;
            let x = |rate: f64| LABEL + rate / widest * BARS;
            text(&mut body, LABEL - 8.0, y, "end", "normal", name);
            let (top, middle) = (y - 11.0, y - 5.0);
            let (width, colour) = (x(*median) - LABEL, colour(name));
            let _ = writeln!(
                body,
                r#"<rect x="{LABEL}" y="{top:.1}" width="{width:.1}" height="13" fill="{colour}"/>"#
            );
            let _ = writeln!(
                body,
                r#"<line x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="black"/>"#,
                x(*least),
                x(*most)
            );
            text(&mut body, x(*most) + 6.0, y, "start", "normal", &format!("{median:.2} GiB/s"));
        }
        y += 12.0;
    }
    let height = y + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn colour(name: &str) -> &'static str {
    match name.split('/').next() {
        Some("ours") => "#2a7f62",
        Some("qemu") => "#d9822b",
        Some("fio") => "#b0b7bf",
        _ => "#6b8fb5",
    }
}

/// None of the titles and names has a character that SVG would take for markup.
fn text(body: &mut String, x: f64, y: f64, anchor: &str, weight: &str, words: &str) {
    let _ = writeln!(
        body,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>"#
    );
}
