//! `stream` commits while it writes the next batches: how often, and what it does if a commit is superseded, fails or is
//! slow.
//! The log and the store are in memory, and each test decides how the log answers.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::error::{Error, Kind, Result};
use rtp::intake::rejects::Budget;
use rtp::ports::event_log::{Consumer, Epoch, Limits, Offsets, Polled, Producer, Span};
use rtp::ports::realtime_store::{RealtimeStore, Upsert, Upserted};
use rtp::record::event::{Event, EventBatch};
use rtp::record::row::Rows;
use rtp::run::retry::Retry;
use rtp::run::{LogFormat, Run, Signal, Stop};
use rtp::stream::{Ports, Settings};

use crate::common::user;

/// Many times as long as an idle reader's pause between two polls.
const PAUSE: Duration = Duration::from_millis(200);

/// How the log answers a commit.
#[derive(Clone, Copy)]
enum Answer {
    /// Another member was faster: the reader is reset. Not before the next batch is written, if it ever is.
    Superseded,
    /// It never works.
    Refused,
    /// Not now, and not sooner than after [`PAUSE`].
    Unavailable,
}

#[derive(Default)]
struct State {
    /// The values of the events in partition 0.
    events: Vec<String>,
    epoch: Epoch,
    position: i64,
    committed: i64,
    /// How the next commits are answered; later ones work.
    answers: VecDeque<Answer>,
    attempts: u64,
    polls: u64,
    /// The offsets of the rows, in the order they were written.
    written: Vec<i64>,
    /// What a store that keeps offsets has.
    stored: Option<i64>,
    letters: usize,
    upserts: u64,
    /// Whether dead letters cannot be sent.
    letters_are_down: bool,
    /// What the log cannot read, told with each poll.
    trouble: Option<&'static str>,
    /// Dead letters that were not acknowledged yet.
    sent: u64,
}

impl State {
    fn reset(&mut self, position: i64) -> Epoch {
        self.position = position;
        self.epoch = self.epoch.next();
        self.epoch
    }
}

