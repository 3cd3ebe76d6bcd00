//! Membership in the consumer group, shared with the thread that reads ahead.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::batch::Batch;
use super::sink::{Durable, Sink};
use crate::error::Result;
use crate::ports::event_log::{Consumer, Epoch, Offsets};
use crate::run::retry::{Outage, Retry};
use crate::run::task::Task;

/// Minimum time between the starts of two commits, unless one is urgent. A commit costs a broker as much as many events,
/// and holds the reader. What is durable but not committed is written again after a crash, and where a partition moves
/// to another member while this one waits for its store: nothing is committed during a write.
const COMMIT_INTERVAL: Duration = Duration::from_millis(50);

/// How long a stream that has failed waits for its last commits.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// The group's reader, as seen by the thread that stores.
pub(super) struct Group {
    consumer: Arc<Mutex<Box<dyn Consumer>>>,
    /// The current epoch, since this member's last call that could have started a new one.
    epoch: Epoch,
    retry: Retry,
    /// What is durable since the last commit started.
    durable: Option<Durable>,
    /// The commit in progress.
    commit: Option<Task<Epoch>>,
    /// When the next one may start.
    next_commit: Instant,
}

impl Group {
    pub(super) fn new(consumer: Box<dyn Consumer>, retry: &Retry) -> Self {
        Group {
            consumer: Arc::new(Mutex::new(consumer)),
            epoch: Epoch::default(),
            retry: retry.clone(),
            durable: None,
            commit: None,
            next_commit: Instant::now(),
        }
    }

    pub(super) fn consumer(&self) -> Arc<Mutex<Box<dyn Consumer>>> {
        Arc::clone(&self.consumer)
    }

    pub(super) fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Whether a batch was read before the reader was reset, which means that it is read again.
    pub(super) fn is_void(&self, batch: &Batch) -> bool {
        batch.epoch != self.epoch
    }

    /// Moves the reader to the offsets of the store, if it keeps them, otherwise to what is committed.
    pub(super) async fn go_where_the_store_is(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let consumer = &self.consumer;
        self.epoch = self
            .retry
            .through_outage(async || {
                let offsets = sink.store.offsets().await?;
                consumer.lock().await.seek(offsets.as_ref()).await
            })
            .await?;
        Ok(())
    }

    /// The same after another member was faster, or the store has refused a backlog. The log then learns what the store
    /// has, although nothing more may arrive. No commit may be in progress, because its epoch would be taken for a
    /// newer one.
    pub(super) async fn reset(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.retry.run.metrics.set_in_flight(0); // what was read is read again
        self.durable = Some(Durable::default());
        self.go_where_the_store_is(sink).await
    }

    /// Adds to the next commit.
    pub(super) fn add(&mut self, durable: Durable) {
        let next = self.durable.get_or_insert_default();
        next.extend(durable);
        if next.is_urgent {
            self.next_commit = Instant::now();
        }
    }

    /// Whether there is something to tell the log, or an answer to wait for.
    pub(super) fn has_uncommitted(&self) -> bool {
        self.durable.is_some() || self.commit.is_some()
    }

    /// Waits until it is time, commits what is durable then, and waits for the answer. False if another member was
    /// faster: the reader was reset. Nothing is lost if this future is dropped early.
    pub(super) async fn commit_in_time(&mut self) -> Result<bool> {
        if self.commit.is_none() {
            tokio::time::sleep_until(self.next_commit).await;
            self.start_commit();
        }
        self.ended().await
    }

    /// If it is time, starts the next commit, which is concurrent with reading and writing the next batches. The one
    /// before it has to end first. False after a reset.
    pub(super) async fn commit_if_due(&mut self, sink: &mut Sink<'_>) -> Result<bool> {
        if Instant::now() < self.next_commit {
            return Ok(true);
        }
        if !self.ended().await? {
            self.reset(sink).await?;
            return Ok(false);
        }
        self.start_commit();
        Ok(true)
    }

    /// Commits everything that is durable. False if another member was faster: the reader was reset. Nothing is lost
    /// if this future is dropped early.
    pub(super) async fn commit_all(&mut self) -> Result<bool> {
        while self.has_uncommitted() {
            if self.commit.is_none() {
                self.start_commit();
            }
            if !self.ended().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`Group::commit_all`]; after a reset also goes where the store is. Not to be dropped early.
    pub(super) async fn settle(&mut self, sink: &mut Sink<'_>) -> Result<bool> {
        let is_done = self.commit_all().await?;
        if !is_done {
            self.reset(sink).await?;
        }
        Ok(is_done)
    }

    fn start_commit(&mut self) {
        let Some(Durable { span, begun, .. }) = self.durable.take() else {
            return;
        };
        self.next_commit = Instant::now() + COMMIT_INTERVAL;
        let (consumer, retry, epoch) = (self.consumer(), self.retry.clone(), self.epoch);
        self.commit = Some(Task::spawn(async move {
            let mut outage = Outage::new(&retry);
            loop {
                // The lock must not be held during a pause: nobody could read meanwhile.
                let committed = consumer.lock().await.commit(&span).await;
                let now = match committed {
                    Err(error) => {
                        outage.wait(error).await?;
                        continue;
                    }
                    Ok(now) => now,
                };
                for begun in begun.iter().filter(|_| now == epoch) {
                    retry.run.metrics.committed(begun.elapsed());
                }
                return Ok(now);
            }
        }));
    }

    /// Waits for the commit in progress, if there is one. False if another member was faster: the reader was reset.
    async fn ended(&mut self) -> Result<bool> {
        let Some(commit) = &mut self.commit else {
            return Ok(true);
        };
        let ended = commit.await;
        self.commit = None;
        if matches!(&ended, Ok(now) if *now == self.epoch) {
            return Ok(true);
        }
        self.durable = None; // it follows what is not committed
        self.epoch = ended?;
        Ok(false)
    }

    /// Whether the whole group is done, according to the log and to a store that keeps offsets: the work of a member
    /// that died falls to this one. `position` is stored and committed. A partition of which the store has nothing is
    /// stored up to its oldest event.
    pub(super) async fn has_reached(
        &self,
        end: &Offsets,
        position: &Offsets,
        sink: &mut Sink<'_>,
    ) -> Result<bool> {
        let consumer = &self.consumer;
        self.retry
            .through_outage(async || {
                let committed = consumer.lock().await.committed().await?;
                if !committed.cover(end) {
                    return Ok(false);
                }
                let Some(mut stored) = sink.store.offsets().await? else {
                    return Ok(true);
                };
                stored.raise_to(position);
                if stored.cover(end) {
                    return Ok(true);
                }
                let start = consumer.lock().await.start().await?;
                stored.set_missing(&start);
                Ok(stored.cover(end))
            })
            .await
    }

    /// Commits what is durable, after a failure only if that does not take long, and leaves the group, so that the
    /// others take over this member's remaining work at once.
    pub(super) async fn leave(&mut self, has_failed: bool) -> Result<()> {
        let committed = match has_failed {
            false => self.commit_all().await,
            true => tokio::time::timeout(LAST_COMMIT, self.commit_all())
                .await
                .unwrap_or(Ok(false)), // what it covers is read again
        };
        self.commit = None;
        self.consumer.lock().await.leave().await?;
        committed.map(|_| ())
    }

    /// Waits for this long, or until a stop.
    pub(super) async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = self.retry.run.stop.wait() => {}
        }
    }
}
