//! How often, and when, rows are read and witnesses asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::dataset::{Dataset, FieldType};
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::record::row::Origin;
use crate::run::{LogFormat, Run, Stop};
use crate::verify::fakes::{Diary, FakeLog, witnesses};
use crate::verify::{Sample, Tolerances, compare, compare_landing};

type Row = Vec<Value<'static>>;

/// Rows in memory.
struct Memory {
    dataset: Dataset,
    rows: Vec<Row>,
    /// Rows that come after the first scan, each in the place of that of its key.
    loaded_later: Vec<Row>,
    /// Whether it has a unique index.
    has_unique_keys: bool,
    /// What the diary says of a read.
    read: &'static str,
    /// The offset that every row comes from.
    offset: Option<i64>,
    /// Whether all of them are written again whenever they are read, a second later.
    is_hot: bool,
    diary: Diary,
}

impl Memory {
    fn lend(&self, visitor: &mut dyn Visitor, is_it: impl Fn(&Value<'_>) -> bool) {
        for values in &self.rows {
            let key = &values[self.dataset.event.key];
            if is_it(key) && visitor.wants(key) {
                let row = StoredRow {
                    values,
                    foreign: &[],
                };
                if visitor.row(row).is_break() {
                    break;
                }
            }
        }
    }
}

#[async_trait]
impl TableReader for Memory {
    fn has_unique_keys(&self) -> bool {
        self.has_unique_keys
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        self.diary.add("scan");
        self.lend(visitor, |_| true);
        let key = self.dataset.event.key;
        for row in std::mem::take(&mut self.loaded_later) {
            self.rows.retain(|older| older[key] != row[key]);
            self.rows.push(row);
        }
        Ok(())
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        self.diary.add(self.read);
        self.lend(visitor, |key| keys.contains(key));
        let time = self.dataset.event.time;
        for row in self.rows.iter_mut().filter(|_| self.is_hot) {
            if let Value::Timestamp(at) = &mut row[time] {
                *at += 1_000;
            }
        }
        Ok(())
    }

    async fn provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let Some(offset) = self.offset else {
            return Ok(Vec::new());
        };
        let is_there = |key: &&Value<'_>| {
            let mut rows = self.rows.iter();
            rows.any(|row| row[self.dataset.event.key] == **key)
        };
        let kept = |key: &Value<'_>| Provenance {
            key: key.owned(),
            origin: Some(Origin {
                partition: 0,
                offset,
            }),
            digest: None,
            write_timestamps: None,
        };
        Ok(keys.iter().filter(is_there).map(kept).collect())
    }
}

/// A comparison of users whose keys are texts.
struct Setting {
    dataset: Dataset,
    comparison: Arc<Comparison>,
    retry: Retry,
    diary: Diary,
    _stop: tokio::sync::watch::Sender<Option<crate::run::Signal>>,
}

impl Setting {
    fn new(grace: Duration) -> Setting {
        let mut dataset = Dataset::load(None).unwrap();
        let key = dataset.event.key;
        dataset.fields[key].kind = FieldType::Text;
        let (sender, stop) = Stop::channel();
        let tolerances = Tolerances::parse(&dataset, &[]).unwrap();
        let mut comparison = Comparison::new(&dataset, tolerances, stop.clone());
        let diary = Diary::default();
        comparison.grace = grace;
        comparison.witnesses = Some(witnesses(&diary, None));
        let run = Run::new("verify", "1".into(), stop, LogFormat::Text, true);
        let max_outage = Duration::ZERO;
        Setting {
            dataset,
            comparison: Arc::new(comparison),
            retry: Retry { run, max_outage },
            diary,
            _stop: sender,
        }
    }

    /// Rows with keys of 40,000 bytes, so that few of them fill a group of buckets.
    fn rows(&self, count: usize) -> Vec<Row> {
        let row = |n: usize| {
            let mut row = vec![Value::Null; self.dataset.fields.len()];
            row[self.dataset.event.key] = Value::Text(format!("{n:040000}").into());
            row[self.dataset.event.time] = Value::Timestamp(1_000);
            row
        };
        (0..count).map(row).collect()
    }

    fn memory(&self, rows: Vec<Row>) -> Memory {
        Memory {
            dataset: self.dataset.clone(),
            rows,
            loaded_later: Vec::new(),
            has_unique_keys: false,
            read: "read",
            offset: None,
            is_hot: false,
            diary: self.diary.clone(),
        }
    }

