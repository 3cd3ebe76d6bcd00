//! What the topic and its dead letters have of the record.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use super::Asked;
use super::key::Key;
use super::model::{InLog, Letter, Partition, Place, Time, Version};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::dead_letter::DeadLetter;
use crate::ports::event_log::{Offsets, Span, partition_of};
use crate::ports::log_reader::{EventVisitor, LogReader};
use crate::ports::realtime_store::continues;
use crate::record::event::{Event, Headers};
use crate::record::transform::Transform;
use crate::record::value::Value;
use crate::run::Stop;

/// How many versions are kept for the answer, and how many dead letters.
const MOST: usize = 100;

/// The topic, and where the group stood before the stores were read: what it has read by then is in its store.
pub(super) struct Stand {
    reader: Box<dyn LogReader>,
    committed: Offsets,
}

/// Asks where the group stands.
pub(super) async fn stand(asked: &Asked<'_>) -> Result<Stand> {
    let mut reader = asked.log.reader(&asked.dataset.event.topic).await?;
    let store = Some(asked.realtime);
    let committed = continues(&mut *reader, store, asked.dataset, asked.group).await?;
    Ok(Stand { reader, committed })
}

/// Reads the partitions that the key belongs to, and all others if those have nothing: another program may have written
/// the record with another key. `origin` is where the real-time row comes from.
pub(super) async fn versions(
    asked: &Asked<'_>,
    stand: Stand,
    origin: Option<Place>,
) -> Result<InLog> {
    let topic = &asked.dataset.event.topic;
    let Stand {
        mut reader,
        committed,
    } = stand;
    let bounds = reader.bounds().await?;
    let mut finder = Finder {
        partitions: partitions(asked, origin, &bounds, &committed),
        key: asked.key,
        dataset: asked.dataset,
        transform: Transform::new(asked.dataset, crate::time::now_ms()),
        stop: asked.stop,
        count: 0,
        waiting: None,
        versions: VecDeque::new(),
    };
    reader.read(&span(&finder.partitions), &mut finder).await?;
    if finder.count == 0 {
        let others = others(&finder.partitions, &bounds, &committed);
        let span = span(&others);
        finder.partitions.extend(others);
        finder.partitions.sort_by_key(|p| p.partition);
        reader.read(&span, &mut finder).await?;
    }
    Ok(InLog {
        topic: topic.clone(),
        group: asked.group.into(),
        partitions: finder.partitions,
        count: finder.count,
        waiting: finder.waiting,
        versions: finder.versions.into(),
    })
}

/// All events of these partitions.
fn span(partitions: &[Partition]) -> Span {
    let places = |at: fn(&Partition) -> i64| -> Offsets {
        partitions.iter().map(|p| (p.partition, at(p))).collect()
    };
    Span {
        from: places(|p| p.oldest),
        to: places(|p| p.end),
    }
}

/// The partition as it is now.
fn partition(number: i32, bounds: &Span, committed: &Offsets) -> Option<Partition> {
    Some(Partition {
        partition: number,
        oldest: bounds.from.get(number)?,
        end: bounds.to.get(number)?,
        committed: committed.get(number),
    })
}

/// The partitions that were not read.
fn others(read: &[Partition], bounds: &Span, committed: &Offsets) -> Vec<Partition> {
    let all = bounds.to.iter().map(|(number, _)| number);
    let others = all.filter(|number| read.iter().all(|p| p.partition != *number));
    let others = others.filter_map(|number| partition(number, bounds, committed));
    others.collect()
}

/// The partitions that may have the key: by the number of partitions now, and by that of the dataset, because a topic may
/// have got more, which moves keys; and the one that the real-time row comes from.
fn partitions(
    asked: &Asked<'_>,
    origin: Option<Place>,
    bounds: &Span,
    committed: &Offsets,
) -> Vec<Partition> {
    let key = Some(asked.key.bytes());
    let now = u32::try_from(bounds.to.len()).unwrap_or(u32::MAX);
    let mut numbers: BTreeSet<i32> = [now, asked.dataset.event.partitions.min(now)]
        .map(|count| partition_of(key, count))
        .into();
    numbers.extend(origin.map(|origin| origin.partition));
    let numbers = numbers.into_iter();
    numbers
        .filter_map(|number| partition(number, bounds, committed))
        .collect()
}

/// Finds the versions of a key.
struct Finder<'a> {
    partitions: Vec<Partition>,
    key: &'a Key,
    dataset: &'a Dataset,
    transform: Transform<'a>,
    stop: &'a Stop,
    count: u64,
    waiting: Option<(i32, u64)>,
    versions: VecDeque<Version>,
}

