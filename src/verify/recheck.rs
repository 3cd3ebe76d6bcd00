//! Reads rows that differ again, from both stores, and reports how they differ.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Class, Compared, Comparison, Content, Difference, Report, Side, Table, Tolerances};
use crate::error::{Error, Result};
use crate::ports::table_reader::{Foreign, StoredRow, TableReader, Visitor};
use crate::record::value::Value;
use crate::run::retry::Retry;

/// Number of keys read at once.
const KEYS_AT_ONCE: usize = 256;

/// Number of rows of one key that are kept; further ones are only counted.
const ROWS_OF_A_KEY: usize = 8;

/// Collects keys and compares their rows, some at a time.
pub(super) struct Recheck<'a> {
    comparison: &'a Comparison,
    tables: &'a mut [Table; 2],
    retry: &'a Retry,
    keys: Vec<Value<'static>>,
}

impl<'a> Recheck<'a> {
    pub(super) fn new(
        comparison: &'a Comparison,
        tables: &'a mut [Table; 2],
        retry: &'a Retry,
    ) -> Self {
        Recheck {
            comparison,
            tables,
            retry,
            keys: Vec::with_capacity(KEYS_AT_ONCE),
        }
    }

    /// Adds the encoding of a key.
    pub(super) async fn add(
        &mut self,
        key: &[u8],
        report: &mut Report<'_>,
        compared: &mut Compared,
    ) -> Result<()> {
        let key = Value::decode_key(key)
            .ok_or_else(|| Error::internal("a key is not a valid encoding"))?;
        self.keys.push(key);
        match self.keys.len() < KEYS_AT_ONCE {
            true => Ok(()),
            false => self.finish(report, compared).await,
        }
    }

    /// Compares the rows of the collected keys; none after a stop.
    pub(super) async fn finish(
        &mut self,
        report: &mut Report<'_>,
        compared: &mut Compared,
    ) -> Result<()> {
        if self.comparison.stop.requested().is_some() {
            self.keys.clear();
        }
        if self.keys.is_empty() {
            return Ok(());
        }
        let realtime = self.read(Side::Realtime).await?;
        let batch = self.read(Side::Batch).await?;
        let none = FoundRows::default();
        for key in self.keys.drain(..) {
            let encoding = encoded(&key);
            let found = [&realtime, &batch].map(|rows| rows.found.get(&encoding).unwrap_or(&none));
            judge(self.comparison, &key, found, report, compared)?;
        }
        Ok(())
    }

    async fn read(&mut self, side: Side) -> Result<RowsByKey<'a>> {
        let table = self.tables[side as usize].get()?;
        read_again(self.comparison, table, &self.keys, self.retry).await
    }
}

/// The rows of these keys as they are now.
pub(super) async fn read_again<'c>(
    comparison: &'c Comparison,
    table: &mut dyn TableReader,
    keys: &[Value<'static>],
    retry: &Retry,
) -> Result<RowsByKey<'c>> {
    let mut rows = RowsByKey {
        comparison,
        found: BTreeMap::new(),
    };
    let read = async || {
        rows.found.clear();
        table.read(keys, &mut rows).await
    };
    retry.through_outage(read).await?;
    Ok(rows)
}

/// The rows of one key.
#[derive(Debug, Default)]
struct FoundRows {
    count: u64,
    rows: Vec<OwnedRow>,
}

/// A row that was read.
#[derive(Debug)]
pub(super) struct OwnedRow {
    pub(super) values: Vec<Value<'static>>,
    foreign: Vec<Foreign>,
}

impl OwnedRow {
    pub(super) fn of(row: &StoredRow<'_>) -> Self {
        OwnedRow {
            values: row.values.iter().map(Value::owned).collect(),
            foreign: row.foreign.to_vec(),
        }
    }
}

/// Rows that were read, by the encodings of their keys.
pub(super) struct RowsByKey<'a> {
    comparison: &'a Comparison,
    found: BTreeMap<Vec<u8>, FoundRows>,
}

impl RowsByKey<'_> {
    /// The row of a key, the first one if there are several.
    pub(super) fn row(&self, key: &Value<'_>) -> Option<&OwnedRow> {
        self.found.get(&encoded(key))?.rows.first()
    }
}

impl Visitor for RowsByKey<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let key = encoded(&row.values[self.comparison.dataset.event.key]);
        let found = self.found.entry(key).or_default();
        found.count += 1;
        if found.rows.len() < ROWS_OF_A_KEY {
            found.rows.push(OwnedRow::of(&row));
        }
        ControlFlow::Continue(())
    }
}

