//! From an address to a port; the only file that names adapters.

use crate::batch_store::{self, BatchStore};
use crate::cassandra;
use crate::dataset::{self, Dataset, ddl};
use crate::error::{Error, Result};
use crate::event_log::{self, Consumer, Producer, Topic};
use crate::monitor::{self, LogMonitor, StoreMonitor};
use crate::realtime_store::{self, RealtimeStore};
use crate::source::Source;
use crate::source::file::FileSource;
use crate::source::http::{HttpSource, Timeouts};
use crate::table::{self, TableReader};
use crate::url::ServerUrl;

/// The source of a dataset, and the dataset's declaration as it applies there: a folder of saved
/// bodies has neither parameters nor limits, and each file leads to the next.
pub fn source(
    api: &::url::Url,
    dataset: &Dataset,
    timeouts: Timeouts,
) -> Result<(Box<dyn Source>, dataset::Source)> {
    if api.scheme() != "file" {
        let http = HttpSource::new(&dataset.source, timeouts)?;
        let mut declared = dataset.source.clone();
        declared.url = api.to_string();
        return Ok((Box::new(http), declared));
    }
    let files = FileSource::open(api)?;
    let declared = dataset::Source {
        url: files.first().map_or_else(String::new, ToString::to_string),
        records: dataset.source.records.clone(),
        error: dataset.source.error.clone(),
        ..dataset::Source::plain()
    };
    Ok((Box::new(files), declared))
}

/// The topics of a dataset: its own, its dead letters, and heartbeat's probes.
pub fn topics(dataset: &Dataset) -> [Topic; 3] {
    let event = &dataset.event;
    let topic = |name: String, partitions, retention| Topic {
        name,
        partitions,
        replication: event.replication,
        retention,
    };
    [
        topic(event.topic.clone(), event.partitions, event.retention),
        topic(event.dead_letter_topic(), 1, event.retention),
        topic(
            monitor::probe_topic(&event.topic),
            1,
            Some(monitor::PROBES_KEPT),
        ),
    ]
}

/// Creates topics, where they are missing.
pub async fn create_topics(url: &ServerUrl, topics: &[Topic]) -> Result<()> {
    match url {
        ServerUrl::Sqlite(path) => event_log::sqlite::create(path, topics),
        ServerUrl::Kafka(server) => event_log::kafka::create(server, topics).await,
        other => Err(cannot_be(other, "an event log")),
    }
}

/// How topics are created there, for people: a log that takes no statements has comments.
pub fn topic_statements(url: &ServerUrl, topics: &[Topic]) -> Result<Vec<String>> {
    match url {
        ServerUrl::Sqlite(_) => Ok(Vec::new()),
        ServerUrl::Kafka(_) => Ok(topics.iter().map(event_log::kafka::statement).collect()),
        other => Err(cannot_be(other, "an event log")),
    }
}

/// A producer to a topic.
pub async fn producer(url: &ServerUrl, topic: &str) -> Result<Box<dyn Producer>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(event_log::sqlite::SqliteProducer::open(
            path, topic,
        )?)),
        ServerUrl::Kafka(server) => Ok(Box::new(
            event_log::kafka::KafkaProducer::open(server, topic).await?,
        )),
        other => Err(cannot_be(other, "an event log")),
    }
}

/// A member of a consumer group.
pub async fn consumer(url: &ServerUrl, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(event_log::sqlite::SqliteConsumer::open(
            path, topic, group,
        )?)),
        ServerUrl::Kafka(server) => Ok(Box::new(
            event_log::kafka::KafkaConsumer::open(server, topic, group).await?,
        )),
        other => Err(cannot_be(other, "an event log")),
    }
}

/// Creates the real-time store's tables, where they are missing.
pub async fn create_realtime_tables(url: &ServerUrl, dataset: &Dataset) -> Result<()> {
    match url {
        ServerUrl::Sqlite(path) => realtime_store::sqlite::create(path, dataset),
        ServerUrl::Cassandra(server) => realtime_store::cassandra::create(server, dataset).await,
        other => Err(cannot_be(other, "a real-time store")),
    }
}

/// The statements that create the real-time store's tables.
pub fn realtime_statements(url: &ServerUrl, dataset: &Dataset) -> Result<Vec<String>> {
    match url {
        ServerUrl::Sqlite(_) => Ok(ddl::sqlite_realtime(dataset)),
        ServerUrl::Cassandra(_) => Ok(cassandra::statements(dataset)),
        other => Err(cannot_be(other, "a real-time store")),
    }
}

