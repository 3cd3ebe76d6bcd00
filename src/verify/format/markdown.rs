//! A verdict for reviews and issues. Data stands in code spans, where neither markup nor a mention has an effect.

use std::io::{self, Write};

use super::text::{grouped, one_line};
use super::{SAMPLE_HEADINGS, VerdictDocument, yes};

/// Writes the verdict in bold, and tables of what was compared, the classes, the columns and the samples.
pub(super) fn write(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let sentence = plain(&document.sentence);
    writeln!(out, "**{}**: {sentence}", document.word())?;
    heading(out, &["compared", ""], &["---", "---"])?;
    for (name, text) in document.facts() {
        row(out, &[name, &code(&text)])?;
    }
    let classes = document.counted();
    if !classes.is_empty() {
        let headings = ["class", "keys", "fails", "meaning"];
        heading(out, &headings, &["---", "---:", "---", "---"])?;
    }
    for class in classes {
        let (name, meaning) = (code(class.name), plain(class.meaning));
        row(
            out,
            &[&name, &grouped(class.count), yes(class.fails), &meaning],
        )?;
    }
    let columns = &document.verdict.columns;
    if !columns.is_empty() {
        heading(out, &["column", "differing values"], &["---", "---:"])?;
    }
    for (column, count) in columns {
        row(out, &[&code(column), &grouped(*count)])?;
    }
    if !document.samples.is_empty() {
        heading(out, &SAMPLE_HEADINGS, &["---"; 6])?;
    }
    for sample in &document.samples {
        let cells = sample.cells().map(code);
        row(out, &cells.each_ref().map(String::as_str))?;
    }
    Ok(())
}

fn heading(out: &mut dyn Write, headings: &[&str], rule: &[&str]) -> io::Result<()> {
    writeln!(out)?;
    row(out, headings)?;
    row(out, rule)
}

fn row(out: &mut dyn Write, cells: &[&str]) -> io::Result<()> {
    writeln!(out, "| {} |", cells.join(" | "))
}

/// Text without markup: every character that may begin some is escaped.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' | '@' => {
                out.extend(['\\', c]);
            }
            c => out.push(c),
        }
    }
    out
}

/// Text as a code span in a table: its fence is longer than every run of backticks in it.
fn code(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let text = one_line(text).replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A space at both ends is taken off again, and keeps a backtick apart from the fence.
    match text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']) {
        true => format!("{fence} {text} {fence}"),
        false => format!("{fence}{text}{fence}"),
    }
}
