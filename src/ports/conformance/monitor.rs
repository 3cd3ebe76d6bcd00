//! What every monitor of a log and of a store must do: one case for each guarantee of the ports.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::{Kind, Result};
use crate::ports::conformance::event_log::Harness as EventLog;
use crate::ports::conformance::table_reader::Harness as Table;
use crate::ports::conformance::{
    Checked, Verdict, dataset, equal, event, fine, fresh, holds, holds_rows, rows,
};
use crate::ports::event_log::{
    FIRST_EVENT_WAIT, Limits, Offsets, Position, Span, Topic, partition_of,
};
use crate::ports::monitor::{LogMonitor, RowCount, StoreMonitor, Stored, Why, probe_topic};
use crate::record::event::{Event, EventBatch, Mark};
use crate::time::now_ms;

/// Milliseconds since 1970 UTC.
type Times = RangeInclusive<i64>;

/// The cases of an event log's monitor.
pub mod log {
    use super::*;
    use crate::ports::conformance::cases;

    /// A log and its monitor to check.
    #[async_trait]
    pub trait Harness: EventLog {
        /// Watches a topic.
        async fn monitor(&self, topic: &str) -> Result<Box<dyn LogMonitor>>;
    }

    cases! {
        dyn Harness;
        a_probe_is_written_and_read_back,
        a_probe_leaves_the_topic_alone,
        probes_leave_a_bounded_number_of_events needs RemovesOldProbes,
        lag_is_what_the_group_has_not_committed,
        a_store_that_has_less_lags_more,
        an_offset_beyond_the_end_is_told,
        an_offset_after_another_event_is_told needs MarksPositions,
        an_offset_of_a_missing_event_is_told needs LeavesNoGaps,
        a_missing_topic_is_an_error,
    }

    const ALL: Limits = Limits {
        events: 10_000,
        bytes: 64 << 20,
        wait: FIRST_EVENT_WAIT,
    };

    /// A topic of two partitions, with its topic for probes.
    async fn topic(harness: &dyn Harness) -> Checked<String> {
        let name = fresh("conformance");
        let topics = [Topic::new(&name, 2), Topic::new(probe_topic(&name), 1)];
        fine("creating topics", harness.create(&topics).await)?;
        Ok(name)
    }

    async fn open(harness: &dyn Harness, topic: &str) -> Checked<Box<dyn LogMonitor>> {
        fine("opening the monitor", harness.monitor(topic).await)
    }

    /// Appends an event; returns the milliseconds between which it was accepted, which overlap with no other event's.
    async fn produce(harness: &dyn Harness, topic: &str, key: &str) -> Checked<Times> {
        let mut batch = EventBatch::default();
        batch.push(Event::new(Some(key.as_bytes()), Some(b"v"), &[]));
        let mut producer = fine("opening a producer", harness.producer(topic).await)?;
        let before = now_ms();
        fine("sending", producer.send(&Arc::new(batch)).await)?;
        fine("flushing", producer.flush().await)?;
        let times = before..=now_ms();
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(times)
    }

    /// The lag of a group, whose oldest event was accepted in these milliseconds.
    async fn lags(
        monitor: &mut dyn LogMonitor,
        group: &str,
        when: &str,
        (started, records, oldest): (bool, u64, Option<&Times>),
    ) -> Verdict {
        let lag = fine("asking for the lag", monitor.lag(group, None).await)?;
        equal(
            format!("whether the group has started, and its lag {when}"),
            (lag.started, lag.records()),
            (started, records),
        )?;
        holds(
            format_args!(
                "the oldest event {when}, of {:?}, was taken in {oldest:?}",
                lag.oldest
            ),
            match (lag.oldest, oldest) {
                (Some(told), Some(times)) => times.contains(&told),
                (told, times) => told.is_none() && times.is_none(),
            },
        )
    }

    /// The values of a topic's events, from the oldest one on; waits for at least `count`.
    async fn values(harness: &dyn Harness, topic: &str, least: usize) -> Checked<Vec<String>> {
        let mut consumer = fine("reading", harness.consumer(topic, &fresh("group")).await)?;
        let deadline = tokio::time::Instant::now() + harness.patience();
        let mut values = Vec::new();
        loop {
            let batch = fine("polling", consumer.poll(ALL).await)?.events;
            let text = |e: Event<'_>| String::from_utf8_lossy(e.value.unwrap_or_default()).into();
            values.extend(batch.iter().map(text));
            let is_over = values.len() >= least || tokio::time::Instant::now() >= deadline;
            if batch.is_empty() && is_over {
                return Ok(values);
            }
        }
    }

