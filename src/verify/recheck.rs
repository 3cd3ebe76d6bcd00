//! Reads rows that differ again, from both stores, and finds out how they differ.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::classify::{Version, version};
use super::sketch::short;
use super::{Comparison, Content, Kind, Side, Table, Tolerances};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::ports::table_reader::{Foreign, StoredRow, TableReader, Visitor};
use crate::record::row::digest;
use crate::record::value::Value;
use crate::run::retry::Retry;

/// Number of keys read at once, at most.
pub(super) const KEYS_AT_ONCE: usize = 256;

/// Number of keys read at once before it is known how large their rows are.
const FIRST_KEYS: usize = 16;

/// Bytes of rows of both stores read at once, at most, as far as the rows before them tell how large they are.
const ROW_BYTES: usize = 4 << 20;

/// How many keys are read at once.
#[derive(Debug)]
pub(super) struct AtOnce(usize);

impl Default for AtOnce {
    fn default() -> Self {
        AtOnce(FIRST_KEYS)
    }
}

impl AtOnce {
    pub(super) fn keys(&self) -> usize {
        self.0
    }

    /// Takes how many bytes all rows of two tables have, by a scan of them. Those that differ may be larger.
    pub(super) fn expect(&mut self, rows: u64, bytes: u64) {
        let of_a_key = (2 * bytes).checked_div(rows).unwrap_or(u64::MAX);
        let fit = (ROW_BYTES as u64).checked_div(of_a_key);
        let most = KEYS_AT_ONCE as u64;
        self.0 = fit.unwrap_or(most).clamp(1, most) as usize;
    }

    /// Takes how many bytes the rows of so many keys had, of a store that may lack the larger ones.
    fn learn_at_most(&mut self, keys: usize, bytes: usize) {
        let before = self.0;
        self.learn(keys, bytes);
        self.0 = self.0.min(before);
    }

    /// Takes how many bytes the rows of so many keys had.
    pub(super) fn learn(&mut self, keys: usize, bytes: usize) {
        let fit = keys.saturating_mul(ROW_BYTES) / bytes.max(1);
        self.0 = fit.clamp(1, (self.0 * 2).min(KEYS_AT_ONCE));
    }
}

/// Number of rows of one key that are kept; further ones are only counted.
const ROWS_OF_A_KEY: usize = 8;

/// How the rows of a key differ.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Value<'static>,
    pub(super) kind: Kind,
    /// The first row of the real-time and of the batch store.
    pub(super) rows: [Option<OwnedRow>; 2],
    /// How many rows each has.
    pub(super) counts: [u64; 2],
    /// The columns that differ, if the key is in both.
    pub(super) columns: Vec<usize>,
    /// Which of the rows is a record of a landing file, in place of a stored one.
    pub(super) record: Option<Side>,
    /// Whether a load left the batch store's row as it is, or removed it, because it was told to.
    pub(super) is_meant: bool,
}

impl Found {
    /// The rows that are not as they should be.
    pub(super) fn differing_rows(&self) -> u64 {
        match self.kind {
            Kind::Missing | Kind::Extra => 1,
            Kind::Changed if self.record.is_some() => 1,
            Kind::Changed => 2,
            Kind::Duplicate => 0,
        }
    }

    /// Whether the real-time store has the newer version of a key that is in both.
    pub(super) fn is_realtime_newer(&self, dataset: &Dataset) -> bool {
        let [realtime, batch] = self.versions(dataset);
        realtime > batch
    }

    /// Whether a store has a newer version than a landing file.
    pub(super) fn is_newer_than_record(&self, dataset: &Dataset) -> bool {
        let [realtime, batch] = self.versions(dataset);
        match self.record {
            Some(Side::Realtime) => batch > realtime,
            Some(Side::Batch) => realtime > batch,
            None => false,
        }
    }

    fn versions(&self, dataset: &Dataset) -> [Option<Version>; 2] {
        self.rows.each_ref().map(|row| {
            let row = row.as_ref()?;
            version(dataset, row)
        })
    }

    /// The rows beyond the first of their key.
    pub(super) fn surplus_rows(&self) -> u64 {
        match self.kind {
            Kind::Duplicate => self.counts.iter().map(|n| n.saturating_sub(1)).sum(),
            _ => 0,
        }
    }
}

/// Reads the rows of these keys again from both stores, and returns how they differ. Says how many to read next.
pub(super) async fn differences(
    comparison: &Comparison,
    [realtime, batch]: &mut [Table; 2],
    keys: Vec<Value<'static>>,
    at_once: &mut AtOnce,
    retry: &Retry,
) -> Result<Vec<Found>> {
    let (mut realtime, mut batch) = tokio::try_join!(
        read_again(comparison, realtime.get()?, &keys, retry),
        read_again(comparison, batch.get()?, &keys, retry),
    )?;
    at_once.learn(keys.len(), realtime.bytes() + batch.bytes());
    let mut all = Vec::new();
    for key in keys {
        let encoding = encoded(&key);
        let found = [&mut realtime, &mut batch].map(|rows| rows.found.remove(&encoding));
        judge(
            comparison,
            key,
            found.map(Option::unwrap_or_default),
            &mut all,
        );
    }
    Ok(all)
}

