//! The embedded event log, whole and broken.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use rtp::conformance::Abilities;
use rtp::error::Result;
use rtp::event::{Event, Headers, MicroBatch};
use rtp::event_log::conformance::{CASES, Harness};
use rtp::event_log::sqlite::{SqliteConsumer, SqliteProducer, create};
use rtp::event_log::{Commit, Consumer, Limits, Offsets, Producer, Topic};

use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    // Producers.
    ReversesABatch,
    LosesTheLastHeader,
    SortsHeaders,
    TakesKeysAsText,
    EmptyValueIsNone,
    EmptyKeyIsNone,
    TellsTheTimeOfReading,
    HashesOtherwise,
    CountsOneTooMany,
    CountsAgain,
    CutsABatchInTwo,
    AcknowledgesBeforeWriting,
    LosesTheLastEvent,
    MakesMissingTopics,
    ForgetsTopicsThatAreCreatedAgain,
    LosesEventsOfProducersAtOnce,
    // Consumers.
    StartsAtTheEnd,
    SkipsAnEvent,
    ReversesAPoll,
    PrefersTheBusyPartition,
    RepeatsTheLastEvent,
    IgnoresTheLimitOfEvents,
    IgnoresTheLimitOfBytes,
    DropsBigEvents,
    PositionLagsBehind,
    EndIsTheLastEvent,
    IgnoresSeeks,
    SeeksNamedPartitionsOnly,
    ForgetsCommits,
    CommitsTheEnd,
    CommitsWithThePoll,
    CommitsWithTheNextPoll,
    CommitsWhenDropped,
    MovesBack,
    CommitsThePosition,
    SharesGroups,
    SaysDoneThoughOvertaken,
    GoesOnThoughOvertaken,
}

const BREAKERS: &[(Break, &str)] = &[
    (Break::ReversesABatch, "events_of_a_key_keep_their_order"),
    (Break::LosesTheLastHeader, "every_byte_is_kept"),
    (Break::SortsHeaders, "every_byte_is_kept"),
    (Break::TakesKeysAsText, "every_byte_is_kept"),
    (Break::EmptyValueIsNone, "every_byte_is_kept"),
    (Break::EmptyKeyIsNone, "every_byte_is_kept"),
    (Break::TellsTheTimeOfReading, "every_byte_is_kept"),
    (
        Break::HashesOtherwise,
        "a_key_chooses_the_partition_as_in_kafka",
    ),
    (
        Break::CountsOneTooMany,
        "flush_counts_what_was_sent_since_the_last",
    ),
    (
        Break::CountsAgain,
        "flush_counts_what_was_sent_since_the_last",
    ),
    (
        Break::CutsABatchInTwo,
        "settling_counts_whole_batches_and_leaves_few_behind",
    ),
    (
        Break::AcknowledgesBeforeWriting,
        "acknowledged_events_survive_a_crash",
    ),
    (
        Break::LosesTheLastEvent,
        "acknowledged_events_survive_a_crash",
    ),
    (
        Break::MakesMissingTopics,
        "a_missing_topic_is_an_error_and_is_not_made",
    ),
    (
        Break::ForgetsTopicsThatAreCreatedAgain,
        "creating_a_topic_again_changes_nothing",
    ),
    (
        Break::LosesEventsOfProducersAtOnce,
        "two_producers_at_once_lose_nothing",
    ),
    (
        Break::StartsAtTheEnd,
        "a_new_group_starts_at_the_oldest_event",
    ),
    (
        Break::SkipsAnEvent,
        "partitions_are_read_in_order_without_gaps",
    ),
    (
        Break::ReversesAPoll,
        "partitions_are_read_in_order_without_gaps",
    ),
    (
        Break::PrefersTheBusyPartition,
        "no_partition_starves_the_others",
    ),
    (Break::RepeatsTheLastEvent, "a_poll_at_the_end_is_empty"),
    (
        Break::IgnoresTheLimitOfEvents,
        "a_poll_has_at_most_so_many_events",
    ),
    (
        Break::IgnoresTheLimitOfBytes,
        "a_poll_ends_with_the_event_that_reaches_the_bytes",
    ),
    (
        Break::IgnoresTheLimitOfBytes,
        "an_event_above_the_limit_comes_alone",
    ),
    (
        Break::DropsBigEvents,
        "an_event_above_the_limit_comes_alone",
    ),
    (Break::PositionLagsBehind, "position_counts_what_was_polled"),
    (
        Break::EndIsTheLastEvent,
        "the_end_is_the_offset_of_the_next_event",
    ),
    (Break::IgnoresSeeks, "seek_goes_on_from_the_offsets"),
    (
        Break::SeeksNamedPartitionsOnly,
        "seek_goes_on_from_the_offsets",
    ),
    (Break::ForgetsCommits, "a_commit_survives_a_crash"),
    (Break::CommitsTheEnd, "a_commit_survives_a_crash"),
    (Break::CommitsWithThePoll, "polling_alone_commits_nothing"),
    (
        Break::CommitsWithTheNextPoll,
        "polling_alone_commits_nothing",
    ),
    (Break::CommitsWhenDropped, "polling_alone_commits_nothing"),
    (
        Break::CommitsThePosition,
        "a_commit_moves_no_further_than_named",
    ),
    (Break::MovesBack, "a_commit_never_moves_back"),
    (Break::SharesGroups, "groups_do_not_disturb_each_other"),
    (
        Break::SaysDoneThoughOvertaken,
        "an_event_is_done_by_one_member_only",
    ),
    (
        Break::GoesOnThoughOvertaken,
        "an_overtaken_member_loses_nothing",
    ),
];