    async fn a_probe_is_written_and_read_back(harness: &dyn Harness) -> Verdict {
        let topic = topic(harness).await?;
        let mut monitor = open(harness, &topic).await?;
        let ids = [fresh("probe"), fresh("probe")];
        for id in &ids {
            fine("probing", monitor.probe(id).await)?;
        }
        let there = values(harness, &probe_topic(&topic), 2).await?;
        equal("events of the probes' topic", there, ids.to_vec())
    }

    async fn a_probe_leaves_the_topic_alone(harness: &dyn Harness) -> Verdict {
        let topic = topic(harness).await?;
        produce(harness, &topic, "a").await?;
        produce(harness, &topic, "b").await?;
        let mut monitor = open(harness, &topic).await?;
        fine("probing", monitor.probe("p").await)?;
        let there = values(harness, &topic, 2).await?;
        equal(
            "events of the topic",
            there,
            vec!["v".into(), "v".to_string()],
        )
    }

    async fn probes_leave_a_bounded_number_of_events(harness: &dyn Harness) -> Verdict {
        let topic = topic(harness).await?;
        let mut monitor = open(harness, &topic).await?;
        for n in 0..150 {
            fine("probing", monitor.probe(&format!("p{n}")).await)?;
        }
        let left = values(harness, &probe_topic(&topic), 1).await?.len();
        holds(
            format_args!("fewer than 125 of 150 probes are left, not {left}"),
            left < 125,
        )
    }

    async fn lag_is_what_the_group_has_not_committed(harness: &dyn Harness) -> Verdict {
        let (topic, group) = (topic(harness).await?, fresh("group"));
        let mut monitor = open(harness, &topic).await?;
        let monitor = &mut *monitor;
        lags(monitor, &group, "in an empty topic", (false, 0, None)).await?;

        // Keys of either partition, so that the oldest event is not in the first one only.
        let in_partition = |p: i32| {
            (0..100)
                .map(|n| format!("k{n}"))
                .find(|k| partition_of(Some(k.as_bytes()), 2) == p)
        };
        let (Some(first), Some(second)) = (in_partition(0), in_partition(1)) else {
            return Err("no key for each partition".into());
        };
        let oldest = produce(harness, &topic, &second).await?;
        produce(harness, &topic, &first).await?;
        produce(harness, &topic, &first).await?;
        let all = (false, 3, Some(&oldest));
        lags(monitor, &group, "before any commit", all).await?;

        let mut consumer = fine("joining", harness.consumer(&topic, &group).await)?;
        let deadline = tokio::time::Instant::now() + harness.patience();
        let mut read = 0;
        let mut span = Span::default();
        loop {
            let polled = fine("polling", consumer.poll(ALL).await)?;
            span.extend(&polled.span);
            read += polled.events.len();
            if read >= 3 || tokio::time::Instant::now() >= deadline {
                break;
            }
        }
        equal("events read", read, 3)?;
        fine("committing", consumer.commit(&span).await)?;
        lags(monitor, &group, "after the commit", (true, 0, None)).await?;

        let next = produce(harness, &topic, &first).await?;
        let one = (true, 1, Some(&next));
        lags(monitor, &group, "after one more event", one).await?;
        let all = (false, 4, Some(&oldest));
        lags(monitor, &fresh("group"), "of another group", all).await
    }

    /// Two events in one partition, which is returned.
    async fn two_events(harness: &dyn Harness, topic: &str) -> Checked<i32> {
        produce(harness, topic, "k").await?;
        produce(harness, topic, "k").await?;
        Ok(partition_of(Some(b"k"), 2))
    }

    /// Why a reader could not continue at this position.
    async fn why(monitor: &mut dyn LogMonitor, partition: i32, at: Position) -> Checked<Vec<Why>> {
        let offsets = Offsets::from_iter([(partition, at)]);
        let found = monitor.out_of_range(&offsets).await;
        let found = fine("comparing offsets", found)?;
        Ok(found.iter().map(|found| found.why).collect())
    }

