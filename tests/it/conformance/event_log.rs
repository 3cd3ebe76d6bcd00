//! The embedded event log, intact and broken.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use rtp::error::Result;
use rtp::ports::conformance::Abilities;
use rtp::ports::conformance::event_log::{CASES, Harness};
use rtp::ports::event_log::{Consumer, Epoch, Limits, Offsets, Polled, Producer, Span, Topic};
use rtp::record::event::{Event, EventBatch, Headers};
use rtp::servers::sqlite::event_log::{SqliteConsumer, SqliteProducer, create};

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
    TakesTopicsOfAnySize,
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
    SpanLagsBehind,
    EndIsTheLastEvent,
    IgnoresSeeks,
    SeeksNamedPartitionsOnly,
    IgnoresMarks,
    MarksNothing,
    PassesGaps,
    StartsAtZero,
    ForgetsCommits,
    CommitsTheEnd,
    CommitsWithThePoll,
    CommitsWithTheNextPoll,
    CommitsWhenDropped,
    MovesBack,
    CommitsThePosition,
    CommitsPastAGap,
    GoesOnThoughSetBack,
    HasOneEpoch,
    CommitsNamedRangesOnly,
    SharesIdentities,
    ChangesIdentities,
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
        Break::TakesTopicsOfAnySize,
        "a_topic_with_fewer_partitions_is_told",
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
    (Break::SpanLagsBehind, "a_span_is_what_was_polled"),
    (
        Break::EndIsTheLastEvent,
        "the_end_is_the_offset_of_the_next_event",
    ),
    (Break::IgnoresSeeks, "seek_goes_on_from_the_offsets"),
    (
        Break::SeeksNamedPartitionsOnly,
        "seek_goes_on_from_the_offsets",
    ),
    (
        Break::IgnoresMarks,
        "another_event_before_a_position_is_told",
    ),
    (
        Break::MarksNothing,
        "another_event_before_a_position_is_told",
    ),
    (Break::PassesGaps, "events_that_are_missing_are_told"),
    (
        Break::StartsAtZero,
        "a_log_without_its_oldest_events_starts_at_those_it_has",
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
    (Break::CommitsPastAGap, "a_commit_passes_no_gap"),
    (
        Break::GoesOnThoughSetBack,
        "what_was_polled_before_a_set_back_comes_again",
    ),
    (
        Break::HasOneEpoch,
        "what_was_polled_before_a_set_back_comes_again",
    ),
    (
        Break::CommitsNamedRangesOnly,
        "what_a_store_says_is_done_is_committed_along",
    ),
    (Break::SharesIdentities, "a_topic_has_an_identity"),
    (Break::ChangesIdentities, "a_topic_has_an_identity"),
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

/// The embedded log in its own folder.
pub(crate) struct Log {
    folder: tempfile::TempDir,
    broken: Option<Break>,
    /// Topics and groups that replace others.
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
        let created = create(&self.path(), topics);
        if self.broken == Some(Break::TakesTopicsOfAnySize) {
            return Ok(());
        }
        created?;
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
            held: EventBatch::default(),
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
        let mut position = inner.committed().await?;
        if broken == Break::StartsAtTheEnd && position.iter().all(|(_, at)| at == 0) {
            position = inner.end().await?;
            inner.seek(Some(&position)).await?;
        }
        Ok(Box::new(BrokenConsumer {
            inner,
            broken,
            position,
            epoch: None,
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

    async fn delete(&self, topic: &str, offsets: Range<i64>) -> Result<()> {
        let db = rusqlite::Connection::open(self.path()).unwrap();
        let id = "SELECT id FROM topics WHERE name = ?1";
        let id: i64 = db
            .query_row(id, [self.real(topic)], |row| row.get(0))
            .unwrap();
        let Range { start, end } = offsets;
        let delete = "DELETE FROM events_ID_0 WHERE offset >= ?1 AND offset < ?2";
        let delete = delete.replace("ID", &id.to_string());
        db.execute(&delete, [start, end]).unwrap();
        Ok(())
    }
}

/// The embedded log, beside which something else is broken.
pub(crate) struct Beside<B> {
    pub(crate) log: Log,
    pub(crate) broken: Option<B>,
}

impl<B> Beside<B> {
    pub(crate) fn new(broken: Option<B>) -> Self {
        let log = Log::new(None);
        Beside { log, broken }
    }
}

impl<B> Abilities for Beside<B> {}

#[async_trait]
impl<B: Send + Sync> Harness for Beside<B> {
    async fn create(&self, topics: &[Topic]) -> Result<()> {
        self.log.create(topics).await
    }

    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        self.log.producer(topic).await
    }

    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
        self.log.consumer(topic, group).await
    }

    fn patience(&self) -> Duration {
        self.log.patience()
    }

    async fn delete(&self, topic: &str, offsets: Range<i64>) -> Result<()> {
        self.log.delete(topic, offsets).await
    }
}

/// Limits of a poll that only asks for the epoch.
const NOTHING: Limits = Limits {
    events: 0,
    bytes: 0,
    wait: Duration::ZERO,
};

/// The events of a batch, modified by `change`; none is lost.
fn changed<'b>(
    batch: &'b EventBatch,
    change: impl Fn(usize, Event<'b>) -> Option<Event<'b>>,
) -> EventBatch {
    let mut out = EventBatch::default();
    for (i, event) in batch.iter().enumerate() {
        if let Some(event) = change(i, event) {
            out.push(event);
        }
    }
    out
}

fn reversed(batch: &EventBatch) -> EventBatch {
    let mut events: Vec<Event<'_>> = batch.iter().collect();
    events.reverse();
    let mut out = EventBatch::default();
    for event in events {
        out.push(event);
    }
    out
}

/// The headers, modified by `change`.
fn with_headers(batch: &EventBatch, change: impl Fn(&mut Vec<(&str, &[u8])>)) -> EventBatch {
    let mut out = EventBatch::default();
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
    held: EventBatch,
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
    async fn send(&mut self, batch: &Arc<EventBatch>) -> Result<()> {
        let last = batch.len().saturating_sub(1);
        let batch = match self.broken {
            Break::ReversesABatch => reversed(batch),
            Break::LosesTheLastHeader => with_headers(batch, |headers| {
                headers.pop();
            }),
            Break::SortsHeaders => with_headers(batch, |headers| headers.sort()),
            Break::TakesKeysAsText => {
                let mut out = EventBatch::default();
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
                std::mem::replace(&mut self.held, EventBatch::clone(batch))
            }
            _ => EventBatch::clone(batch),
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
    /// Position after the last poll.
    position: Offsets,
    /// The first one.
    epoch: Option<Epoch>,
    /// The last event polled.
    last: Option<EventBatch>,
    path: PathBuf,
    topic: String,
    group: String,
    aliases: Arc<Mutex<HashMap<String, String>>>,
}

/// Everything before these offsets.
fn up_to(to: &Offsets) -> Span {
    Span {
        from: to.iter().map(|(partition, _)| (partition, 0)).collect(),
        to: to.clone(),
    }
}

impl BrokenConsumer {
    /// Commits the position as it is, through a group that replaces this one.
    async fn commit_position(&mut self) -> Result<Epoch> {
        let stand_in = format!("{}, then", self.aliases.lock().unwrap().len());
        self.inner = SqliteConsumer::open(&self.path, &self.topic, &stand_in)?;
        self.inner.seek(Some(&self.position)).await?;
        self.aliases
            .lock()
            .unwrap()
            .insert(self.group.clone(), stand_in);
        self.inner.commit(&up_to(&self.position)).await
    }

    async fn commit_polled(&mut self) -> Result<Epoch> {
        self.inner.commit(&up_to(&self.position)).await
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
    async fn identity(&mut self) -> Result<String> {
        match self.broken {
            Break::SharesIdentities => Ok("log".into()),
            Break::ChangesIdentities => Ok(format!("{:?}", std::time::Instant::now())),
            _ => self.inner.identity().await,
        }
    }

    async fn poll(&mut self, limits: Limits) -> Result<Polled> {
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
        let limits = Limits {
            events,
            bytes,
            ..limits
        };
        let mut polled = match self.inner.poll(limits).await {
            Err(_) if self.broken == Break::PassesGaps => {
                let end = self.inner.end().await?;
                self.inner.seek(Some(&end)).await?;
                self.inner.poll(limits).await?
            }
            polled => polled?,
        };
        self.position = polled.span.to.clone();
        if self.broken == Break::CommitsWithThePoll {
            self.commit_polled().await?;
        }
        let batch = std::mem::take(&mut polled.events);
        let last = batch.len().saturating_sub(1);
        polled.events = match self.broken {
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
                for (partition, before) in polled.span.from.iter() {
                    if Some(partition) != busiest {
                        self.position.set(partition, before);
                    }
                }
                self.inner.seek(Some(&self.position)).await?;
                polled.span.to = self.position.clone();
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
        };
        match self.broken {
            Break::SpanLagsBehind => polled.span.to = polled.span.from.clone(),
            Break::MarksNothing => polled.span.to = polled.span.to.iter().collect(),
            Break::HasOneEpoch => polled.epoch = *self.epoch.get_or_insert(polled.epoch),
            _ => {}
        }
        Ok(polled)
    }

    async fn commit(&mut self, span: &Span) -> Result<Epoch> {
        match self.broken {
            Break::ForgetsCommits => self.inner.commit(&Span::default()).await,
            Break::CommitsTheEnd => {
                let end = self.inner.end().await?;
                self.inner.commit(&up_to(&end)).await
            }
            Break::MovesBack => self.commit_position().await,
            Break::CommitsThePosition => self.commit_polled().await,
            Break::CommitsPastAGap => self.inner.commit(&up_to(&span.to)).await,
            Break::CommitsNamedRangesOnly if span.is_empty() => {
                Ok(self.inner.poll(NOTHING).await?.epoch)
            }
            Break::SaysDoneThoughOvertaken => {
                let before = self.inner.poll(NOTHING).await?;
                self.inner.commit(span).await.map(|_| before.epoch)
            }
            Break::GoesOnThoughOvertaken => {
                let before = self.inner.poll(NOTHING).await?;
                let epoch = self.inner.commit(span).await?;
                match epoch == before.epoch {
                    true => Ok(epoch),
                    false => self.inner.seek(Some(&self.position)).await,
                }
            }
            _ => self.inner.commit(span).await,
        }
    }

    async fn seek(&mut self, offsets: Option<&Offsets>) -> Result<Epoch> {
        match (self.broken, offsets) {
            (Break::IgnoresSeeks, Some(_)) => self.inner.seek(Some(&self.position)).await,
            (Break::GoesOnThoughSetBack, None) => self.inner.seek(Some(&self.position)).await,
            (Break::SeeksNamedPartitionsOnly, Some(offsets)) => {
                let named = |(p, at)| (p, offsets.get(p).unwrap_or(at));
                let all = self.position.iter().map(named).collect();
                self.inner.seek(Some(&all)).await
            }
            (Break::IgnoresMarks, Some(offsets)) => {
                let unmarked = offsets.iter().collect();
                self.inner.seek(Some(&unmarked)).await
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

    async fn start(&mut self) -> Result<Offsets> {
        let start = self.inner.start().await?;
        Ok(match self.broken {
            Break::StartsAtZero => start.iter().map(|(p, _)| (p, 0)).collect(),
            _ => start,
        })
    }

    async fn end(&mut self) -> Result<Offsets> {
        let end = self.inner.end().await?;
        Ok(match self.broken {
            Break::EndIsTheLastEvent => end.iter().map(|(p, at)| (p, (at - 1).max(0))).collect(),
            _ => end,
        })
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
