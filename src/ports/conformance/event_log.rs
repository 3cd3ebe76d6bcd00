//! What every event log must do: one case for each guarantee of the port. The file is long because it is one list, of cases
//! that can each be read on their own.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::ports::conformance::{Abilities, Checked, Verdict, cases, equal, fine, fresh, holds};
use crate::ports::event_log::{
    Consumer, Epoch, FIRST_EVENT_WAIT, Limits, Offsets, Position, Producer, Span, Topic,
    partition_of,
};
use crate::record::event::{Event, EventBatch, Headers, Mark};
use crate::time::now_ms;

/// An event log to check. What it opens is dropped without being closed where a case simulates a crash.
#[async_trait]
pub trait Harness: Abilities + Send + Sync {
    /// Creates topics where they are missing.
    async fn create(&self, topics: &[Topic]) -> Result<()>;

    /// A producer to a topic.
    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>>;

    /// A member of a consumer group.
    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>>;

    /// How long a consumer may take until its next event comes.
    fn patience(&self) -> Duration;

    /// Deletes events of partition 0, behind the log's back.
    async fn delete(&self, _topic: &str, _offsets: Range<i64>) -> Result<()> {
        Err(Error::internal("this harness cannot delete events"))
    }
}

cases! {
    dyn Harness;
    events_of_a_key_keep_their_order,
    every_byte_is_kept,
    a_key_chooses_the_partition_as_in_kafka,
    flush_counts_what_was_sent_since_the_last,
    settling_counts_whole_batches_and_leaves_few_behind,
    acknowledged_events_survive_a_crash,
    a_missing_topic_is_an_error_and_is_not_made,
    creating_a_topic_again_changes_nothing,
    a_topic_with_fewer_partitions_is_told,
    two_producers_at_once_lose_nothing,
    a_new_group_starts_at_the_oldest_event,
    partitions_are_read_in_order_without_gaps,
    no_partition_starves_the_others,
    a_poll_at_the_end_is_empty,
    a_poll_has_at_most_so_many_events,
    a_poll_ends_with_the_event_that_reaches_the_bytes,
    an_event_above_the_limit_comes_alone,
    a_span_is_what_was_polled,
    the_end_is_the_offset_of_the_next_event,
    seek_goes_on_from_the_offsets,
    another_event_before_a_position_is_told needs MarksPositions,
    events_that_are_missing_are_told needs LeavesNoGaps,
    a_log_without_its_oldest_events_starts_at_those_it_has needs LeavesNoGaps,
    a_commit_survives_a_crash,
    polling_alone_commits_nothing,
    a_commit_moves_no_further_than_named,
    a_commit_never_moves_back,
    a_commit_passes_no_gap,
    what_was_polled_before_a_set_back_comes_again,
    what_a_store_says_is_done_is_committed_along,
    a_topic_has_an_identity,
    groups_do_not_disturb_each_other,
    an_event_is_done_by_one_member_only,
    an_overtaken_member_loses_nothing,
}

/// Limits above what any case needs.
pub(super) const ALL: Limits = Limits {
    events: 10_000,
    bytes: 64 << 20,
    wait: FIRST_EVENT_WAIT,
};

/// An event that owns its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<u8>,
}

impl Record {
    pub(super) fn new(key: &str, value: &str) -> Record {
        Record {
            key: Some(key.into()),
            value: Some(value.into()),
            ..Record::default()
        }
    }

    pub(super) fn of(event: Event<'_>) -> Record {
        Record {
            partition: event.partition,
            offset: event.offset,
            timestamp: event.timestamp,
            key: event.key.map(<[u8]>::to_vec),
            value: event.value.map(<[u8]>::to_vec),
            headers: event.headers.to_vec(),
        }
    }

    fn event(&self) -> Event<'_> {
        Event {
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }
}

/// Records with one key, whose values are the numbers from `first` on.
pub(super) fn numbered(key: &str, first: usize, count: usize) -> Vec<Record> {
    (first..first + count)
        .map(|n| Record::new(key, &n.to_string()))
        .collect()
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::text).collect()
}

fn batch(records: &[Record]) -> Arc<EventBatch> {
    let mut batch = EventBatch::default();
    for record in records {
        batch.push(record.event());
    }
    Arc::new(batch)
}

pub(super) async fn topic(harness: &dyn Harness, partitions: u32) -> Checked<String> {
    let name = fresh("conformance");
    let topic = Topic::new(&name, partitions);
    fine("creating a topic", harness.create(&[topic]).await)?;
    Ok(name)
}

/// A member of a group, and what it has polled but not committed.
pub(super) struct Member {
    consumer: Box<dyn Consumer>,
    epoch: Epoch,
    polled: Span,
}