    async fn a_store_that_has_less_lags_more(harness: &dyn Harness) -> Verdict {
        let (topic, group) = (topic(harness).await?, fresh("group"));
        let partition = two_events(harness, &topic).await?;
        let mut consumer = fine("joining", harness.consumer(&topic, &group).await)?;
        let identity = fine("asking for the identity", consumer.identity().await)?;
        let deadline = tokio::time::Instant::now() + harness.patience();
        let (mut read, mut span) = (0, Span::default());
        loop {
            let polled = fine("polling", consumer.poll(ALL).await)?;
            span.extend(&polled.span);
            read += polled.events.len();
            if read >= 2 || tokio::time::Instant::now() >= deadline {
                break;
            }
        }
        fine("committing", consumer.commit(&span).await)?;
        let mut monitor = open(harness, &topic).await?;
        for (topic, offsets, expected) in [
            (Some(&*identity), Offsets::from([(partition, 2)]), 0),
            (Some(&*identity), Offsets::from([(partition, 1)]), 1),
            (None, Offsets::default(), 2),
            (Some("another topic"), Offsets::from([(partition, 1)]), 0),
        ] {
            let stored = Stored {
                topic: topic.map(Into::into),
                offsets,
            };
            let lag = fine(
                "asking for the lag",
                monitor.lag(&group, Some(&stored)).await,
            )?;
            equal(format!("the lag of {stored:?}"), lag.records(), expected)?;
        }
        Ok(())
    }

    async fn an_offset_beyond_the_end_is_told(harness: &dyn Harness) -> Verdict {
        let topic = topic(harness).await?;
        let partition = two_events(harness, &topic).await?;
        let mut monitor = open(harness, &topic).await?;
        for (offset, expected) in [(0, vec![]), (2, vec![]), (3, vec![Why::Beyond { end: 2 }])] {
            let found = why(&mut *monitor, partition, offset.into()).await?;
            equal(
                format!("what is wrong with offset {offset}"),
                found,
                expected,
            )?;
        }
        Ok(())
    }

    async fn an_offset_after_another_event_is_told(harness: &dyn Harness) -> Verdict {
        let topic = topic(harness).await?;
        let partition = two_events(harness, &topic).await?;
        let mut consumer = fine("joining", harness.consumer(&topic, &fresh("group")).await)?;
        let polled = fine("polling", consumer.poll(ALL).await)?;
        let Some(at) = polled.span.to.position(partition) else {
            return Err(format!("nothing was read from partition {partition}"));
        };
        let Some(Mark(mark)) = at.before else {
            return Err(format!("{at:?} has no mark"));
        };
        let other = Position {
            before: Some(Mark(!mark)),
            ..at
        };
        let mut monitor = open(harness, &topic).await?;
        for (at, expected) in [(at, vec![]), (other, vec![Why::OtherEvents])] {
            let found = why(&mut *monitor, partition, at).await?;
            equal(format!("what is wrong with {at:?}"), found, expected)?;
        }
        Ok(())
    }

    async fn an_offset_of_a_missing_event_is_told(harness: &dyn Harness) -> Verdict {
        let topic = fresh("conformance");
        let topics = [Topic::new(&topic, 1), Topic::new(probe_topic(&topic), 1)];
        fine("creating topics", harness.create(&topics).await)?;
        let group = fresh("group");
        produce(harness, &topic, "a").await?;
        let mut consumer = fine("joining", harness.consumer(&topic, &group).await)?;
        let polled = fine("polling", consumer.poll(ALL).await)?;
        fine("committing", consumer.commit(&polled.span).await)?;
        for key in ["b", "c", "d"] {
            produce(harness, &topic, key).await?;
        }
        let mut monitor = open(harness, &topic).await?;
        for (deleted, low) in [(0..1, None), (1..3, Some(3)), (3..4, Some(4))] {
            fine("deleting", harness.delete(&topic, deleted.clone()).await)?;
            let expected: Vec<Why> = low.map(|low| Why::Deleted { low }).into_iter().collect();
            let what = format!("after {deleted:?} were deleted");
            let found = why(&mut *monitor, 0, 1.into()).await?;
            equal(format_args!("offset 1 {what}"), found, expected.clone())?;
            let lag = fine("asking for the lag", monitor.lag(&group, None).await)?;
            let found: Vec<Why> = lag.out_of_range.iter().map(|out| out.why).collect();
            equal(format_args!("the group {what}"), found, expected)?;
        }
        Ok(())
    }

