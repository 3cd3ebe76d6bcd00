//! A SQLite file in all three roles.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::aggregates::SqliteAggregates;
use super::batch_store::{self, SqliteBatchStore};
use super::ddl;
use super::event_log::{self, SqliteConsumer, SqliteLogReader, SqliteProducer};
use super::ledger::SqliteLedger;
use super::monitor::{SqliteLogMonitor, SqliteStoreMonitor};
use super::realtime_store::{self, SqliteRealtimeStore};
use super::table_reader::SqliteTable;
use crate::dataset::{Dataset, Nulls};
use crate::error::Result;
use crate::ports::aggregates::Aggregates;
use crate::ports::batch_store::{BatchStore, BatchStores};
use crate::ports::event_log::{Consumer, EventLog, Producer, Topic};
use crate::ports::ledger::Ledger;
use crate::ports::log_reader::LogReader;
use crate::ports::monitor::{LogMonitor, StoreMonitor};
use crate::ports::realtime_store::{RealtimeStore, RealtimeStores, Upstream};
use crate::ports::table_reader::TableReader;
use crate::servers::{Role, Server, ServerKind};

/// `sqlite:PATH`.
pub const KIND: ServerKind = ServerKind {
    scheme: "sqlite",
    shown: "sqlite:PATH",
    roles: &[Role::EventLog, Role::RealtimeStore, Role::BatchStore],
    parse: |path| match path {
        "" => Err("`sqlite:` needs the path of a file, as in sqlite:.rtp/log.db".into()),
        // Most likely the address of a server, whose password every error about the file would show.
        path if path.contains("://") || (path.starts_with("//") && path.contains('@')) => {
            Err("`sqlite:` needs the path of a file, not the address of a server".into())
        }
        path => Ok(Arc::new(Sqlite(path.into()))),
    },
};

/// A file.
#[derive(Clone, Debug)]
pub struct Sqlite(pub PathBuf);

impl fmt::Display for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.0.display())
    }
}

impl Server for Sqlite {
    fn event_log(self: Arc<Self>) -> Option<Arc<dyn EventLog>> {
        Some(self)
    }

    fn realtime_store(self: Arc<Self>) -> Option<Arc<dyn RealtimeStores>> {
        Some(self)
    }

    fn batch_store(self: Arc<Self>) -> Option<Arc<dyn BatchStores>> {
        Some(self)
    }
}

#[async_trait]
impl EventLog for Sqlite {
    async fn create(&self, topics: &[Topic]) -> Result<Vec<String>> {
        event_log::create(&self.0, topics).map(|()| Vec::new())
    }

    fn statements(&self, _topics: &[Topic]) -> Vec<String> {
        Vec::new()
    }

    fn without_effect(&self, dataset: &Dataset) -> Vec<&'static str> {
        let event = &dataset.event;
        [
            (
                event.retention.is_some(),
                "the dataset's `retention` has no effect here, because this log keeps every event",
            ),
            (
                event.replication > 1,
                "the dataset's `replication` has no effect here, because this log is one file",
            ),
        ]
        .into_iter()
        .filter_map(|(asked, says)| asked.then_some(says))
        .collect()
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.0)
    }

    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(SqliteProducer::open(&self.0, topic)?))
    }

    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(SqliteConsumer::open(&self.0, topic, group)?))
    }

    async fn monitor(&self, topic: &str, _until: Instant) -> Result<Box<dyn LogMonitor>> {
        Ok(Box::new(SqliteLogMonitor::open(&self.0, topic)?))
    }

    async fn reader(&self, topic: &str) -> Result<Box<dyn LogReader>> {
        Ok(Box::new(SqliteLogReader::open(&self.0, topic)?))
    }
}

#[async_trait]
impl RealtimeStores for Sqlite {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        realtime_store::create(&self.0, dataset)
    }

    fn statements(&self, dataset: &Dataset) -> Vec<String> {
        ddl::realtime(dataset)
    }

    fn without_effect(&self, dataset: &Dataset) -> Vec<&'static str> {
        [
            (
                dataset.realtime.ttl.is_some(),
                "the dataset's `ttl` has no effect here, because this store keeps every row",
            ),
            (
                dataset.nulls == Nulls::Unset,
                "the dataset's `null = \"unset\"` has no effect here, because this store writes null for an absent field",
            ),
        ]
        .into_iter()
        .filter_map(|(asked, says)| asked.then_some(says))
        .collect()
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.0)
    }

    async fn open(
        &self,
        dataset: &Dataset,
        upstream: Upstream<'_>,
    ) -> Result<Box<dyn RealtimeStore>> {
        let store = SqliteRealtimeStore::open(&self.0, dataset, upstream)?;
        Ok(Box::new(store))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = SqliteTable::open(&self.0, dataset, &dataset.realtime.table)?;
        Ok(Box::new(table))
    }

    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        Ok(Box::new(SqliteStoreMonitor::realtime(&self.0, dataset)?))
    }
}

#[async_trait]
impl BatchStores for Sqlite {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        batch_store::create(&self.0, dataset)
    }

    fn statements(&self, dataset: &Dataset) -> Vec<String> {
        ddl::batch(dataset)
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.0)
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        Ok(Box::new(SqliteBatchStore::open(&self.0, dataset)?))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = SqliteTable::open(&self.0, dataset, &dataset.batch.table)?;
        Ok(Box::new(table))
    }

    async fn aggregates(&self, dataset: &Dataset) -> Result<Box<dyn Aggregates>> {
        Ok(Box::new(SqliteAggregates::open(&self.0, dataset)?))
    }

    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        Ok(Box::new(SqliteStoreMonitor::batch(&self.0, dataset)?))
    }

    async fn ledger(&self, dataset: &Dataset) -> Result<Box<dyn Ledger>> {
        Ok(Box::new(SqliteLedger::open(&self.0, dataset)?))
    }
}
