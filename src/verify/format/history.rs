//! The last verdicts, the newest first: whether the layers agree, over time.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::text::{Align, align, grouped};
use super::{json, text, yes};
use crate::ports::ledger::Verdict;

/// Writes them as an aligned table in the order given; without any, a line that says so.
pub fn history_table(verdicts: &[Verdict], out: &mut dyn Write) -> io::Result<()> {
    if verdicts.is_empty() {
        return writeln!(out, "no verdict has been kept yet");
    }
    let headings = [
        "ended",
        "agree",
        "real-time rows",
        "batch rows",
        "differing keys by class",
    ];
    let mut rows = vec![headings.map(String::from)];
    rows.extend(verdicts.iter().map(|verdict| {
        [
            text::time(verdict.ended_at),
            yes(verdict.agrees).into(),
            grouped(verdict.rows[0]),
            grouped(verdict.rows[1]),
            classes(verdict),
        ]
    }));
    let (left, right) = (Align::Left, Align::Right);
    align([left, left, right, right, left], &rows, out)
}

/// The classes with a difference, and what the comparison was other than one of everything.
fn classes(verdict: &Verdict) -> String {
    let found = verdict.classes.iter().filter(|(_, count)| **count > 0);
    let found: Vec<String> = found
        .map(|(name, count)| format!("{name} {}", grouped(*count)))
        .collect();
    let found = match found.is_empty() {
        true => "none".into(),
        false => found.join(", "),
    };
    match verdict.options.is_empty() {
        true => found,
        false => format!("{found}; compared with {}", verdict.options.join(" ")),
    }
}

#[derive(Serialize)]
struct Past<'a> {
    agrees: bool,
    run_id: &'a str,
    started_at: String,
    ended_at: String,
    realtime_rows: u64,
    batch_rows: u64,
    classes: &'a BTreeMap<String, u64>,
    columns: &'a BTreeMap<String, u64>,
    samples: &'a BTreeMap<String, Vec<String>>,
    options: &'a [String],
}

/// Writes them as one object on one line, in the order given: `{"verdicts": [...]}`, each with `agrees`, `run_id`,
/// `started_at`, `ended_at` (RFC 3339), `realtime_rows`, `batch_rows`, and as in the ledger `classes`, `columns`,
/// `samples`, which are keys by class, and `options`.
pub fn history_json(verdicts: &[Verdict], out: &mut dyn Write) -> io::Result<()> {
    let verdicts = verdicts.iter().map(|verdict| Past {
        agrees: verdict.agrees,
        run_id: &verdict.run_id,
        started_at: text::time(verdict.started_at),
        ended_at: text::time(verdict.ended_at),
        realtime_rows: verdict.rows[0],
        batch_rows: verdict.rows[1],
        classes: &verdict.classes,
        columns: &verdict.columns,
        samples: &verdict.samples,
        options: &verdict.options,
    });
    let verdicts: Vec<Past<'_>> = verdicts.collect();
    json::line(&BTreeMap::from([("verdicts", verdicts)]), out)
}