impl Member {
    async fn poll(&mut self, limits: Limits) -> Checked<EventBatch> {
        let polled = fine("polling", self.consumer.poll(limits).await)?;
        if polled.epoch != self.epoch {
            self.polled = Span::default();
            self.epoch = polled.epoch;
        }
        self.polled.extend(&polled.span);
        Ok(polled.events)
    }

    /// Commits all that was polled; whether that was done.
    async fn try_commit(&mut self) -> Checked<bool> {
        let polled = std::mem::take(&mut self.polled);
        let epoch = fine("committing", self.consumer.commit(&polled).await)?;
        Ok(std::mem::replace(&mut self.epoch, epoch) == epoch)
    }

    pub(super) async fn commit(&mut self) -> Verdict {
        let is_done = self.try_commit().await?;
        holds("the commit is done", is_done)
    }

    async fn seek(&mut self, offsets: Option<&Offsets>) -> Checked<Epoch> {
        let epoch = fine("seeking", self.consumer.seek(offsets).await)?;
        holds("a seek begins a new epoch", epoch > self.epoch)?;
        Ok(epoch)
    }

    async fn end(&mut self) -> Checked<Offsets> {
        fine("asking for the end", self.consumer.end().await)
    }
}

pub(super) async fn open(harness: &dyn Harness, topic: &str, group: &str) -> Checked<Member> {
    let consumer = fine("opening a consumer", harness.consumer(topic, group).await)?;
    Ok(Member {
        consumer,
        epoch: Epoch::default(),
        polled: Span::default(),
    })
}

pub(super) async fn produce(harness: &dyn Harness, topic: &str, records: &[Record]) -> Checked<()> {
    let mut producer = fine("opening a producer", harness.producer(topic).await)?;
    send(producer.as_mut(), records).await
}

async fn send(producer: &mut dyn Producer, records: &[Record]) -> Checked<()> {
    fine("sending", producer.send(&batch(records)).await)?;
    fine("flushing", producer.flush().await).map(|_| ())
}

