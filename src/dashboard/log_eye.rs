//! What the dashboard sees of the event log: where its partitions end, what the group has committed, the newest events,
//! and the dead letters. Nothing is written, no member joins a group, and each look reads a bounded number of events.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;

use super::Sources;
use super::lag::{Known, Lag};
use super::live::Live;
use super::times::Times;
use crate::error::Result;
use crate::intake::dead_letter::{DeadLetter, DeadLetters};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::log_reader::{EventVisitor, LogReader};
use crate::ports::monitor::{OutOfRange, Stored};
use crate::record::event::Event;
use crate::record::transform::Transform;
use crate::record::value::Value;

/// Events that the first look reads.
const AT_FIRST: i64 = 2_000;

/// Events that each further look reads.
const EACH_TIME: i64 = 500;

/// Dead letters that are shown.
const LETTERS: i64 = 200;

/// The log, as the last look found it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogSeen {
    /// When it was looked at, in milliseconds since 1970 UTC.
    pub(crate) at: i64,
    /// Events that were ever appended.
    pub(crate) produced: i64,
    /// Events that the group has committed.
    pub(crate) committed: i64,
    /// Whether it has ever committed.
    pub(crate) has_committed: bool,
    /// Events not committed, by partition.
    pub(crate) lag: Vec<(i32, i64)>,
    /// Committed offsets that are not in the topic: events were deleted before they were read, or it is another topic.
    pub(crate) out_of_range: Vec<OutOfRange>,
    /// The same for the offsets that the real-time store keeps, where the stream continues.
    pub(crate) out_in_store: Vec<OutOfRange>,
    /// The topic that those belong to, if it is not this one.
    pub(crate) other_topic: Option<String>,
    /// When the oldest of them was produced.
    pub(crate) oldest: Option<i64>,
    /// When the newest event was produced.
    pub(crate) newest: Option<i64>,
    /// The newest events, by their times.
    pub(crate) times: Times,
    /// What is in them; none if there are none, or nothing to count by.
    pub(crate) live: Option<Arc<Json>>,
    /// Number of dead letters in their topic.
    pub(crate) dead_letters: i64,
    /// The newest of them, the newest first.
    pub(crate) letters: Vec<Letter>,
    /// The time after which all of them are known, in milliseconds since 1970 UTC; none if all are.
    pub(crate) letters_known_after: Option<i64>,
}

impl LogSeen {
    /// The newest dead letters, at most so many, and the time after which none is left out; none if none is.
    pub(crate) fn newest_letters(&self, most: usize) -> (&[Letter], Option<i64>) {
        let known = &self.letters[..self.letters.len().min(most)];
        let cut = known.last().map(|letter| letter.at);
        let cut = cut.filter(|_| known.len() < self.letters.len());
        (known, self.letters_known_after.max(cut))
    }

    /// What the stream cannot read any more, one place a partition.
    pub(crate) fn missing(&self) -> Vec<OutOfRange> {
        let mut missing = self.out_in_store.clone();
        let in_store = |out: &&OutOfRange| {
            let mut places = self.out_in_store.iter();
            !places.any(|known| known.partition == out.partition)
        };
        missing.extend(self.out_of_range.iter().filter(in_store));
        missing.sort_by_key(|out| out.partition);
        missing
    }

    /// Events not committed.
    pub(crate) fn lag_records(&self) -> i64 {
        self.lag.iter().map(|(_, events)| events).sum()
    }

    /// Age of the oldest of them, in milliseconds.
    pub(crate) fn lag_ms(&self) -> Option<i64> {
        match (self.lag_records(), self.oldest) {
            (0, _) => Some(0),
            (_, oldest) => oldest.map(|oldest| self.at.saturating_sub(oldest).max(0)),
        }
    }
}

/// A dead letter, with its reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Letter {
    /// When it was sent, in milliseconds since 1970 UTC.
    pub(crate) at: i64,
    /// Where the letter itself stands in the dead-letter topic, which tells it from all others.
    letter_partition: i32,
    letter_offset: i64,
    /// The partition of its event in the topic; none if it comes from an input.
    partition: Option<i32>,
    /// Its offset in the partition, or its byte in the input.
    offset: Option<i64>,
    rule: String,
    field: Option<String>,
    message: String,
    key: Option<String>,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        Letter {
            at: letter.written_at,
            letter_partition: letter.at.0,
            letter_offset: letter.at.1,
            partition: letter.partition,
            offset: letter.offset,
            rule: letter.rule,
            field: letter.field,
            message: letter.message,
            key: letter.key.map(|key| key.to_string()),
        }
    }
}

