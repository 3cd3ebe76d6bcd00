//! One reading of a span of a topic on Kafka, by a client of its own that is assigned to its partitions.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Error, Result};
use crate::ports::log_reader::EventVisitor;
use crate::record::event::{Event, Headers};
use crate::servers::kafka::log_reader::NO_GROUP;
use crate::servers::kafka::outside::{self, PartitionReader, Unhurried};
use crate::servers::kafka::queue::{Failure, Heard, Message, Queue};
use crate::servers::kafka::{self, Health};

/// How long one wait for an event lasts.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// A client that fetches as fast as it can, within the memory that a consumer may use.
fn open_queue(asks: &PartitionReader) -> Result<Queue<Health>> {
    let mut config = outside::config(&asks.server, NO_GROUP)?;
    for (name, value) in [
        ("queued.max.messages.kbytes", "4096"),
        ("queued.min.messages", "10000"),
        ("fetch.message.max.bytes", "1048576"),
        ("fetch.wait.max.ms", "100"),
        ("fetch.queue.backoff.ms", "5"),
    ] {
        if !asks.server.settings.iter().any(|(n, _)| n == name) {
            config.set(name, value);
        }
    }
    let client = BaseConsumer::from_config_and_context(&config, Health::default())
        .map_err(|e| kafka::error(&asks.server, &e))?;
    Queue::of(&Arc::new(client)).ok_or_else(|| Error::internal("a consumer without a queue"))
}

/// One reading of a span.
pub(super) struct Reading<'a> {
    asks: &'a PartitionReader,
    /// What was not read yet, in each partition where something is left.
    unread: BTreeMap<i32, Range<i64>>,
    queue: Unhurried<Queue<Health>>,
    silence: Duration,
    headers: Headers,
    /// The last error that the client may recover from.
    failed: Option<Error>,
}

/// The outcome of an event of the client.
enum Taken {
    /// It was lent to the visitor, or is not asked for.
    Event,
    /// It was the last one of a partition.
    Done(i32),
    /// The visitor has seen enough.
    Enough,
    Failure(Failure),
    /// It cannot be read: its partition, offset, and why.
    Malformed(i32, i64, KafkaError),
    Other,
}

impl<'a> Reading<'a> {
    /// A reading of these offsets, which gives up after this long without an event or an end.
    pub(super) fn of(
        asks: &'a PartitionReader,
        unread: BTreeMap<i32, Range<i64>>,
        silence: Duration,
    ) -> Result<Self> {
        Ok(Reading {
            asks,
            unread,
            queue: Unhurried::new(open_queue(asks)?),
            silence,
            headers: Headers::default(),
            failed: None,
        })
    }

    fn client(&self) -> &BaseConsumer<Health> {
        self.queue.client()
    }

    /// Begins where the partitions are to be read from and have events; there may be none.
    pub(super) fn start(&mut self) -> Result<()> {
        let partitions: Vec<i32> = self.unread.keys().copied().collect();
        let mut list = TopicPartitionList::new();
        for (partition, low, high) in self.asks.ends(&partitions)? {
            let Some(range) = self.unread.get_mut(&partition) else {
                continue;
            };
            *range = range.start.max(low)..range.end.min(high);
            if range.is_empty() {
                self.unread.remove(&partition);
                continue;
            }
            let from = Offset::Offset(range.start);
            let added = list.add_partition_offset(&self.asks.topic, partition, from);
            self.asks.driven("read", added)?;
        }
        self.asks.driven("read", self.client().assign(&list))
    }

    /// Lends all of it to the visitor.
    pub(super) fn run(&mut self, visitor: &mut dyn EventVisitor) -> Result<()> {
        let mut silent_since = None;
        while !self.unread.is_empty() {
            let (unread, headers) = (&mut self.unread, &mut self.headers);
            let taken = self
                .queue
                .next(POLL_TIMEOUT, |heard| take(heard, unread, headers, visitor));
            match taken {
                // The clock is not asked at each event: that takes time, too.
                Some(Taken::Event) => {
                    silent_since = None;
                    continue;
                }
                Some(Taken::Done(partition)) => {
                    silent_since = None;
                    self.stop(partition)?;
                    continue;
                }
                Some(Taken::Enough) => return Ok(()),
                Some(Taken::Failure(failure)) => self.heed(&failure)?,
                Some(Taken::Malformed(partition, offset, e)) => {
                    let place = self.place(partition);
                    return Err(Error::refused(format!(
                        "{place}: the event at offset {offset} is malformed: {e}"
                    )));
                }
                Some(Taken::Other) | None => {}
            }
            let since = silent_since.get_or_insert_with(Instant::now);
            if since.elapsed() > self.silence {
                return Err(self.silent());
            }
        }
        Ok(())
    }