/// The next batch that is not empty; an empty one after the harness's patience.
pub(super) async fn poll(
    harness: &dyn Harness,
    member: &mut Member,
    limits: Limits,
) -> Checked<Vec<Record>> {
    let deadline = Instant::now() + harness.patience();
    loop {
        let batch = member.poll(limits).await?;
        if !batch.is_empty() || Instant::now() >= deadline {
            return Ok(batch.iter().map(Record::of).collect());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `count` events, and the result of one more poll.
pub(super) async fn read(
    harness: &dyn Harness,
    member: &mut Member,
    count: usize,
) -> Checked<Vec<Record>> {
    let mut records = Vec::new();
    while records.len() < count {
        let more = poll(harness, member, ALL).await?;
        if more.is_empty() {
            let came = records.len();
            return Err(format!("expected {count} events, but only {came} came"));
        }
        records.extend(more);
    }
    let more = member.poll(ALL).await?;
    records.extend(more.iter().map(Record::of));
    Ok(records)
}

/// Like [`read`], with a group of its own.
pub(super) async fn read_all(
    harness: &dyn Harness,
    topic: &str,
    count: usize,
) -> Checked<Vec<Record>> {
    let mut consumer = open(harness, topic, &fresh("group")).await?;
    let records = read(harness, &mut consumer, count).await?;
    equal("number of events", records.len(), count)?;
    Ok(records)
}

async fn events_of_a_key_keep_their_order(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 3).await?;
    let keys = ["a", "b", "c", "d", "e"];
    let mut producer = fine("opening a producer", harness.producer(&topic).await)?;
    for first in [0, 40, 80] {
        let records: Vec<Record> = (first..first + 40)
            .flat_map(|n| keys.map(|key| Record::new(key, &n.to_string())))
            .collect();
        send(producer.as_mut(), &records).await?;
    }
    let read = read_all(harness, &topic, 600).await?;
    for key in keys {
        let of_key: Vec<Record> = read
            .iter()
            .filter(|r| r.key.as_deref() == Some(key.as_bytes()))
            .cloned()
            .collect();
        let expected = texts(&numbered(key, 0, 120));
        equal(
            format_args!("events of key {key}"),
            texts(&of_key),
            expected,
        )?;
    }
    Ok(())
}

async fn every_byte_is_kept(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    let mut headers = Headers::default();
    for (name, value) in [("b", "2"), ("a", "1"), ("b", "2"), ("b", "3"), ("", "x")] {
        headers.push(name, value.as_bytes());
    }
    headers.push("bytes", &[0, 0xff, 0xfe]);
    headers.push_bytes(b"not \xff UTF-8", b"x");
    headers.push("empty", b"");
    let all: Vec<u8> = (0..=255).collect();
    let plain = Record::new("k", "v");
    let records = [
        plain.clone(),
        Record {
            headers: headers.bytes().to_vec(),
            ..plain.clone()
        },
        Record {
            key: None,
            ..plain.clone()
        },
        Record {
            key: Some(Vec::new()),
            ..plain.clone()
        },
        Record {
            value: None,
            ..plain.clone()
        },
        Record {
            value: Some(Vec::new()),
            ..plain.clone()
        },
        Record {
            key: Some(all.clone()),
            value: Some(all),
            ..plain.clone()
        },
    ];
    let before = now_ms();
    produce(harness, &topic, &records).await?;
    let taken = before..=now_ms();
    tokio::time::sleep(Duration::from_millis(20)).await; // the time of reading must differ
    let read = read_all(harness, &topic, records.len()).await?;
    for (i, (read, sent)) in read.iter().zip(&records).enumerate() {
        let what = |part: &str| format!("{part} of event {i}");
        equal(what("key"), &read.key, &sent.key)?;
        equal(what("value"), &read.value, &sent.value)?;
        holds(
            format_args!(
                "the timestamp {} of event {i} is in {taken:?}",
                read.timestamp
            ),
            taken.contains(&read.timestamp),
        )?;
        let list = |record: &Record| -> Vec<(Vec<u8>, Vec<u8>)> {
            let headers = Headers::parts(&record.headers);
            headers.map(|(n, v)| (n.into(), v.into())).collect()
        };
        equal(what("headers"), list(read), list(sent))?;
    }
    Ok(())
}

async fn a_key_chooses_the_partition_as_in_kafka(harness: &dyn Harness) -> Verdict {
    const PARTITIONS: u32 = 5;
    let topic = topic(harness, PARTITIONS).await?;
    let mut records: Vec<Record> = (0..50)
        .map(|n| Record::new(&format!("key {n}"), "v"))
        .collect();
    records.push(Record {
        key: None,
        ..Record::default()
    });
    produce(harness, &topic, &records).await?;
    for record in read_all(harness, &topic, records.len()).await? {
        let expected = partition_of(record.key.as_deref(), PARTITIONS);
        let key = record.key.as_deref().map(String::from_utf8_lossy);
        equal(
            format_args!("partition of key {key:?}"),
            record.partition,
            expected,
        )?;
    }
    Ok(())
}

async fn flush_counts_what_was_sent_since_the_last(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 3).await?;
    let mut producer = fine("opening a producer", harness.producer(&topic).await)?;
    for (batches, count) in [(2, 7), (1, 1), (0, 0)] {
        for n in 0..batches {
            let records = numbered(&format!("k{n}"), 0, count);
            fine("sending", producer.send(&batch(&records)).await)?;
        }
        let counted = fine("flushing", producer.flush().await)?;
        equal("acknowledged", counted, batches * count as u64)?;
    }
    Ok(())
}

async fn settling_counts_whole_batches_and_leaves_few_behind(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 3).await?;
    let mut producer = fine("opening a producer", harness.producer(&topic).await)?;
    let sizes = [3_u64, 5, 0, 7, 11];
    for (n, size) in sizes.iter().enumerate() {
        let records = numbered(&format!("k{n}"), 0, *size as usize);
        fine("sending", producer.send(&batch(&records)).await)?;
    }
    let counted = fine("settling", producer.settle(2).await)?;
    let allowed = [8, 15, 26]; // the first three batches, or more of them
    holds(
        format_args!("{counted} events are those of the first three batches or more"),
        allowed.contains(&counted),
    )?;
    let rest = fine("flushing", producer.flush().await)?;
    equal("all acknowledged", counted + rest, sizes.iter().sum())
}

async fn acknowledged_events_survive_a_crash(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    for first in [0, 10] {
        produce(harness, &topic, &numbered("k", first, 10)).await?; // drops the producer
    }
    let read = read_all(harness, &topic, 20).await?;
    equal("events", texts(&read), texts(&numbered("k", 0, 20)))
}

