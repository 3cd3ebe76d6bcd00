//! A verdict for a terminal.

use std::io::{self, Write};

use super::text::{Align, align, grouped, one_line};
use super::{SAMPLE_HEADINGS, VerdictDocument, yes};

/// Writes the verdict, what was compared, and a table each of the classes, the columns and the samples, if there are any.
pub(super) fn write(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let sentence = one_line(&document.sentence);
    writeln!(out, "{}: {sentence}\n", document.word())?;
    let facts = document.facts().into_iter();
    let facts: Vec<[String; 2]> = facts.map(|(name, text)| [name.into(), text]).collect();
    align([Align::Left; 2], &facts, out)?;
    classes(document, out)?;
    columns(document, out)?;
    samples(document, out)
}

fn classes(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![["class", "keys", "fails", "meaning"].map(String::from)];
    for class in document.counted() {
        let count = grouped(class.count);
        rows.push([class.name, &count, yes(class.fails), class.meaning].map(String::from));
    }
    if rows.len() == 1 {
        return Ok(());
    }
    writeln!(out)?;
    align(
        [Align::Left, Align::Right, Align::Left, Align::Left],
        &rows,
        out,
    )
}

fn columns(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let columns = &document.verdict.columns;
    if columns.is_empty() {
        return Ok(());
    }
    let mut rows = vec![["column", "differing values"].map(String::from)];
    rows.extend(columns.iter().map(|(name, n)| [name.clone(), grouped(*n)]));
    writeln!(out)?;
    align([Align::Left, Align::Right], &rows, out)
}

fn samples(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    if document.samples.is_empty() {
        return Ok(());
    }
    let samples = document.samples.iter();
    let mut rows = vec![SAMPLE_HEADINGS.map(String::from)];
    rows.extend(samples.map(|sample| sample.cells().map(String::from)));
    writeln!(out)?;
    align([Align::Left; 6], &rows, out)
}
