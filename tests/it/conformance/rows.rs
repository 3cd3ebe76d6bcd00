//! Rows that a broken store has mangled, and rows that the embedded stores are made to reject.

use std::collections::HashMap;
use std::path::Path;

use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::ports::conformance::{Stored, stored};
use rtp::record::row::Rows;
use rtp::record::value::Value;
use rtp::servers::sqlite::ddl::rows_of;
use rusqlite::Connection;

/// What a broken store does to rows that it should keep unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mangle {
    TrimsTexts,
    EmptyTextIsNull,
    RoundsDecimals,
    RoundsIntegers,
    CutsMilliseconds,
    LosesBooleans,
    FoldsCase,
    LowerDigestWins,
    FirstOfABatchWins,
    KeepsOldValues,
}

/// Mangles rows; it remembers what it has seen.
#[derive(Default)]
pub(crate) struct Mangler {
    seen: HashMap<String, Stored>,
}

impl Mangler {
    pub(crate) fn rows(&mut self, dataset: &Dataset, rows: &Rows, mangle: Mangle) -> Rows {
        let mut out = Rows::new(dataset.fields.len());
        for i in 0..rows.len() {
            let mut values = stored(rows.values(i));
            let mut meta = *rows.meta(i);
            let key = values[dataset.event.key].to_string();
            match mangle {
                Mangle::LowerDigestWins => meta.digest.0.iter_mut().for_each(|b| *b = !*b),
                Mangle::FirstOfABatchWins if self.seen.contains_key(&key) => continue,
                Mangle::FirstOfABatchWins => {
                    self.seen.insert(key, Vec::new());
                }
                Mangle::KeepsOldValues => {
                    if let Some(old) = self.seen.get(&key) {
                        for (value, old) in values.iter_mut().zip(old) {
                            if *value == Value::Null {
                                *value = old.clone();
                            }
                        }
                    }
                    self.seen.insert(key, values.clone());
                }
                _ => values.iter_mut().for_each(|value| one(value, mangle)),
            }
            out.push(&values, meta);
        }
        out
    }

    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }
}

/// Mangles one value.
pub(crate) fn one(value: &mut Value<'static>, mangle: Mangle) {
    let text = |text: String| Value::Text(text.into());
    match (mangle, &*value) {
        (Mangle::TrimsTexts, Value::Text(t)) => *value = text(t.trim().into()),
        (Mangle::EmptyTextIsNull, Value::Text(t)) if t.is_empty() => *value = Value::Null,
        (Mangle::FoldsCase, Value::Text(t)) => *value = text(t.to_lowercase()),
        (Mangle::RoundsDecimals, Value::Decimal(d)) => {
            let rounded: f64 = d.parse().unwrap();
            *value = Value::Decimal(rounded.to_string().into());
        }
        (Mangle::RoundsIntegers, Value::Int(n)) => *value = Value::Int(*n as f64 as i64),
        (Mangle::CutsMilliseconds, Value::Timestamp(ms)) => {
            *value = Value::Timestamp(ms.div_euclid(1_000) * 1_000);
        }
        (Mangle::LosesBooleans, Value::Boolean(_)) => *value = Value::Boolean(true),
        _ => {}
    }
}

/// Some of the rows.
pub(crate) fn some(dataset: &Dataset, rows: &Rows, which: std::ops::Range<usize>) -> Rows {
    let mut out = Rows::new(dataset.fields.len());
    for i in which {
        out.push(&stored(rows.values(i)), *rows.meta(i));
    }
    out
}

/// Makes the table reject every row with this title: with a constraint, or with a failure.
pub(crate) fn object(path: &Path, table: &str, title: &str, how: &str) -> rusqlite::Result<()> {
    Connection::open(path)?.execute_batch(&format!(
        "CREATE TRIGGER {} BEFORE INSERT ON {} WHEN NEW.title = '{title}' BEGIN SELECT {how}; END",
        quoted(&format!("{table}_{title}")),
        quoted(&rows_of(table)),
    ))
}

/// A row that breaks a constraint.
pub(crate) const CONSTRAINT: &str = "RAISE(ABORT, 'refused by a trigger')";

/// A row at which SQLite fails, by an integer overflow.
pub(crate) const FAILURE: &str = "abs(-9223372036854775807 - 1)";
