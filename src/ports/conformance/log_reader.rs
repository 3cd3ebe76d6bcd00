//! What every reader of a log from outside its groups must do: one case for each guarantee of the port.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Kind, Result};
use crate::ports::conformance::event_log::{self as log, Harness as EventLog, Record};
use crate::ports::conformance::{Checked, Verdict, cases, equal, fine, fresh, holds};
use crate::ports::event_log::{Offsets, Span, partition_of};
use crate::ports::log_reader::{EventVisitor, LogReader};
use crate::ports::monitor::Why;
use crate::record::event::{Event, Headers};
use crate::time::now_ms;

/// A log and its reader to check.
#[async_trait]
pub trait Harness: EventLog {
    /// Reads a topic from outside its groups.
    async fn reader(&self, topic: &str) -> Result<Box<dyn LogReader>>;
}

cases! {
    dyn Harness;
    the_bounds_are_the_oldest_event_and_the_next_one,
    everything_in_a_span_is_lent_in_order,
    every_byte_is_lent,
    nothing_outside_of_a_span_is_lent,
    earlier_events_can_be_read_again,
    a_break_ends_a_reading,
    what_is_not_there_is_left_out,
    a_time_is_found_between_events,
    only_what_a_group_has_committed_has_an_offset,
    an_offset_that_nobody_can_continue_at_is_told,
    the_identity_is_the_one_that_a_member_is_told,
    reading_leaves_the_groups_alone,
    a_missing_topic_is_an_error_and_is_not_made,
}

/// More events than an adapter reads at once.
const MANY: usize = 25_000;

/// Partitions of the topics.
const PARTITIONS: u32 = 3;

/// Takes events, as many as it is told to.
#[derive(Default)]
struct Collector {
    records: Vec<Record>,
    most: Option<usize>,
}