/// Looks at the log.
pub(crate) struct LogEye {
    reader: Box<dyn LogReader>,
    dead: Box<dyn LogReader>,
    /// Where the partitions began when they were first looked at.
    base: Offsets,
    /// Up to where the events were read.
    read: Option<Offsets>,
    times: Times,
    live: Live,
    newest: Option<i64>,
    letters: Vec<Letter>,
    letters_known_after: Option<i64>,
    dead_end: Option<Offsets>,
}

impl LogEye {
    /// Opens the topic and its dead letters.
    pub(crate) async fn open(sources: &Sources) -> Result<LogEye> {
        let event = &sources.dataset.event;
        Ok(LogEye {
            reader: sources.event_log.reader(&event.topic).await?,
            dead: sources.event_log.reader(&event.dead_letter_topic()).await?,
            base: Offsets::default(),
            read: None,
            times: Times::default(),
            live: Live::default(),
            newest: None,
            letters: Vec::new(),
            letters_known_after: None,
            dead_end: None,
        })
    }

    /// Looks once.
    pub(crate) async fn look(&mut self, sources: &Sources) -> Result<LogSeen> {
        // In this order, because the stream writes to the store first, and the end goes on.
        let stored = sources
            .realtime
            .kept_offsets(&sources.dataset, &sources.group)
            .await;
        let committed = self.reader.committed(&sources.group).await?;
        let topic = match stored.as_ref().and_then(|stored| stored.topic.as_ref()) {
            Some(_) => self.reader.identity().await?,
            None => None,
        };
        let of_topic = |stored: &Stored| stored.of_topic(topic.as_deref()).cloned();
        let here = stored.as_ref().and_then(of_topic);
        let bounds = self.reader.bounds().await?;
        self.base.set_missing(&bounds.from);
        let mut seen = LogSeen {
            at: crate::time::now_ms(),
            has_committed: !committed.is_empty(),
            other_topic: stored
                .filter(|_| here.is_none())
                .and_then(|stored| stored.topic),
            ..LogSeen::default()
        };
        self.compare(sources, &committed, here.as_ref(), &mut seen)
            .await?;
        let known = Known {
            committed: &committed,
            stored: here.as_ref(),
            out_of_range: &seen.missing(),
            base: &self.base,
        };
        let lag = Lag::of(&bounds, known);
        (seen.produced, seen.committed) = (lag.produced, lag.committed);
        seen.lag = lag.partitions;
        seen.oldest = self.oldest(&lag.first).await?;
        self.read_new(sources, &bounds).await?;
        self.read_letters(sources, &mut seen).await?;
        seen.live = self.live.json(&sources.dataset);
        (seen.times, seen.newest) = (self.times.clone(), self.newest);
        seen.letters.clone_from(&self.letters);
        seen.letters_known_after = self.letters_known_after;
        Ok(seen)
    }

    /// Finds the offsets that nobody can continue at, in the log and in the store.
    async fn compare(
        &mut self,
        sources: &Sources,
        committed: &Offsets,
        here: Option<&Offsets>,
        seen: &mut LogSeen,
    ) -> Result<()> {
        seen.out_of_range = self.reader.out_of_range(committed).await?;
        if let Some(here) = here {
            seen.out_in_store = self.reader.out_of_range(here).await?;
        }
        // Events that have just been read may be deleted at once.
        if !seen.out_of_range.is_empty() {
            let now = self.reader.committed(&sources.group).await?;
            seen.out_of_range.retain(|out| is_at(&now, out));
        }
        if !seen.out_in_store.is_empty()
            && let Some(now) = sources
                .realtime
                .kept_offsets(&sources.dataset, &sources.group)
                .await
        {
            seen.out_in_store.retain(|out| is_at(&now.offsets, out));
        }
        Ok(())
    }

