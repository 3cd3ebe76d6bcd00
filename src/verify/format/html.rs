//! A verdict as a page of its own: nothing is loaded, no script runs, and it prints on paper.

use std::io::{self, Write};

use super::text::{grouped, markup};
use super::{SAMPLE_HEADINGS, VerdictDocument, yes};

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
.verdict { border-left: .5rem solid; padding: .5rem 1rem; font-size: 1.25rem; }
.agree { border-color: #1a7f37; } .differ { border-color: #cf222e; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1.5rem 0; }
caption { text-align: left; font-weight: bold; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8886; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.data { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
tr.failed td, tr.failed th { font-weight: bold; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } .scroll { overflow: visible; } tr { break-inside: avoid; } }
";

/// Writes the page.
pub(super) fn write(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let (word, dataset) = (document.word(), markup(&document.dataset));
    writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{word}: {dataset}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>"
    )?;
    let (class, sentence) = (word.to_ascii_lowercase(), markup(&document.sentence));
    writeln!(out, "<h1>rtp verify: {dataset}</h1>")?;
    writeln!(
        out,
        "<p class=\"verdict {class}\"><strong>{word}</strong>: {sentence}</p>"
    )?;
    facts(document, out)?;
    classes(document, out)?;
    columns(document, out)?;
    samples(document, out)?;
    writeln!(out, "</main>\n</body>\n</html>")
}

fn facts(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    open(out, "Compared", &[])?;
    for (name, text) in document.facts() {
        let text = markup(&text);
        writeln!(
            out,
            "<tr><th scope=\"row\">{name}</th><td class=\"data\">{text}</td></tr>"
        )?;
    }
    close(out)
}

fn classes(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let classes = document.counted();
    if classes.is_empty() {
        return Ok(());
    }
    let headings = ["class", "keys", "fails", "meaning"];
    open(out, "Differences by class", &headings)?;
    for class in classes {
        let failed = match class.fails && class.count > 0 {
            true => " class=\"failed\"",
            false => "",
        };
        writeln!(
            out,
            "<tr{failed}><th scope=\"row\">{}</th><td class=\"number\">{}</td><td>{}</td><td>{}</td></tr>",
            markup(class.name),
            grouped(class.count),
            yes(class.fails),
            markup(class.meaning)
        )?;
    }
    close(out)
}

fn columns(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let columns = &document.verdict.columns;
    if columns.is_empty() {
        return Ok(());
    }
    open(
        out,
        "Differences by column",
        &["column", "differing values"],
    )?;
    for (column, count) in columns {
        writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td></tr>",
            markup(column),
            grouped(*count)
        )?;
    }
    close(out)
}

fn samples(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    if document.samples.is_empty() {
        return Ok(());
    }
    open(out, "Samples", &SAMPLE_HEADINGS)?;
    for sample in &document.samples {
        let cells = sample.cells().map(markup);
        let cells = cells.map(|cell| format!("<td class=\"data\">{cell}</td>"));
        writeln!(out, "<tr>{}</tr>", cells.concat())?;
    }
    close(out)
}

fn open(out: &mut dyn Write, caption: &str, headings: &[&str]) -> io::Result<()> {
    writeln!(
        out,
        "<div class=\"scroll\"><table>\n<caption>{caption}</caption>"
    )?;
    if headings.is_empty() {
        return writeln!(out, "<tbody>");
    }
    let headings: Vec<String> = headings
        .iter()
        .map(|heading| format!("<th scope=\"col\">{heading}</th>"))
        .collect();
    writeln!(
        out,
        "<thead><tr>{}</tr></thead>\n<tbody>",
        headings.concat()
    )
}

fn close(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "</tbody>\n</table></div>")
}
