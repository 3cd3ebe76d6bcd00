//! What one poll does: applies what the group has decided, then takes what the client has for us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::KafkaConsumer;
use super::assignment::Owned;
use crate::error::{Error, Kind, Result};
use crate::ports::event_log::{Limits, Polled};
use crate::record::event::{Event, EventBatch};
use crate::servers::kafka;
use crate::servers::kafka::membership::Change;
use crate::servers::kafka::queue::{Heard, Message};

impl KafkaConsumer {
    pub(super) fn read(&mut self, limits: Limits) -> Result<Polled> {
        let mut polled = Polled {
            epoch: self.epoch,
            ..Polled::default()
        };
        if self.queue.is_none() {
            return Ok(polled);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.carry_out()?;
        self.go_back()?;
        polled.span.from = self.position();
        if let Err(failed) = self.fetch(limits, &mut polled.events) {
            match self.position() == polled.span.from {
                true => return Err(failed),
                false => self.failed = Some(failed), // what came before it is not lost
            }
        }
        polled.span.to = self.position();
        match polled.events.is_empty() {
            true if self.failed.is_none() => self.ask_if_doubtful()?,
            true => {}
            false => self.membership.health.heard(),
        }
        Ok(polled)
    }

    /// Adds what arrives to a batch, until it is full or nothing more arrives.
    pub(super) fn fetch(&mut self, limits: Limits, batch: &mut EventBatch) -> Result<()> {
        let started = Instant::now();
        while batch.len() < limits.events && batch.size() < limits.bytes {
            let wait = match batch.is_empty() {
                true => limits.wait.saturating_sub(started.elapsed()),
                false => Duration::ZERO,
            };
            let queue = match &self.queue {
                Some(queue) => queue,
                None => return Ok(()),
            };
            let owned = &mut self.owned;
            let taken = queue.next(wait, |heard| take(heard, owned, batch));
            match taken {
                Some(Taken::Event) => {}
                Some(Taken::Change(change)) => {
                    self.membership.push(change);
                    return Ok(()); // the next poll applies it, and starts from there
                }
                Some(Taken::Failure(e)) => self.heed(&e)?,
                Some(Taken::Malformed(partition, offset, e)) => {
                    let place = self.place(partition);
                    let what = format!("{place}: the event at offset {offset} is malformed: {e}");
                    return Err(Error::refused(what));
                }
                None if started.elapsed() >= limits.wait || !batch.is_empty() => return Ok(()),
                None => {}
            }
        }
        Ok(())
    }

    /// Handles an error that came in place of a message; errors that the client recovers from are ignored.
    pub(super) fn heed(&mut self, error: &KafkaError) -> Result<()> {
        if kafka::is_unknown_topic(error) {
            return self.partitions().map(|_| ());
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                for (partition, position) in self.position().iter() {
                    let (low, high) = self.watermarks(partition)?;
                    self.check_range(partition, position, low, high)?;
                }
                for owned in self.owned.values_mut() {
                    owned.is_set_back = true; // the client has stopped there
                }
                self.go_back()
            }
            _ => {
                let known = kafka::error(&self.server, error);
                match known.is_retriable() || known.kind() == Kind::Data {
                    true => Ok(()),
                    false => Err(self.membership.health.explain(&self.server, known)),
                }
            }
        }
    }
}

/// The outcome of an event of the client.
enum Taken {
    /// It is in the batch, or can be ignored.
    Event,
    Change(Change),
    Failure(KafkaError),
    /// It cannot be read: its partition, offset, and why.
    Malformed(i32, i64, KafkaError),
}

fn take(heard: Heard<'_>, owned: &mut BTreeMap<i32, Owned>, batch: &mut EventBatch) -> Taken {
    match heard {
        Heard::Message(message) => add(&message, owned, batch),
        Heard::End(partition, offset) => {
            let is_read = |o: &&mut Owned| o.leaves.is_none() && !o.is_set_back;
            if let Some(owned) = owned.get_mut(&partition).filter(is_read) {
                owned.position = owned.position.max(offset);
            }
            Taken::Event
        }
        Heard::Given(partitions) => Taken::Change(Change::Given(partitions)),
        Heard::Taken(partitions) => Taken::Change(Change::Taken(partitions)),
        Heard::Failed(error) => Taken::Failure(error),
        Heard::Other => Taken::Event,
    }
}

/// Adds a message to a batch, if it is the next one in a partition that we read.
fn add(message: &Message<'_>, owned: &mut BTreeMap<i32, Owned>, batch: &mut EventBatch) -> Taken {
    let (partition, offset) = (message.partition(), message.offset());
    let is_next = |o: &&mut Owned| o.leaves.is_none() && !o.is_set_back && offset >= o.position;
    let Some(owned) = owned.get_mut(&partition).filter(is_next) else {
        return Taken::Event;
    };
    let headers = match message.headers() {
        Ok(headers) => headers,
        Err(e) => {
            owned.is_set_back = true; // nothing may skip it
            return Taken::Malformed(partition, offset, e);
        }
    };
    batch.push(Event {
        partition,
        offset,
        timestamp: message.timestamp(),
        key: message.key(),
        value: message.value(),
        headers: headers.bytes(),
    });
    owned.position = offset + 1;
    Taken::Event
}