async fn a_missing_topic_is_an_error_and_is_not_made(harness: &dyn Harness) -> Verdict {
    let other = topic(harness, 1).await?;
    produce(harness, &other, &numbered("k", 0, 1)).await?;
    let missing = fresh("missing");
    for turn in ["at first", "again"] {
        let sent = match harness.producer(&missing).await {
            Ok(mut producer) => match producer.send(&batch(&numbered("k", 0, 1))).await {
                Ok(()) => producer.flush().await.map(|_| ()),
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        };
        let kind = sent.map_err(|e| e.kind());
        equal(format_args!("sending {turn}"), kind, Err(Kind::Invalid))?;
        let polled = match harness.consumer(&missing, &fresh("group")).await {
            Ok(mut consumer) => consumer.poll(ALL).await.map(|polled| polled.events.len()),
            Err(e) => Err(e),
        };
        let kind = polled.map_err(|e| e.kind());
        equal(format_args!("polling {turn}"), kind, Err(Kind::Invalid))?;
    }
    Ok(())
}

async fn creating_a_topic_again_changes_nothing(harness: &dyn Harness) -> Verdict {
    let name = topic(harness, 3).await?;
    produce(harness, &name, &numbered("k", 0, 10)).await?;
    let again = Topic::new(&name, 3);
    fine("creating a topic again", harness.create(&[again]).await)?;
    let read = read_all(harness, &name, 10).await?;
    equal("events", texts(&read), texts(&numbered("k", 0, 10)))?;
    let mut consumer = open(harness, &name, &fresh("group")).await?;
    let end = consumer.end().await?;
    equal("number of partitions", end.len(), 3)
}

async fn a_topic_with_fewer_partitions_is_told(harness: &dyn Harness) -> Verdict {
    let name = topic(harness, 2).await?;
    match harness.create(&[Topic::new(&name, 3)]).await {
        Ok(()) => return Err("creating it with more partitions than it has succeeds".into()),
        Err(e) => {
            equal(format_args!("kind of {e}"), e.kind(), Kind::Invalid)?;
            let has_both = ["has 2 partitions", "needs 3"]
                .iter()
                .all(|n| e.to_string().contains(n));
            holds(format_args!("`{e}` gives both numbers"), has_both)?;
        }
    }
    // Partitions may be added to a topic, so it may have more than it was created with.
    let fewer = harness.create(&[Topic::new(&name, 1)]).await;
    fine("creating it with fewer partitions than it has", fewer)
}

async fn two_producers_at_once_lose_nothing(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 2).await?;
    let mut producers = Vec::new();
    for key in ["a", "b"] {
        let producer = fine("opening a producer", harness.producer(&topic).await)?;
        producers.push((key, producer));
    }
    let mut tasks = Vec::new();
    for (key, mut producer) in producers {
        tasks.push(tokio::spawn(async move {
            for n in 0..50 {
                send(producer.as_mut(), &numbered(key, n * 4, 4)).await?;
            }
            Ok::<_, String>(())
        }));
    }
    for task in tasks {
        task.await.map_err(|e| e.to_string())??;
    }
    let read = read_all(harness, &topic, 400).await?;
    for key in ["a", "b"] {
        let of_key: Vec<Record> = read
            .iter()
            .filter(|r| r.key.as_deref() == Some(key.as_bytes()))
            .cloned()
            .collect();
        let expected = texts(&numbered(key, 0, 200));
        equal(
            format_args!("events of producer {key}"),
            texts(&of_key),
            expected,
        )?;
    }
    Ok(())
}

async fn a_new_group_starts_at_the_oldest_event(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    produce(harness, &topic, &numbered("k", 0, 5)).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    produce(harness, &topic, &numbered("k", 5, 5)).await?;
    let read = read(harness, &mut consumer, 10).await?;
    equal("events", texts(&read), texts(&numbered("k", 0, 10)))
}

async fn partitions_are_read_in_order_without_gaps(harness: &dyn Harness) -> Verdict {
    const PARTITIONS: u32 = 3;
    let topic = topic(harness, PARTITIONS).await?;
    let sent: Vec<Record> = (0..300)
        .map(|n| Record::new(&format!("key {}", n % 17), &n.to_string()))
        .collect();
    produce(harness, &topic, &sent).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let few = Limits { events: 7, ..ALL };
    let mut read = Vec::new();
    while read.len() < sent.len() {
        let more = poll(harness, &mut consumer, few).await?;
        if more.is_empty() {
            let came = read.len();
            return Err(format!(
                "expected {} events, but only {came} came",
                sent.len()
            ));
        }
        read.extend(more);
    }
    for partition in 0..PARTITIONS {
        let of = |records: &[Record], at: &dyn Fn(&Record) -> i32| -> Vec<Record> {
            let here = |r: &&Record| i64::from(at(r)) == i64::from(partition);
            records.iter().filter(here).cloned().collect()
        };
        let read = of(&read, &|r| r.partition);
        let sent = of(&sent, &|r| partition_of(r.key.as_deref(), PARTITIONS));
        let what = format!("events of partition {partition}");
        equal(what, texts(&read), texts(&sent))?;
        let rises = read.windows(2).all(|two| two[0].offset < two[1].offset);
        holds(format_args!("offsets of partition {partition} rise"), rises)?;
    }
    Ok(())
}

