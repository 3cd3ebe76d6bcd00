//! How often, and when, rows are read and witnesses asked.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::dataset::{Dataset, FieldType};
use crate::ports::batch_store::{BatchStore, BatchStores};
use crate::ports::event_log::{Consumer, EventLog, Producer, Topic};
use crate::ports::ledger::{Ledger, LoadInfo, LoadRecord, Verdict};
use crate::ports::log_reader::LogReader;
use crate::ports::monitor::{LogMonitor, StoreMonitor};
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::run::{LogFormat, Run, Stop};
use crate::verify::{Sample, Tolerances, Witnesses, compare, compare_landing};

/// What was done, in order.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<&'static str>>>);

impl Diary {
    fn add(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    /// What was done, each once if it was done several times in a row.
    fn entries(&self) -> Vec<&'static str> {
        let mut entries = self.0.lock().unwrap().clone();
        entries.dedup();
        entries
    }
}

type Row = Vec<Value<'static>>;

/// Rows in memory, without a unique index.
struct Memory {
    dataset: Dataset,
    rows: Vec<Row>,
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
        false
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        self.diary.add("scan");
        self.lend(visitor, |_| true);
        Ok(())
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        self.diary.add("read");
        self.lend(visitor, |key| keys.contains(key));
        Ok(())
    }

    async fn provenance(&mut self, _: &[Value<'_>]) -> Result<Vec<Provenance>> {
        Ok(Vec::new())
    }
}

/// A log and a batch store that only count how often they are asked.
#[derive(Debug)]
struct Witness(Diary);

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("witness")
    }
}

fn nothing<T>() -> Result<T> {
    Err(Error::internal("not in this test"))
}

#[async_trait]
impl EventLog for Witness {
    async fn create(&self, _: &[Topic]) -> Result<Vec<String>> {
        nothing()
    }

    fn statements(&self, _: &[Topic]) -> Vec<String> {
        Vec::new()
    }

    async fn producer(&self, _: &str) -> Result<Box<dyn Producer>> {
        nothing()
    }

    async fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>> {
        nothing()
    }

    async fn monitor(&self, _: &str, _: std::time::Instant) -> Result<Box<dyn LogMonitor>> {
        nothing()
    }

    async fn reader(&self, _: &str) -> Result<Box<dyn LogReader>> {
        self.0.add("log");
        Err(Error::refused("it is silent"))
    }
}

#[async_trait]
impl BatchStores for Witness {
    async fn create(&self, _: &Dataset) -> Result<()> {
        nothing()
    }

    fn statements(&self, _: &Dataset) -> Vec<String> {
        Vec::new()
    }

    async fn open(&self, _: &Dataset) -> Result<Box<dyn BatchStore>> {
        nothing()
    }

    async fn table(&self, _: &Dataset) -> Result<Box<dyn TableReader>> {
        nothing()
    }

    async fn ledger(&self, _: &Dataset) -> Result<Box<dyn Ledger>> {
        self.0.add("ledger");
        Ok(Box::new(OneLoad))
    }

    async fn monitor(&self, _: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        nothing()
    }
}

/// A ledger with one load, of nothing newer than 1970.
struct OneLoad;

#[async_trait]
impl Ledger for OneLoad {
    async fn loads(&mut self, _: u32) -> Result<Vec<LoadRecord>> {
        let info = LoadInfo {
            run_id: "r1".into(),
            newest: Some(0),
            ..LoadInfo::default()
        };
        Ok(vec![LoadRecord {
            info,
            mode: "update-if-newer".into(),
            loaded_at: 1,
            written: 0,
        }])
    }

    async fn add_verdict(&mut self, _: &Verdict) -> Result<()> {
        nothing()
    }

    async fn verdicts(&mut self, _: u32) -> Result<Vec<Verdict>> {
        nothing()
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
        comparison.witnesses = Some(Witnesses {
            event_log: Arc::new(Witness(diary.clone())),
            batch_store: Arc::new(Witness(diary.clone())),
            group: "rtp".into(),
        });
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

    fn table(&self, rows: Vec<Row>) -> Box<dyn TableReader> {
        Box::new(Memory {
            dataset: self.dataset.clone(),
            rows,
            diary: self.diary.clone(),
        })
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
        let tables = [setting.rows(400), Vec::new()].map(|rows| setting.table(rows));
        let (retry, diary) = (setting.retry.clone(), setting.diary.clone());
        let mut report = setting.report();
        let compared = compare(&setting.comparison, tables, &retry, &mut report);
        let compared = compared.await.unwrap().unwrap();
        assert_eq!((compared.missing, compared.rows), (400, [400, 0]));
        assert_eq!(compared.classes[&Class::NotLoadedYet], 400);
        let entries = diary.entries();
        let asked = entries.iter().filter(|entry| **entry == "ledger");
        assert_eq!(asked.count(), 1, "{entries:?}");
        let scans = diary
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|e| **e == "scan")
            .count();
        assert!(scans > 4, "several groups: {scans}");
        if grace > Duration::ZERO {
            // The grace is over before log and ledger are asked, so no key waited for another one.
            assert_eq!(entries, ["scan", "ledger", "log", "read"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_ledger_are_asked_once_for_both_sides_of_all_landing_files() {
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
    assert_eq!(diary.entries(), ["read", "ledger", "log", "read"]);
}
