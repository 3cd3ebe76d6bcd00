use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::dataset::{Dataset, Nulls};
use crate::ports::table_reader::Provenance;
use crate::record::row::Origin;
use crate::run::{LogFormat, Run, Signal, Stop};
use crate::verify::fakes::{Diary, FakeLog, witnesses};
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

    /// Each row is from the event whose offset is the number in its key.
    async fn provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let kept = |key: &Value<'_>| {
            let offset = i64::from_str_radix(&key.to_string()[24..], 16).unwrap();
            Provenance {
                key: key.owned(),
                origin: Origin::of(Some(0), Some(offset)),
                digest: None,
                write_timestamps: None,
            }
        };
        Ok(keys.iter().map(kept).collect())
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
    compared_of(&Dataset::load(None).unwrap(), table, series, rows).await
}

async fn compared_of(
    dataset: &Dataset,
    table: Vec<Row>,
    series: Vec<Row>,
    rows: u64,
) -> ComparedSeries {
    compared_part(dataset, table, series, None, rows, None).await
}

async fn compared_part(
    dataset: &Dataset,
    table: Vec<Row>,
    series: Vec<Row>,
    only: Option<&[Value<'static>]>,
    rows: u64,
    log: Option<FakeLog>,
) -> ComparedSeries {
    let tolerances = Tolerances::parse(dataset, &[]).unwrap();
    let mut comparison = Comparison::new(dataset, tolerances, Stop::channel().1);
    comparison.witnesses = log.map(|log| witnesses(&Diary::default(), Some(log)));
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
    let [table, series] = [table, series].map(|rows| Memory::of(dataset, rows));
    let part = SeriesPart {
        series: one,
        only,
        rows,
    };
    compare_series(&comparison, part, series, table, &retry, &mut report)
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
            ..ComparedSeries::default()
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

/// Newest rows without a value that the table still has, so that each is a suspect, and fits when it is read again.
fn unset(dataset: &Dataset, users: std::ops::Range<u32>) -> [Vec<Row>; 2] {
    let email = dataset.field_index("email").unwrap();
    let [mut table, mut series] = [Vec::new(), Vec::new()];
    for user in users {
        let [row, mut stored] = version(dataset, user, HOUR, "kept");
        stored[email] = Value::Null;
        table.push(row);
        series.push(stored);
    }
    [table, series]
}

#[tokio::test(flavor = "multi_thread")]
async fn suspects_that_fit_do_not_hide_the_rows_after_them() {
    let mut dataset = Dataset::load(None).unwrap();
    dataset.nulls = Nulls::Unset;
    let users = 70_000;
    let [table, mut series] = unset(&dataset, 0..users);
    let expected = ComparedSeries {
        keys: users.into(),
        rows: users.into(),
        ..ComparedSeries::default()
    };
    let found = compared_of(&dataset, table.clone(), series.clone(), users.into()).await;
    assert_eq!((found, found.is_equal()), (expected, true));
    series.pop();
    let expected = ComparedSeries {
        rows: u64::from(users) - 1,
        missing: 1,
        ..expected
    };
    let found = compared_of(&dataset, table, series, users.into()).await;
    assert_eq!((found, found.is_equal()), (expected, false));
}

/// A series without rows for the scan, which must not be read again.
struct NeverReadAgain;

#[async_trait]
impl SeriesReader for NeverReadAgain {
    async fn scan(&mut self, _: &mut dyn Visitor) -> Result<()> {
        Ok(())
    }

    async fn read(&mut self, _: &[Place], _: &mut dyn Visitor) -> Result<()> {
        panic!("read again after the stop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suspects_are_not_read_again_after_a_stop() {
    let dataset = Dataset::load(None).unwrap();
    let (sender, stop) = Stop::channel();
    sender.send_replace(Some(Signal::Interrupt));
    let table = Memory::of(&dataset, users(&dataset)[0].clone());
    let tolerances = Tolerances::parse(&dataset, &[]).unwrap();
    let comparison = Comparison::new(&dataset, tolerances, stop.clone());
    let retry = Retry {
        run: Run::new("verify", "1".into(), stop, LogFormat::Text, true),
        max_outage: Duration::ZERO,
    };
    let sample = Sample {
        most: 0,
        has_values: false,
    };
    let names = ["a", "b"].map(String::from);
    let mut report = Report::create(&retry.run, names, sample, None).unwrap();
    let one = &dataset.realtime.series[0];
    let series = Box::new(NeverReadAgain);
    let part = SeriesPart {
        series: one,
        only: None,
        rows: 3_000,
    };
    let compared = compare_series(&comparison, part, series, table, &retry, &mut report).await;
    assert_eq!(compared.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_some_keys_only_these_are_compared() {
    let dataset = Dataset::load(None).unwrap();
    // The series lacks the first, has the second in a wrong place, and another value of the third.
    let rows: Vec<[Row; 2]> = (1..=5).map(|n| version(&dataset, n, HOUR, "a")).collect();
    let table: Vec<Row> = rows.iter().map(|[row, _]| row.clone()).collect();
    let mut series: Vec<Row> = rows.iter().skip(1).map(|[_, row]| row.clone()).collect();
    series[0][dataset.fields.len()] = Value::Timestamp(0);
    series[1] = version(&dataset, 3, HOUR, "b")[1].clone();
    let key = |n: usize| rows[n - 1][0][dataset.event.key].clone();
    for (named, [keys, missing, extra, changed]) in [
        (&[4, 5][..], [2, 0, 0, 0]),
        (&[1, 4], [2, 1, 0, 0]),
        (&[2], [1, 1, 1, 0]),
        (&[3], [1, 0, 0, 1]),
        (&[], [0, 0, 0, 0]),
    ] {
        let only: Vec<Value<'static>> = named.iter().map(|n| key(*n)).collect();
        let (table, series) = (table.clone(), series.clone());
        let found = compared_part(&dataset, table, series, Some(&only), 0, None).await;
        let counts = [found.keys, found.missing, found.extra, found.changed];
        assert_eq!(counts, [keys, missing, extra, changed], "{named:?}");
    }
}

#[test]
fn what_was_not_compared_to_the_end_is_not_equal() {
    let cut = ComparedSeries {
        is_cut: true,
        ..ComparedSeries::default()
    };
    assert!(!cut.is_equal() && ComparedSeries::default().is_equal());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_version_outlives_its_key_only_where_rows_expire() {
    let mut dataset = Dataset::load(None).unwrap();
    let late = version(&dataset, 1, HOUR, "late")[1].clone();
    let mut misplaced = version(&dataset, 2, HOUR, "misplaced")[1].clone();
    misplaced[dataset.fields.len()] = Value::Timestamp(0);
    for (ttl, outlived, extra) in [(None, 0, 2), (Some(Duration::from_secs(1)), 1, 1)] {
        dataset.realtime.ttl = ttl;
        let series = vec![late.clone(), misplaced.clone()];
        let expected = ComparedSeries {
            rows: 2,
            outlived,
            extra,
            ..ComparedSeries::default()
        };
        let found = compared_of(&dataset, Vec::new(), series, 0).await;
        assert_eq!(found, expected, "{ttl:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_and_last_times_that_a_store_can_hold_have_a_place() {
    let dataset = Dataset::load(None).unwrap();
    for time in [i64::MIN, -1, i64::MAX] {
        let [row, stored] = version(&dataset, 1, time, "a");
        assert!(
            compared(vec![row], vec![stored], 1).await.is_equal(),
            "{time}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_is_writing_is_explained_and_what_it_has_committed_is_not() {
    let dataset = Dataset::load(None).unwrap();
    let row = |n: u32, time: i64, email: &str| version(&dataset, n, time, email);
    let event = |n: u32, ms: i64, email: &str| {
        let id = Value::Uuid(uuid::Uuid::from_u128(n.into()));
        let time = crate::time::format_ms(ms);
        format!("{{\"id\":\"{id}\",\"email\":\"{email}\",\"fetched_at\":\"{time}\"}}")
    };
    // The events at offsets 0 to 5; the series lacks 2 and 4, and has 5, which the table lacks.
    let events = (0..6).map(|n| event(n, HOUR, "a")).collect();
    let table: Vec<Row> = (0..5).map(|n| row(n, HOUR, "a")[0].clone()).collect();
    let mut series: Vec<Row> = [0, 1, 3, 5].map(|n| row(n, HOUR, "a")[1].clone()).into();
    for (committed, outside, explained, agrees) in [
        (2, false, 3, true),
        (3, false, 2, false),
        (6, false, 0, false),
        (2, true, 3, false),
    ] {
        if outside {
            // A row that was never produced.
            series.push(row(9, HOUR, "b")[1].clone());
        }
        let log = FakeLog::new(committed, Vec::clone(&events));
        let (table, series) = (table.clone(), series.clone());
        let found = compared_part(&dataset, table, series, None, 0, Some(log)).await;
        assert_eq!((found.missing, found.extra), (2, 1 + u64::from(outside)));
        assert_eq!(
            (found.explained, found.agrees()),
            (explained, agrees),
            "{committed}"
        );
        assert!(!found.is_equal());
    }
}