    fn table(&self, rows: Vec<Row>) -> Box<dyn TableReader> {
        Box::new(self.memory(rows))
    }

    /// A row with this key, and a second of its event time.
    fn row(&self, key: &str, second: i64) -> Row {
        let mut row = self.rows(1).remove(0);
        row[self.dataset.event.key] = Value::Text(key.to_string().into());
        row[self.dataset.event.time] = Value::Timestamp(1_000 * second);
        row
    }

    fn report(&self) -> Report<'_> {
        let sample = Sample {
            most: 0,
            has_values: false,
        };
        Report::create(&self.retry.run, names(), sample, None).unwrap()
    }
}

fn names() -> [String; 2] {
    ["a", "b"].map(String::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_ledger_are_asked_once_for_all_groups_of_buckets() {
    for grace in [Duration::ZERO, Duration::from_millis(20)] {
        let setting = Setting::new(grace);
        // What differs fits into what waits for the end of the grace.
        let tables = [400, 350].map(|count| setting.table(setting.rows(count)));
        let (retry, diary) = (setting.retry.clone(), setting.diary.clone());
        let mut report = setting.report();
        let compared = compare(&setting.comparison, tables, &retry, &mut report);
        let compared = compared.await.unwrap().unwrap();
        assert_eq!((compared.missing, compared.rows), (50, [400, 350]));
        assert_eq!(compared.classes[&Class::NotLoadedYet], 50);
        let entries = diary.entries();
        let asked = entries.iter().filter(|entry| **entry == "ledger");
        assert_eq!(asked.count(), 1, "{entries:?}");
        let scans = diary.all().iter().filter(|e| **e == "scan").count();
        assert!(scans > 4, "several groups: {scans}");
        if grace > Duration::ZERO {
            // The grace is over before log and ledger are asked, and more keys than may wait are settled in few pieces.
            assert_eq!(entries[..4], ["scan", "ledger", "log", "read"]);
            let pieces = entries.iter().filter(|entry| **entry == "read").count();
            assert!(pieces <= 400 * 40_000 / WAITING_BYTES + 1, "{entries:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_ledger_are_asked_once_for_both_sides_of_all_landing_files() {
    let begun = Instant::now();
    let setting = Setting::new(Duration::from_millis(300));
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..3)
        .map(|n| {
            let path = folder.path().join(format!("{n}.ndjson"));
            let line = format!("{{\"id\":\"{n}\",\"fetched_at\":\"2026-11-01T00:00:00Z\"}}\n");
            std::fs::write(&path, line).unwrap();
            path
        })
        .collect();
    let tables = [(); 2].map(|()| setting.table(Vec::new()));
    let (retry, diary) = (setting.retry.clone(), setting.diary.clone());
    let mut report = setting.report();
    let names = names();
    let done = compare_landing(
        &setting.comparison,
        tables,
        &names,
        &files,
        &retry,
        &mut report,
    );
    let (compared, landing) = done.await.unwrap().unwrap();
    assert_eq!((landing.records, landing.rejected), (3, 0));
    assert_eq!(
        (compared.missing, compared.extra, compared.rows),
        (3, 3, [0, 0])
    );
    let entries = diary.entries();
    let asked = entries.iter().filter(|entry| **entry == "ledger");
    // Before that, how loads have read the files.
    assert_eq!(asked.count(), 2, "{entries:?}");
    let together = entries.windows(2).filter(|two| *two == ["ledger", "log"]);
    assert_eq!(together.count(), 1, "{entries:?}");
    assert!(begun.elapsed() >= setting.comparison.grace);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_group_has_written_is_not_in_flight() {
    let event = |key: &str| format!("{{\"id\":\"{key}\",\"fetched_at\":\"1970-01-01T00:00:01Z\"}}");
    // The group has committed one of three events. The row of the third one comes from before that, or from after it.
    for (offset, is_followed, class) in [
        (0, false, Class::InFlight),
        (2, false, Class::Unexplained),
        (2, true, Class::InFlight), // a slow store has a part of its batch
    ] {
        let mut setting = Setting::new(Duration::ZERO);
        let log = FakeLog {
            is_followed,
            ..FakeLog::new(1, ["a", "b", "c"].map(event).into())
        };
        let comparison = Arc::get_mut(&mut setting.comparison).unwrap();
        comparison.witnesses = Some(witnesses(&setting.diary, Some(log)));
        let table = |keys: &[&str]| Memory {
            offset: Some(offset),
            ..setting.memory(keys.iter().map(|key| setting.row(key, 1)).collect())
        };
        let tables: [Box<dyn TableReader>; 2] = [
            Box::new(table(&["a", "c"])),
            Box::new(table(&["a", "b", "c"])),
        ];
        let (retry, mut report) = (setting.retry.clone(), setting.report());
        let compared = compare(&setting.comparison, tables, &retry, &mut report);
        let compared = compared.await.unwrap().unwrap();
        assert_eq!(compared.extra, 1);
        assert_eq!(compared.classes.keys().collect::<Vec<_>>(), [&class]);
    }
}

/// The classes of what differs between an empty real-time store and a batch store with one row, of which this log has
/// each second's version.
async fn classes(log: FakeLog, is_hot: bool) -> Vec<Class> {
    let mut setting = Setting::new(Duration::ZERO);
    let comparison = Arc::get_mut(&mut setting.comparison).unwrap();
    comparison.witnesses = Some(witnesses(&setting.diary, Some(log)));
    setting.retry.max_outage = Duration::from_secs(60);
    let table = |keys: &[&str]| -> Box<dyn TableReader> {
        Box::new(Memory {
            is_hot,
            ..setting.memory(keys.iter().map(|key| setting.row(key, 1)).collect())
        })
    };
    let tables = [table(&[]), table(&["a"])];
    let (retry, mut report) = (setting.retry.clone(), setting.report());
    let compared = compare(&setting.comparison, tables, &retry, &mut report);
    let compared = compared.await.unwrap().unwrap();
    compared.classes.keys().copied().collect()
}

fn versions() -> Vec<String> {
    let version = |s: u32| format!("{{\"id\":\"a\",\"fetched_at\":\"1970-01-01T00:00:{s:02}Z\"}}");
    (1..50).map(version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_written_again_and_again_is_in_flight_while_its_events_wait() {
    assert_eq!(
        classes(FakeLog::new(0, versions()), true).await,
        [Class::InFlight]
    );
    let read = FakeLog::new(49, versions());
    assert_eq!(classes(read, true).await, [Class::Unexplained]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_away_for_a_moment_is_waited_for() {
    for away in 0..4 {
        let log = FakeLog {
            away: Arc::new(away.into()),
            ..FakeLog::new(0, versions())
        };
        assert_eq!(classes(log, false).await, [Class::InFlight], "{away}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_load_brings_meanwhile_is_not_read_again_from_the_realtime_store() {
    let setting = Setting::new(Duration::ZERO);
    let rows = |versions: &[(&str, i64)]| -> Vec<Row> {
        let rows = versions.iter();
        rows.map(|(key, second)| setting.row(key, *second))
            .collect()
    };
    for (is_batch_unique, loaded, expected, read) in [
        // All that the scan saw.
        (true, &[("a", 2), ("b", 1)][..], [0, 0], 0),
        // One of them; the other one is only older. Duplicates can hide behind a row that is equal.
        (true, &[("b", 1)], [0, 1], 1),
        (false, &[("a", 2), ("b", 1)], [0, 0], 1),
        // Nothing, and a newer version than the scan saw.
        (true, &[("a", 3)], [1, 1], 1),
    ] {
        let table = |rows, loaded_later, has_unique_keys, read| -> Box<dyn TableReader> {
            Box::new(Memory {
                loaded_later,
                has_unique_keys,
                read,
                ..setting.memory(rows)
            })
        };
        let seen = rows(&[("a", 2), ("b", 1), ("c", 1)]);
        let before = rows(&[("a", 1), ("c", 1)]);
        let tables = [
            table(seen, Vec::new(), true, "realtime"),
            table(before, rows(loaded), is_batch_unique, "batch"),
        ];
        let (retry, mut report) = (setting.retry.clone(), setting.report());
        let before = setting.diary.all().len();
        let compared = compare(&setting.comparison, tables, &retry, &mut report);
        let compared = compared.await.unwrap().unwrap();
        let since = setting.diary.all().split_off(before);
        let reads = since.iter().filter(|entry| **entry == "realtime").count();
        assert_eq!([compared.missing, compared.changed], expected, "{loaded:?}");
        assert_eq!(reads.min(1), read, "{loaded:?}");
    }
}