impl EventVisitor for Finder<'_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        if self.stop.requested().is_some() {
            return ControlFlow::Break(());
        }
        if self.key.is_of(&event) {
            self.count += 1;
            let version = self.version(&event);
            if version.is_waiting {
                self.waiting.get_or_insert((event.partition, version.ahead));
            }
            self.versions.push_back(version);
            if self.versions.len() > MOST {
                self.versions.pop_front();
            }
        }
        ControlFlow::Continue(())
    }
}

impl Finder<'_> {
    fn version(&mut self, event: &Event<'_>) -> Version {
        let in_this = self.partitions.iter();
        let next = in_this
            .filter(|p| p.partition == event.partition)
            .map(|p| p.committed.unwrap_or(p.oldest).max(p.oldest))
            .next();
        let next = next.unwrap_or(event.offset);
        self.transform.logged_at(Some(event.timestamp));
        let (event_time, invalid) = match event.value {
            None => (None, Some("it has no value".into())),
            Some(value) => read(&self.transform, self.dataset, value),
        };
        let mut run_ids = Headers::read(event.headers).filter(|(name, _)| *name == "rtp.run_id");
        let run_id = run_ids.next().map(|(_, id)| String::from_utf8_lossy(id));
        Version {
            at: Place {
                partition: event.partition,
                offset: event.offset,
            },
            produced_at: Time(event.timestamp),
            event_time,
            run_id: run_id.map(String::from),
            is_waiting: event.offset >= next,
            ahead: u64::try_from(event.offset - next).unwrap_or(0),
            invalid,
        }
    }
}

/// The event time of a record, and why it is not a row, if it is not.
pub(super) fn read(
    transform: &Transform<'_>,
    dataset: &Dataset,
    record: &[u8],
) -> (Option<Time>, Option<String>) {
    let mut values = Vec::new();
    let read = transform.read(record, &mut values);
    checked(transform, dataset, read.map(|()| values))
}

/// Like [`read`], of values that were read already.
pub(super) fn checked(
    transform: &Transform<'_>,
    dataset: &Dataset,
    values: Result<Vec<Value<'_>>, crate::record::reject::Reject>,
) -> (Option<Time>, Option<String>) {
    match values.and_then(|values| transform.check(&values)) {
        Ok(time) => (Some(Time(time)), None),
        Err(reject) => (None, Some(reject.describe(dataset))),
    }
}

/// Reads all dead letters: the last ones about the key, or about an event that is a version of it, and how many there are
/// before them.
pub(super) async fn dead_letters(
    asked: &Asked<'_>,
    log: Option<&InLog>,
) -> Result<(Vec<Letter>, u64)> {
    let topic = asked.dataset.event.dead_letter_topic();
    let mut reader = asked.log.reader(&topic).await?;
    let bounds = reader.bounds().await?;
    let mut letters = Letters {
        asked,
        topic: &topic,
        versions: log.map_or(&[][..], |log| &log.versions),
        found: VecDeque::new(),
        left_out: 0,
    };
    reader.read(&bounds, &mut letters).await?;
    Ok((letters.found.into(), letters.left_out))
}

struct Letters<'a> {
    asked: &'a Asked<'a>,
    topic: &'a str,
    versions: &'a [Version],
    found: VecDeque<Letter>,
    /// How many were found before these.
    left_out: u64,
}

impl EventVisitor for Letters<'_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        if self.asked.stop.requested().is_some() {
            return ControlFlow::Break(());
        }
        let letters = self.asked.key.letters();
        let read = letters.read(&event);
        if let Some(letter) = read.filter(|letter| self.is_about_it(letter)) {
            let time = event.value.and_then(|record| letters.time_in(record));
            self.found.push_back(self.letter(letter, time.map(Time)));
            if self.found.len() > MOST {
                self.found.pop_front();
                self.left_out += 1;
            }
        }
        ControlFlow::Continue(())
    }
}

impl Letters<'_> {
    fn is_about_it(&self, letter: &DeadLetter) -> bool {
        let is_version = |origin: Place| self.versions.iter().any(|v| v.at == origin);
        letter.key.as_ref() == Some(&self.asked.key.value)
            || self.origin(letter).is_some_and(is_version)
    }

    fn origin(&self, letter: &DeadLetter) -> Option<Place> {
        let is_ours = letter.source == self.asked.dataset.event.topic;
        let (partition, offset) = letter.partition.zip(letter.offset).filter(|_| is_ours)?;
        Some(Place { partition, offset })
    }

    fn letter(&self, letter: DeadLetter, event_time: Option<Time>) -> Letter {
        let (partition, offset) = letter.at;
        Letter {
            topic: self.topic.into(),
            at: Place { partition, offset },
            written_at: Time(letter.written_at),
            origin: self.origin(&letter),
            line: letter.line,
            event_time,
            stage: letter.stage,
            run_id: letter.run_id,
            rule: letter.rule,
            field: letter.field,
            message: letter.message,
        }
    }
}