/// The embedded log in a folder of its own.
pub(crate) struct Log {
    folder: tempfile::TempDir,
    broken: Option<Break>,
    /// Topics and groups that stand for others.
    aliases: Arc<Mutex<HashMap<String, String>>>,
    producers: Arc<AtomicUsize>,
}

impl Log {
    pub(crate) fn new(broken: Option<Break>) -> Log {
        Log {
            folder: tempfile::tempdir().unwrap(),
            broken,
            aliases: Arc::default(),
            producers: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("log.db")
    }

    fn real(&self, name: &str) -> String {
        let aliases = self.aliases.lock().unwrap();
        aliases.get(name).map_or(name, String::as_str).to_string()
    }

    fn make_if_broken(&self, topic: &str) -> Result<()> {
        match self.broken {
            Some(Break::MakesMissingTopics) => create(&self.path(), &[Topic::new(topic, 1)]),
            _ => Ok(()),
        }
    }
}

impl Abilities for Log {}

#[async_trait]
impl Harness for Log {
    async fn create(&self, topics: &[Topic]) -> Result<()> {
        create(&self.path(), topics)?;
        if self.broken != Some(Break::ForgetsTopicsThatAreCreatedAgain) {
            return Ok(());
        }
        for topic in topics {
            let known = self.aliases.lock().unwrap().contains_key(&topic.name);
            let name = match known {
                true => format!("{} again", topic.name),
                false => topic.name.clone(),
            };
            let again = Topic::new(&name, topic.partitions);
            create(&self.path(), &[again])?;
            self.aliases
                .lock()
                .unwrap()
                .insert(topic.name.clone(), name);
        }
        Ok(())
    }

    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        self.make_if_broken(topic)?;
        let inner = SqliteProducer::open(&self.path(), &self.real(topic))?;
        let Some(broken) = self.broken else {
            return Ok(Box::new(inner));
        };
        self.producers.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(BrokenProducer {
            inner,
            broken,
            held: MicroBatch::default(),
            counted: 0,
            producers: self.producers.clone(),
        }))
    }

    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
        self.make_if_broken(topic)?;
        let real_group = match self.broken {
            Some(Break::SharesGroups) => "shared".into(),
            _ => self.real(group),
        };
        let mut inner = SqliteConsumer::open(&self.path(), &self.real(topic), &real_group)?;
        let Some(broken) = self.broken else {
            return Ok(Box::new(inner));
        };
        if broken == Break::StartsAtTheEnd && inner.position().iter().all(|(_, at)| *at == 0) {
            let end = inner.end().await?;
            inner.seek(&end).await?;
        }
        Ok(Box::new(BrokenConsumer {
            before: inner.position(),
            inner,
            broken,
            last: None,
            path: self.path(),
            topic: self.real(topic),
            group: group.into(),
            aliases: self.aliases.clone(),
        }))
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

/// The events of a batch as `change` leaves them; none is lost.
fn changed<'b>(
    batch: &'b MicroBatch,
    change: impl Fn(usize, Event<'b>) -> Option<Event<'b>>,
) -> MicroBatch {
    let mut out = MicroBatch::default();
    for (i, event) in batch.iter().enumerate() {
        if let Some(event) = change(i, event) {
            out.push(event);
        }
    }
    out
}

