//! Rows read back from the embedded stores, and rows that a broken store has mangled.

use std::collections::HashMap;
use std::path::Path;

use rtp::conformance::{Stored, stored_values};
use rtp::dataset::ddl::{quoted, sqlite_rows};
use rtp::dataset::{Dataset, FieldType};
use rtp::row::Rows;
use rtp::value::Value;
use rusqlite::Connection;

/// What a store does to rows that it should keep as they are.
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
            let mut values = stored_values(rows, i);
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

fn one(value: &mut Value<'static>, mangle: Mangle) {
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
        out.push(&stored_values(rows, i), *rows.meta(i));
    }
    out
}

/// All rows of an embedded store's table.
pub(crate) fn read(path: &Path, dataset: &Dataset, table: &str) -> rusqlite::Result<Vec<Stored>> {
    let db = Connection::open(path)?;
    let columns: Vec<String> = dataset.fields.iter().map(|f| quoted(&f.name)).collect();
    let table = quoted(&sqlite_rows(table));
    let mut select = db.prepare(&format!("SELECT {} FROM {table}", columns.join(", ")))?;
    let rows = select.query_map([], |row| {
        let values = dataset.fields.iter().enumerate();
        values.map(|(i, f)| value(row, i, f.kind)).collect()
    })?;
    rows.collect()
}

fn value(
    row: &rusqlite::Row<'_>,
    column: usize,
    kind: FieldType,
) -> rusqlite::Result<Value<'static>> {
    if row.get_ref(column)? == rusqlite::types::ValueRef::Null {
        return Ok(Value::Null);
    }
    Ok(match kind {
        FieldType::Text => Value::Text(row.get::<_, String>(column)?.into()),
        FieldType::Decimal => Value::Decimal(row.get::<_, String>(column)?.into()),
        FieldType::Uuid => Value::Uuid(uuid::Uuid::from_bytes(row.get(column)?)),
        FieldType::Int | FieldType::BigInt => Value::Int(row.get(column)?),
        FieldType::Double => Value::Double(row.get(column)?),
        FieldType::Boolean => Value::Boolean(row.get(column)?),
        FieldType::Timestamp => Value::Timestamp(row.get(column)?),
        FieldType::Date => Value::Date(row.get(column)?),
    })
}

/// Has the table object to every row with this title: by a constraint, or by a failure.
pub(crate) fn object(path: &Path, table: &str, title: &str, how: &str) -> rusqlite::Result<()> {
    Connection::open(path)?.execute_batch(&format!(
        "CREATE TRIGGER {} BEFORE INSERT ON {} WHEN NEW.title = '{title}' BEGIN SELECT {how}; END",
        quoted(&format!("{table}_{title}")),
        quoted(&sqlite_rows(table)),
    ))
}

/// A row that breaks a constraint.
pub(crate) const CONSTRAINT: &str = "RAISE(ABORT, 'refused by a trigger')";

/// A row at which SQLite fails, by an integer overflow.
pub(crate) const FAILURE: &str = "abs(-9223372036854775807 - 1)";
