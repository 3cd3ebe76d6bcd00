//! The monitors of the embedded log and stores, intact and broken.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::error::{Error, Result};
use rtp::ports::conformance::Abilities;
use rtp::ports::conformance::monitor::{log, store};
use rtp::ports::conformance::table_reader::Harness as TableHarness;
use rtp::ports::event_log::{Offsets, Producer};
use rtp::ports::monitor::{
    Lag, LogMonitor, OutOfRange, RowCount, StoreMonitor, Stored, probe_topic,
};
use rtp::ports::table_reader::TableReader;
use rtp::record::event::{Event, EventBatch};
use rtp::record::row::Rows;
use rtp::servers::sqlite::event_log::SqliteProducer;
use rtp::servers::sqlite::monitor::{SqliteLogMonitor, SqliteStoreMonitor};

use super::event_log::Beside;
use super::table::{Kind, Table};
use super::{each_case_can_fail, keeps_all};

/// One way to break the promises of a log's monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogBreak {
    SaysOkWithoutAProbe,
    ProbesTheTopicItself,
    KeepsEveryProbe,
    CountsWhatIsCommitted,
    ForgetsWhoStarted,
    TellsTheTimeOfAsking,
    LeavesTheStoreOut,
    TakesAnyOffset,
    TakesAnyEvent,
    TakesWhatIsMissing,
}

const LOG_BREAKERS: &[(LogBreak, &str)] = &[
    (
        LogBreak::SaysOkWithoutAProbe,
        "a_probe_is_written_and_read_back",
    ),
    (
        LogBreak::ProbesTheTopicItself,
        "a_probe_leaves_the_topic_alone",
    ),
    (
        LogBreak::KeepsEveryProbe,
        "probes_leave_a_bounded_number_of_events",
    ),
    (
        LogBreak::CountsWhatIsCommitted,
        "lag_is_what_the_group_has_not_committed",
    ),
    (
        LogBreak::ForgetsWhoStarted,
        "lag_is_what_the_group_has_not_committed",
    ),
    (
        LogBreak::TellsTheTimeOfAsking,
        "lag_is_what_the_group_has_not_committed",
    ),
    (
        LogBreak::LeavesTheStoreOut,
        "a_store_that_has_less_lags_more",
    ),
    (LogBreak::TakesAnyOffset, "an_offset_beyond_the_end_is_told"),
    (
        LogBreak::TakesAnyEvent,
        "an_offset_after_another_event_is_told",
    ),
    (
        LogBreak::TakesAnyOffset,
        "an_offset_of_a_missing_event_is_told",
    ),
    (LogBreak::TakesWhatIsMissing, "a_missing_topic_is_an_error"),
];

/// The embedded log, monitored.
type WatchedLog = Beside<LogBreak>;

#[async_trait]
impl log::Harness for WatchedLog {
    async fn monitor(&self, topic: &str) -> Result<Box<dyn LogMonitor>> {
        let inner = SqliteLogMonitor::open(&self.log.path(), topic);
        Ok(match self.broken {
            None => Box::new(inner?),
            Some(LogBreak::TakesWhatIsMissing) if inner.is_err() => Box::new(Nothing),
            Some(broken) => Box::new(BrokenLogMonitor {
                inner: inner?,
                broken,
                path: self.log.path(),
                topic: topic.into(),
            }),
        })
    }
}

/// Monitors something that does not exist.
struct Nothing;

#[async_trait]
impl LogMonitor for Nothing {
    async fn probe(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn lag(&mut self, _: &str, _: Option<&Stored>) -> Result<Lag> {
        Ok(Lag::default())
    }

    async fn out_of_range(&mut self, _: &Offsets) -> Result<Vec<OutOfRange>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl StoreMonitor for Nothing {
    async fn probe(&mut self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    async fn last_write(&mut self) -> Result<Option<i64>> {
        Ok(None)
    }
}

struct BrokenLogMonitor {
    inner: SqliteLogMonitor,
    broken: LogBreak,
    path: PathBuf,
    topic: String,
}

/// Appends an event.
async fn append(path: &std::path::Path, topic: &str, value: &str) -> Result<()> {
    let mut batch = EventBatch::default();
    batch.push(Event::new(None, Some(value.as_bytes()), &[]));
    let mut producer = SqliteProducer::open(path, topic)?;
    producer.send(&Arc::new(batch)).await?;
    producer.flush().await.map(|_| ())
}

#[async_trait]
impl LogMonitor for BrokenLogMonitor {
    async fn probe(&mut self, id: &str) -> Result<()> {
        match self.broken {
            LogBreak::SaysOkWithoutAProbe => Ok(()),
            LogBreak::ProbesTheTopicItself => append(&self.path, &self.topic, id).await,
            LogBreak::KeepsEveryProbe => append(&self.path, &probe_topic(&self.topic), id).await,
            _ => self.inner.probe(id).await,
        }
    }

    async fn lag(&mut self, group: &str, stored: Option<&Stored>) -> Result<Lag> {
        let lag = self.inner.lag(group, stored).await?;
        Ok(match self.broken {
            LogBreak::CountsWhatIsCommitted => Lag {
                partitions: self.inner.lag("nobody", None).await?.partitions,
                ..lag
            },
            LogBreak::LeavesTheStoreOut => self.inner.lag(group, None).await?,
            LogBreak::ForgetsWhoStarted => Lag {
                started: false,
                ..lag
            },
            LogBreak::TellsTheTimeOfAsking => Lag {
                oldest: lag.oldest.map(|_| rtp::time::now_ms()),
                ..lag
            },
            _ => lag,
        })
    }

    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        match self.broken {
            LogBreak::TakesAnyOffset => Ok(Vec::new()),
            LogBreak::TakesAnyEvent => {
                let unmarked = offsets.iter().collect();
                self.inner.out_of_range(&unmarked).await
            }
            _ => self.inner.out_of_range(offsets).await,
        }
    }
}

/// One way to break the promises of a store's monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreBreak {
    ProbesTheTableItself,
    NeverTellsOfAWrite,
    TellsOfProbes,
    TellsOfOtherDatasets,
    CountsOneMore,
    TakesWhatIsMissing,
}

const STORE_BREAKERS: &[(StoreBreak, &str)] = &[
    (
        StoreBreak::ProbesTheTableItself,
        "a_probe_leaves_the_table_alone",
    ),
    (
        StoreBreak::NeverTellsOfAWrite,
        "the_last_write_is_that_of_the_datasets_rows",
    ),
    (
        StoreBreak::TellsOfProbes,
        "the_last_write_is_that_of_the_datasets_rows",
    ),
    (
        StoreBreak::TellsOfOtherDatasets,
        "the_last_write_is_that_of_the_datasets_rows",
    ),
    (StoreBreak::CountsOneMore, "few_rows_are_counted_exactly"),
    (
        StoreBreak::TakesWhatIsMissing,
        "a_missing_table_is_an_error",
    ),
];

/// An embedded store, monitored.
struct WatchedStore {
    table: Table,
    broken: Option<StoreBreak>,
}

impl WatchedStore {
    fn new(kind: Kind, broken: Option<StoreBreak>) -> WatchedStore {
        let table = Table::new(kind, None);
        WatchedStore { table, broken }
    }
}

impl Abilities for WatchedStore {}

#[async_trait]
impl TableHarness for WatchedStore {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        self.table.create(dataset).await
    }

