//! The reader of the embedded log, intact and broken.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use rtp::error::{Error, Result};
use rtp::ports::conformance::log_reader::{CASES, Harness};
use rtp::ports::event_log::{Consumer, Limits, Offsets, Span, Topic};
use rtp::ports::log_reader::{EventVisitor, LogReader};
use rtp::ports::monitor::OutOfRange;
use rtp::record::event::Event;
use rtp::servers::sqlite::event_log::{SqliteConsumer, SqliteLogReader, create};

use super::event_log::Beside;
use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    StartsAtTheEnd,
    EndsWithTheLastEvent,
    LosesAnEvent,
    RepeatsAnEvent,
    ReadsOnePage,
    ForgetsHeaders,
    TellsTheTimeOfReading,
    ReadsToTheEnd,
    ReadsOtherPartitions,
    ReadsEachEventOnce,
    LendsOnWhenToldToStop,
    BreaksForEver,
    FailsAfterTheEnd,
    FindsTheEventBefore,
    FindsNothingAfterTheEnd,
    SaysZeroWithoutACommit,
    SharesGroups,
    TakesAnyOffset,
    NamesAnotherTopic,
    Commits,
    MakesMissingTopics,
}

const BREAKERS: &[(Break, &str)] = &[
    (
        Break::StartsAtTheEnd,
        "the_bounds_are_the_oldest_event_and_the_next_one",
    ),
    (
        Break::EndsWithTheLastEvent,
        "the_bounds_are_the_oldest_event_and_the_next_one",
    ),
    (Break::LosesAnEvent, "everything_in_a_span_is_lent_in_order"),
    (
        Break::RepeatsAnEvent,
        "everything_in_a_span_is_lent_in_order",
    ),
    (Break::ReadsOnePage, "everything_in_a_span_is_lent_in_order"),
    (Break::ForgetsHeaders, "every_byte_is_lent"),
    (Break::TellsTheTimeOfReading, "every_byte_is_lent"),
    (Break::ReadsToTheEnd, "nothing_outside_of_a_span_is_lent"),
    (
        Break::ReadsOtherPartitions,
        "nothing_outside_of_a_span_is_lent",
    ),
    (
        Break::ReadsEachEventOnce,
        "earlier_events_can_be_read_again",
    ),
    (Break::LendsOnWhenToldToStop, "a_break_ends_a_reading"),
    (Break::BreaksForEver, "a_break_ends_a_reading"),
    (Break::FailsAfterTheEnd, "what_is_not_there_is_left_out"),
    (Break::FindsTheEventBefore, "a_time_is_found_between_events"),
    (
        Break::FindsNothingAfterTheEnd,
        "a_time_is_found_between_events",
    ),
    (
        Break::SaysZeroWithoutACommit,
        "only_what_a_group_has_committed_has_an_offset",
    ),
    (
        Break::SharesGroups,
        "only_what_a_group_has_committed_has_an_offset",
    ),
    (
        Break::TakesAnyOffset,
        "an_offset_that_nobody_can_continue_at_is_told",
    ),
    (
        Break::NamesAnotherTopic,
        "the_identity_is_the_one_that_a_member_is_told",
    ),
    (Break::Commits, "reading_leaves_the_groups_alone"),
    (
        Break::MakesMissingTopics,
        "a_missing_topic_is_an_error_and_is_not_made",
    ),
];

/// The embedded log and its reader.
type ReadLog = Beside<Break>;

#[async_trait]
impl Harness for ReadLog {
    async fn reader(&self, topic: &str) -> Result<Box<dyn LogReader>> {
        let path = self.log.path();
        let Some(broken) = self.broken else {
            return Ok(Box::new(SqliteLogReader::open(&path, topic)?));
        };
        if broken == Break::MakesMissingTopics {
            create(&path, &[Topic::new(topic, 1)])?;
        }
        Ok(Box::new(BrokenReader {
            inner: SqliteLogReader::open(&path, topic)?,
            broken,
            read: Offsets::default(),
            is_over: false,
            path,
            topic: topic.into(),
            groups: Vec::new(),
        }))
    }
}

struct BrokenReader {
    inner: SqliteLogReader,
    broken: Break,
    /// How far each partition was read.
    read: Offsets,
    /// Whether a visitor has seen enough.
    is_over: bool,
    path: std::path::PathBuf,
    topic: String,
    /// The groups that were asked about.
    groups: Vec<String>,
}