impl EventVisitor for Collector {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        self.records.push(Record::of(event));
        match self.most == Some(self.records.len()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

async fn open(harness: &dyn Harness, topic: &str) -> Checked<Box<dyn LogReader>> {
    fine("opening the reader", harness.reader(topic).await)
}

async fn read(reader: &mut dyn LogReader, span: &Span) -> Checked<Vec<Record>> {
    let mut collector = Collector::default();
    fine("reading", reader.read(span, &mut collector).await)?;
    Ok(collector.records)
}

async fn bounds(reader: &mut dyn LogReader) -> Checked<Span> {
    fine("asking for the bounds", reader.bounds().await)
}

/// The events of one partition.
fn of(records: &[Record], partition: i32) -> Vec<Record> {
    let is_there = |record: &&Record| record.partition == partition;
    records.iter().filter(is_there).cloned().collect()
}

/// A topic whose keys are spread over its partitions, with this many events of each of five keys.
async fn filled(harness: &dyn Harness, count: usize) -> Checked<String> {
    let topic = log::topic(harness, PARTITIONS).await?;
    let keys = ["a", "b", "c", "d", "e"];
    let records: Vec<Record> = (0..count)
        .flat_map(|n| keys.map(|key| Record::new(key, &n.to_string())))
        .collect();
    log::produce(harness, &topic, &records).await?;
    Ok(topic)
}

/// The partition of a key in these topics, and a span in it.
fn part(key: &str, from: i64, to: i64) -> (i32, Span) {
    let partition = partition_of(Some(key.as_bytes()), PARTITIONS);
    let span = Span {
        from: [(partition, from)].into(),
        to: [(partition, to)].into(),
    };
    (partition, span)
}

async fn the_bounds_are_the_oldest_event_and_the_next_one(harness: &dyn Harness) -> Verdict {
    let topic = log::topic(harness, PARTITIONS).await?;
    let mut reader = open(harness, &topic).await?;
    let empty = bounds(reader.as_mut()).await?;
    let none: Offsets = [(0, 0), (1, 0), (2, 0)].into();
    equal("start of an empty topic", &empty.from, &none)?;
    equal("end of an empty topic", &empty.to, &none)?;
    log::produce(harness, &topic, &log::numbered("k", 0, 7)).await?;
    let (partition, _) = part("k", 0, 0);
    let filled = bounds(reader.as_mut()).await?;
    let end: Offsets = none
        .iter()
        .map(|(p, _)| (p, if p == partition { 7 } else { 0 }))
        .collect();
    equal("start", &filled.from, &none)?;
    equal("end after seven events of one key", &filled.to, &end)
}

async fn everything_in_a_span_is_lent_in_order(harness: &dyn Harness) -> Verdict {
    let topic = filled(harness, MANY / 5).await?;
    let mut reader = open(harness, &topic).await?;
    let span = bounds(reader.as_mut()).await?;
    let lent = read(reader.as_mut(), &span).await?;
    let mut total = 0;
    for (partition, range) in span.ranges() {
        let offsets: Vec<i64> = of(&lent, partition).iter().map(|r| r.offset).collect();
        total += offsets.len();
        let expected: Vec<i64> = range.collect();
        holds(
            format_args!("the events of partition {partition} are lent once, in order"),
            offsets == expected,
        )?;
    }
    equal("number of events", (total, lent.len()), (MANY, MANY))
}

async fn every_byte_is_lent(harness: &dyn Harness) -> Verdict {
    let topic = log::topic(harness, 1).await?;
    let mut headers = Headers::default();
    headers.push("a", &[0, 0xff]);
    headers.push_bytes(b"not \xff UTF-8", b"");
    let plain = Record::new("k", "v");
    let bytes: Vec<u8> = (0..=255).collect();
    let (headers, key) = (headers.bytes().to_vec(), Some(bytes.clone()));
    let records = [
        Record {
            headers,
            ..plain.clone()
        },
        Record {
            key,
            ..plain.clone()
        },
        Record {
            key: None,
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
    ];
    log::produce(harness, &topic, &records).await?;
    tokio::time::sleep(Duration::from_millis(20)).await; // the time of reading must differ
    let polled = log::read_all(harness, &topic, records.len()).await?;
    let mut reader = open(harness, &topic).await?;
    let span = bounds(reader.as_mut()).await?;
    let lent = read(reader.as_mut(), &span).await?;
    equal("what is lent, and what a member polls", lent, polled)
}

async fn nothing_outside_of_a_span_is_lent(harness: &dyn Harness) -> Verdict {
    let topic = filled(harness, 40).await?;
    let mut reader = open(harness, &topic).await?;
    let (partition, span) = part("a", 5, 21);
    let lent = read(reader.as_mut(), &span).await?;
    let places: Vec<(i32, i64)> = lent.iter().map(|r| (r.partition, r.offset)).collect();
    let expected: Vec<(i32, i64)> = (5..21).map(|offset| (partition, offset)).collect();
    equal("offsets lent", places, expected)?;
    let (_, empty) = part("a", 5, 5);
    let lent = read(reader.as_mut(), &empty).await?;
    equal("events in an empty span", lent.len(), 0)
}

async fn earlier_events_can_be_read_again(harness: &dyn Harness) -> Verdict {
    let topic = filled(harness, 200).await?;
    let mut reader = open(harness, &topic).await?;
    for (from, to) in [(30, 40), (2, 60), (0, 10)] {
        let (_, span) = part("a", from, to);
        let offsets: Vec<i64> = read(reader.as_mut(), &span)
            .await?
            .iter()
            .map(|r| r.offset)
            .collect();
        equal("offsets lent", offsets, (from..to).collect())?;
    }
    Ok(())
}

async fn a_break_ends_a_reading(harness: &dyn Harness) -> Verdict {
    let topic = filled(harness, 40).await?;
    let mut reader = open(harness, &topic).await?;
    let span = bounds(reader.as_mut()).await?;
    for most in [1, 150] {
        let mut collector = Collector {
            most: Some(most),
            ..Collector::default()
        };
        fine("reading", reader.read(&span, &mut collector).await)?;
        equal(
            "events lent before the break",
            collector.records.len(),
            most,
        )?;
    }
    equal(
        "events lent then",
        read(reader.as_mut(), &span).await?.len(),
        200,
    )
}

/// A reading of it ends, too.
async fn what_is_not_there_is_left_out(harness: &dyn Harness) -> Verdict {
    let topic = filled(harness, 10).await?;
    let mut reader = open(harness, &topic).await?;
    let mut span = bounds(reader.as_mut()).await?;
    let ends: Vec<(i32, i64)> = span.to.iter().collect();
    for (partition, end) in ends {
        span.to.set(partition, end + 1_000);
    }
    equal("events lent", read(reader.as_mut(), &span).await?.len(), 50)?;
    let (_, after) = part("a", 900, 1_000);
    equal(
        "events after the end",
        read(reader.as_mut(), &after).await?.len(),
        0,
    )
}

async fn a_time_is_found_between_events(harness: &dyn Harness) -> Verdict {
    let topic = log::topic(harness, PARTITIONS).await?;
    let mut reader = open(harness, &topic).await?;
    let (partition, _) = part("k", 0, 0);
    let mut times = vec![0];
    for n in 0..3 {
        log::produce(harness, &topic, &log::numbered("k", 4 * n, 4)).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
        times.push(now_ms());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    times.push(now_ms() + 3_600_000);
    for (time, expected) in times.into_iter().zip([0, 4, 8, 12, 12]) {
        let found = fine("looking for a time", reader.at_time(time).await)?;
        let expected: Offsets = (0..3)
            .map(|p| (p, if p == partition { expected } else { 0 }))
            .collect();
        equal(format_args!("offsets at {time}"), found, expected)?;
    }
    Ok(())
}

async fn only_what_a_group_has_committed_has_an_offset(harness: &dyn Harness) -> Verdict {
    let topic = log::topic(harness, PARTITIONS).await?;
    let (group, other) = (fresh("group"), fresh("group"));
    let mut reader = open(harness, &topic).await?;
    let before = fine("asking for the offsets", reader.committed(&group).await)?;
    holds(
        format_args!("a new group has no offsets: {before:?}"),
        before.is_empty(),
    )?;
    log::produce(harness, &topic, &log::numbered("k", 0, 6)).await?;
    let mut member = log::open(harness, &topic, &group).await?;
    equal(
        "events polled",
        log::read(harness, &mut member, 6).await?.len(),
        6,
    )?;
    member.commit().await?;
    let (partition, _) = part("k", 0, 0);
    let committed = fine("asking for the offsets", reader.committed(&group).await)?;
    equal("the group's offset", committed.get(partition), Some(6))?;
    let others = fine("asking for the offsets", reader.committed(&other).await)?;
    holds(
        format_args!("another group has no offsets: {others:?}"),
        others.is_empty(),
    )
}

async fn an_offset_that_nobody_can_continue_at_is_told(harness: &dyn Harness) -> Verdict {
    let topic = log::topic(harness, PARTITIONS).await?;
    log::produce(harness, &topic, &log::numbered("k", 0, 6)).await?;
    let (partition, _) = part("k", 0, 0);
    let mut reader = open(harness, &topic).await?;
    for (offset, expected) in [(0, None), (6, None), (7, Some(Why::Beyond { end: 6 }))] {
        let offsets = Offsets::from([(partition, offset)]);
        let found = fine("comparing offsets", reader.out_of_range(&offsets).await)?;
        let why: Vec<Why> = found.iter().map(|found| found.why).collect();
        let what = format_args!("what is wrong with offset {offset}");
        equal(what, why, expected.into_iter().collect())?;
    }
    Ok(())
}

async fn the_identity_is_the_one_that_a_member_is_told(harness: &dyn Harness) -> Verdict {
    let topic = log::topic(harness, PARTITIONS).await?;
    let mut member = fine("joining", harness.consumer(&topic, &fresh("group")).await)?;
    let told = fine("asking for the identity", member.identity().await)?;
    let mut reader = open(harness, &topic).await?;
    let known = fine("asking for the identity", reader.identity().await)?;
    equal("the topic's identity", known.unwrap_or(told.clone()), told)
}

async fn reading_leaves_the_groups_alone(harness: &dyn Harness) -> Verdict {
    let topic = filled(harness, 20).await?;
    let group = fresh("group");
    let mut member = log::open(harness, &topic, &group).await?;
    let first = log::poll(harness, &mut member, log::ALL).await?;
    let mut reader = open(harness, &topic).await?;
    let span = bounds(reader.as_mut()).await?;
    equal(
        "events lent",
        read(reader.as_mut(), &span).await?.len(),
        100,
    )?;
    let committed = fine("asking for the offsets", reader.committed(&group).await)?;
    holds(
        format_args!("nothing was committed: {committed:?}"),
        committed.is_empty(),
    )?;
    let rest = match first.len() {
        100 => Vec::new(),
        some => log::read(harness, &mut member, 100 - some).await?,
    };
    equal("events of the member", first.len() + rest.len(), 100)?;
    member.commit().await
}

async fn a_missing_topic_is_an_error_and_is_not_made(harness: &dyn Harness) -> Verdict {
    let missing = fresh("missing");
    for _ in 0..2 {
        match harness.reader(&missing).await {
            Ok(_) => return Err("a missing topic can be opened".into()),
            Err(e) => {
                equal(format_args!("kind of {e}"), e.kind(), Kind::Invalid)?;
                holds(
                    format_args!("`{e}` names it"),
                    e.to_string().contains(&missing),
                )?;
            }
        }
    }
    Ok(())
}