fn reversed(batch: &MicroBatch) -> MicroBatch {
    let mut events: Vec<Event<'_>> = batch.iter().collect();
    events.reverse();
    let mut out = MicroBatch::default();
    for event in events {
        out.push(event);
    }
    out
}

/// The headers, which `change` has a go at.
fn with_headers(batch: &MicroBatch, change: impl Fn(&mut Vec<(&str, &[u8])>)) -> MicroBatch {
    let mut out = MicroBatch::default();
    for event in batch.iter() {
        let mut list = Headers::read(event.headers).collect();
        change(&mut list);
        let mut headers = Headers::default();
        for (name, value) in &list {
            headers.push(name, value);
        }
        out.push(Event {
            headers: headers.bytes(),
            ..event
        });
    }
    out
}

struct BrokenProducer {
    inner: SqliteProducer,
    broken: Break,
    held: MicroBatch,
    counted: u64,
    producers: Arc<AtomicUsize>,
}

impl Drop for BrokenProducer {
    fn drop(&mut self) {
        self.producers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Producer for BrokenProducer {
    async fn send(&mut self, batch: &Arc<MicroBatch>) -> Result<()> {
        let last = batch.len().saturating_sub(1);
        let batch = match self.broken {
            Break::ReversesABatch => reversed(batch),
            Break::LosesTheLastHeader => with_headers(batch, |headers| {
                headers.pop();
            }),
            Break::SortsHeaders => with_headers(batch, |headers| headers.sort()),
            Break::TakesKeysAsText => {
                let mut out = MicroBatch::default();
                for event in batch.iter() {
                    let key = event.key.map(String::from_utf8_lossy);
                    out.push(Event {
                        key: key.as_deref().map(str::as_bytes),
                        ..event
                    });
                }
                out
            }
            Break::EmptyValueIsNone => changed(batch, |_, e| {
                let value = e.value.filter(|v| !v.is_empty());
                Some(Event { value, ..e })
            }),
            Break::EmptyKeyIsNone => changed(batch, |_, e| {
                let key = e.key.filter(|k| !k.is_empty());
                Some(Event { key, ..e })
            }),
            Break::LosesTheLastEvent => changed(batch, |i, e| (i < last).then_some(e)),
            Break::LosesEventsOfProducersAtOnce if self.producers.load(Ordering::SeqCst) > 1 => {
                changed(batch, |i, e| (i < last).then_some(e))
            }
            Break::AcknowledgesBeforeWriting => {
                std::mem::replace(&mut self.held, MicroBatch::clone(batch))
            }
            _ => MicroBatch::clone(batch),
        };
        self.inner.send(&Arc::new(batch)).await
    }

    async fn settle(&mut self, behind: usize) -> Result<u64> {
        let settled = self.inner.settle(behind).await?;
        self.counted += settled;
        Ok(match self.broken {
            Break::CountsOneTooMany => settled + 1,
            Break::CountsAgain => self.counted,
            Break::CutsABatchInTwo if behind > 0 => settled / 2,
            _ => settled,
        })
    }
}

struct BrokenConsumer {
    inner: SqliteConsumer,
    broken: Break,
    /// Position before the last poll.
    before: Offsets,
    /// The last event polled.
    last: Option<MicroBatch>,
    path: PathBuf,
    topic: String,
    group: String,
    aliases: Arc<Mutex<HashMap<String, String>>>,
}

impl BrokenConsumer {
    /// Commits the position as it is, through a group that takes the place of this one.
    async fn commit_position(&mut self) -> Result<Commit> {
        let position = self.inner.position();
        let stand_in = format!("{}, then", self.aliases.lock().unwrap().len());
        self.inner = SqliteConsumer::open(&self.path, &self.topic, &stand_in)?;
        self.inner.seek(&position).await?;
        self.aliases
            .lock()
            .unwrap()
            .insert(self.group.clone(), stand_in);
        self.inner.commit(&position).await
    }

    async fn commit_polled(&mut self) -> Result<Commit> {
        let position = self.inner.position();
        self.inner.commit(&position).await
    }
}

impl Drop for BrokenConsumer {
    fn drop(&mut self) {
        if self.broken == Break::CommitsWhenDropped {
            self.commit_polled().now_or_never().unwrap().unwrap();
        }
    }
}

#[async_trait]
impl Consumer for BrokenConsumer {
    async fn poll(&mut self, limits: Limits) -> Result<MicroBatch> {
        self.before = self.inner.position();
        if self.broken == Break::CommitsWithTheNextPoll {
            self.commit_polled().await?;
        }
        let events = match self.broken {
            Break::IgnoresTheLimitOfEvents => limits.events + 1,
            Break::PrefersTheBusyPartition => 10_000,
            _ => limits.events,
        };
        let bytes = match self.broken {
            Break::IgnoresTheLimitOfBytes => usize::MAX,
            _ => limits.bytes,
        };
        let batch = self.inner.poll(Limits { events, bytes }).await?;
        if self.broken == Break::CommitsWithThePoll {
            self.commit_polled().await?;
        }
        let last = batch.len().saturating_sub(1);
        Ok(match self.broken {
            Break::HashesOtherwise => changed(&batch, |_, e| {
                let partition = 4 - e.partition;
                Some(Event { partition, ..e })
            }),
            Break::TellsTheTimeOfReading => changed(&batch, |_, e| {
                let timestamp = rtp::time::now_ms();
                Some(Event { timestamp, ..e })
            }),
            Break::SkipsAnEvent => changed(&batch, |i, e| (i != 1).then_some(e)),
            Break::ReversesAPoll => reversed(&batch),
            Break::PrefersTheBusyPartition => {
                let busiest = batch.iter().map(|e| e.partition).max_by_key(|partition| {
                    batch.iter().filter(|e| e.partition == *partition).count()
                });
                let mut position = self.inner.position();
                for (now, before) in position.iter_mut().zip(&self.before) {
                    if Some(now.0) != busiest {
                        *now = *before;
                    }
                }
                self.inner.seek(&position).await?;
                changed(&batch, |_, e| (Some(e.partition) == busiest).then_some(e))
            }
            Break::RepeatsTheLastEvent if batch.is_empty() => self.last.clone().unwrap_or_default(),
            Break::RepeatsTheLastEvent => {
                self.last = Some(changed(&batch, |i, e| (i == last).then_some(e)));
                batch
            }
            Break::DropsBigEvents => changed(&batch, |_, e| {
                let size = e.value.map_or(0, <[u8]>::len);
                (size <= limits.bytes).then_some(e)
            }),
            _ => batch,
        })
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<Commit> {
        let position = self.inner.position();
        match self.broken {
            Break::ForgetsCommits => Ok(Commit::Done),
            Break::CommitsTheEnd => {
                let end = self.inner.end().await?;
                self.inner.commit(&end).await
            }
            Break::MovesBack => self.commit_position().await,
            Break::CommitsThePosition => self.inner.commit(&position).await,
            Break::SaysDoneThoughOvertaken => {
                self.inner.commit(offsets).await.map(|_| Commit::Done)
            }
            Break::GoesOnThoughOvertaken => {
                let committed = self.inner.commit(offsets).await?;
                if committed == Commit::Superseded {
                    self.inner.seek(&position).await?;
                }
                Ok(committed)
            }
            _ => self.inner.commit(offsets).await,
        }
    }

    fn position(&self) -> Offsets {
        match self.broken {
            Break::PositionLagsBehind => self.before.clone(),
            _ => self.inner.position(),
        }
    }

    async fn seek(&mut self, offsets: &Offsets) -> Result<()> {
        match self.broken {
            Break::IgnoresSeeks => Ok(()),
            Break::SeeksNamedPartitionsOnly => {
                let mut all = self.inner.position();
                for (partition, at) in &mut all {
                    let named = offsets.iter().find(|(p, _)| p == partition);
                    *at = named.map_or(*at, |(_, offset)| *offset);
                }
                self.inner.seek(&all).await
            }
            _ => self.inner.seek(offsets).await,
        }
    }

    async fn committed(&mut self) -> Result<Offsets> {
        self.inner.committed().await
    }

    async fn leave(&mut self) -> Result<()> {
        self.inner.leave().await
    }

    async fn end(&mut self) -> Result<Offsets> {
        let mut end = self.inner.end().await?;
        if self.broken == Break::EndIsTheLastEvent {
            for (_, at) in &mut end {
                *at = (*at - 1).max(0);
            }
        }
        Ok(end)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_keeps_every_guarantee() {
    keeps_all(CASES, &Log::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_event_log_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        case.check(&Log::new(Some(broken)) as &dyn Harness).await
    })
    .await;
}
