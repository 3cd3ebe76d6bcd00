//! Appends to a topic on Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::error::{Error, Result};
use crate::ports::event_log::Producer;
use crate::record::event::EventBatch;
use crate::servers::address::Address;
use crate::servers::kafka::{self, Health, REQUEST_TIMEOUT};

use super::native::{Failures, TopicProducer};

/// Pause between two checks of the time while no report arrives.
const REPORT_TIMEOUT: Duration = Duration::from_millis(100);

/// Maximum bytes of a batch of events, by the client's default.
const BATCH_BYTES: usize = 1_000_000;

/// Kafka's own limit of a batch.
const DEFAULT_LIMIT: usize = 1_048_588;

/// Bytes that Kafka adds to a single event in a batch: 61 for the batch, 36 for the event, and some for its
/// headers.
const OVERHEAD: usize = 256;

/// Appends to one topic.
pub struct KafkaProducer {
    producer: TopicProducer<Health>,
    health: Health,
    server: Address,
    topic: String,
    /// Maximum bytes of a batch that the topic accepts.
    max_batch_bytes: usize,
}

impl std::fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "KafkaProducer({}, {})",
            kafka::address(&self.server),
            self.topic
        )
    }
}

impl KafkaProducer {
    /// Opens a topic for appending.
    pub async fn open(server: &Address, topic: &str) -> Result<Self> {
        tokio::task::block_in_place(|| {
            let opened = Self::connect(server, topic, BATCH_BYTES)?;
            match opened.max_batch_bytes {
                // A batch of events that is larger than this is refused as a whole.
                limit @ ..BATCH_BYTES => Self::connect(server, topic, limit),
                _ => Ok(opened),
            }
        })
    }

    fn connect(server: &Address, topic: &str, batch_bytes: usize) -> Result<Self> {
        let mut config = kafka::config(server)?;
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2"),
            // The caller decides how long to wait for an outage.
            ("message.timeout.ms", "0"),
            // A request that is given up before its answer arrives makes an idempotent producer stop and
            // find out what was accepted, which takes longer than a short pause of the broker.
            ("socket.timeout.ms", "30000"),
            ("queue.buffering.max.kbytes", "32768"),
            // A request is sent faster from one piece of memory. It still points into a batch where its own memory has
            // no room left (librdkafka 2.12, rd_kafka_msgset_writer_write_msg_payload).
            ("message.copy.max.bytes", "1000000000"),
            // Each batch is kept, and its headers are its own, until all of its events are reported.
            ("delivery.report.only.error", "false"),
            ("linger.ms", "5"),
            // Whether the topic accepts an event is checked against the topic's own limit.
            ("message.max.bytes", "2097152"),
            ("batch.size", &batch_bytes.to_string()),
        ] {
            if !server.settings.iter().any(|(n, _)| n == name) {
                config.set(name, value);
            }
        }
        let health = Health::default();
        let producer = TopicProducer::new(&config, health.clone(), topic)
            .map_err(|e| kafka::error(server, &e))?;
        kafka::first_partitions(producer.client(), &health, server, topic, || {
            producer.listen(Duration::ZERO);
        })?;
        kafka::hasten_producer_id(producer.client(), topic);
        let limit = producer.property("max.message.bytes", REQUEST_TIMEOUT);
        Ok(KafkaProducer {
            max_batch_bytes: limit
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or(DEFAULT_LIMIT),
            producer,
            health,
            server: server.clone(),
            topic: topic.into(),
        })
    }

    fn why_unknown(&self) -> Error {
        kafka::why_unknown(
            self.producer.client(),
            &self.health,
            &self.server,
            &self.topic,
        )
    }

    fn fail(&self, error: Error) -> Error {
        let topic = format!("cannot append to topic {}", self.topic);
        self.health.explain(&self.server, error).context(topic)
    }

    /// Handles the available reports.
    fn listen(&self) -> u64 {
        while self.producer.listen(Duration::ZERO) {}
        self.producer.reported()
    }

    /// Waits for reports until `is_enough`; `Unavailable` if none arrives for long, `Missing` if that is
    /// because the topic is gone.
    fn wait(&self, is_enough: impl Fn(&TopicProducer<Health>) -> bool) -> Result<()> {
        let health = &self.health;
        let mut has_asked = false;
        let mut last = (self.listen(), Instant::now());
        while !is_enough(&self.producer) {
            self.producer.listen(REPORT_TIMEOUT);
            let reported = self.listen();
            if reported != last.0 {
                last = (reported, Instant::now());
                has_asked = false;
                health.heard();
            }
            let silence = last.1.elapsed();
            if silence > health.doubt() && !has_asked {
                let (client, topic) = (self.producer.client(), &self.topic);
                let known = kafka::partitions_of_known(client, health, &self.server, topic);
                known.map_err(|e| self.fail(e))?;
                has_asked = true;
            }
            if silence > REQUEST_TIMEOUT {
                let at = kafka::address(&self.server);
                let silent = format!("{at} has acknowledged nothing for {REQUEST_TIMEOUT:?}");
                return Err(self.fail(Error::unavailable(silent)));
            }
        }
        Ok(())
    }

    fn send_from(&mut self, batch: &Arc<EventBatch>) -> Result<()> {
        if self.producer.is_taken() {
            self.producer.begin(batch);
        }
        loop {
            match self.producer.send() {
                Ok(()) => break,
                Err(Code::QueueFull) => {
                    // Counted before anything more is handled, because what is reported by now has made room.
                    let reported = self.producer.reported();
                    self.wait(|producer| producer.reported() > reported)?;
                }
                Err(code) => return Err(self.fail(self.why(code))),
            }
        }
        self.listen();
        Ok(())
    }

    fn wait_for_all_but(&mut self, behind: usize) -> Result<u64> {
        self.wait(|producer| producer.is_settled(behind))?;
        self.health.heard();
        let (events, Failures { count, reason }) = self.producer.settle();
        match reason {
            None => Ok(events),
            Some(code) => {
                let count = format!("{count} events were not accepted");
                Err(self.fail(self.why(code).context(count)))
            }
        }
    }

    fn why(&self, code: Code) -> Error {
        match kafka::is_unknown(code) {
            true => self.why_unknown(),
            false => kafka::coded(&kafka::address(&self.server), code),
        }
    }
}

#[async_trait]
impl Producer for KafkaProducer {
    fn max_size(&self) -> Option<usize> {
        Some(self.max_batch_bytes.saturating_sub(OVERHEAD))
    }

    async fn send(&mut self, batch: &Arc<EventBatch>) -> Result<()> {
        tokio::task::block_in_place(|| self.send_from(batch))
    }

    async fn settle(&mut self, behind: usize) -> Result<u64> {
        tokio::task::block_in_place(|| self.wait_for_all_but(behind))
    }
}
