//! Compares a series with the table that it belongs to: it must have the newest row of each key, in the bucket of that
//! row's event time, and besides only older versions.
//!
//! The table is scanned into the event time and digest of each key, for a bounded number of keys, and the rows of the
//! series are compared with these; a larger table takes several passes. What does not fit is read again from both
//! before it is reported.

mod recheck;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::ControlFlow;

use xxhash_rust::xxh3::xxh3_64;

use self::recheck::{AT_ONCE, Recheck};
use super::buckets::{Hashed, go_on};
use super::{Comparison, Report};
use crate::dataset::Series;
use crate::error::Result;
use crate::ports::series_reader::{Place, SeriesReader};
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::record::value::Value;
use crate::run::Run;
use crate::run::retry::Retry;

/// Keys in a pass, of 25 bytes each in a hash table: just below the size at which it would double.
const PASS_KEYS: u64 = 900_000;

/// Maximum suspects in a pass; a comparison ends with the pass that has more.
const SUSPECTS: usize = 1 << 16;

/// The result of the comparison of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparedSeries {
    /// Keys of the table.
    pub keys: u64,
    /// Rows of the series.
    pub rows: u64,
    /// Newest rows that the series lacks.
    pub missing: u64,
    /// Rows of keys that the table lacks, newer than the table's, or in another bucket or shard than their own.
    pub extra: u64,
    /// Newest rows with other values than in the table.
    pub changed: u64,
    /// Whether the comparison ended early, because too much differs.
    pub is_cut: bool,
}

impl ComparedSeries {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.missing + self.extra + self.changed == 0
    }

    /// Reports the result for a series and its table, by their names.
    pub fn tell(&self, series: &str, table: &str, run: &Run) {
        let ComparedSeries { keys, rows, .. } = self;
        if self.is_equal() {
            run.info(format!(
                "equal: {series} has the newest row of each of the {keys} keys in {table}; {rows} rows"
            ));
            return;
        }
        let cut = match self.is_cut {
            true => "; more was not compared",
            false => "",
        };
        run.warn(format!(
            "not equal: {} missing in {series}, {} extra in {series}, {} changed; {keys} keys in {table}, {rows} rows in {series}{cut}",
            self.missing, self.extra, self.changed
        ));
    }
}

/// Compares a series with its dataset's table, which has about this many rows. None if a stop was requested before the
/// end.
pub async fn compare_series(
    comparison: &Comparison,
    series: &Series,
    mut reader: Box<dyn SeriesReader>,
    mut table: Box<dyn TableReader>,
    rows: u64,
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Option<ComparedSeries>> {
    let passes = rows / PASS_KEYS + 1;
    let mut compared = ComparedSeries::default();
    for pass in 0..passes {
        let mut keys = Keys::new(comparison, series, (pass, passes));
        let scan = async || {
            keys.newest.clear();
            table.scan(&mut TableRows(&mut keys)).await
        };
        retry.through_outage(scan).await?;
        compared.keys += keys.newest.len() as u64;
        let scan = async || {
            keys.versions.clear();
            keys.rows = 0;
            reader.scan(&mut SeriesRows(&mut keys)).await?;
            std::mem::replace(&mut keys.failed, Ok(()))
        };
        retry.through_outage(scan).await?;
        compared.rows += keys.rows;
        if !keys.are_too_many() && keys.newest.values().any(|newest| !newest.is_in_series) {
            let scan = async || {
                keys.lacking.clear();
                table.scan(&mut Lacking(&mut keys)).await
            };
            retry.through_outage(scan).await?;
        }
        let mut recheck = Recheck {
            comparison,
            series,
            reader: &mut *reader,
            table: &mut *table,
            retry,
        };
        for places in keys.versions.chunks(AT_ONCE) {
            recheck.versions(places, report, &mut compared).await?;
        }
        for lacking in keys.lacking.chunks(AT_ONCE) {
            recheck.newest(lacking, report, &mut compared).await?;
        }
        if comparison.stop.requested().is_some() {
            return Ok(None);
        }
        if keys.are_too_many() {
            compared.is_cut = true;
            break;
        }
    }
    Ok(Some(compared))
}

/// The keys of a pass, and what does not fit.
struct Keys<'a> {
    comparison: &'a Comparison,
    series: &'a Series,
    /// The number of this pass, and of all.
    pass: (u64, u64),
    newest: HashMap<u64, Newest, BuildHasherDefault<Hashed>>,
    /// Keys whose newest row is not in the series.
    lacking: Vec<Value<'static>>,
    /// Where rows of the series stand that do not fit.
    versions: Vec<Place>,
    /// Rows of the series.
    rows: u64,
    /// Rows seen, for a look at the stop signal now and then.
    seen: u64,
    failed: Result<()>,
    encoding: Vec<u8>,
}