async fn no_partition_starves_the_others(harness: &dyn Harness) -> Verdict {
    const PARTITIONS: u32 = 3;
    const TURNS: usize = 50;
    let topic = topic(harness, PARTITIONS).await?;
    let busy = Record::new("busy", "v");
    let lively = partition_of(busy.key.as_deref(), PARTITIONS);
    let quiet: Vec<Record> = (0..12)
        .map(|n| Record::new(&format!("key {n}"), "v"))
        .filter(|r| partition_of(r.key.as_deref(), PARTITIONS) != lively)
        .collect();
    produce(harness, &topic, &quiet).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let few = Limits { events: 10, ..ALL };
    let mut seen = Vec::new();
    for _ in 0..TURNS {
        produce(harness, &topic, &vec![busy.clone(); few.events]).await?;
        for record in poll(harness, &mut consumer, few).await? {
            seen.push(record.partition);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    let what = format!("partitions read in {TURNS} polls while one is kept busy");
    equal(what, seen, vec![0, 1, 2])
}

async fn a_poll_at_the_end_is_empty(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 2).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let none = consumer.poll(ALL).await?;
    equal("events of an empty topic", none.len(), 0)?;
    produce(harness, &topic, &numbered("k", 0, 3)).await?;
    let read = read(harness, &mut consumer, 3).await?;
    equal("events", texts(&read), texts(&numbered("k", 0, 3)))?;
    let none = consumer.poll(ALL).await?;
    equal("events at the end", none.len(), 0)
}

async fn a_poll_has_at_most_so_many_events(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 2).await?;
    let sent: Vec<Record> = (0..20)
        .map(|n| Record::new(&format!("key {n}"), "v"))
        .collect();
    produce(harness, &topic, &sent).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let few = Limits { events: 3, ..ALL };
    let mut left = sent.len();
    while left > 0 {
        let came = poll(harness, &mut consumer, few).await?.len();
        holds(
            format_args!("1 to 3 events of {left} come, not {came}"),
            (1..=3).contains(&came),
        )?;
        left = left.saturating_sub(came);
    }
    Ok(())
}

async fn a_poll_ends_with_the_event_that_reaches_the_bytes(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 2).await?;
    let value = "v".repeat(99);
    let sent: Vec<Record> = (0..20)
        .map(|n| Record::new(&char::from(b'a' + n).to_string(), &value))
        .collect();
    produce(harness, &topic, &sent).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let small = Limits { bytes: 250, ..ALL };
    let mut left = sent.len();
    while left > 0 {
        let came = poll(harness, &mut consumer, small).await?.len(); // 100 bytes each
        holds(
            format_args!("1 to 3 events of {left} come, not {came}"),
            (1..=3).contains(&came),
        )?;
        left = left.saturating_sub(came);
    }
    Ok(())
}

async fn an_event_above_the_limit_comes_alone(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    let sent = [
        Record::new("k", &"big".repeat(1_000)),
        Record::new("k", "small"),
    ];
    produce(harness, &topic, &sent).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let small = Limits { bytes: 100, ..ALL };
    for expected in &sent {
        let came = poll(harness, &mut consumer, small).await?;
        equal("events", texts(&came), vec![expected.text()])?;
    }
    Ok(())
}

async fn a_span_is_what_was_polled(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let mut member = open(harness, &topic, &fresh("group")).await?;
    let few = Limits { events: 4, ..ALL };
    let mut next = 0;
    for _ in 0..2 {
        let read = poll(harness, &mut member, few).await?;
        let count = i64::try_from(read.len()).unwrap_or_default();
        let range = vec![(0, next..next + count)];
        let span = &member.polled;
        equal("span", span.ranges().collect::<Vec<_>>(), range)?;
        next += count;
        member.commit().await?;
    }
    Ok(())
}

async fn the_end_is_the_offset_of_the_next_event(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 3).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let empty = consumer.end().await?;
    equal(
        "end of an empty topic",
        empty,
        Offsets::from([(0, 0), (1, 0), (2, 0)]),
    )?;
    let records: Vec<Record> = (0..30)
        .map(|n| Record::new(&format!("key {n}"), "v"))
        .collect();
    produce(harness, &topic, &records).await?;
    let end = consumer.end().await?;
    read(harness, &mut consumer, records.len()).await?;
    equal("position after all", &consumer.polled.to, &end)?;
    produce(harness, &topic, &numbered("k", 0, 1)).await?;
    let next = read(harness, &mut consumer, 1).await?;
    equal(
        "offset of the next event",
        Some(next[0].offset),
        end.get(next[0].partition),
    )
}

