//! Reads rows that differ again, from both stores, and says how they differ.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::{Cell, Class, Difference, Outcome, Plan, Report, Side, Tables};
use crate::error::{Error, Result};
use crate::retry::through_outage;
use crate::run::Run;
use crate::table::{Foreign, StoredRow, Visitor};
use crate::value::Value;

/// Keys read at once.
const KEYS: usize = 256;

/// Rows of one key that are kept; further ones are counted.
const ROWS_OF_A_KEY: usize = 8;

/// Collects keys and compares their rows, some at a time.
pub(super) struct Recheck<'a> {
    plan: &'a Plan,
    tables: &'a Tables,
    run: &'a Run,
    max_outage: Duration,
    keys: Vec<Value<'static>>,
}

impl<'a> Recheck<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        tables: &'a Tables,
        run: &'a Run,
        max_outage: Duration,
    ) -> Self {
        Recheck {
            plan,
            tables,
            run,
            max_outage,
            keys: Vec::with_capacity(KEYS),
        }
    }

    /// Takes the encoding of a key.
    pub(super) async fn add(
        &mut self,
        key: &[u8],
        report: &mut Report<'_>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let key = decode_key(key)
            .ok_or_else(|| Error::refused("internal error: a key that is no encoding"))?;
        self.keys.push(key);
        match self.keys.len() < KEYS {
            true => Ok(()),
            false => self.finish(report, outcome).await,
        }
    }

    /// Compares the rows of the keys at hand; none after a stop.
    pub(super) async fn finish(
        &mut self,
        report: &mut Report<'_>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        if self.plan.stop.requested().is_some() {
            self.keys.clear();
        }
        if self.keys.is_empty() {
            return Ok(());
        }
        let realtime = self.read(Side::Realtime).await?;
        let batch = self.read(Side::Batch).await?;
        let none = Found::default();
        for key in self.keys.drain(..) {
            let encoding = encoded(&key);
            let found = [&realtime, &batch].map(|rows| rows.get(&encoding).unwrap_or(&none));
            judge(self.plan, &key, found, report, outcome)?;
        }
        Ok(())
    }

    async fn read(&self, side: Side) -> Result<BTreeMap<Vec<u8>, Found>> {
        let rows = Mutex::new(Rows {
            plan: self.plan,
            found: BTreeMap::new(),
        });
        through_outage(self.run, self.max_outage, || async {
            let mut rows = rows.lock().await;
            rows.found.clear();
            let mut table = self.tables[side as usize].lock().await;
            table.read(&self.keys, &mut *rows).await
        })
        .await?;
        Ok(rows.into_inner().found)
    }
}

/// The rows of one key.
#[derive(Debug, Default)]
struct Found {
    count: u64,
    rows: Vec<OwnedRow>,
}

#[derive(Debug)]
struct OwnedRow {
    values: Vec<Value<'static>>,
    foreign: Vec<Foreign>,
}

struct Rows<'a> {
    plan: &'a Plan,
    found: BTreeMap<Vec<u8>, Found>,
}

impl Visitor for Rows<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let key = encoded(&row.values[self.plan.dataset.event.key]);
        let found = self.found.entry(key).or_default();
        found.count += 1;
        if found.rows.len() < ROWS_OF_A_KEY {
            found.rows.push(OwnedRow {
                values: row.values.iter().map(owned).collect(),
                foreign: row.foreign.to_vec(),
            });
        }
        ControlFlow::Continue(())
    }
}

fn judge(
    plan: &Plan,
    key: &Value<'_>,
    [realtime, batch]: [&Found; 2],
    report: &mut Report<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let row = |class, side, cells| Difference {
        class,
        key: Cell::Value(key),
        side,
        column: None,
        cells,
    };
    let surplus = [realtime, batch].map(|found| found.count.saturating_sub(1));
    outcome.surplus_rows += surplus[0] + surplus[1];
    if surplus != [0, 0] {
        outcome.duplicates += 1;
        let side = match surplus {
            [_, 0] => Some(Side::Realtime),
            [0, _] => Some(Side::Batch),
            _ => None,
        };
        let cells = [Cell::Rows(realtime.count), Cell::Rows(batch.count)];
        report.add(&row(Class::Duplicate, side, cells))?;
    }
    match (realtime.rows.first(), batch.rows.first()) {
        (None, None) => Ok(()),
        (Some(_), None) => {
            outcome.missing += 1;
            outcome.differing_rows += 1;
            report.add(&row(Class::Missing, Some(Side::Batch), [Cell::Row; 2]))
        }
        (None, Some(_)) => {
            outcome.extra += 1;
            outcome.differing_rows += 1;
            report.add(&row(Class::Extra, Some(Side::Batch), [Cell::Row; 2]))
        }
        (Some(a), Some(b)) => {
            let is_equal =
                |a: &OwnedRow| batch.rows.iter().any(|b| differing(plan, a, b).is_empty());
            if realtime.rows.iter().any(is_equal) {
                return Ok(());
            }
            outcome.changed += 1;
            outcome.differing_rows += 2;
            for column in differing(plan, a, b) {
                report.add(&Difference {
                    column: Some(&plan.dataset.fields[column].name),
                    ..row(Class::Changed, None, [cell(a, column), cell(b, column)])
                })?;
            }
            Ok(())
        }
    }
}

/// The columns in which two rows differ by more than is tolerated.
fn differing(plan: &Plan, a: &OwnedRow, b: &OwnedRow) -> Vec<usize> {
    let is_foreign = |i: usize| a.foreign.iter().chain(&b.foreign).any(|f| f.field == i);
    (0..a.values.len())
        .filter(|i| !plan.tolerances.ignores(*i))
        .filter(|i| is_foreign(*i) || !plan.tolerances.allow(*i, &a.values[*i], &b.values[*i]))
        .collect()
}

fn cell(row: &OwnedRow, column: usize) -> Cell<'_> {
    match row.foreign.iter().find(|f| f.field == column) {
        Some(foreign) => Cell::Foreign(&foreign.found),
        None => Cell::Value(&row.values[column]),
    }
}

fn owned(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Text(text) => Value::Text(text.to_string().into()),
        Value::Uuid(uuid) => Value::Uuid(*uuid),
        Value::Int(n) => Value::Int(*n),
        Value::Double(n) => Value::Double(*n),
        Value::Decimal(text) => Value::Decimal(text.to_string().into()),
        Value::Boolean(b) => Value::Boolean(*b),
        Value::Timestamp(ms) => Value::Timestamp(*ms),
        Value::Date(days) => Value::Date(*days),
    }
}

fn encoded(key: &Value<'_>) -> Vec<u8> {
    let mut encoding = Vec::new();
    key.encode(&mut encoding);
    encoding
}

/// Reads back what [`Value::encode`] made of a key: a text, a UUID or an integer.
fn decode_key(encoding: &[u8]) -> Option<Value<'static>> {
    let (tag, rest) = encoding.split_first()?;
    match tag {
        1 => String::from_utf8(rest.get(8..)?.to_vec())
            .ok()
            .map(|text| Value::Text(text.into())),
        2 => Uuid::from_slice(rest).ok().map(Value::Uuid),
        3 => Some(Value::Int(i64::from_be_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for key in [
            Value::Text("Zoë".into()),
            Value::Text("".into()),
            Value::Uuid(Uuid::from_u128(7)),
            Value::Int(-9_007_199_254_740_993),
        ] {
            assert_eq!(decode_key(&encoded(&key)), Some(key));
        }
    }
}