/// The keys whose row in the batch store is not the one that the scan of the real-time store saw. Says if fewer are to be
/// read next.
pub(super) async fn not_caught_up(
    comparison: &Comparison,
    batch: &mut Table,
    keys: Vec<(Value<'static>, u64)>,
    at_once: &mut AtOnce,
    retry: &Retry,
) -> Result<Vec<Value<'static>>> {
    let (keys, seen): (Vec<Value<'static>>, Vec<u64>) = keys.into_iter().unzip();
    let rows = read_again(comparison, batch.get()?, &keys, retry).await?;
    at_once.learn_at_most(keys.len(), 2 * rows.bytes());
    let mut scratch = Vec::new();
    let mut is_as_seen = |key: &Value<'_>, seen: u64| {
        let row = rows.row(key).filter(|row| row.foreign.is_empty());
        row.is_some_and(|row| {
            let digest = digest(&comparison.dataset, &row.values, &mut scratch);
            short(u128::from_be_bytes(digest.0)) == seen
        })
    };
    let keys = keys.into_iter().zip(seen);
    let left = keys.filter_map(|(key, seen)| (!is_as_seen(&key, seen)).then_some(key));
    Ok(left.collect())
}

/// The first row of each of these keys in both stores as it is now.
pub(super) async fn rows_now(
    comparison: &Comparison,
    [realtime, batch]: &mut [Table; 2],
    keys: &[Value<'static>],
    at_once: &mut AtOnce,
    retry: &Retry,
) -> Result<Vec<[Option<OwnedRow>; 2]>> {
    let (mut realtime, mut batch) = tokio::try_join!(
        read_again(comparison, realtime.get()?, keys, retry),
        read_again(comparison, batch.get()?, keys, retry),
    )?;
    at_once.learn(keys.len(), realtime.bytes() + batch.bytes());
    let both = |key| [realtime.take(key), batch.take(key)];
    Ok(keys.iter().map(both).collect())
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
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OwnedRow {
    pub(super) values: Vec<Value<'static>>,
    pub(super) foreign: Vec<Foreign>,
}

impl OwnedRow {
    pub(super) fn of(row: &StoredRow<'_>) -> Self {
        OwnedRow {
            values: row.values.iter().map(Value::owned).collect(),
            foreign: row.foreign.to_vec(),
        }
    }

    /// How much memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let text = |value: &Value<'static>| match value {
            Value::Text(text) | Value::Decimal(text) => text.len(),
            _ => 0,
        };
        let texts: usize = self.values.iter().map(text).sum();
        texts + size_of_val(&*self.values)
    }
}

/// Rows that were read, by the encodings of their keys.
pub(super) struct RowsByKey<'a> {
    comparison: &'a Comparison,
    found: BTreeMap<Vec<u8>, FoundRows>,
}

impl RowsByKey<'_> {
    pub(super) fn bytes(&self) -> usize {
        let rows = self.found.values().flat_map(|found| &found.rows);
        rows.map(OwnedRow::bytes).sum()
    }

    /// Takes the row of a key out, the first one if there are several.
    pub(super) fn take(&mut self, key: &Value<'_>) -> Option<OwnedRow> {
        let rows = &mut self.found.get_mut(&encoded(key))?.rows;
        (!rows.is_empty()).then(|| rows.swap_remove(0))
    }

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
    key: Value<'static>,
    [mut realtime, mut batch]: [FoundRows; 2],
    all: &mut Vec<Found>,
) {
    let counts = [realtime.count, batch.count];
    let is_in_batch = |a: &OwnedRow| {
        let mut rows = batch.rows.iter();
        rows.any(|b| differing(comparison, a, b).is_empty())
    };
    let (kind, columns) = match (realtime.rows.first(), batch.rows.first()) {
        (Some(_), None) => (Some(Kind::Missing), Vec::new()),
        (None, Some(_)) => (Some(Kind::Extra), Vec::new()),
        (Some(a), Some(b)) if !realtime.rows.iter().any(is_in_batch) => {
            (Some(Kind::Changed), differing(comparison, a, b))
        }
        _ => (None, Vec::new()),
    };
    if counts.iter().any(|n| *n > 1) {
        all.push(Found {
            key: key.clone(),
            kind: Kind::Duplicate,
            rows: [None, None],
            counts,
            columns: Vec::new(),
            record: None,
            is_meant: false,
        });
    }
    if let Some(kind) = kind {
        let rows = [&mut realtime, &mut batch].map(|found| match found.rows.is_empty() {
            true => None,
            false => Some(found.rows.swap_remove(0)),
        });
        all.push(Found {
            key,
            kind,
            rows,
            counts,
            columns,
            record: None,
            is_meant: false,
        });
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

    #[test]
    fn large_rows_are_read_in_few_at_once() {
        let mut at_once = AtOnce::default();
        for (bytes_of_one, expected) in [
            (1_000, [32, 64, 128, 256, 256]),
            (1 << 20, [4, 4, 4, 4, 4]),
            (1 << 26, [1, 1, 1, 1, 1]),
            (0, [2, 4, 8, 16, 32]),
        ] {
            for expected in expected {
                let keys = at_once.keys();
                at_once.learn(keys, keys * bytes_of_one);
                assert_eq!(at_once.keys(), expected, "{bytes_of_one}");
            }
        }
        for (rows, bytes, expected) in [
            (0, 0, 1),
            (2_000_000, 600_000_000, 256),
            (400, 360_000_000, 2),
            (1, 1 << 40, 1),
            (10, 0, 256),
        ] {
            at_once.expect(rows, bytes);
            assert_eq!(at_once.keys(), expected, "{rows} rows of {bytes} bytes");
        }
        let text = Value::Text("12345".into());
        let row = |values: Vec<Value<'static>>| OwnedRow {
            values,
            foreign: Vec::new(),
        };
        let [empty, full] = [Value::Null, text].map(|value| row(vec![value]).bytes());
        assert_eq!(full, empty + 5);
    }

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
