//! Appends to a topic on Kafka.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use crate::error::{Error, Result};
use crate::event::{Event, MicroBatch};
use crate::event_log::Producer;
use crate::kafka::{self, Health, PATIENCE};
use crate::url::Server;

use super::native::TopicProducer;

/// Between two looks at the delivery reports.
const REPORTS: Duration = Duration::from_millis(1);

/// Most bytes of a batch of events, as the client has it by itself.
const BATCH_BYTES: usize = 1_000_000;

/// Kafka's own limit of a batch.
const DEFAULT_LIMIT: usize = 1_048_588;

/// Bytes that Kafka adds to one event that is alone in its batch: 61 for the batch, 36 for the event,
/// and some for its headers.
const OVERHEAD: usize = 256;

/// What became of the messages that were taken.
#[derive(Clone, Debug, Default)]
struct Reports {
    health: Health,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The batches that were not settled, in the order they were sent.
    batches: VecDeque<Sent>,
    /// Number of the first of them, counted from the start.
    first: usize,
    /// Messages reported since the start.
    reported: u64,
    /// Messages that were not taken since the last settling, and why the first was not.
    failed: u64,
    reason: Option<Code>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    events: usize,
    /// Those of which there is no report yet.
    open: usize,
}

impl Seen {
    /// Number of the last batch.
    fn last(&self) -> usize {
        (self.first + self.batches.len()).saturating_sub(1)
    }

    /// Whether there is a report of everything but the last `behind` batches.
    fn is_settled(&self, behind: usize) -> bool {
        let older = self.batches.len().saturating_sub(behind);
        self.batches.iter().take(older).all(|batch| batch.open == 0)
    }

    /// Takes the batches away of which everything is reported; yields their number of events.
    fn settle(&mut self) -> u64 {
        let mut events = 0;
        while let Some(batch) = self.batches.front().filter(|batch| batch.open == 0) {
            events += batch.events as u64;
            self.batches.pop_front();
            self.first += 1;
        }
        events
    }
}

impl Reports {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.error(error, reason);
    }
}

impl ProducerContext for Reports {
    /// Number of the message's batch.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: usize) {
        let seen = &mut *self.seen();
        seen.reported += 1;
        let at = batch.checked_sub(seen.first);
        if let Some(batch) = at.and_then(|at| seen.batches.get_mut(at)) {
            batch.open = batch.open.saturating_sub(1);
        }
        if let Err((error, _)) = result {
            seen.failed += 1;
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            seen.reason.get_or_insert(code);
        }
    }
}

/// Appends to one topic.
pub struct KafkaProducer {
    producer: TopicProducer<Reports>,
    reports: Reports,
    server: Server,
    topic: String,
    /// Most bytes of a batch that the topic takes.
    max_batch_bytes: usize,
    /// Events of the batch that is being sent that were taken before the queue was full; none between
    /// two batches.
    begun: Option<usize>,
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
    pub async fn open(server: &Server, topic: &str) -> Result<Self> {
        tokio::task::block_in_place(|| {
            let opened = Self::connect(server, topic, BATCH_BYTES)?;
            match opened.max_batch_bytes {
                // A batch of events that is larger than this is refused as a whole.
                limit @ ..BATCH_BYTES => Self::connect(server, topic, limit),
                _ => Ok(opened),
            }
        })
    }

