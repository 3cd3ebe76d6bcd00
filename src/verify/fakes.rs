//! A log and a ledger for tests of what is asked of them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::Witnesses;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::batch_store::{BatchStore, BatchStores};
use crate::ports::event_log::{Consumer, EventLog, Offsets, Producer, Span, Topic};
use crate::ports::ledger::{Ledger, LoadInfo, LoadRecord, Newest, Verdict};
use crate::ports::log_reader::{EventVisitor, LogReader};
use crate::ports::monitor::{LogMonitor, OutOfRange, StoreMonitor};
use crate::ports::table_reader::TableReader;
use crate::record::event::Event;

/// What was done, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Diary(Arc<Mutex<Vec<&'static str>>>);

impl Diary {
    pub(super) fn add(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    /// What was done.
    pub(super) fn all(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    /// What was done, each once if it was done several times in a row.
    pub(super) fn entries(&self) -> Vec<&'static str> {
        let mut entries = self.all();
        entries.dedup();
        entries
    }
}

/// These witnesses note in the diary that they are asked; without a log, it does not answer.
pub(super) fn witnesses(diary: &Diary, log: Option<FakeLog>) -> Witnesses {
    let diary = diary.clone();
    let witness = Arc::new(Witness { diary, log });
    Witnesses {
        event_log: witness.clone(),
        batch_store: witness,
        realtime_store: None,
        group: "rtp".into(),
    }
}

/// A log with one partition, and no dead letters.
#[derive(Clone, Debug)]
pub(super) struct FakeLog {
    /// What the group has committed.
    pub(super) committed: i64,
    /// Records; each stands at the offset that is its index.
    pub(super) events: Vec<String>,
    /// Whether a member of the group reads it.
    pub(super) is_followed: bool,
    /// How often it does not answer before it does.
    pub(super) away: Arc<AtomicU32>,
}

impl FakeLog {
    /// A log with these records, of which the group has committed so many.
    pub(super) fn new(committed: i64, events: Vec<String>) -> FakeLog {
        FakeLog {
            committed,
            events,
            is_followed: false,
            away: Arc::default(),
        }
    }

    fn answer(&self) -> Result<()> {
        let less = |left: u32| left.checked_sub(1);
        match self
            .away
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        {
            Ok(_) => Err(Error::unavailable("it is away")),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl LogReader for FakeLog {
    async fn bounds(&mut self) -> Result<Span> {
        self.answer()?;
        let at = |offset| Offsets::from_iter([(0, offset)]);
        Ok(Span {
            from: at(0),
            to: at(self.events.len() as i64),
        })
    }

    async fn identity(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn out_of_range(&mut self, _: &Offsets) -> Result<Vec<OutOfRange>> {
        nothing()
    }

    async fn committed(&mut self, _: &str) -> Result<Offsets> {
        Ok(Offsets::from_iter([(0, self.committed)]))
    }

    async fn followed(&mut self, _: &str) -> Result<BTreeSet<i32>> {
        Ok(self.is_followed.then_some(0).into_iter().collect())
    }

    async fn at_time(&mut self, _: i64) -> Result<Offsets> {
        Ok(Offsets::from_iter([(0, 0)]))
    }

    async fn read(&mut self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()> {
        self.answer()?;
        for (offset, value) in (0..).zip(&self.events) {
            let is_in = span.ranges().any(|(_, range)| range.contains(&offset));
            let event = Event {
                offset,
                ..Event::new(None, Some(value.as_bytes()), b"")
            };
            if is_in && visitor.event(event) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

/// A log and a batch store that note that they are asked.
#[derive(Debug)]
struct Witness {
    diary: Diary,
    log: Option<FakeLog>,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("witness")
    }
}

fn nothing<T>() -> Result<T> {
    Err(Error::internal("not in this test"))
}

#[async_trait]
impl EventLog for Witness {
    async fn create(&self, _: &[Topic]) -> Result<Vec<String>> {
        nothing()
    }

    fn statements(&self, _: &[Topic]) -> Vec<String> {
        Vec::new()
    }

    async fn producer(&self, _: &str) -> Result<Box<dyn Producer>> {
        nothing()
    }

    async fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>> {
        nothing()
    }

    async fn monitor(&self, _: &str, _: std::time::Instant) -> Result<Box<dyn LogMonitor>> {
        nothing()
    }

    async fn reader(&self, topic: &str) -> Result<Box<dyn LogReader>> {
        self.diary.add("log");
        match &self.log {
            None => Err(Error::refused("it is silent")),
            Some(log) if topic.ends_with(".dlq") => Ok(Box::new(FakeLog {
                events: Vec::new(),
                ..log.clone()
            })),
            Some(log) => Ok(Box::new(log.clone())),
        }
    }
}

#[async_trait]
impl BatchStores for Witness {
    async fn create(&self, _: &Dataset) -> Result<()> {
        nothing()
    }

    fn statements(&self, _: &Dataset) -> Vec<String> {
        Vec::new()
    }

    async fn open(&self, _: &Dataset) -> Result<Box<dyn BatchStore>> {
        nothing()
    }

    async fn table(&self, _: &Dataset) -> Result<Box<dyn TableReader>> {
        nothing()
    }

    async fn ledger(&self, _: &Dataset) -> Result<Box<dyn Ledger>> {
        self.diary.add("ledger");
        Ok(Box::new(OneLoad))
    }

    async fn monitor(&self, _: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        nothing()
    }
}

/// A ledger with one load, of nothing newer than 1970.
struct OneLoad;

#[async_trait]
impl Ledger for OneLoad {
    async fn loads(&mut self, _: u32) -> Result<Vec<LoadRecord>> {
        let info = LoadInfo {
            run_id: "r1".into(),
            newest: Some(0),
            ..LoadInfo::default()
        };
        Ok(vec![LoadRecord {
            info,
            mode: "update-if-newer".into(),
            loaded_at: 1,
            written: 0,
        }])
    }

    async fn newest(&mut self) -> Result<Newest> {
        Ok(Newest {
            ever: Some(0),
            in_table: Some(0),
        })
    }

    async fn add_verdict(&mut self, _: &Verdict) -> Result<()> {
        nothing()
    }

    async fn verdicts(&mut self, _: u32) -> Result<Vec<Verdict>> {
        nothing()
    }
}