/// What the table has of a key.
struct Newest {
    time: i64,
    digest: u64,
    is_in_series: bool,
}

impl<'a> Keys<'a> {
    fn new(comparison: &'a Comparison, series: &'a Series, pass: (u64, u64)) -> Self {
        Keys {
            comparison,
            series,
            pass,
            newest: HashMap::default(),
            lacking: Vec::new(),
            versions: Vec::new(),
            rows: 0,
            seen: 0,
            failed: Ok(()),
            encoding: Vec::new(),
        }
    }

    fn hash(&mut self, key: &Value<'_>) -> u64 {
        self.encoding.clear();
        key.encode(&mut self.encoding);
        xxh3_64(&self.encoding)
    }

    /// Whether a key belongs to this pass.
    fn wants(&mut self, key: &Value<'_>) -> bool {
        let (pass, passes) = self.pass;
        ((self.hash(key) >> 32) * passes) >> 32 == pass
    }

    /// The digest of a row; none if a value does not fit its type.
    fn digest(&mut self, row: &StoredRow<'_>) -> Option<u64> {
        self.encoding.clear();
        for &i in &self.comparison.dataset.digest_order {
            row.values[i].encode(&mut self.encoding);
        }
        row.foreign.is_empty().then(|| xxh3_64(&self.encoding))
    }

    fn are_too_many(&self) -> bool {
        self.lacking.len() + self.versions.len() >= SUSPECTS
    }

    fn go_on(&mut self) -> ControlFlow<()> {
        self.seen += 1;
        match self.are_too_many() {
            true => ControlFlow::Break(()),
            false => go_on(self.comparison, self.seen),
        }
    }
}

/// The first scan: the rows of the table.
struct TableRows<'k, 'a>(&'k mut Keys<'a>);

impl Visitor for TableRows<'_, '_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        self.0.wants(key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let event = &self.0.comparison.dataset.event;
        let digest = self.0.digest(&row);
        let hash = self.0.hash(&row.values[event.key]);
        // A row that cannot be in a series fits none of its rows, so it is looked at again.
        let (time, digest) = match (&row.values[event.time], digest) {
            (Value::Timestamp(time), Some(digest)) => (*time, digest),
            _ => (i64::MIN, 0),
        };
        let newest = Newest {
            time,
            digest,
            is_in_series: false,
        };
        self.0.newest.insert(hash, newest);
        self.0.go_on()
    }
}

/// The second scan: the rows of the series.
struct SeriesRows<'k, 'a>(&'k mut Keys<'a>);

