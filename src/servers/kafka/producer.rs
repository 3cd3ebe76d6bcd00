//! Appends to a topic on Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};

use crate::error::{Error, Result};
use crate::ports::event_log::Producer;
use crate::record::event::EventBatch;
use crate::servers::address::Address;
use crate::servers::kafka::{self, Health, REQUEST_TIMEOUT};

use super::native::{Failures, TopicProducer};
use super::properties::{Properties, is_secret, properties};

/// Pause between two checks of the time while no report arrives.
const REPORT_TIMEOUT: Duration = Duration::from_millis(100);

/// Maximum bytes of a batch of events, by the client's default.
const BATCH_BYTES: usize = 1_000_000;

/// The property of a topic that limits its batches, and Kafka's default of it.
const LIMIT: &str = "max.message.bytes";

/// See [`LIMIT`].
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
    limit: BatchLimit,
}

/// How large a batch the topic accepts.
#[derive(Debug, PartialEq, Eq)]
struct BatchLimit {
    bytes: usize,
    /// Why that is only assumed, if it is.
    assumed: Option<String>,
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
            let mut opened = Self::connect(server, topic, BATCH_BYTES)?;
            let limit = opened.ask_limit(opened.health.patience())?;
            if limit.bytes < BATCH_BYTES {
                // A batch of events that is larger than this is refused as a whole.
                opened = Self::connect(server, topic, limit.bytes)?;
            }
            opened.limit = limit;
            Ok(opened)
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
        Ok(KafkaProducer {
            limit: BatchLimit {
                bytes: batch_bytes,
                assumed: None,
            },
            producer,
            health,
            server: server.clone(),
            topic: topic.into(),
        })
    }

    /// The topic's own limit. Brokers that do not answer are an outage like any other.
    fn ask_limit(&self, patience: Duration) -> Result<BatchLimit> {
        let answer = properties(self.producer.client(), &self.topic, patience);
        limit_in(answer).map_err(|e| {
            let known = match kafka::is_unknown_topic(&e) {
                true => self.why_unknown(),
                false => kafka::error(&self.server, &e),
            };
            self.fail(known.context(format_args!("no answer about its {LIMIT}")))
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

/// The limit in an answer about the topic's properties: a broker that refuses to answer this user still accepts events, so
/// its default is assumed.
fn limit_in(answer: KafkaResult<Properties>) -> KafkaResult<BatchLimit> {
    let why = match answer {
        Ok(properties) => match properties.get(LIMIT).map(|bytes| bytes.parse()) {
            Some(Ok(bytes)) => {
                return Ok(BatchLimit {
                    bytes,
                    assumed: None,
                });
            }
            Some(Err(_)) | None => "it is not a number in their answer".to_string(),
        },
        Err(e) if is_secret(&e) => e.to_string(),
        Err(e) => return Err(e),
    };
    Ok(BatchLimit {
        bytes: DEFAULT_LIMIT,
        assumed: Some(format!(
            "the brokers do not tell its {LIMIT} ({why}), so Kafka's default of {DEFAULT_LIMIT} is assumed"
        )),
    })
}

#[async_trait]
impl Producer for KafkaProducer {
    fn max_size(&self) -> Option<usize> {
        Some(self.limit.bytes.saturating_sub(OVERHEAD))
    }

    fn assumed(&self) -> Option<&str> {
        self.limit.assumed.as_deref()
    }

    async fn send(&mut self, batch: &Arc<EventBatch>) -> Result<()> {
        tokio::task::block_in_place(|| self.send_from(batch))
    }

    async fn settle(&mut self, behind: usize) -> Result<u64> {
        tokio::task::block_in_place(|| self.wait_for_all_but(behind))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError;
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn a_limit_is_assumed_only_if_the_brokers_refuse_to_tell_it() {
        let told = |value: &str| Ok(Properties::from([(LIMIT.to_string(), value.to_string())]));
        let known = |bytes| BatchLimit {
            bytes,
            assumed: None,
        };
        assert_eq!(limit_in(told("2000000")), Ok(known(2_000_000)));
        let refused = |code| Err(KafkaError::AdminOp(code));
        for (answer, why) in [
            (refused(Code::TopicAuthorizationFailed), "authorization"),
            (refused(Code::ClusterAuthorizationFailed), "authorization"),
            (refused(Code::UnsupportedFeature), "not supported"),
            (told("large"), "not a number"),
            (Ok(Properties::new()), "not a number"),
        ] {
            let limit = limit_in(answer).unwrap();
            let said = limit.assumed.unwrap();
            assert_eq!(limit.bytes, DEFAULT_LIMIT);
            assert!(said.contains("1048588 is assumed"), "{said}");
            assert!(said.to_lowercase().contains(why), "{why}: {said}");
        }
        for code in [
            Code::OperationTimedOut,
            Code::BrokerTransportFailure,
            Code::UnknownTopicOrPartition,
        ] {
            assert_eq!(limit_in(refused(code)), Err(KafkaError::AdminOp(code)));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_that_do_not_tell_the_limit_are_an_outage() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("events", 1, 1).unwrap();
        let address = cluster.bootstrap_servers();
        let (host, port) = address.split_once(':').unwrap();
        let server = Address {
            hosts: vec![(host.into(), port.parse().unwrap())],
            ..Address::default()
        };
        // librdkafka's own cluster never answers this request.
        let silent = tokio::task::block_in_place(|| {
            let producer = KafkaProducer::connect(&server, "events", BATCH_BYTES).unwrap();
            producer.ask_limit(Duration::from_millis(50)).unwrap_err()
        });
        assert!(silent.is_retriable(), "{silent}");
        let said = silent.to_string();
        assert!(said.starts_with("cannot append to topic events"), "{said}");
        assert!(said.contains(LIMIT), "{said}");
    }
}