    /// When the oldest of these events was produced.
    async fn oldest(&mut self, waiting: &Span) -> Result<Option<i64>> {
        let mut oldest = None;
        let mut visitor = Each(|event: Event<'_>| {
            oldest = Some(oldest.map_or(event.timestamp, |t: i64| t.min(event.timestamp)));
        });
        if waiting.from.iter().next().is_some() {
            self.reader.read(waiting, &mut visitor).await?;
        }
        Ok(oldest)
    }

    /// Reads the newest events since the last look.
    async fn read_new(&mut self, sources: &Sources, bounds: &Span) -> Result<()> {
        let most = if self.read.is_some() {
            EACH_TIME
        } else {
            AT_FIRST
        };
        let span = newest(bounds, self.read.as_ref(), most);
        let dataset = &*sources.dataset;
        let transform = Transform::new(dataset, crate::time::now_ms());
        let (times, live, newest) = (&mut self.times, &mut self.live, &mut self.newest);
        let mut visitor = Each(|event: Event<'_>| {
            *newest = Some(newest.map_or(event.timestamp, |t| t.max(event.timestamp)));
            let mut values = Vec::new();
            let read = transform.read(event.value.unwrap_or_default(), &mut values);
            // A bad event has no event time; the stream rejects it.
            if read.is_ok()
                && let Value::Timestamp(time) = values[dataset.event.time]
            {
                times.add(event.timestamp, time);
                live.add(dataset, event.timestamp, &values);
            }
        });
        if let Some(span) = span {
            self.reader.read(&span, &mut visitor).await?;
        }
        self.read = Some(bounds.to.clone());
        Ok(())
    }

    /// Reads the newest dead letters, if there are new ones.
    async fn read_letters(&mut self, sources: &Sources, seen: &mut LogSeen) -> Result<()> {
        let bounds = self.dead.bounds().await?;
        let low = |partition| bounds.from.get(partition).unwrap_or(0);
        seen.dead_letters = bounds.to.iter().map(|(p, end)| end - low(p)).sum();
        if self.dead_end.as_ref() == Some(&bounds.to) {
            return Ok(());
        }
        let span = newest(&bounds, None, LETTERS);
        let is_cut = |partition| {
            let from = span.as_ref().and_then(|span| span.from.get(partition));
            from.is_some_and(|from| from > low(partition))
        };
        let (mut letters, mut first) = (Vec::new(), BTreeMap::new());
        let reader = DeadLetters::of(&sources.dataset);
        let mut visitor = Each(|event: Event<'_>| {
            if is_cut(event.partition) {
                let first = first.entry(event.partition).or_insert(event.timestamp);
                *first = event.timestamp.min(*first);
            }
            // What is no dead letter of rtp is counted, and not shown.
            letters.extend(reader.read(&event).map(Letter::from));
        });
        if let Some(span) = &span {
            self.dead.read(span, &mut visitor).await?;
        }
        letters.sort_by_key(|letter: &Letter| std::cmp::Reverse(letter.at));
        // Of each partition, all are known that are younger than the first one that was read.
        self.letters_known_after = first.into_values().max();
        (self.letters, self.dead_end) = (letters, Some(bounds.to));
        Ok(())
    }
}

/// Whether the group is still at that offset.
fn is_at(offsets: &Offsets, out: &OutOfRange) -> bool {
    offsets.get(out.partition) == Some(out.offset)
}

/// The last events of each partition behind `read`, about so many in all; none if there are none.
fn newest(bounds: &Span, read: Option<&Offsets>, most: i64) -> Option<Span> {
    let partitions = i64::try_from(bounds.to.iter().count()).unwrap_or(1).max(1);
    let each = (most / partitions).max(1);
    let mut span = Span::default();
    for (partition, end) in bounds.to.iter() {
        let low = bounds.from.get(partition).unwrap_or(0);
        let read = read
            .and_then(|read| read.get(partition))
            .filter(|read| *read <= end);
        let from = (end - each).max(low).max(read.unwrap_or(low));
        if from < end {
            span.from.set(partition, from);
            span.to.set(partition, end);
        }
    }
    let has_events = span.from.iter().next().is_some();
    has_events.then_some(span)
}

/// Calls a function for each event.
struct Each<F>(F);

impl<F: FnMut(Event<'_>) + Send> EventVisitor for Each<F> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        (self.0)(event);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_reads_a_bounded_number_of_the_newest_events() {
        let bounds = Span {
            from: Offsets::from([(0, 10), (1, 0)]),
            to: Offsets::from([(0, 10_010), (1, 3)]),
        };
        let span = newest(&bounds, None, 100).unwrap();
        assert_eq!((span.from.get(0), span.from.get(1)), (Some(9_960), Some(0)));
        let read = Offsets::from([(0, 10_000), (1, 3)]);
        let span = newest(&bounds, Some(&read), 100).unwrap();
        assert_eq!((span.from.get(0), span.from.get(1)), (Some(10_000), None));
        assert!(newest(&bounds, Some(&bounds.to), 100).is_none());
        // A topic that was recreated ends before what was read.
        let read = Offsets::from([(0, 99_999), (1, 3)]);
        assert!(
            newest(&bounds, Some(&read), 100)
                .unwrap()
                .from
                .get(0)
                .is_some()
        );
    }
}