async fn seek_goes_on_from_the_offsets(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 2).await?;
    let sent: Vec<Record> = (0..40)
        .map(|n| Record::new(&format!("key {n}"), &n.to_string()))
        .collect();
    produce(harness, &topic, &sent).await?;
    let mut consumer = open(harness, &topic, &fresh("group")).await?;
    let mut all = read(harness, &mut consumer, sent.len()).await?;
    all.sort();
    let of_0: Vec<i64> = all
        .iter()
        .filter(|r| r.partition == 0)
        .map(|r| r.offset)
        .collect();
    let middle = of_0[of_0.len() / 2];
    // Partition 1 is not named, so it starts at 0.
    consumer.seek(Some(&Offsets::from([(0, middle)]))).await?;
    let expected: Vec<Record> = all
        .into_iter()
        .filter(|r| r.partition == 1 || r.offset >= middle)
        .collect();
    let mut again = read(harness, &mut consumer, expected.len()).await?;
    again.sort();
    equal("events after the seek", texts(&again), texts(&expected))
}

async fn another_event_before_a_position_is_told(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let mut member = open(harness, &topic, &fresh("group")).await?;
    read(harness, &mut member, 10).await?;
    let Some((at, mark)) = member
        .polled
        .to
        .position(0)
        .and_then(|at| Some((at, at.before?)))
    else {
        return Err(format!("{:?} has no mark", member.polled.to));
    };
    produce(harness, &topic, &numbered("k", 10, 1)).await?;
    for trusted in [at, at.offset.into()] {
        member
            .seek(Some(&Offsets::from_iter([(0, trusted)])))
            .await?;
        let next = read(harness, &mut member, 1).await?;
        equal(
            format!("events after {trusted:?}"),
            texts(&next),
            texts(&numbered("k", 10, 1)),
        )?;
    }
    let other = Position {
        before: Some(Mark(!mark.0)),
        ..at
    };
    member.seek(Some(&Offsets::from_iter([(0, other)]))).await?;
    is_told_of_missing(&mut member, "after another event").await
}

/// The next polls fail as `Missing`.
async fn is_told_of_missing(member: &mut Member, what: &str) -> Verdict {
    for _ in 0..2 {
        let polled = member.consumer.poll(ALL).await;
        let told = polled
            .map(|polled| polled.events.len())
            .map_err(|e| e.kind());
        equal(format_args!("the poll {what}"), told, Err(Kind::Missing))?;
    }
    Ok(())
}

async fn events_that_are_missing_are_told(harness: &dyn Harness) -> Verdict {
    // In the middle: the events before them come first.
    let topic_1 = topic(harness, 1).await?;
    produce(harness, &topic_1, &numbered("k", 0, 10)).await?;
    fine("deleting", harness.delete(&topic_1, 4..7).await)?;
    let mut member = open(harness, &topic_1, &fresh("group")).await?;
    let before = poll(harness, &mut member, ALL).await?;
    let expected = texts(&numbered("k", 0, 4));
    equal("events before the gap", texts(&before), expected)?;
    is_told_of_missing(&mut member, "at a gap").await?;
    member.commit().await?;
    // After what is committed, whether others follow or not.
    for deleted in [4..7, 4..10] {
        let topic = topic(harness, 1).await?;
        let group = fresh("group");
        produce(harness, &topic, &numbered("k", 0, 4)).await?;
        let mut member = open(harness, &topic, &group).await?;
        read(harness, &mut member, 4).await?;
        member.commit().await?;
        produce(harness, &topic, &numbered("k", 4, 6)).await?;
        fine("deleting", harness.delete(&topic, deleted.clone()).await)?;
        let what = format!("after {deleted:?} were deleted");
        is_told_of_missing(&mut member, &what).await?;
        let mut other = open(harness, &topic, &group).await?;
        is_told_of_missing(&mut other, &format!("{what}, by another member")).await?;
    }
    Ok(())
}

async fn a_log_without_its_oldest_events_starts_at_those_it_has(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    for deleted in [6_i64, 10] {
        fine("deleting", harness.delete(&topic, 0..deleted).await)?;
        let group = fresh("group");
        let mut member = open(harness, &topic, &group).await?;
        let at = Offsets::from([(0, deleted)]);
        let start = fine("asking for the start", member.consumer.start().await)?;
        equal("the start", start, at.clone())?;
        let committed = fine("asking", member.consumer.committed().await)?;
        equal("what a new group has committed", committed, at)?;
        let rest = numbered("k", deleted as usize, 10 - deleted as usize);
        for seeks in [false, true] {
            if seeks {
                member.seek(Some(&Offsets::default())).await?;
            }
            let found = read(harness, &mut member, rest.len()).await?;
            equal("events that are left", texts(&found), texts(&rest))?;
        }
        member.commit().await?;
    }
    Ok(())
}

