//! Records on their way into the event log: sent chunk by chunk, and counted once they have arrived.

use std::collections::VecDeque;
use std::sync::Arc;

use super::check::{self, CheckedChunk, InputSpec, RejectsTo};
use super::chunk::{Chunk, FileFormat, Line};
use super::rejects;
use super::{Intake, IntakeOptions};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::event_log::{EventLog, Producer};
use crate::record::event::{Event, EventBatch, Headers};
use crate::record::reject::Reject;
use crate::record::transform::{Transform, write_key};
use crate::record::value::Value;
use crate::run::read_ahead::Ahead;
use crate::run::retry::Retry;
use crate::run::{Run, add};

/// Maximum number of chunks whose events are in flight at once.
const MOST_ON_THEIR_WAY: usize = 32;

/// A producer to a topic, through outages. What it assumes about the topic is told.
pub async fn producer(log: &dyn EventLog, topic: &str, retry: &Retry) -> Result<Box<dyn Producer>> {
    let producer = retry
        .through_outage(async || log.producer(topic).await)
        .await?;
    if let Some(assumed) = producer.assumed() {
        retry.run.warn(format!("topic {topic} in {log}: {assumed}"));
    }
    Ok(producer)
}

/// Chunks in flight to the log, and the intake that counts them on arrival.
pub struct Sending<'a> {
    intake: Intake<'a>,
    log: Log,
    /// With the number of their events, which the log now has.
    on_their_way: VecDeque<CheckedChunk<u64>>,
}

impl std::fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

impl<'a> Sending<'a> {
    /// Nothing is in flight yet.
    pub fn new(intake: Intake<'a>, log: Log) -> Self {
        Sending {
            intake,
            log,
            on_their_way: VecDeque::new(),
        }
    }

    /// Sends a chunk, and waits until it has arrived if it has bad records, because they may exceed the budget.
    pub async fn send(&mut self, chunk: CheckedChunk<EventBatch>) -> Result<()> {
        let chunk = chunk.map(Arc::new);
        self.log.send(&chunk).await?;
        let behind = match chunk.rejected {
            0 => MOST_ON_THEIR_WAY,
            _ => 0,
        };
        let counted = chunk.map(|events| events.len() as u64);
        self.on_their_way.push_back(counted);
        self.settle_but(behind).await
    }

    /// Waits until everything sent has arrived, and counts it.
    pub async fn settle(&mut self) -> Result<()> {
        self.settle_but(0).await
    }

    /// Waits until at most `behind` chunks are in flight, and counts those that have arrived.
    async fn settle_but(&mut self, behind: usize) -> Result<()> {
        let mut acknowledged = self.log.settle(behind).await?;
        add(&self.log.retry.run.counts.written, acknowledged);
        let mut entered = Ok(());
        while let Some(chunk) = self.on_their_way.front() {
            let Some(rest) = acknowledged.checked_sub(chunk.good) else {
                break;
            };
            acknowledged = rest;
            // Everything that has arrived is counted, even after a chunk that exceeds the budget.
            let kept = self.intake.enter(chunk).await;
            entered = entered.and(kept);
            self.on_their_way.pop_front();
        }
        entered?;
        if acknowledged > 0 || self.on_their_way.len() > behind {
            return Err(Error::internal(format!(
                "acknowledgements from {} do not match what was sent: {acknowledged} are left over, {} chunks are open",
                self.log.name,
                self.on_their_way.len()
            )));
        }
        self.intake.save_state().await
    }

    /// The intake, once everything is settled.
    pub fn into_intake(self) -> Intake<'a> {
        self.intake
    }
}

/// The topic and its dead letters.
pub struct Log {
    /// How its outages are handled.
    pub retry: Retry,
    /// Its address, for messages.
    pub name: String,
    /// Takes the good records.
    pub events: Box<dyn Producer>,
    /// Takes the bad ones.
    pub dead_letters: Box<dyn Producer>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({})", self.name)
    }
}

impl Log {
    /// Sends the events of a chunk, once its dead letters are acknowledged.
    async fn send(&mut self, chunk: &CheckedChunk<Arc<EventBatch>>) -> Result<()> {
        let (retry, events) = (&self.retry, &mut self.events);
        rejects::send(retry, self.dead_letters.as_mut(), &chunk.dead_letters).await?;
        retry
            .through_outage(async || events.send(&chunk.good).await)
            .await
    }

    /// Waits until the events of all but the last `behind` chunks are acknowledged; returns how many are.
    async fn settle(&mut self, behind: usize) -> Result<u64> {
        let (retry, events) = (&self.retry, &mut self.events);
        retry
            .through_outage(async || events.settle(behind).await)
            .await
    }
}

/// The good lines as events that the log accepts.
pub fn read(
    options: &IntakeOptions,
    log: &Log,
    dataset: &Dataset,
    run: &Run,
) -> Ahead<CheckedChunk<EventBatch>> {
    let spec = InputSpec {
        format: Some(FileFormat::Ndjson),
        null: String::new(),
        destination: dataset.event.topic.clone(),
        rejects_to: match options.rejects {
            Some(_) => RejectsTo::File,
            None => RejectsTo::DeadLetters,
        },
    };
    let max_size = log.events.max_size().unwrap_or(usize::MAX);
    let key_column = dataset.event.key;
    let mut headers = Headers::default();
    headers.push("rtp.run_id", run.id.as_bytes());
    let mut key = Vec::with_capacity(64);
    let beside = headers.bytes().len() + key.capacity();
    let empty = move |chunk: &Chunk| {
        let mut events = EventBatch::default();
        events.reserve(chunk.len(), chunk.size() + chunk.len() * beside);
        events
    };
    let take = move |events: &mut EventBatch,
                     transform: &mut Transform<'_>,
                     line: Line<'_>,
                     values: &[Value<'_>]| {
        transform.check(values)?;
        key.clear();
        write_key(&values[key_column], &mut key);
        let event = Event::new(Some(&key), Some(line.bytes), headers.bytes());
        if event.size() > max_size {
            return Err(Reject::too_large(event.size(), max_size));
        }
        events.push(event);
        Ok(())
    };
    check::read(options, spec, dataset, run, empty, take)
}