    async fn a_missing_topic_is_an_error(harness: &dyn Harness) -> Verdict {
        let missing = fresh("missing");
        let told = match harness.monitor(&missing).await {
            Ok(mut monitor) => monitor.lag("group", None).await.map(|_| ()),
            Err(e) => Err(e),
        };
        let kind = told.map_err(|e| e.kind());
        equal("watching a missing topic", kind, Err(Kind::Invalid))
    }
}

/// The cases of a store's monitor.
pub mod store {
    use super::*;
    use crate::ports::conformance::cases;

    /// A store and its monitor to check.
    #[async_trait]
    pub trait Harness: Table {
        /// Watches the dataset's store.
        async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>>;
    }

    cases! {
        dyn Harness;
        a_probe_leaves_the_table_alone,
        the_last_write_is_that_of_the_datasets_rows,
        few_rows_are_counted_exactly,
        a_missing_table_is_an_error,
    }

    async fn open(harness: &dyn Harness, dataset: &Dataset) -> Checked<Box<dyn StoreMonitor>> {
        fine("opening the monitor", harness.monitor(dataset).await)
    }

    async fn a_probe_leaves_the_table_alone(harness: &dyn Harness) -> Verdict {
        let dataset = dataset("id")?;
        fine("creating tables", harness.create(&dataset).await)?;
        let events = [event(1, 0, "a")];
        let written = harness.write(&dataset, &rows(&dataset, &events)?).await;
        fine("writing", written)?;
        let mut monitor = open(harness, &dataset).await?;
        for (writer, id) in [("one", "a"), ("two", "b"), ("one", "c"), ("one", "c")] {
            fine("probing", monitor.probe(writer, id).await)?;
        }
        let table = fine("opening the table", harness.table(&dataset).await)?;
        holds_rows("after the probes", &dataset, table, &events).await
    }

    async fn the_last_write_is_that_of_the_datasets_rows(harness: &dyn Harness) -> Verdict {
        let (dataset, other) = (dataset("id")?, dataset("id")?);
        for dataset in [&dataset, &other] {
            fine("creating tables", harness.create(dataset).await)?;
        }
        let mut monitor = open(harness, &dataset).await?;
        fine("probing", monitor.probe("writer", "a").await)?;
        let events = [event(1, 0, "a")];
        let beside = harness.write(&other, &rows(&other, &events)?).await;
        fine("writing to another dataset", beside)?;
        let never = fine("asking for the last write", monitor.last_write().await)?;
        equal("last write before any", never, None)?;

        let before = crate::time::now_ms();
        let written = harness.write(&dataset, &rows(&dataset, &events)?).await;
        fine("writing", written)?;
        let last = fine("asking for the last write", monitor.last_write().await)?;
        let after = crate::time::now_ms();
        let is_now = last.is_some_and(|last| (before..=after).contains(&last));
        holds(
            format_args!("the last write is between {before} and {after}, not {last:?}"),
            is_now,
        )?;
        fine("probing", monitor.probe("writer", "b").await)?;
        let still = fine("asking for the last write", monitor.last_write().await)?;
        equal("last write after a probe", still, last)
    }

    async fn few_rows_are_counted_exactly(harness: &dyn Harness) -> Verdict {
        let dataset = dataset("id")?;
        fine("creating tables", harness.create(&dataset).await)?;
        let mut monitor = open(harness, &dataset).await?;
        fine("probing", monitor.probe("writer", "a").await)?;
        // 5,000 keys, most of whose columns are null; some of them twice.
        let none = fine("counting", monitor.rows().await)?;
        let counted = |count| Some(RowCount { count, exact: true });
        equal("rows of an empty table", none, counted(0))?;
        for (keys, count) in [(0..4_000, 4_000), (3_000..5_000, 5_000)] {
            let events: Vec<String> = keys.map(|id| event(id, 0, "a")).collect();
            let written = harness.write(&dataset, &rows(&dataset, &events)?).await;
            fine("writing", written)?;
            let rows = fine("counting", monitor.rows().await)?;
            equal("rows", rows, counted(count))?;
        }
        Ok(())
    }

    async fn a_missing_table_is_an_error(harness: &dyn Harness) -> Verdict {
        let missing = dataset("id")?;
        let told = match harness.monitor(&missing).await {
            Ok(mut monitor) => monitor.probe("writer", "a").await,
            Err(e) => Err(e),
        };
        let kind = told.map_err(|e| e.kind());
        equal("watching a missing store", kind, Err(Kind::Invalid))
    }
}
