//! Appends to a topic on Kafka.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use crate::error::{Error, Result};
use crate::event::MicroBatch;
use crate::event_log::Producer;
use crate::kafka::{self, Health, PATIENCE};
use crate::url::Server;

use super::native::{Listener, Sent, TopicProducer};

/// Between two looks at the time, while no report comes.
const A_WHILE: Duration = Duration::from_millis(100);

/// Most bytes of a batch of events, as the client has it by itself.
const BATCH_BYTES: usize = 1_000_000;

/// Kafka's own limit of a batch.
const DEFAULT_LIMIT: usize = 1_048_588;

/// Bytes that Kafka adds to one event that is alone in its batch: 61 for the batch, 36 for the event,
/// and some for its headers.
const OVERHEAD: usize = 256;

/// What became of the events that were handed over.
#[derive(Clone, Debug, Default)]
struct Reports {
    health: Health,
    /// Those reported since the start.
    reported: Arc<AtomicU64>,
    failures: Arc<Mutex<Failures>>,
}

/// Events that were not taken since the last settling, and why the first was not.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    reason: Option<Code>,
}

impl Reports {
    fn reported(&self) -> u64 {
        self.reported.load(Ordering::Acquire)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The event's batch.
    type DeliveryOpaque = Arc<Sent>;

    /// By the crate, when the client ends.
    fn delivery(&self, result: &DeliveryResult<'_>, sent: Arc<Sent>) {
        let failure = result.as_ref().err();
        let code = failure.map(|(e, _)| e.rdkafka_error_code().unwrap_or(Code::Unknown));
        self.report(&sent, code);
    }
}

impl Listener for Reports {
    fn report(&self, sent: &Sent, failure: Option<Code>) {
        if let Some(code) = failure {
            let failures = &mut *self.failures();
            failures.count += 1;
            failures.reason.get_or_insert(code);
        }
        sent.report();
        self.reported.fetch_add(1, Ordering::Release);
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
    /// The batches that were not settled, in the order they were sent.
    sent: VecDeque<Arc<Sent>>,
    /// Events of the last of them that were taken before the queue was full; none once all are.
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
            // A request never points into a batch, which goes once all of it is reported.
            ("message.copy.max.bytes", "1000000000"),
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
            sent: VecDeque::new(),
            begun: None,
        })
    }

    /// Hands event `i` of a batch to the client; false if its queue is full.
    fn take(&self, sent: &Arc<Sent>, i: usize) -> Result<bool> {
        match self.producer.send(sent, i) {
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
        while self.producer.listen(Duration::ZERO) {}
        self.reports.reported()
    }

    /// Waits for reports until `is_enough`; `Unavailable` if none comes for long, `Missing` if that is
    /// because the topic is gone.
    fn wait(&self, is_enough: impl Fn(&Self) -> bool) -> Result<()> {
        let health = &self.reports.health;
        let mut has_asked = false;
        let mut last = (self.listen(), Instant::now());
        while !is_enough(self) {
            self.producer.listen(A_WHILE);
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

    fn send_from(&mut self, batch: &Arc<MicroBatch>) -> Result<()> {
        let begun = self.begun.unwrap_or(0);
        let sent = match (self.begun, self.sent.back()) {
            (Some(_), Some(sent)) => Arc::clone(sent),
            _ => {
                let sent = Sent::new(batch);
                self.sent.push_back(Arc::clone(&sent));
                sent
            }
        };
        for i in begun..sent.events() {
            self.begun = Some(i);
            while !self.take(&sent, i)? {
                // Counted before the queue was found full: what is reported by now has made room.
                let reported = self.reports.reported();
                self.wait(|this| this.reports.reported() > reported)?;
            }
        }
        self.begun = None;
        self.listen();
        Ok(())
    }

    /// Whether there is a report of everything but the last `behind` batches.
    fn is_settled(&self, behind: usize) -> bool {
        let older = self.sent.len().saturating_sub(behind);
        self.sent.iter().take(older).all(|sent| sent.is_reported())
    }

    fn wait_for_all_but(&mut self, behind: usize) -> Result<u64> {
        self.wait(|this| this.is_settled(behind))?;
        self.reports.health.heard();
        let mut events = 0;
        while let Some(sent) = self.sent.front().filter(|sent| sent.is_reported()) {
            events += sent.events() as u64;
            self.sent.pop_front();
        }
        let Failures { count, reason } = std::mem::take(&mut *self.reports.failures());
        match reason {
            None => Ok(events),
            Some(code) => {
                let error = match kafka::is_unknown(code) {
                    true => self.why_unknown(),
                    false => kafka::coded(&kafka::address(&self.server), code),
                };
                let count = format!("{count} of {events} events were not taken");
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

    async fn send(&mut self, batch: &Arc<MicroBatch>) -> Result<()> {
        tokio::task::block_in_place(|| self.send_from(batch))
    }

    async fn settle(&mut self, behind: usize) -> Result<u64> {
        tokio::task::block_in_place(|| self.wait_for_all_but(behind))
    }
}