    fn connect(server: &Server, topic: &str, batch_bytes: usize) -> Result<Self> {
        let mut config = kafka::config(server)?;
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2"),
            // How long an outage is waited for is the caller's to say.
            ("message.timeout.ms", "0"),
            // A request that is given up before its answer comes makes an idempotent producer stop and
            // sort out what was taken, which takes longer than a short pause of the broker.
            ("socket.timeout.ms", "30000"),
            ("queue.buffering.max.kbytes", "32768"),
            ("linger.ms", "5"),
            // Whether the topic takes an event is checked against its own limit.
            ("message.max.bytes", "2097152"),
            ("batch.size", &batch_bytes.to_string()),
        ] {
            if !server.settings.iter().any(|(n, _)| n == name) {
                config.set(name, value);
            }
        }
        let reports = Reports::default();
        let client = BaseProducer::from_config_and_context(&config, reports.clone())
            .map_err(|e| kafka::error(server, &e))?;
        let health = &reports.health;
        kafka::first_partitions(client.client(), health, server, topic, || {
            client.poll(Duration::ZERO);
        })?;
        kafka::hasten_producer_id(client.client(), topic);
        let producer = TopicProducer::new(client, topic)
            .ok_or_else(|| Error::invalid(format!("{topic:?} is no name of a topic")))?;
        let limit = producer.property("max.message.bytes", PATIENCE);
        Ok(KafkaProducer {
            max_batch_bytes: limit
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or(DEFAULT_LIMIT),
            producer,
            reports,
            server: server.clone(),
            topic: topic.into(),
            begun: None,
        })
    }

    /// Hands one event to the client; false if its queue is full.
    fn take(&self, batch: usize, event: Event<'_>) -> Result<bool> {
        match self.producer.send(event, batch) {
            Ok(()) => Ok(true),
            Err(Code::QueueFull) => Ok(false),
            Err(code) if kafka::is_unknown(code) => Err(self.fail(self.why_unknown())),
            Err(code) => Err(self.fail(kafka::coded(&kafka::address(&self.server), code))),
        }
    }

    fn client(&self) -> &Client<Reports> {
        self.producer.client().client()
    }

    fn why_unknown(&self) -> Error {
        kafka::why_unknown(
            self.client(),
            &self.reports.health,
            &self.server,
            &self.topic,
        )
    }

    fn fail(&self, error: Error) -> Error {
        let topic = format!("cannot append to topic {}", self.topic);
        self.reports
            .health
            .explain(&self.server, error)
            .context(topic)
    }

    /// Takes what reports there are.
    fn listen(&self) -> u64 {
        let mut before = self.reports.seen().reported;
        loop {
            self.producer.client().poll(Duration::ZERO);
            let reported = self.reports.seen().reported;
            if reported == before {
                return reported;
            }
            before = reported;
        }
    }

    /// Waits for reports until `is_enough`; `Unavailable` if none comes for long, `Missing` if that is
    /// because the topic is gone.
    fn wait(&self, is_enough: impl Fn(&Seen) -> bool) -> Result<()> {
        let health = &self.reports.health;
        let mut has_asked = false;
        let mut last = (self.listen(), Instant::now());
        while !is_enough(&self.reports.seen()) {
            // Not by the client's own time-out, which it sits out turning.
            std::thread::sleep(REPORTS);
            let reported = self.listen();
            if reported != last.0 {
                last = (reported, Instant::now());
                has_asked = false;
                health.heard();
            }
            let silence = last.1.elapsed();
            if silence > health.doubt() && !has_asked {
                let (client, topic) = (self.client(), &self.topic);
                let known = kafka::partitions_of_known(client, health, &self.server, topic);
                known.map_err(|e| self.fail(e))?;
                has_asked = true;
            }
            if silence > PATIENCE {
                let at = kafka::address(&self.server);
                let silent = format!("{at} has acknowledged nothing for {PATIENCE:?}");
                return Err(self.fail(Error::unavailable(silent)));
            }
        }
        Ok(())
    }

    fn send_from(&mut self, batch: &MicroBatch) -> Result<()> {
        if self.begun.is_none() {
            let events = batch.len();
            self.reports.seen().batches.push_back(Sent {
                events,
                open: events,
            });
        }
        let number = self.reports.seen().last();
        let begun = self.begun.unwrap_or(0);
        for (i, event) in batch.iter().enumerate().skip(begun) {
            self.begun = Some(i);
            while !self.take(number, event)? {
                // Counted before the queue was found full: what is reported by now has made room.
                let reported = self.reports.seen().reported;
                self.wait(|seen| seen.reported > reported)?;
            }
        }
        self.begun = None;
        self.listen();
        Ok(())
    }

    fn wait_for_all_but(&mut self, behind: usize) -> Result<u64> {
        self.wait(|seen| seen.is_settled(behind))?;
        self.reports.health.heard();
        let (events, failed, reason) = {
            let seen = &mut *self.reports.seen();
            (
                seen.settle(),
                std::mem::take(&mut seen.failed),
                seen.reason.take(),
            )
        };
        match reason {
            None => Ok(events),
            Some(code) => {
                let error = match kafka::is_unknown(code) {
                    true => self.why_unknown(),
                    false => kafka::coded(&kafka::address(&self.server), code),
                };
                let count = format!("{failed} of {events} events were not taken");
                Err(self.fail(error.context(count)))
            }
        }
    }
}

#[async_trait]
impl Producer for KafkaProducer {
    fn max_size(&self) -> Option<usize> {
        Some(self.max_batch_bytes.saturating_sub(OVERHEAD))
    }

    async fn send(&mut self, batch: &MicroBatch) -> Result<()> {
        tokio::task::block_in_place(|| self.send_from(batch))
    }

    async fn settle(&mut self, behind: usize) -> Result<u64> {
        tokio::task::block_in_place(|| self.wait_for_all_but(behind))
    }
}