async fn a_commit_survives_a_crash(harness: &dyn Harness) -> Verdict {
    let (topic, group) = (topic(harness, 1).await?, fresh("group"));
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let few = Limits { events: 4, ..ALL };
    let mut done = Vec::new();
    for _ in 0..2 {
        let mut consumer = open(harness, &topic, &group).await?;
        done.extend(poll(harness, &mut consumer, few).await?);
        consumer.commit().await?; // then drops the consumer
    }
    equal(
        "events before",
        texts(&done),
        texts(&numbered("k", 0, done.len())),
    )?;
    let mut consumer = open(harness, &topic, &group).await?;
    let left = 10 - done.len();
    let rest = read(harness, &mut consumer, left).await?;
    equal(
        "events after",
        texts(&rest),
        texts(&numbered("k", done.len(), left)),
    )
}

async fn polling_alone_commits_nothing(harness: &dyn Harness) -> Verdict {
    let (topic, group) = (topic(harness, 1).await?, fresh("group"));
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let few = Limits { events: 3, ..ALL };
    for polls in [1, 3] {
        let mut consumer = open(harness, &topic, &group).await?;
        for _ in 0..polls {
            poll(harness, &mut consumer, few).await?;
        }
        drop(consumer);
        let mut consumer = open(harness, &topic, &group).await?;
        let replayed = read(harness, &mut consumer, 10).await?;
        let what = format!("events after {polls} polls without a commit");
        equal(what, texts(&replayed), texts(&numbered("k", 0, 10)))?;
    }
    Ok(())
}

async fn a_commit_moves_no_further_than_named(harness: &dyn Harness) -> Verdict {
    let (topic, group) = (topic(harness, 1).await?, fresh("group"));
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let mut member = open(harness, &topic, &group).await?;
    read(harness, &mut member, 10).await?;
    member.polled.to = Offsets::from([(0, 4)]);
    member.commit().await?;
    produce(harness, &topic, &numbered("k", 10, 1)).await?;
    let next = read(harness, &mut member, 1).await?;
    equal("events after the commit", texts(&next), vec!["10".into()])?;
    drop(member);
    let mut member = open(harness, &topic, &group).await?;
    let rest = read(harness, &mut member, 7).await?;
    equal("events after", texts(&rest), texts(&numbered("k", 4, 7)))
}

async fn a_commit_never_moves_back(harness: &dyn Harness) -> Verdict {
    let (topic, group) = (topic(harness, 1).await?, fresh("group"));
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let mut member = open(harness, &topic, &group).await?;
    read(harness, &mut member, 10).await?;
    member.commit().await?;
    member.seek(Some(&Offsets::from([(0, 0)]))).await?;
    poll(harness, &mut member, Limits { events: 2, ..ALL }).await?;
    member.try_commit().await?;
    drop(member);
    produce(harness, &topic, &numbered("k", 10, 1)).await?;
    let mut member = open(harness, &topic, &group).await?;
    let rest = read(harness, &mut member, 1).await?;
    equal("events after", texts(&rest), texts(&numbered("k", 10, 1)))
}

async fn a_commit_passes_no_gap(harness: &dyn Harness) -> Verdict {
    let (topic, group) = (topic(harness, 1).await?, fresh("group"));
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let mut member = open(harness, &topic, &group).await?;
    poll(harness, &mut member, Limits { events: 4, ..ALL }).await?;
    member.polled = Span::default(); // these are forgotten
    poll(harness, &mut member, Limits { events: 2, ..ALL }).await?;
    let is_done = member.try_commit().await?;
    holds("a commit that passes a gap is not done", !is_done)?;
    let again = read(harness, &mut member, 10).await?;
    equal(
        "events after it",
        texts(&again),
        texts(&numbered("k", 0, 10)),
    )?;
    drop(member);
    let mut member = open(harness, &topic, &group).await?;
    let again = read(harness, &mut member, 10).await?;
    equal(
        "events of the next member",
        texts(&again),
        texts(&numbered("k", 0, 10)),
    )
}

