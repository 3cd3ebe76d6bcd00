//! What one poll does: applies what the group has decided, then takes what the client has for us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::KafkaConsumer;
use super::assignment::Owned;
use super::troubles::Troubles;
use crate::error::{Error, Result};
use crate::ports::event_log::{Limits, Polled};
use crate::record::event::{Event, EventBatch};
use crate::servers::kafka;
use crate::servers::kafka::membership::Change;
use crate::servers::kafka::queue::{Failure, Heard, Message};

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
        let fetched = self.fetch(limits, &mut polled.events);
        if let Err(failed) = fetched.and_then(|is_drained| self.ask_if_silent(is_drained)) {
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
        let trouble = self.troubles.first();
        polled.trouble = trouble.map(|failure| self.known(&failure));
        Ok(polled)
    }

    /// Adds what arrives to a batch, until it is full or nothing more arrives, which it returns.
    pub(super) fn fetch(&mut self, limits: Limits, batch: &mut EventBatch) -> Result<bool> {
        let started = Instant::now();
        while batch.len() < limits.events && batch.size() < limits.bytes {
            let wait = match batch.is_empty() {
                true => limits.wait.saturating_sub(started.elapsed()),
                false => Duration::ZERO,
            };
            let queue = match &self.queue {
                Some(queue) => queue,
                None => return Ok(false),
            };
            let (owned, troubles) = (&mut self.owned, &mut self.troubles);
            let taken = queue.next(wait, |heard| take(heard, owned, troubles, batch));
            match taken {
                Some(Taken::Event) => {}
                Some(Taken::Change(change)) => {
                    if matches!(change, Change::Given(_)) {
                        self.group_answers();
                    }
                    self.membership.push(change);
                    return Ok(false); // the next poll applies it, and starts from there
                }
                Some(Taken::Failure(failure)) => self.heed(failure)?,
                Some(Taken::Malformed(partition, offset, e)) => {
                    let place = self.place(partition);
                    let what = format!("{place}: the event at offset {offset} is malformed: {e}");
                    return Err(Error::refused(what));
                }
                None if started.elapsed() >= limits.wait || !batch.is_empty() => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }

    /// Handles an error that came in place of a message. It ends the run, or is told as trouble until it is over, or
    /// else it is about connections: then the brokers are asked whether they are there.
    pub(super) fn heed(&mut self, failure: Failure) -> Result<()> {
        match (failure.code, failure.place) {
            (code, _) if kafka::is_unknown(code) => self.partitions().map(|_| ()),
            (Code::AutoOffsetReset | Code::OffsetOutOfRange, _) => self.check_positions(),
            (code, Some((partition, offset))) if kafka::is_unreadable(code) => {
                self.stop_at(partition, offset, &failure.reason)
            }
            (code, _) => match self.known(&failure) {
                known if !known.is_retriable() => {
                    Err(self.membership.health.explain(&self.server, known))
                }
                _ if kafka::is_about_connections(code) => Ok(()),
                _ => {
                    self.troubles.add(failure);
                    Ok(())
                }
            },
        }
    }

    /// The client has stopped in a partition where it found no event at its position: finds out why.
    fn check_positions(&mut self) -> Result<()> {
        for (partition, position) in self.position().iter() {
            let (low, high) = self.watermarks(partition)?;
            self.check_range(partition, position, low, high)?;
        }
        for owned in self.owned.values_mut() {
            owned.is_set_back = true; // the client has stopped there
        }
        self.go_back()
    }

    /// The error for a record batch that cannot be read, unless others will read it. Nothing may skip it.
    pub(super) fn stop_at(&mut self, partition: i32, batch: i64, reason: &str) -> Result<()> {
        let is_read = |o: &&mut Owned| o.leaves.is_none() && !o.is_set_back;
        let Some(owned) = self.owned.get_mut(&partition).filter(is_read) else {
            return Ok(());
        };
        owned.is_set_back = true;
        // A batch may begin before the offset where we continue in it.
        let offset = owned.position.max(batch);
        let place = self.place(partition);
        Err(Error::missing(format!(
            "{place}: the events from offset {offset} on cannot be read: {reason}"
        ))
        .hint("the record batch is damaged or too large; repair the topic or raise the limit, or move the group's offset to continue after it"))
    }

    /// What a failure means, and where.
    fn known(&self, failure: &Failure) -> Error {
        let at = match failure.place {
            Some((partition, _)) => self.place(partition),
            None => format!("topic {} in {}", self.topic, kafka::address(&self.server)),
        };
        kafka::said(&at, failure.code, &failure.reason)
    }
}

/// The outcome of an event of the client.
enum Taken {
    /// It is in the batch, or can be ignored.
    Event,
    Change(Change),
    Failure(Failure),
    /// It cannot be read: its partition, offset, and why.
    Malformed(i32, i64, KafkaError),
}

fn take(
    heard: Heard<'_>,
    owned: &mut BTreeMap<i32, Owned>,
    troubles: &mut Troubles,
    batch: &mut EventBatch,
) -> Taken {
    match heard {
        Heard::Message(message) => {
            troubles.partition_is_well(message.partition());
            add(&message, owned, batch)
        }
        Heard::End(partition, offset) => {
            troubles.partition_is_well(partition);
            let is_read = |o: &&mut Owned| o.leaves.is_none() && !o.is_set_back;
            if let Some(owned) = owned.get_mut(&partition).filter(is_read) {
                owned.position = owned.position.max(offset);
                owned.heard = Instant::now();
            }
            Taken::Event
        }
        Heard::Given(partitions) => Taken::Change(Change::Given(partitions)),
        Heard::Taken(partitions) => Taken::Change(Change::Taken(partitions)),
        Heard::Failed(failure) => Taken::Failure(failure),
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
    owned.heard = Instant::now();
    Taken::Event
}