impl Visitor for SeriesRows<'_, '_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        self.0.wants(key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let keys = &mut *self.0;
        keys.rows += 1;
        let dataset = &keys.comparison.dataset;
        let place = match Place::stored(dataset, row.values) {
            Ok(place) => place,
            Err(e) => {
                keys.failed = Err(e);
                return ControlFlow::Break(());
            }
        };
        let is_placed = Place::of(dataset, keys.series, row.values).as_ref() == Some(&place);
        let digest = keys.digest(&row);
        let hash = keys.hash(&place.key);
        let fits = match keys.newest.get_mut(&hash) {
            Some(newest) if is_placed && place.time == newest.time => {
                // If its values differ, it is a suspect itself.
                newest.is_in_series = true;
                digest == Some(newest.digest)
            }
            Some(newest) => is_placed && place.time < newest.time,
            None => false,
        };
        if !fits {
            keys.versions.push(place);
        }
        keys.go_on()
    }
}

/// A third scan, if the series lacks rows: the keys of these.
struct Lacking<'k, 'a>(&'k mut Keys<'a>);

impl Visitor for Lacking<'_, '_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        let hash = self.0.hash(key);
        let newest = self.0.newest.get(&hash);
        newest.is_some_and(|newest| !newest.is_in_series)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let key = &row.values[self.0.comparison.dataset.event.key];
        self.0.lacking.push(key.owned());
        self.0.go_on()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::dataset::Dataset;
    use crate::run::{LogFormat, Stop};
    use crate::verify::{Sample, Tolerances};

    const HOUR: i64 = 3_600_000;

    type Row = Vec<Value<'static>>;

    /// Rows in memory, also by their keys; those of a series have two values more.
    struct Memory {
        dataset: Dataset,
        rows: Vec<Row>,
        by_key: HashMap<String, Vec<usize>>,
    }

    impl Memory {
        fn of(dataset: &Dataset, rows: Vec<Row>) -> Box<Memory> {
            let mut by_key: HashMap<String, Vec<usize>> = HashMap::new();
            for (i, row) in rows.iter().enumerate() {
                let key = row[dataset.event.key].to_string();
                by_key.entry(key).or_default().push(i);
            }
            Box::new(Memory {
                dataset: dataset.clone(),
                rows,
                by_key,
            })
        }

        fn rows_of(&self, key: &Value<'_>) -> impl Iterator<Item = &Row> {
            let rows = self.by_key.get(&key.to_string());
            rows.into_iter().flatten().map(|i| &self.rows[*i])
        }

        fn lend<'r>(&self, rows: impl Iterator<Item = &'r Row>, visitor: &mut dyn Visitor) {
            for values in rows {
                let row = StoredRow {
                    values,
                    foreign: &[],
                };
                let key = &values[self.dataset.event.key];
                if visitor.wants(key) && visitor.row(row).is_break() {
                    break;
                }
            }
        }
    }

    #[async_trait]
    impl TableReader for Memory {
        fn has_unique_keys(&self) -> bool {
            true
        }

        async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
            self.lend(self.rows.iter(), visitor);
            Ok(())
        }

        async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
            self.lend(keys.iter().flat_map(|key| self.rows_of(key)), visitor);
            Ok(())
        }
    }

    #[async_trait]
    impl SeriesReader for Memory {
        async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
            self.lend(self.rows.iter(), visitor);
            Ok(())
        }

        async fn read(&mut self, places: &[Place], visitor: &mut dyn Visitor) -> Result<()> {
            let rows = places.iter().flat_map(|place| {
                let is_there = |row: &&Row| Place::stored(&self.dataset, row).unwrap() == *place;
                self.rows_of(&place.key).filter(is_there)
            });
            self.lend(rows, visitor);
            Ok(())
        }
    }

    /// A version of a user, and how it stands in the series.
    fn version(dataset: &Dataset, user: u32, time: i64, email: &str) -> [Row; 2] {
        let mut row = vec![Value::Null; dataset.fields.len()];
        row[dataset.event.key] = Value::Uuid(uuid::Uuid::from_u128(user.into()));
        row[dataset.event.time] = Value::Timestamp(time);
        row[dataset.field_index("email").unwrap()] = Value::Text(email.to_string().into());
        let place = Place::of(dataset, &dataset.realtime.series[0], &row).unwrap();
        let mut stored = row.clone();
        stored.push(Value::Timestamp(place.partition.0));
        stored.push(Value::Int(place.partition.1.into()));
        [row, stored]
    }

    async fn compared(table: Vec<Row>, series: Vec<Row>, rows: u64) -> ComparedSeries {
        let dataset = Dataset::load(None).unwrap();
        let tolerances = Tolerances::parse(&dataset, &[]).unwrap();
        let comparison = Comparison::new(&dataset, tolerances, Stop::channel().1);
        let run = Run::new(
            "verify",
            "1".into(),
            Stop::channel().1,
            LogFormat::Text,
            true,
        );
        let sample = Sample {
            most: 0,
            has_values: false,
        };
        let names = ["a", "b"].map(String::from);
        let mut report = Report::create(&run, names, sample, None).unwrap();
        let retry = Retry {
            run: run.clone(),
            max_outage: Duration::ZERO,
        };
        let one = &dataset.realtime.series[0];
        let [table, series] = [table, series].map(|rows| Memory::of(&dataset, rows));
        compare_series(&comparison, one, series, table, rows, &retry, &mut report)
            .await
            .unwrap()
            .unwrap()
    }

    /// 3,000 users with an older version each.
    fn users(dataset: &Dataset) -> [Vec<Row>; 2] {
        let (mut table, mut series) = (Vec::new(), Vec::new());
        for user in 0..3_000 {
            let [row, stored] = version(dataset, user, 5 * HOUR, "new");
            series.extend([stored, version(dataset, user, HOUR, "old")[1].clone()]);
            table.push(row);
        }
        [table, series]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn older_versions_are_no_difference_in_one_pass_or_several() {
        let dataset = Dataset::load(None).unwrap();
        for about in [0, 3_000, 2 * PASS_KEYS] {
            let [table, series] = users(&dataset);
            let expected = ComparedSeries {
                keys: 3_000,
                rows: 6_000,
                ..ComparedSeries::default()
            };
            assert_eq!(compared(table, series, about).await, expected, "{about}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_way_not_to_fit_is_counted() {
        let dataset = Dataset::load(None).unwrap();
        for about in [0, 2 * PASS_KEYS] {
            let [table, mut series] = users(&dataset);
            let bucket = dataset.fields.len();
            series.remove(0); // the newest row of user 0
            let last = series.len() - 2;
            series[last] = version(&dataset, 2_999, 5 * HOUR, "other")[1].clone();
            series.push(version(&dataset, 7, 6 * HOUR, "newer than the table's")[1].clone());
            series.push(version(&dataset, 9_000, HOUR, "of no user")[1].clone());
            // The newest row of user 1, in another hour: it is not where it belongs, and is where it does not.
            series[1][bucket] = Value::Timestamp(0);
            // An older one of user 1, in another shard.
            series[2][bucket + 1] = Value::Int(i64::from(u16::MAX));
            let found = compared(table, series, about).await;
            let expected = ComparedSeries {
                keys: 3_000,
                rows: 6_001,
                missing: 2,
                extra: 4,
                changed: 1,
                is_cut: false,
            };
            assert_eq!(found, expected, "{about}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_series_without_rows_or_with_all_others_is_not_compared_to_the_end() {
        let dataset = Dataset::load(None).unwrap();
        let rows = |from: u32| {
            let rows = (from..from + 70_000).map(|user| version(&dataset, user, HOUR, "a"));
            rows.collect::<Vec<_>>()
        };
        let table = || rows(0).into_iter().map(|[row, _]| row).collect();
        let lacking = compared(table(), Vec::new(), 70_000).await;
        assert_eq!((lacking.missing, lacking.is_cut), (SUSPECTS as u64, true));
        let others = rows(70_000).into_iter().map(|[_, stored]| stored).collect();
        let others = compared(table(), others, 70_000).await;
        assert_eq!((others.extra, others.is_cut), (SUSPECTS as u64, true));
    }
}
