//! Reads and transforms the next micro-batch while the one before it is stored.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::batch::Batch;
use super::group::Group;
use super::{MAX_BATCH_BYTES, Settings};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::event_log::{Consumer, FIRST_EVENT_WAIT, Limits, Offsets, Polled};
use crate::record::row::Rows;
use crate::run::clock::ClockWatch;
use crate::run::read_ahead::Ahead;
use crate::run::retry::{Retry, Trouble};
use crate::run::{Run, Stop};

/// Minimum number of events for a micro-batch to be worth setting aside while more are waiting.
const BACKLOG_FROM: usize = 1_000;

/// Pause before a reader that found nothing looks again.
const IDLE_PAUSE: Duration = Duration::from_millis(10);

/// The same while a micro-batch waits for the store and grows.
const GROWING_PAUSE: Duration = Duration::from_millis(1);

/// The micro-batches that the thread produces.
pub(super) struct ReadAhead {
    batches: Ahead<Batch>,
    /// Number of micro-batches requested.
    asked: watch::Sender<u64>,
    /// Whether the next one was already requested.
    is_asked: bool,
    spare: mpsc::Sender<Rows>,
}

impl ReadAhead {
    /// Starts reading, up to the end or forever.
    pub(super) fn start(group: &Group, settings: &Settings, dataset: &Dataset, run: &Run) -> Self {
        let (spare, spares) = mpsc::channel();
        let (asked, asks) = watch::channel(0);
        let mut reading = Reading {
            consumer: group.consumer(),
            retry: group.retry().clone(),
            settings: settings.clone(),
            dataset: dataset.clone(),
            run: run.clone(),
            spares,
            asks,
            made: 0,
            was_full: false,
            failed: None,
            trouble: Trouble::default(),
            clock: ClockWatch::new(None),
        };
        let runtime = tokio::runtime::Handle::current();
        ReadAhead {
            batches: Ahead::start(move || runtime.block_on(reading.next())),
            asked,
            is_asked: false,
            spare,
        }
    }

    /// The next micro-batch: what has arrived since the last one, at once or as soon as something arrives.
    /// Nothing is lost if this future is dropped early.
    pub(super) async fn next(&mut self, stop: &Stop) -> Result<Option<Batch>> {
        if !std::mem::replace(&mut self.is_asked, true) {
            self.asked.send_modify(|asked| *asked += 1);
        }
        let next = self.batches.next(stop).await;
        self.is_asked = false;
        next
    }

    /// Takes back stored rows, to reuse their memory.
    pub(super) fn take_back(&self, rows: Rows) {
        self.spare.send(rows).ok(); // after the end, nobody is left to use them
    }
}

/// What the thread needs.
struct Reading {
    consumer: Arc<Mutex<Box<dyn Consumer>>>,
    retry: Retry,
    settings: Settings,
    dataset: Dataset,
    run: Run,
    spares: mpsc::Receiver<Rows>,
    asks: watch::Receiver<u64>,
    /// Number of micro-batches produced.
    made: u64,
    /// Whether the last micro-batch was full, and may have been set aside.
    was_full: bool,
    /// The error to return after the last micro-batch.
    failed: Option<Error>,
    /// What keeps the log from being read as a whole.
    trouble: Trouble,
    /// Whether our clock is behind the log's.
    clock: ClockWatch,
}

impl Reading {
    /// The next micro-batch: an empty one at the end, and when nothing follows a full one; none when told to
    /// stop, or when nobody takes it.
    async fn next(&mut self) -> Result<Option<Batch>> {
        let spare = self.spares.try_recv();
        let mut batch = Batch::new(spare.unwrap_or_else(|_| Rows::new(self.dataset.fields.len())));
        while self.run.stop.requested().is_none() && self.has_taker() {
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            let begun = Instant::now();
            // A batch that is ready does not wait for the commit of the one before.
            if batch.is_empty() || self.consumer.try_lock().is_ok() {
                match self.poll(self.room(&batch)).await {
                    Ok(mut polled) => {
                        let trouble = polled.trouble.take();
                        batch.add(polled, &self.dataset);
                        self.clock.look(&self.run, batch.ahead);
                        self.failed = self.trouble.look(&self.retry, trouble).err();
                    }
                    Err(failed) if batch.is_empty() => return Err(failed),
                    Err(failed) => self.failed = Some(failed), // what was read before that is kept
                }
            }
            let is_due = match () {
                () if self.failed.is_some() => true,
                () if self.is_full(&batch) => true,
                () if !batch.is_empty() => self.is_asked_for(&batch).await,
                () => self.was_full || self.end().is_some_and(|end| batch.is_at(end)),
            };
            if is_due {
                batch.is_full = self.is_full(&batch) && batch.events.len() >= BACKLOG_FROM;
                self.was_full = batch.is_full;
                self.made += 1;
                return Ok(Some(batch));
            }
            if batch.is_empty() {
                self.pause(IDLE_PAUSE.saturating_sub(begun.elapsed())).await;
            }
        }
        Ok(None)
    }

    /// Whether anybody still asks for micro-batches; after an error, nobody does.
    fn has_taker(&self) -> bool {
        self.asks.has_changed().is_ok()
    }

    fn end(&self) -> Option<&Offsets> {
        self.settings.end.as_ref()
    }

    fn room(&self, batch: &Batch) -> Limits {
        Limits {
            events: self.settings.max_batch.saturating_sub(batch.events.len()),
            bytes: MAX_BATCH_BYTES.saturating_sub(batch.events.size()),
            wait: match batch.is_empty() {
                true => FIRST_EVENT_WAIT,
                false => Duration::ZERO,
            },
        }
    }

    /// Seven eighths count as full, so that the rest does not cost a poll of its own.
    fn is_full(&self, batch: &Batch) -> bool {
        let (events, bytes) = (batch.events.len(), batch.events.size());
        events >= self.settings.max_batch || bytes + bytes / 8 >= MAX_BATCH_BYTES
    }

    /// Waits a moment for the store to be idle. True if it is, and the batch has lingered long enough.
    async fn is_asked_for(&mut self, batch: &Batch) -> bool {
        let linger = match self.end() {
            None => self.settings.linger.saturating_sub(batch.begun.elapsed()),
            Some(_) => Duration::ZERO,
        };
        if !linger.is_zero() {
            self.pause(linger.min(IDLE_PAUSE)).await;
            return false;
        }
        let made = self.made;
        let asked = self.asks.wait_for(|asked| *asked > made);
        match tokio::time::timeout(GROWING_PAUSE, asked).await {
            Ok(Ok(_)) => true,
            Ok(Err(_)) => true, // nobody is left to ask; this ends with the channel of the batches
            Err(_) => false,
        }
    }

    async fn poll(&self, limits: Limits) -> Result<Polled> {
        self.retry
            .through_outage(async || self.consumer.lock().await.poll(limits).await)
            .await
    }

    async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = self.run.stop.wait() => {}
        }
    }
}
