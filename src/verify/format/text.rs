//! What the formats share: aligned tables, and numbers and times as people read them.

use std::io::{self, Write};
use std::time::Duration;

use crate::record::value::Value;
use crate::run::printable;

/// Maximum width of a cell in an aligned table, except in its last column.
const CELL_WIDTH: usize = 40;

/// Maximum width of a cell in the last column of an aligned table.
const LAST_WIDTH: usize = 160;

/// A point in time, in milliseconds since 1970 UTC.
pub(super) fn time(ms: i64) -> String {
    Value::Timestamp(ms).to_string()
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How many there are of something, which is named in the singular.
pub(in crate::verify) fn counted(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        n => format!("{} {what}s", grouped(n)),
    }
}

/// A duration in seconds.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// Text on one line, without a character that controls a terminal or that XML forbids.
pub(super) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\u{fffe}' | '\u{ffff}' => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Writes rows of cells as aligned columns, each row at this indent, without spaces at its end. A cell is one line, and
/// what could control a terminal is escaped.
pub(super) fn align<const N: usize>(
    columns: [Align; N],
    rows: &[[String; N]],
    out: &mut dyn Write,
) -> io::Result<()> {
    let cell = |i: usize, text: &str| {
        let most = if i + 1 == N { LAST_WIDTH } else { CELL_WIDTH };
        shortened(&one_line(text), most)
    };
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| std::array::from_fn(|i| cell(i, &row[i])))
        .collect();
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| width(&row[i])).max().unwrap_or(0));
    for row in &rows {
        let mut line = String::new();
        for (i, text) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - width(text));
            match columns[i] {
                Align::Left => line.extend([text, pad.as_str(), "  "]),
                Align::Right => line.extend([pad.as_str(), text, "  "]),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// At most this wide; what is cut off is marked.
fn shortened(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.into();
    }
    let mut out = String::new();
    let mut used = 1; // of the mark
    for c in text.chars() {
        used += columns_of(c);
        if used > most {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// Number of columns that a terminal needs.
fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Number of columns of a character: by the largest blocks of combining and of wide characters. A character that is
/// missing here moves the rest of its line, and nothing else.
fn columns_of(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Text for HTML and XML, in elements and in quoted attributes.
pub(super) fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