    async fn write(&self, dataset: &Dataset, rows: &Rows) -> Result<()> {
        self.table.write(dataset, rows).await
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        self.table.table(dataset).await
    }

    async fn plant_text(&self, dataset: &Dataset, column: &str, text: &str) -> Result<()> {
        self.table.plant_text(dataset, column, text).await
    }
}

#[async_trait]
impl store::Harness for WatchedStore {
    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        let path = self.table.path();
        let inner = match self.table.kind {
            Kind::Realtime => SqliteStoreMonitor::realtime(&path, dataset),
            Kind::Batch => SqliteStoreMonitor::batch(&path, dataset),
        };
        Ok(match self.broken {
            None => Box::new(inner?),
            Some(StoreBreak::TakesWhatIsMissing) if inner.is_err() => Box::new(Nothing),
            Some(broken) => Box::new(BrokenStoreMonitor {
                inner: inner?,
                broken,
                path,
                rows: rtp::servers::sqlite::ddl::rows_of(self.table.name(dataset)),
                probed: None,
            }),
        })
    }
}

struct BrokenStoreMonitor {
    inner: SqliteStoreMonitor,
    broken: StoreBreak,
    path: PathBuf,
    rows: String,
    probed: Option<i64>,
}

impl BrokenStoreMonitor {
    fn execute(&self, sql: &str) -> Result<Option<i64>> {
        let db = rusqlite::Connection::open(&self.path);
        db.and_then(|db| db.query_row(sql, [], |row| row.get(0)))
            .map_err(|e| Error::refused(e.to_string()))
    }
}

#[async_trait]
impl StoreMonitor for BrokenStoreMonitor {
    async fn probe(&mut self, writer: &str, id: &str) -> Result<()> {
        self.probed = Some(rtp::time::now_ms());
        match self.broken {
            StoreBreak::ProbesTheTableItself => {
                let touch = format!("UPDATE \"{}\" SET title = 'probe' RETURNING 1", self.rows);
                self.execute(&touch).map(|_| ())
            }
            _ => self.inner.probe(writer, id).await,
        }
    }

    async fn rows(&mut self) -> Result<Option<RowCount>> {
        let counted = self.inner.rows().await?;
        let more = u64::from(self.broken == StoreBreak::CountsOneMore);
        Ok(counted.map(|counted| RowCount {
            count: counted.count + more,
            ..counted
        }))
    }

    async fn last_write(&mut self) -> Result<Option<i64>> {
        let last = self.inner.last_write().await?;
        match self.broken {
            StoreBreak::NeverTellsOfAWrite => Ok(None),
            StoreBreak::TellsOfProbes => Ok(last.max(self.probed)),
            StoreBreak::TellsOfOtherDatasets => {
                self.execute("SELECT max(written_at) FROM rtp_offsets")
            }
            _ => Ok(last),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitors_keep_every_guarantee() {
    keeps_all(log::CASES, &WatchedLog::new(None)).await;
    for kind in [Kind::Realtime, Kind::Batch] {
        keeps_all(store::CASES, &WatchedStore::new(kind, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_monitors_can_fail() {
    each_case_can_fail(log::CASES, LOG_BREAKERS, async |broken, case| {
        let log = WatchedLog::new(Some(broken));
        case.check(&log as &dyn log::Harness).await
    })
    .await;
    each_case_can_fail(store::CASES, STORE_BREAKERS, async |broken, case| {
        let store = WatchedStore::new(Kind::Realtime, Some(broken));
        case.check(&store as &dyn store::Harness).await
    })
    .await;
}
