//! A verdict for CI, in the part of JUnit's XML that all its readers and both of its common schemas accept: one suite, a
//! test case for each class, `failure` for a class that fails and was found, and `system-out` for the others.

use std::io::{self, Write};

use super::text::{counted, markup};
use super::{Counted, VerdictDocument};

/// Writes the suite. If the layers do not agree for another reason than a class, a further case says so: a suite must not
/// pass then.
pub(super) fn write(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let classes = document.counted();
    let failed = classes.iter().filter(|c| has_failed(c)).count();
    let has_problem = !document.verdict.agrees && !document.problems.is_empty();
    let is_unsaid = has_problem || (!document.verdict.agrees && failed == 0);
    let unsaid = usize::from(is_unsaid);
    let (tests, failures) = (classes.len() + unsaid, failed + unsaid);
    let verdict = &document.verdict;
    let time = seconds(verdict.ended_at.saturating_sub(verdict.started_at));
    let name = markup(&format!("rtp verify: {}", document.dataset));
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>"
    )?;
    writeln!(
        out,
        "<testsuite id=\"0\" package=\"rtp.verify\" name=\"{name}\" timestamp=\"{}\" hostname=\"localhost\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{time}\">",
        timestamp(verdict.started_at)
    )?;
    properties(document, out)?;
    if is_unsaid {
        let why = match has_problem {
            true => document.problems.join("; "),
            false => document.sentence.clone(),
        };
        case(out, "verdict", Some((&why, &markup(&why))))?;
    }
    for class in &classes {
        match has_failed(class) {
            false => case(out, class.name, None)?,
            true => {
                let message = format!("{}: {}", counted(class.count, "key"), class.meaning);
                case(out, class.name, Some((&message, &listed(document, class))))?;
            }
        }
    }
    let passed = classes.iter().filter(|c| c.count > 0 && !has_failed(c));
    let passed: String = passed
        .map(|class| {
            let meaning = markup(class.meaning);
            let count = counted(class.count, "key");
            let list = listed(document, class);
            format!("{}: {count}: {meaning}\n{list}", markup(class.name))
        })
        .collect();
    let (word, sentence) = (document.word(), markup(&document.sentence));
    writeln!(
        out,
        "<system-out>{word}: {sentence}\n{passed}</system-out>\n<system-err></system-err>\n</testsuite>\n</testsuites>"
    )
}

fn has_failed(class: &Counted<'_>) -> bool {
    class.fails && class.count > 0
}

/// The verdict, and what was compared.
fn properties(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let verdict = format!("{}: {}", document.word(), document.sentence);
    writeln!(out, "<properties>")?;
    for (name, value) in std::iter::once(("verdict", verdict)).chain(document.facts()) {
        let value = markup(&value);
        writeln!(out, "<property name=\"{name}\" value=\"{value}\"/>")?;
    }
    writeln!(out, "</properties>")
}

/// A test case; its failure is a message and a text, which is markup already.
fn case(out: &mut dyn Write, name: &str, failure: Option<(&str, &str)>) -> io::Result<()> {
    let name = markup(name);
    let open = format!("<testcase classname=\"rtp.verify\" name=\"{name}\" time=\"0\"");
    match failure {
        None => writeln!(out, "{open}/>"),
        Some((message, text)) => {
            let message = markup(message);
            writeln!(
                out,
                "{open}><failure type=\"{name}\" message=\"{message}\">{text}</failure></testcase>"
            )
        }
    }
}

/// The samples of a class, one a line, as markup.
fn listed(document: &VerdictDocument, class: &Counted<'_>) -> String {
    let samples = document.samples_of(class.name).map(|sample| {
        let [_, key, column, realtime, batch, evidence] = sample.cells().map(markup);
        let differs = match column.is_empty() {
            true => String::new(),
            false => format!("{column} is {realtime} in real time, {batch} in batch: "),
        };
        format!("{key}: {differs}{evidence}\n")
    });
    samples.collect()
}

/// Milliseconds as seconds.
fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// A point in time in UTC, without a zone: one of the schemas allows none.
fn timestamp(ms: i64) -> String {
    let time = super::text::time(ms);
    time.chars().take("2026-01-01T00:00:00".len()).collect()
}
