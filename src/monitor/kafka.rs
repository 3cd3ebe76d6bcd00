//! Watches a topic on Kafka, without joining the groups that it watches.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{Lag, LogMonitor, probe_event, probe_topic};
use crate::error::{Error, Result};
use crate::event_log::Producer;
use crate::event_log::kafka::KafkaProducer;
use crate::kafka::{self, Health, PATIENCE};
use crate::url::Server;

/// How long a look for an event waits.
const LOOK: Duration = Duration::from_millis(50);

/// A topic and its heartbeat topic.
#[derive(Debug)]
pub struct KafkaLogMonitor {
    server: Server,
    topic: String,
    producer: KafkaProducer,
}

impl KafkaLogMonitor {
    /// Opens a topic and its heartbeat topic.
    pub async fn open(server: &Server, topic: &str) -> Result<Self> {
        Ok(KafkaLogMonitor {
            producer: KafkaProducer::open(server, &probe_topic(topic)).await?,
            server: server.clone(),
            topic: topic.into(),
        })
    }
}

/// Reads partitions of a topic, beside whatever groups read it.
struct Reader<'a> {
    client: BaseConsumer<Health>,
    health: Health,
    server: &'a Server,
    topic: &'a str,
}

impl<'a> Reader<'a> {
    /// `group` is the one whose offsets are asked for.
    fn open(server: &'a Server, topic: &'a str, group: &str) -> Result<Self> {
        let mut config = kafka::config(server)?;
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("queued.min.messages", "1")
            .set("fetch.wait.max.ms", "50");
        let health = Health::default();
        let client = BaseConsumer::from_config_and_context(&config, health.clone())
            .map_err(|e| kafka::error(server, &e))?;
        Ok(Reader {
            client,
            health,
            server,
            topic,
        })
    }

    fn driven<T>(&self, result: Result<T, KafkaError>) -> Result<T> {
        result.map_err(|e| {
            let known = kafka::error(self.server, &e);
            self.health
                .explain(self.server, known)
                .context(format_args!("cannot watch topic {}", self.topic))
        })
    }

    fn ends(&self) -> Result<Vec<(i32, i64, i64)>> {
        let number =
            kafka::partitions(self.client.client(), &self.health, self.server, self.topic)?;
        (0..i32::try_from(number).unwrap_or(i32::MAX))
            .map(|partition| {
                let marks = self
                    .client
                    .fetch_watermarks(self.topic, partition, PATIENCE);
                self.driven(marks).map(|(low, high)| (partition, low, high))
            })
            .collect()
    }

    /// Reads on from these offsets, until `see` has seen enough: its partition, timestamp and value.
    fn read_from(
        &self,
        offsets: &[(i32, i64)],
        mut see: impl FnMut(i32, i64, Option<&[u8]>) -> bool,
    ) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            self.driven(list.add_partition_offset(
                self.topic,
                *partition,
                Offset::Offset(*offset),
            ))?;
        }
        self.driven(self.client.assign(&list))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(Ok(message)) = self.client.poll(LOOK) {
                let timestamp = message.timestamp().to_millis().unwrap_or(0);
                if see(message.partition(), timestamp, message.payload()) {
                    return Ok(());
                }
            }
        }
        let at = kafka::address(self.server);
        let silent = format!(
            "{at} gives no event of topic {} within {PATIENCE:?}",
            self.topic
        );
        Err(self.health.explain(self.server, Error::unavailable(silent)))
    }

    fn lag(&self) -> Result<Lag> {
        let ends = self.ends()?;
        let mut list = TopicPartitionList::new();
        for (partition, ..) in &ends {
            list.add_partition(self.topic, *partition);
        }
        let committed = self.driven(self.client.committed_offsets(list, PATIENCE))?;
        let of = |partition| {
            let found = committed.find_partition(self.topic, partition);
            match found.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => Some(offset),
                _ => None,
            }
        };
        let mut lag = Lag {
            started: ends.iter().any(|(partition, ..)| of(*partition).is_some()),
            partitions: Vec::new(),
            oldest: None,
        };
        let mut firsts = Vec::new();
        for (partition, low, high) in ends {
            let first = of(partition).unwrap_or(low).max(low);
            let behind = u64::try_from(high - first).unwrap_or(0);
            lag.partitions.push((partition, behind));
            if behind > 0 {
                firsts.push((partition, first));
            }
        }
        if firsts.is_empty() {
            return Ok(lag);
        }
        let mut unseen: BTreeSet<i32> = firsts.iter().map(|(partition, _)| *partition).collect();
        self.read_from(&firsts, |partition, timestamp, _| {
            if unseen.remove(&partition) {
                lag.oldest = Some(lag.oldest.map_or(timestamp, |oldest| oldest.min(timestamp)));
            }
            unseen.is_empty()
        })?;
        Ok(lag)
    }
}

#[async_trait]
impl LogMonitor for KafkaLogMonitor {
    async fn probe(&mut self, id: &str) -> Result<()> {
        let probes = probe_topic(&self.topic);
        let reader = Reader::open(&self.server, &probes, "rtp-heartbeat")?;
        let ends = tokio::task::block_in_place(|| reader.ends())?;
        self.producer.send(&probe_event(id)).await?;
        self.producer.flush().await?;
        let ends: Vec<(i32, i64)> = ends.iter().map(|(p, _, high)| (*p, *high)).collect();
        tokio::task::block_in_place(|| {
            reader.read_from(&ends, |_, _, value| value == Some(id.as_bytes()))
        })
    }

    async fn lag(&mut self, group: &str) -> Result<Lag> {
        let reader = Reader::open(&self.server, &self.topic, group)?;
        tokio::task::block_in_place(|| reader.lag())
    }
}
