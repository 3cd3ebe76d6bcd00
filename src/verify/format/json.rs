//! A verdict as one JSON object on one line, whose members stand in the order of the fields below;
//! docs/verify.md describes them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::{SeriesDocument, StoreDocument, VerdictDocument, text};
use crate::run::escape_json;

#[derive(Serialize)]
struct Document<'a> {
    agrees: bool,
    sentence: &'a str,
    problems: &'a [String],
    scope: &'a str,
    files: &'a [String],
    options: &'a [String],
    dataset: &'a str,
    run_id: &'a str,
    started_at: String,
    ended_at: String,
    realtime: Store<'a>,
    batch: Store<'a>,
    boundary: Option<String>,
    grace_seconds: f64,
    classes: Vec<Class<'a>>,
    columns: &'a BTreeMap<String, u64>,
    samples: Vec<Sample<'a>>,
    series: Vec<Series<'a>>,
    landing: Option<Landing>,
}

#[derive(Serialize)]
struct Series<'a> {
    table: &'a str,
    agrees: bool,
    keys: u64,
    rows: u64,
    missing: u64,
    extra: u64,
    changed: u64,
}

#[derive(Serialize)]
struct Landing {
    records: u64,
    bad_records: u64,
}

#[derive(Serialize)]
struct Store<'a> {
    store: &'a str,
    table: &'a str,
    rows: u64,
}

#[derive(Serialize)]
struct Class<'a> {
    name: &'a str,
    count: u64,
    fails: bool,
    meaning: &'a str,
}

#[derive(Serialize)]
struct Sample<'a> {
    class: &'a str,
    key: &'a str,
    column: Option<&'a str>,
    realtime: Option<&'a str>,
    batch: Option<&'a str>,
    evidence: &'a str,
}

/// Writes the object and a newline.
pub(super) fn write(document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
    let verdict = &document.verdict;
    let [realtime, batch] = &document.stores;
    let classes = document.counted().into_iter();
    let samples = document.samples.iter();
    line(
        &Document {
            agrees: verdict.agrees,
            sentence: &document.sentence,
            problems: &document.problems,
            scope: document.scope.name,
            files: &document.scope.files,
            options: &verdict.options,
            dataset: &document.dataset,
            run_id: &verdict.run_id,
            started_at: text::time(verdict.started_at),
            ended_at: text::time(verdict.ended_at),
            realtime: store(realtime, verdict.rows[0]),
            batch: store(batch, verdict.rows[1]),
            boundary: document.boundary.clone().ok().flatten().map(text::time),
            grace_seconds: document.grace.as_secs_f64(),
            classes: classes
                .map(|class| Class {
                    name: class.name,
                    count: class.count,
                    fails: class.fails,
                    meaning: class.meaning,
                })
                .collect(),
            columns: &verdict.columns,
            samples: samples
                .map(|sample| Sample {
                    class: &sample.class,
                    key: &sample.key,
                    column: sample.column.as_deref(),
                    realtime: sample.values[0].as_deref(),
                    batch: sample.values[1].as_deref(),
                    evidence: &sample.evidence,
                })
                .collect(),
            series: document.series.iter().map(series).collect(),
            landing: document.landing.map(|read| Landing {
                records: read.records,
                bad_records: read.rejected,
            }),
        },
        out,
    )
}

fn series(series: &SeriesDocument) -> Series<'_> {
    let [missing, extra, changed] = series.differences;
    Series {
        table: &series.table,
        agrees: series.agrees,
        keys: series.keys,
        rows: series.rows,
        missing,
        extra,
        changed,
    }
}

fn store(store: &StoreDocument, rows: u64) -> Store<'_> {
    Store {
        store: &store.address,
        table: &store.table,
        rows,
    }
}

/// A value as one line, in which nothing controls a terminal.
pub(super) fn line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let json = serde_json::to_string(value)?;
    writeln!(out, "{}", escape_json(&json))
}
