//! A verdict for spreadsheets: one table, whose first column says what a line is about.

use std::io::{self, Write};

use super::text::one_line;
use super::{VerdictDocument, yes};

/// The columns. A line leaves those empty that do not apply to it.
const HEADINGS: [&str; 9] = [
    "about", "name", "count", "fails", "key", "column", "realtime", "batch", "text",
];

/// Writes the heading, then lines about the verdict, what was compared, the classes, the columns and the samples.
pub(super) fn write(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", HEADINGS.join(","))?;
    let fails = yes(!document.verdict.agrees);
    let word = document.word();
    let verdict = [
        "verdict",
        word,
        "",
        fails,
        "",
        "",
        "",
        "",
        &document.sentence,
    ];
    line(verdict, out)?;
    for (name, text) in document.facts() {
        line(["fact", name, "", "", "", "", "", "", &text], out)?;
    }
    for class in document.counted() {
        let (count, fails) = (class.count.to_string(), yes(class.fails));
        let about = ["class", class.name, &count, fails];
        line(with(about, class.meaning), out)?;
    }
    for (column, count) in &document.verdict.columns {
        let count = count.to_string();
        line(["column", "", &count, "", "", column, "", "", ""], out)?;
    }
    for sample in &document.samples {
        let [class, key, column, realtime, batch, evidence] = sample.cells();
        let cells = [
            "sample", class, "", "", key, column, realtime, batch, evidence,
        ];
        line(cells, out)?;
    }
    Ok(())
}

fn with<'a>([about, name, count, fails]: [&'a str; 4], text: &'a str) -> [&'a str; 9] {
    [about, name, count, fails, "", "", "", "", text]
}

fn line(cells: [&str; 9], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", cells.map(cell).join(","))
}

/// A cell on one line. What a spreadsheet would take for a formula is prefixed with `'`; a number is none.
fn cell(text: &str) -> String {
    let shown = one_line(text);
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\0']) && !is_number(text);
    match (is_formula, shown.contains([',', '"', '\'', '\t', ' ', ';'])) {
        (true, _) => format!("\"'{}\"", shown.replace('"', "\"\"")),
        (false, true) => format!("\"{}\"", shown.replace('"', "\"\"")),
        (false, false) => shown,
    }
}

/// Whether it is nothing but digits, with a sign and a decimal point.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_digits = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_digits && digits.parse::<f64>().is_ok()
}