/// Passes events on, changed.
struct Changing<'a> {
    to: &'a mut dyn EventVisitor,
    broken: Break,
    count: usize,
    read: &'a mut Offsets,
    is_over: &'a mut bool,
}

impl EventVisitor for Changing<'_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        self.count += 1;
        let is_read = self.read.get(event.partition) > Some(event.offset);
        self.read.set(event.partition, event.offset + 1);
        let flow = match self.broken {
            Break::LosesAnEvent if self.count == 2 => ControlFlow::Continue(()),
            Break::ReadsOnePage if self.count > 10_000 => ControlFlow::Break(()),
            Break::ReadsEachEventOnce if is_read => ControlFlow::Continue(()),
            Break::RepeatsAnEvent if self.count == 2 => match self.to.event(event) {
                ControlFlow::Continue(()) => self.to.event(event),
                ControlFlow::Break(()) => ControlFlow::Break(()),
            },
            Break::ForgetsHeaders => self.to.event(Event {
                headers: &[],
                ..event
            }),
            Break::TellsTheTimeOfReading => {
                let timestamp = rtp::time::now_ms();
                self.to.event(Event { timestamp, ..event })
            }
            _ => self.to.event(event),
        };
        match self.broken {
            Break::LendsOnWhenToldToStop => ControlFlow::Continue(()),
            _ => {
                *self.is_over |= flow.is_break();
                flow
            }
        }
    }
}

#[async_trait]
impl LogReader for BrokenReader {
    async fn bounds(&mut self) -> Result<Span> {
        let mut span = self.inner.bounds().await?;
        match self.broken {
            Break::StartsAtTheEnd => span.from = span.to.clone(),
            Break::EndsWithTheLastEvent => {
                span.to = span.to.iter().map(|(p, at)| (p, (at - 1).max(0))).collect();
            }
            _ => {}
        }
        Ok(span)
    }

    async fn identity(&mut self) -> Result<Option<String>> {
        match self.broken {
            Break::NamesAnotherTopic => Ok(Some("another topic".into())),
            _ => self.inner.identity().await,
        }
    }

    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        match self.broken {
            Break::TakesAnyOffset => Ok(Vec::new()),
            _ => self.inner.out_of_range(offsets).await,
        }
    }

    async fn committed(&mut self, group: &str) -> Result<Offsets> {
        if self.broken == Break::Commits {
            let mut member = SqliteConsumer::open(&self.path, &self.topic, group)?;
            let limits = Limits {
                events: 1,
                bytes: 1,
                wait: Duration::ZERO,
            };
            let polled = member.poll(limits).await?;
            member.commit(&polled.span).await?;
        }
        self.groups.push(group.into());
        match self.broken {
            Break::SharesGroups => self.inner.committed(&self.groups[0]).await,
            Break::SaysZeroWithoutACommit => {
                let mut committed = self.inner.committed(group).await?;
                committed.set_missing(&[(0, 0), (1, 0), (2, 0)].into());
                Ok(committed)
            }
            _ => self.inner.committed(group).await,
        }
    }

    async fn at_time(&mut self, time: i64) -> Result<Offsets> {
        let found = self.inner.at_time(time).await?;
        Ok(match self.broken {
            Break::FindsTheEventBefore => {
                found.iter().map(|(p, at)| (p, (at - 1).max(0))).collect()
            }
            Break::FindsNothingAfterTheEnd if time > rtp::time::now_ms() => Offsets::default(),
            _ => found,
        })
    }

    async fn read(&mut self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()> {
        let bounds = self.inner.bounds().await?;
        let mut span = span.clone();
        match self.broken {
            Break::ReadsToTheEnd => span.to.raise_to(&bounds.to),
            Break::ReadsOtherPartitions => {
                span.from.set_missing(&bounds.from);
                span.to.set_missing(&bounds.to);
            }
            Break::FailsAfterTheEnd if !bounds.to.cover(&span.to) => {
                return Err(Error::missing("beyond the end"));
            }
            Break::BreaksForEver if self.is_over => return Ok(()),
            _ => {}
        }
        let mut changing = Changing {
            to: visitor,
            broken: self.broken,
            count: 0,
            read: &mut self.read,
            is_over: &mut self.is_over,
        };
        self.inner.read(&span, &mut changing).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_reader_keeps_every_guarantee() {
    keeps_all(CASES, &ReadLog::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_reader_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        case.check(&ReadLog::new(Some(broken))).await
    })
    .await;
}