fn judge(
    comparison: &Comparison,
    key: &Value<'_>,
    [realtime, batch]: [&FoundRows; 2],
    report: &mut Report<'_>,
    compared: &mut Compared,
) -> Result<()> {
    let row = |class, side, cells| Difference {
        class,
        key: Content::Value(key),
        side,
        column: None,
        cells,
    };
    let surplus = [realtime, batch].map(|found| found.count.saturating_sub(1));
    compared.surplus_rows += surplus[0] + surplus[1];
    if surplus != [0, 0] {
        compared.duplicates += 1;
        let side = match surplus {
            [_, 0] => Some(Side::Realtime),
            [0, _] => Some(Side::Batch),
            _ => None,
        };
        let cells = [Content::Rows(realtime.count), Content::Rows(batch.count)];
        report.add(&row(Class::Duplicate, side, cells))?;
    }
    match (realtime.rows.first(), batch.rows.first()) {
        (None, None) => Ok(()),
        (Some(_), None) => {
            compared.missing += 1;
            compared.differing_rows += 1;
            report.add(&row(Class::Missing, Some(Side::Batch), [Content::Row; 2]))
        }
        (None, Some(_)) => {
            compared.extra += 1;
            compared.differing_rows += 1;
            report.add(&row(Class::Extra, Some(Side::Batch), [Content::Row; 2]))
        }
        (Some(a), Some(b)) => {
            let in_batch = |a| {
                let mut rows = batch.rows.iter();
                rows.any(|b| differing(comparison, a, b).is_empty())
            };
            if realtime.rows.iter().any(in_batch) {
                return Ok(());
            }
            compared.changed += 1;
            compared.differing_rows += 2;
            for column in differing(comparison, a, b) {
                let cells = [content(a, column), content(b, column)];
                report.add(&Difference {
                    column: Some(&comparison.dataset.fields[column].name),
                    ..row(Class::Changed, None, cells)
                })?;
            }
            Ok(())
        }
    }
}

/// The columns in which two rows differ by more than is tolerated.
pub(super) fn differing(comparison: &Comparison, a: &OwnedRow, b: &OwnedRow) -> Vec<usize> {
    let tolerances = &comparison.tolerances;
    (0..a.values.len())
        .filter(|i| !tolerances.ignores(*i) && !are_close(tolerances, *i, a, b))
        .collect()
}

/// Whether a column of two rows counts as equal. A value between two others is as far away as the farther of them, when
/// it is compared with one that is not between them.
fn are_close(tolerances: &Tolerances, column: usize, a: &OwnedRow, b: &OwnedRow) -> bool {
    let foreign = |row: &OwnedRow| {
        let found = row.foreign.iter().find(|f| f.field == column);
        found.map(|foreign| foreign.between.clone())
    };
    let allow = |a: &Value<'_>, b: &Value<'_>| tolerances.allow(column, a, b);
    let (one, other) = (&a.values[column], &b.values[column]);
    match (foreign(a), foreign(b)) {
        (None, None) => allow(one, other),
        (Some(Some(between)), None) => between.iter().all(|value| allow(value, other)),
        (None, Some(Some(between))) => between.iter().all(|value| allow(one, value)),
        _ => false,
    }
}

pub(super) fn content(row: &OwnedRow, column: usize) -> Content<'_> {
    match row.foreign.iter().find(|f| f.field == column) {
        Some(foreign) => Content::Foreign(&foreign.found),
        None => Content::Value(&row.values[column]),
    }
}

fn encoded(key: &Value<'_>) -> Vec<u8> {
    let mut encoding = Vec::new();
    key.encode(&mut encoding);
    encoding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;

    #[test]
    fn a_finer_value_is_within_the_tolerance_or_not() {
        let dataset = Dataset::load(None).unwrap();
        let dob = dataset.field_index("dob").unwrap();
        let row = |value: Value<'static>, foreign: Vec<Foreign>| {
            let mut values = vec![Value::Null; dataset.fields.len()];
            values[dob] = value;
            OwnedRow { values, foreign }
        };
        let finer = Foreign {
            field: dob,
            found: "timestamp 1970-01-01T00:00:00.005001Z".into(),
            between: Some([5, 6].map(Value::Timestamp)),
        };
        let infinite = Foreign {
            between: None,
            ..finer.clone()
        };
        for (given, ms, foreign, is_close) in [
            (&["dob=1ms"][..], 5, &finer, true),
            (&["dob=1ms"], 6, &finer, true),
            (&["dob=1ms"], 4, &finer, false), // 1.001 ms
            (&["dob=1ms"], 7, &finer, false),
            (&["dob=2ms"], 4, &finer, true),
            (&[], 5, &finer, false),
            (&["dob=1d"], 5, &infinite, false),
            (&["dob=ignore"], 5, &infinite, true),
        ] {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            let tolerances = Tolerances::parse(&dataset, &given).unwrap();
            let comparison = Comparison::new(&dataset, tolerances, crate::run::Stop::channel().1);
            let exact = row(Value::Timestamp(ms), Vec::new());
            let other = row(Value::Null, vec![foreign.clone()]);
            let expected: &[usize] = if is_close { &[] } else { &[dob] };
            assert_eq!(
                differing(&comparison, &exact, &other),
                expected,
                "{given:?} {ms}"
            );
            assert_eq!(
                differing(&comparison, &other, &exact),
                expected,
                "{given:?} {ms}"
            );
        }
    }
}