/// A real-time store, for a consumer group of the dataset's topic.
pub async fn realtime_store(
    url: &ServerUrl,
    dataset: &Dataset,
    group: &str,
) -> Result<Box<dyn RealtimeStore>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(realtime_store::sqlite::SqliteRealtimeStore::open(
            path, dataset, group,
        )?)),
        ServerUrl::Cassandra(server) => Ok(Box::new(
            realtime_store::cassandra::CassandraStore::open(server, dataset).await?,
        )),
        other => Err(cannot_be(other, "a real-time store")),
    }
}

/// Creates the batch store's tables, where they are missing.
pub async fn create_batch_tables(url: &ServerUrl, dataset: &Dataset) -> Result<()> {
    match url {
        ServerUrl::Sqlite(path) => batch_store::sqlite::create(path, dataset),
        ServerUrl::Postgres(server) => batch_store::postgres::create(server, dataset).await,
        other => Err(cannot_be(other, "a batch store")),
    }
}

/// The statements that create the batch store's tables.
pub fn batch_statements(url: &ServerUrl, dataset: &Dataset) -> Result<Vec<String>> {
    match url {
        ServerUrl::Sqlite(_) => Ok(ddl::sqlite_batch(dataset)),
        ServerUrl::Postgres(_) => Ok(batch_store::postgres::statements(dataset)),
        other => Err(cannot_be(other, "a batch store")),
    }
}

/// A batch store.
pub async fn batch_store(url: &ServerUrl, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(batch_store::sqlite::SqliteBatchStore::open(
            path, dataset,
        )?)),
        ServerUrl::Postgres(server) => Ok(Box::new(
            batch_store::postgres::PostgresBatchStore::open(server, dataset).await?,
        )),
        other => Err(cannot_be(other, "a batch store")),
    }
}

/// The real-time store's table, for reading.
pub async fn realtime_table(url: &ServerUrl, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
    table(url, dataset, &dataset.realtime.table).await
}

/// The batch store's table, for reading.
pub async fn batch_table(url: &ServerUrl, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
    table(url, dataset, &dataset.batch.table).await
}

async fn table(url: &ServerUrl, dataset: &Dataset, table: &str) -> Result<Box<dyn TableReader>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(table::sqlite::SqliteTable::open(
            path, dataset, table,
        )?)),
        ServerUrl::Postgres(server) => Ok(Box::new(
            table::postgres::PostgresTable::open(server, dataset, table).await?,
        )),
        ServerUrl::Cassandra(server) => Ok(Box::new(
            table::cassandra::CassandraTable::open(server, dataset, table).await?,
        )),
        other => Err(cannot_be(other, "a store")),
    }
}

/// Watches the topic of the dataset.
pub async fn log_monitor(url: &ServerUrl, dataset: &Dataset) -> Result<Box<dyn LogMonitor>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(monitor::sqlite::SqliteLogMonitor::open(
            path,
            &dataset.event.topic,
        )?)),
        ServerUrl::Kafka(server) => Ok(Box::new(
            monitor::kafka::KafkaLogMonitor::open(server, &dataset.event.topic).await?,
        )),
        other => Err(cannot_be(other, "an event log")),
    }
}

/// Watches the real-time store.
pub async fn realtime_monitor(url: &ServerUrl, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(monitor::sqlite::SqliteStoreMonitor::realtime(
            path, dataset,
        )?)),
        ServerUrl::Cassandra(server) => Ok(Box::new(
            monitor::cassandra::CassandraMonitor::open(server, dataset).await?,
        )),
        other => Err(cannot_be(other, "a real-time store")),
    }
}

/// Watches the batch store.
pub async fn batch_monitor(url: &ServerUrl, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(monitor::sqlite::SqliteStoreMonitor::batch(
            path, dataset,
        )?)),
        ServerUrl::Postgres(server) => Ok(Box::new(
            monitor::postgres::PostgresStoreMonitor::open(server, dataset).await?,
        )),
        other => Err(cannot_be(other, "a batch store")),
    }
}

/// The command line's own parsers let no such address through.
fn cannot_be(url: &ServerUrl, role: &str) -> Error {
    Error::invalid(format!("{url} cannot be {role}"))
}