/// The log, the store and the dead-letter topic, as one.
#[derive(Clone)]
struct Memory(Arc<Mutex<State>>);

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Waits until it is so, or for this long.
    async fn wait(&self, longest: Duration, is_so: impl Fn(&State) -> bool) {
        let started = Instant::now();
        while !is_so(&self.state()) && started.elapsed() < longest {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Consumer for Memory {
    async fn identity(&mut self) -> Result<String> {
        Ok("memory".into())
    }

    /// One event at a time, the third not before two are written: each is a batch of its own when it is first read.
    async fn poll(&mut self, _: Limits) -> Result<Polled> {
        let mut state = self.state();
        state.polls += 1;
        let mut polled = Polled {
            epoch: state.epoch,
            ..Polled::default()
        };
        let at = state.position;
        polled.span.from.set(0, at);
        let is_due = at < 2 || state.written.len() + state.letters >= at as usize;
        if let Some(value) = state.events.get(at as usize).filter(|_| is_due) {
            polled.events.push(Event {
                partition: 0,
                offset: at,
                timestamp: 0,
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
            });
            state.position += 1;
        }
        polled.span.to.set(0, state.position);
        polled.trouble = state.trouble.map(Error::unavailable);
        Ok(polled)
    }

    async fn commit(&mut self, span: &Span) -> Result<Epoch> {
        let (answer, written) = {
            let mut state = self.state();
            state.attempts += 1;
            (state.answers.pop_front(), state.written.len())
        };
        match answer {
            Some(Answer::Superseded) => {
                let longest = Duration::from_millis(500);
                self.wait(longest, |state| state.written.len() > written)
                    .await;
                let mut state = self.state();
                let committed = state.committed;
                return Ok(state.reset(committed));
            }
            Some(Answer::Refused) => return Err(Error::refused("the log refuses the commit")),
            Some(Answer::Unavailable) => {
                return Err(Error::unavailable("the log is down").retry_after(Some(PAUSE)));
            }
            None => {}
        }
        let mut state = self.state();
        let (from, to) = (span.from.get(0), span.to.get(0));
        let gap = from.is_some_and(|from| from > state.committed.max(state.stored.unwrap_or(0)));
        assert!(!gap, "a commit from {from:?} on, after {}", state.committed);
        state.committed = to.max(state.stored).unwrap_or(0).max(state.committed);
        Ok(state.epoch)
    }

    async fn seek(&mut self, offsets: Option<&Offsets>) -> Result<Epoch> {
        let mut state = self.state();
        let position = offsets.map_or(state.committed, |offsets| offsets.get(0).unwrap_or(0));
        Ok(state.reset(position))
    }

    async fn committed(&mut self) -> Result<Offsets> {
        Ok([(0, self.state().committed)].into())
    }

    async fn leave(&mut self) -> Result<()> {
        Ok(())
    }

    async fn start(&mut self) -> Result<Offsets> {
        Ok([(0, 0)].into())
    }

    async fn end(&mut self) -> Result<Offsets> {
        Ok([(0, self.state().events.len() as i64)].into())
    }
}

#[async_trait]
impl RealtimeStore for Memory {
    async fn offsets(&mut self) -> Result<Option<Offsets>> {
        Ok(self.state().stored.map(|at| [(0, at)].into()))
    }

    /// Slow enough for the next batch to be read.
    async fn upsert(&mut self, span: &Span, rows: &Rows) -> Result<Upsert> {
        let to = span.to.get(0).unwrap();
        {
            let mut state = self.state();
            state.upserts += 1;
            for i in 0..rows.len() {
                state.written.push(rows.meta(i).origin.offset);
            }
            state.stored = state.stored.map(|stored| stored.max(to));
        }
        let is_read = |state: &State| state.position > to || to == state.events.len() as i64;
        self.wait(Duration::from_secs(5), is_read).await;
        Ok(Upsert::Done(Upserted {
            written: rows.len() as u64,
            ..Upserted::default()
        }))
    }

    async fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Producer for Memory {
    async fn send(&mut self, batch: &Arc<EventBatch>) -> Result<()> {
        let mut state = self.state();
        if state.letters_are_down {
            return Err(Error::unavailable("the dead letters are down"));
        }
        state.letters += batch.len();
        state.sent += batch.len() as u64;
        Ok(())
    }

    async fn settle(&mut self, _: usize) -> Result<u64> {
        Ok(std::mem::take(&mut self.state().sent))
    }
}

/// Streams these events while the first commits are answered like this, until `is_done` or the stream ends.
async fn stream(
    events: &[String],
    answers: &[Answer],
    keeps_offsets: bool,
    budget: Option<Budget>,
    is_done: impl Fn(&State) -> bool,
) -> (Memory, Run, Result<()>) {
    let state = State {
        events: events.to_vec(),
        answers: answers.iter().copied().collect(),
        stored: keeps_offsets.then_some(0),
        ..State::default()
    };
    stream_from(state, Duration::from_secs(60), budget, is_done).await
}

/// The same from this state, with outages of this length allowed.
async fn stream_from(
    state: State,
    max_outage: Duration,
    budget: Option<Budget>,
    is_done: impl Fn(&State) -> bool,
) -> (Memory, Run, Result<()>) {
    let memory = Memory(Arc::new(Mutex::new(state)));
    let (stopper, stop) = Stop::channel();
    let run = Run::new("stream", "test".into(), stop, LogFormat::Text, true);
    let retry = Retry {
        run: run.clone(),
        max_outage,
    };
    let settings = Settings {
        end: None,
        max_batch: 1_000,
        linger: Duration::ZERO,
        max_dead_letters: budget,
    };
    let ports = Ports {
        consumer: Box::new(memory.clone()),
        store: Box::new(memory.clone()),
        dead_letters: Box::new(memory.clone()),
    };
    let dataset = Dataset::load(None).unwrap();
    let mut streaming = pin!(rtp::stream::run(settings, ports, &dataset, &retry));
    let streamed = tokio::select! {
        streamed = &mut streaming => streamed,
        () = memory.wait(Duration::from_secs(30), is_done) => {
            stopper.send_replace(Some(Signal::Terminate));
            streaming.await
        }
    };
    (memory, run, streamed)
}

fn good(n: u64) -> String {
    user(n, 0, "a@example.com")
}

fn read(run: &Run) -> u64 {
    rtp::run::get(&run.counts.read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_written_while_the_one_before_is_committed_and_again_if_that_was_superseded() {
    let events = [good(0), good(1), good(2)];
    let is_done = |state: &State| state.committed == 3;
    let (memory, _, streamed) = stream(&events, &[Answer::Superseded], false, None, is_done).await;
    streamed.unwrap();
    let state = memory.state();
    assert_eq!(state.committed, 3);
    // The second event, perhaps the third, was written before the answer, and all are written again.
    let again = state.written.iter().rposition(|at| *at == 0).unwrap();
    let (first, again) = state.written.split_at(again);
    assert!(matches!(first, [0, 1] | [0, 1, 2]), "{first:?}");
    assert_eq!(again, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_waits_for_the_commit_before_it() {
    let events = [good(0), "{}".into(), good(2)];
    let is_done = |state: &State| state.committed == 3;
    let answers = [Answer::Superseded];
    let budget = Some(Budget::Count(1));
    let (memory, run, streamed) = stream(&events, &answers, false, budget, is_done).await;
    streamed.unwrap();
    let state = memory.state();
    assert_eq!((state.committed, state.letters), (3, 1));
    assert_eq!(rtp::run::get(&run.counts.rejected), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_ends_a_stream_that_has_nothing_else_to_do() {
    let (_, run, streamed) = stream(&[good(0)], &[Answer::Refused], false, None, |_| false).await;
    let failed = streamed.unwrap_err();
    assert_eq!(failed.to_string(), "the log refuses the commit");
    assert_eq!(read(&run), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_is_not_hidden_by_an_exceeded_budget() {
    let answers = [Answer::Refused];
    let budget = Some(Budget::Count(0));
    let (_, _, streamed) = stream(&["{}".into()], &answers, false, budget, |_| false).await;
    assert_eq!(streamed.unwrap_err().kind(), Kind::Refused);
    // Everything before is committed, although a commit has only just started.
    let events = [good(0), "{}".into()];
    let (memory, _, streamed) = stream(&events, &[], false, budget, |_| false).await;
    assert_eq!(streamed.unwrap_err().kind(), Kind::Budget);
    assert_eq!(memory.state().committed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_share_a_commit() {
    let events: Vec<String> = (0..100).map(good).collect();
    let started = Instant::now();
    let is_done = |state: &State| state.committed == 100;
    let (memory, _, streamed) = stream(&events, &[], false, None, is_done).await;
    let intervals = started.elapsed().as_millis() / 50;
    streamed.unwrap();
    let state = memory.state();
    assert_eq!(state.committed, 100);
    let attempts = u128::from(state.attempts);
    assert!(attempts <= intervals + 2, "{attempts} in {intervals}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_learns_what_a_store_has_though_nothing_more_arrives() {
    let events = [good(0), good(1)];
    let is_done = |state: &State| state.committed == 2;
    let (memory, run, streamed) = stream(&events, &[Answer::Superseded], true, None, is_done).await;
    streamed.unwrap();
    let state = memory.state();
    assert_eq!((state.committed, &state.written[..]), (2, &[0, 1][..]));
    assert_eq!(read(&run), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_goes_on_while_a_commit_waits_for_the_log() {
    let answers = [Answer::Unavailable; 4];
    let is_done = |state: &State| state.committed == 1;
    let (memory, _, streamed) = stream(&[good(0)], &answers, false, None, is_done).await;
    streamed.unwrap();
    let state = memory.state();
    assert_eq!((state.attempts, state.committed), (5, 1));
    assert!(state.polls > 2 * state.attempts, "{} polls", state.polls);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_dead_letters_is_not_waited_for_once_more_by_the_store() {
    let state = State {
        events: vec!["{}".into()],
        letters_are_down: true,
        ..State::default()
    };
    let max_outage = Duration::from_millis(300);
    let (memory, _, streamed) = stream_from(state, max_outage, None, |_| false).await;
    let failed = streamed.unwrap_err();
    assert!(failed.to_string().contains("the dead letters are down"));
    assert_eq!(memory.state().upserts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_the_log_lets_the_rest_go_on_and_ends_the_stream_if_it_lasts() {
    let state = || State {
        events: vec![good(0), good(1)],
        trouble: Some("partition 7 has no leader"),
        ..State::default()
    };
    let is_done = |state: &State| state.committed == 2;
    let long = Duration::from_secs(60);
    let (memory, _, streamed) = stream_from(state(), long, None, is_done).await;
    streamed.unwrap();
    assert_eq!(memory.state().committed, 2);
    let (memory, _, streamed) = stream_from(state(), PAUSE, None, |_| false).await;
    let failed = streamed.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable);
    assert_eq!(failed.to_string(), "partition 7 has no leader");
    assert!(failed.hint_text().unwrap().contains("--max-outage"));
    // What was read before that is kept.
    assert_eq!(memory.state().committed, 2);
}
