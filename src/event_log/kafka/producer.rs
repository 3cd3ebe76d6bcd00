//! Appends to a topic on Kafka.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use crate::error::{Error, Result};
use crate::event::{Event, Headers, MicroBatch};
use crate::event_log::Producer;
use crate::kafka::{self, Health, PATIENCE};
use crate::url::Server;

/// Between two looks at the delivery reports.
const REPORTS: Duration = Duration::from_millis(1);

/// What became of the messages that were taken.
#[derive(Clone, Debug, Default)]
struct Reports {
    health: Health,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Messages reported since the last flush that was counted.
    acknowledged: u64,
    failed: u64,
    /// The first failure.
    first: Option<Code>,
}

impl Reports {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reported(&self) -> u64 {
        let seen = self.seen();
        seen.acknowledged + seen.failed
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
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut seen = self.seen();
        match result {
            Ok(_) => seen.acknowledged += 1,
            Err((error, _)) => {
                seen.failed += 1;
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                seen.first.get_or_insert(code);
            }
        }
    }
}

/// Appends to one topic.
pub struct KafkaProducer {
    client: BaseProducer<Reports>,
    reports: Reports,
    server: Server,
    topic: String,
    /// Messages taken since the last flush that was counted.
    taken: u64,
    /// Events of the batch that is being sent that were taken before the queue was full.
    begun: usize,
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
        ] {
            if !server.settings.iter().any(|(n, _)| n == name) {
                config.set(name, value);
            }
        }
        let reports = Reports::default();
        let client = BaseProducer::from_config_and_context(&config, reports.clone())
            .map_err(|e| kafka::error(server, &e))?;
        tokio::task::block_in_place(|| {
            let (client, health) = (&client, &reports.health);
            kafka::first_partitions(client.client(), health, server, topic, || {
                client.poll(Duration::ZERO);
            })
        })?;
        Ok(KafkaProducer {
            client,
            reports,
            server: server.clone(),
            topic: topic.into(),
            taken: 0,
            begun: 0,
        })
    }

    /// Hands one event to the client; false if its queue is full.
    fn take(&self, event: Event<'_>) -> Result<bool> {
        let mut record = BaseRecord::to(&self.topic).timestamp(event.timestamp);
        if let Some(key) = event.key {
            record = record.key(key);
        } else {
            record = record.partition(0);
        }
        if let Some(value) = event.value {
            record = record.payload(value);
        }
        if !event.headers.is_empty() {
            let list = Headers::read(event.headers);
            let mut headers = OwnedHeaders::new_with_capacity(list.len());
            for (name, value) in &list {
                headers = headers.insert(Header {
                    key: name,
                    value: Some(value),
                });
            }
            record = record.headers(headers);
        }
        match self.client.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => Ok(false),
            Err((e, _)) => Err(self.fail(kafka::error(&self.server, &e))),
        }
    }

    fn fail(&self, error: Error) -> Error {
        let topic = format!("cannot append to topic {}", self.topic);
        self.reports
            .health
            .explain(&self.server, error)
            .context(topic)
    }

    /// Waits for reports until `is_enough`; `Unavailable` if none comes for long.
    fn wait(&self, is_enough: impl Fn(u64) -> bool) -> Result<()> {
        let mut last = (self.reports.reported(), Instant::now());
        loop {
            self.client.poll(REPORTS);
            let reported = self.reports.reported();
            if is_enough(reported) {
                return Ok(());
            }
            if reported != last.0 {
                last = (reported, Instant::now());
            }
            if last.1.elapsed() > PATIENCE {
                let at = kafka::address(&self.server);
                let silent = format!("{at} has acknowledged nothing for {PATIENCE:?}");
                return Err(self.fail(Error::unavailable(silent)));
            }
        }
    }

    fn send_from(&mut self, batch: &MicroBatch) -> Result<()> {
        for (i, event) in batch.iter().enumerate().skip(self.begun) {
            while !self.take(event)? {
                let reported = self.reports.reported();
                self.wait(|now| now > reported)?;
            }
            self.begun = i + 1;
            self.taken += 1;
        }
        self.begun = 0;
        self.client.poll(Duration::ZERO);
        Ok(())
    }

    fn wait_for_all(&mut self) -> Result<u64> {
        let taken = self.taken;
        self.wait(|reported| reported >= taken)?;
        self.reports.health.heard();
        self.taken = 0;
        let seen = std::mem::take(&mut *self.reports.seen());
        match seen.first {
            None => Ok(seen.acknowledged),
            Some(code) => {
                let error = kafka::coded(&kafka::address(&self.server), code);
                let count = format!("{} of {taken} events were not taken", seen.failed);
                Err(self.fail(error.context(count)))
            }
        }
    }
}

#[async_trait]
impl Producer for KafkaProducer {
    async fn send(&mut self, batch: &MicroBatch) -> Result<()> {
        tokio::task::block_in_place(|| self.send_from(batch))
    }

    async fn flush(&mut self) -> Result<u64> {
        tokio::task::block_in_place(|| self.wait_for_all())
    }
}