    /// A partition was read to its end, so that no more of it need be fetched.
    fn stop(&mut self, partition: i32) -> Result<()> {
        self.unread.remove(&partition);
        if self.unread.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.asks.topic, partition);
        self.asks.driven("read", self.client().pause(&list))
    }

    /// Handles an error that came in place of an event: `Err` if waiting cannot help.
    fn heed(&mut self, failure: &Failure) -> Result<()> {
        match (failure.code, failure.place) {
            // It asks nothing about groups.
            (Code::GroupAuthorizationFailed, _) => Ok(()),
            (code, _) if kafka::is_unknown(code) => {
                let asks = self.asks;
                let client = asks.client.client();
                kafka::partitions_of_known(client, &asks.health, &asks.server, &asks.topic)
                    .map(|_| ())
            }
            // What was deleted in the meantime is left out. The client has stopped there.
            (Code::AutoOffsetReset | Code::OffsetOutOfRange, _) => self.start(),
            (code, Some((partition, batch))) if kafka::is_unreadable(code) => {
                match self.unread.get(&partition) {
                    Some(range) if batch < range.end => {
                        Err(self.unreadable(partition, range.start.max(batch), &failure.reason))
                    }
                    Some(_) => self.stop(partition),
                    None => Ok(()),
                }
            }
            (code, place) => {
                let at = match place {
                    Some((partition, _)) => self.place(partition),
                    None => kafka::address(&self.asks.server),
                };
                let known = self.explained(kafka::said(&at, code, &failure.reason));
                match known.is_retriable() {
                    true => self.failed = Some(known),
                    false => return Err(known),
                }
                Ok(())
            }
        }
    }

    fn unreadable(&self, partition: i32, offset: i64, reason: &str) -> Error {
        let place = self.place(partition);
        Error::missing(format!(
            "{place}: the events from offset {offset} on cannot be read: {reason}"
        ))
        .hint("the record batch is damaged or too large; repair the topic or raise the limit")
    }

    /// Why nothing has arrived for too long.
    fn silent(&mut self) -> Error {
        let health = self.client().client().context();
        let too_large = health.too_large(2 * self.silence);
        if let (Some(reason), Some((partition, range))) = (too_large, self.unread.first_key_value())
        {
            return self.unreadable(*partition, range.start, &reason);
        }
        let failed = self.failed.take().unwrap_or_else(|| {
            let at = kafka::address(&self.asks.server);
            Error::unavailable(format!("{at} has returned no event for {:?}", self.silence))
        });
        let unread = self.unread.iter().map(|(p, range)| (*p, range.start));
        let places = self.asks.places(&unread.collect());
        self.explained(failed)
            .context(format_args!("cannot read {places}"))
    }

    /// The error, or why the brokers cannot be reached.
    fn explained(&self, error: Error) -> Error {
        let health = self.client().client().context();
        health.explain(&self.asks.server, error)
    }

    fn place(&self, partition: i32) -> String {
        let at = kafka::address(&self.asks.server);
        format!("topic {} partition {partition} in {at}", self.asks.topic)
    }
}

fn take(
    heard: Heard<'_>,
    unread: &mut BTreeMap<i32, Range<i64>>,
    headers: &mut Headers,
    visitor: &mut dyn EventVisitor,
) -> Taken {
    match heard {
        Heard::Message(message) => lend(&message, unread, headers, visitor),
        Heard::End(partition, end) => match unread.get_mut(&partition) {
            // The end of what was read may be what a transaction or a compaction left.
            Some(range) if end >= range.end => Taken::Done(partition),
            Some(_) => Taken::Event,
            None => Taken::Other,
        },
        Heard::Failed(failure) => Taken::Failure(failure),
        Heard::Given(_) | Heard::Taken(_) | Heard::Other => Taken::Other,
    }
}

/// Lends a message to the visitor, if it was asked for.
fn lend(
    message: &Message<'_>,
    unread: &mut BTreeMap<i32, Range<i64>>,
    headers: &mut Headers,
    visitor: &mut dyn EventVisitor,
) -> Taken {
    let (partition, offset) = (message.partition(), message.offset());
    let Some(range) = unread.get_mut(&partition) else {
        return Taken::Other;
    };
    if offset >= range.end {
        return Taken::Done(partition);
    }
    if offset < range.start {
        return Taken::Event;
    }
    if visitor.wants_headers()
        && let Err(e) = message.headers_into(headers)
    {
        return Taken::Malformed(partition, offset, e);
    }
    range.start = offset + 1;
    let flow = visitor.event(Event {
        partition,
        offset,
        timestamp: message.timestamp(),
        key: message.key(),
        value: message.value(),
        headers: headers.bytes(),
    });
    match flow {
        ControlFlow::Break(()) => Taken::Enough,
        ControlFlow::Continue(()) if range.is_empty() => Taken::Done(partition),
        ControlFlow::Continue(()) => Taken::Event,
    }
}