async fn what_was_polled_before_a_set_back_comes_again(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    produce(harness, &topic, &numbered("k", 0, 20)).await?;
    let mut member = open(harness, &topic, &fresh("group")).await?;
    let few = Limits { events: 4, ..ALL };
    let done = poll(harness, &mut member, few).await?.len();
    member.commit().await?;
    poll(harness, &mut member, few).await?;
    let epoch = member.seek(None).await?;
    let again = read(harness, &mut member, 20 - done).await?;
    equal("epoch of the next poll", member.epoch, epoch)?;
    equal(
        "events after the set-back",
        texts(&again),
        texts(&numbered("k", done, 20 - done)),
    )?;
    member.commit().await
}

async fn what_a_store_says_is_done_is_committed_along(harness: &dyn Harness) -> Verdict {
    let (topic, group) = (topic(harness, 1).await?, fresh("group"));
    produce(harness, &topic, &numbered("k", 0, 10)).await?;
    let mut member = open(harness, &topic, &group).await?;
    let stored = Offsets::from([(0, 10)]);
    // It may take a moment until the member has its partition; the poll that assigns it starts there.
    let deadline = Instant::now() + harness.patience();
    member.seek(Some(&stored)).await?;
    loop {
        member.poll(ALL).await?;
        if !member.polled.to.is_empty() || Instant::now() >= deadline {
            break;
        }
    }
    equal("position", &member.polled.to, &stored)?;
    member.commit().await?;
    let committed = fine(
        "asking what is committed",
        member.consumer.committed().await,
    )?;
    equal("committed", committed, stored)
}

async fn a_topic_has_an_identity(harness: &dyn Harness) -> Verdict {
    let mut identities = Vec::new();
    for _ in 0..2 {
        let topic = topic(harness, 1).await?;
        let mut same = Vec::new();
        for _ in 0..2 {
            let mut member = open(harness, &topic, &fresh("group")).await?;
            let asked = member.consumer.identity().await;
            same.push(fine("asking for the identity", asked)?);
        }
        equal("identity of the same topic", &same[0], &same[1])?;
        identities.extend(same.pop());
    }
    holds(
        format_args!("{identities:?} of two topics differ"),
        identities[0] != identities[1],
    )
}

async fn groups_do_not_disturb_each_other(harness: &dyn Harness) -> Verdict {
    let topic = topic(harness, 1).await?;
    produce(harness, &topic, &numbered("k", 0, 5)).await?;
    for _ in 0..2 {
        let mut consumer = open(harness, &topic, &fresh("group")).await?;
        let all = read(harness, &mut consumer, 5).await?;
        equal(
            "events of a group",
            texts(&all),
            texts(&numbered("k", 0, 5)),
        )?;
        consumer.commit().await?;
    }
    Ok(())
}

/// The work of two members of a group whose commits overtake each other, and how often each event was
/// done.
async fn shared(harness: &dyn Harness) -> Checked<Vec<(String, usize)>> {
    const EVENTS: usize = 100;
    let (topic, group) = (topic(harness, 2).await?, fresh("group"));
    let sent: Vec<Record> = (0..EVENTS)
        .map(|n| Record::new(&format!("key {n}"), &n.to_string()))
        .collect();
    produce(harness, &topic, &sent).await?;
    let mut members = [
        open(harness, &topic, &group).await?,
        open(harness, &topic, &group).await?,
    ];
    let mut done = vec![0; EVENTS];
    let mut deadline = Instant::now() + harness.patience();
    for turn in 0.. {
        let mut polled = [Vec::new(), Vec::new()];
        for (i, member) in members.iter_mut().enumerate() {
            let limits = Limits {
                events: 5 + 6 * i,
                ..ALL
            };
            let batch = member.poll(limits).await?;
            polled[i] = batch.iter().map(Record::of).collect();
        }
        let moved = polled.iter().any(|batch| !batch.is_empty());
        for i in [turn % 2, (turn + 1) % 2] {
            if members[i].try_commit().await? {
                for record in &polled[i] {
                    let n: usize = record.text().parse().unwrap_or_default();
                    done[n] += 1;
                }
            }
        }
        if moved {
            deadline = Instant::now() + harness.patience();
        } else if Instant::now() >= deadline {
            break;
        }
    }
    Ok((0..EVENTS).map(|n| (n.to_string(), done[n])).collect())
}

async fn an_event_is_done_by_one_member_only(harness: &dyn Harness) -> Verdict {
    let twice: Vec<_> = shared(harness)
        .await?
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .collect();
    equal("events done more than once", twice, Vec::new())
}

async fn an_overtaken_member_loses_nothing(harness: &dyn Harness) -> Verdict {
    let lost: Vec<_> = shared(harness)
        .await?
        .into_iter()
        .filter(|(_, times)| *times == 0)
        .collect();
    equal("events done by nobody", lost, Vec::new())
}
