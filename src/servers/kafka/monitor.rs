//! Watches a topic on Kafka, without joining the groups that it watches.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Error, Result};
use crate::ports::event_log::Producer;
use crate::ports::monitor::{Lag, LogMonitor, probe_event, probe_topic};
use crate::servers::address::Address;
use crate::servers::kafka::KafkaProducer;
use crate::servers::kafka::{self, Health, REQUEST_TIMEOUT};

/// How long one attempt to read an event waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);

/// A topic and its heartbeat topic.
#[derive(Debug)]
pub struct KafkaLogMonitor {
    server: Address,
    topic: String,
    producer: KafkaProducer,
}

impl KafkaLogMonitor {
    /// Opens a topic and its heartbeat topic.
    pub async fn open(server: &Address, topic: &str) -> Result<Self> {
        Ok(KafkaLogMonitor {
            producer: KafkaProducer::open(server, &probe_topic(topic)).await?,
            server: server.clone(),
            topic: topic.into(),
        })
    }
}

/// What a reader sees.
enum Seen<'a> {
    Event {
        partition: i32,
        /// In milliseconds since 1970 UTC.
        timestamp: i64,
        value: Option<&'a [u8]>,
    },
    /// This partition has no more events now.
    End(i32),
}

/// Reads partitions of a topic, independently of the groups that read it.
struct PartitionReader<'a> {
    client: BaseConsumer<Health>,
    health: Health,
    server: &'a Address,
    topic: &'a str,
}

impl<'a> PartitionReader<'a> {
    /// `group` is the group whose offsets are queried.
    fn open(server: &'a Address, topic: &'a str, group: &str) -> Result<Self> {
        let mut config = kafka::config(server)?;
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("queued.min.messages", "1")
            .set("fetch.wait.max.ms", "50");
        let health = Health::default();
        let client = BaseConsumer::from_config_and_context(&config, health.clone())
            .map_err(|e| kafka::error(server, &e))?;
        Ok(PartitionReader {
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
                    .fetch_watermarks(self.topic, partition, REQUEST_TIMEOUT);
                self.driven(marks).map(|(low, high)| (partition, low, high))
            })
            .collect()
    }

    /// Reads from these offsets until `see` has seen enough.
    fn read_from(
        &self,
        offsets: &[(i32, i64)],
        mut see: impl FnMut(Seen<'_>) -> bool,
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
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut told = None;
        while Instant::now() < deadline {
            let is_enough = match self.client.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => see(Seen::Event {
                    partition: message.partition(),
                    timestamp: message.timestamp().to_millis().unwrap_or(0),
                    value: message.payload(),
                }),
                Some(Err(KafkaError::PartitionEOF(partition))) => see(Seen::End(partition)),
                Some(Err(e)) => {
                    let known = self.driven(Err::<(), _>(e)).err();
                    match known {
                        Some(e) if !e.is_retriable() => return Err(e),
                        known => told = known,
                    }
                    false
                }
                None => false,
            };
            if is_enough {
                return Ok(());
            }
        }
        if let Some(why) = told {
            return Err(why);
        }
        let at = kafka::address(self.server);
        let silent = format!(
            "{at} returned no event of topic {} within {REQUEST_TIMEOUT:?}",
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
        let committed = self.driven(self.client.committed_offsets(list, REQUEST_TIMEOUT))?;
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
        let (oldest, empty) = self.oldest_from(&firsts)?;
        lag.oldest = oldest;
        for (partition, behind) in &mut lag.partitions {
            if empty.contains(partition) {
                *behind = 0; // what a transaction left there is not an event
            }
        }
        Ok(lag)
    }

    /// The timestamp of the oldest event from these offsets on, and the partitions without one.
    fn oldest_from(&self, firsts: &[(i32, i64)]) -> Result<(Option<i64>, BTreeSet<i32>)> {
        let mut unseen: BTreeSet<i32> = firsts.iter().map(|(partition, _)| *partition).collect();
        let mut oldest: Option<i64> = None;
        let mut empty = BTreeSet::new();
        self.read_from(firsts, |seen| {
            match seen {
                Seen::Event {
                    partition,
                    timestamp,
                    ..
                } => {
                    if unseen.remove(&partition) {
                        oldest = Some(oldest.map_or(timestamp, |oldest| oldest.min(timestamp)));
                    }
                }
                Seen::End(partition) => {
                    if unseen.remove(&partition) {
                        empty.insert(partition);
                    }
                }
            }
            unseen.is_empty()
        })?;
        Ok((oldest, empty))
    }
}

#[async_trait]
impl LogMonitor for KafkaLogMonitor {
    async fn probe(&mut self, id: &str) -> Result<()> {
        let probes = probe_topic(&self.topic);
        let reader = PartitionReader::open(&self.server, &probes, "rtp-heartbeat")?;
        let ends = tokio::task::block_in_place(|| reader.ends())?;
        self.producer.send(&probe_event(id)).await?;
        self.producer.flush().await?;
        let ends: Vec<(i32, i64)> = ends.iter().map(|(p, _, high)| (*p, *high)).collect();
        tokio::task::block_in_place(|| {
            reader.read_from(
                &ends,
                |seen| matches!(seen, Seen::Event { value, .. } if value == Some(id.as_bytes())),
            )
        })
    }

    async fn lag(&mut self, group: &str) -> Result<Lag> {
        let reader = PartitionReader::open(&self.server, &self.topic, group)?;
        tokio::task::block_in_place(|| reader.lag())
    }
}
