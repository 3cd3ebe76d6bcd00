//! From an address to a port; the only file that names adapters.

use crate::dataset::Dataset;
use crate::error::Result;
use crate::event_log::{self, Consumer, Producer, Topic};
use crate::url::ServerUrl;

/// The topics of a dataset: its own, and its dead letters.
pub fn topics(dataset: &Dataset) -> [Topic; 2] {
    [
        Topic {
            name: dataset.event.topic.clone(),
            partitions: dataset.event.partitions,
        },
        Topic {
            name: dataset.event.dead_letter_topic(),
            partitions: 1,
        },
    ]
}

/// Creates topics, where they are missing.
pub fn create_topics(url: &ServerUrl, topics: &[Topic]) -> Result<()> {
    match url {
        ServerUrl::Sqlite(path) => event_log::sqlite::create(path, topics),
    }
}

/// A producer to a topic.
pub fn producer(url: &ServerUrl, topic: &str) -> Result<Box<dyn Producer>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(event_log::sqlite::SqliteProducer::open(
            path, topic,
        )?)),
    }
}

/// A member of a consumer group.
pub fn consumer(url: &ServerUrl, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
    match url {
        ServerUrl::Sqlite(path) => Ok(Box::new(event_log::sqlite::SqliteConsumer::open(
            path, topic, group,
        )?)),
    }
}
