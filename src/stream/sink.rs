//! Where rows and rejects end.

use std::time::Instant;

use super::Settings;
use super::backlog::{Letters, PendingBacklog};
use super::batch::{Batch, Counted};
use crate::dataset::Dataset;
use crate::error::{Error, Kind, Result};
use crate::intake::rejects::{self, Budget, Rejected};
use crate::ports::event_log::{Offsets, Producer, Span};
use crate::ports::realtime_store::{RealtimeStore, Upsert, Upserted};
use crate::record::event::Event;
use crate::record::reject::{Fault, Reject, Rule};
use crate::run::rejected::{Groups, Place};
use crate::run::retry::Retry;
use crate::run::{add, get};

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Written {
    /// It is set aside, and will be written with the next ones.
    Aside,
    /// Its rows and dead letters are durable, and so are those set aside before it.
    Durable(Durable),
    /// None of it was written: another member was faster, or the store has refused a backlog, which is to be
    /// read and stored again batch by batch.
    Nothing,
}

/// What is to be committed.
#[derive(Debug, Default)]
pub(super) struct Durable {
    pub(super) span: Span,
    /// When the first event of each batch, or of each backlog, arrived.
    pub(super) begun: Vec<Instant>,
    /// Whether it should not be repeated: dead letters would be doubled, and a full batch is much work.
    pub(super) is_urgent: bool,
}

impl Durable {
    /// Adds what became durable after this.
    pub(super) fn extend(&mut self, later: Durable) {
        self.span.extend(&later.span);
        self.begun.extend(later.begun);
        self.is_urgent |= later.is_urgent;
    }
}

/// The store and the dead letters.
pub(super) struct Sink<'a> {
    pub(super) store: Box<dyn RealtimeStore>,
    dead_letters: Box<dyn Producer>,
    dataset: &'a Dataset,
    retry: &'a Retry,
    budget: Option<Budget>,
    backlog: PendingBacklog,
    /// A backlog that the store has refused is stored again batch by batch, up to here.
    one_by_one: Option<Offsets>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(
        store: Box<dyn RealtimeStore>,
        dead_letters: Box<dyn Producer>,
        dataset: &'a Dataset,
        retry: &'a Retry,
        settings: &Settings,
    ) -> Self {
        Sink {
            store,
            dead_letters,
            dataset,
            retry,
            budget: settings.max_dead_letters,
            backlog: PendingBacklog::default(),
            one_by_one: None,
        }
    }

    /// Writes a batch, or sets it aside while full ones follow each other and the store benefits from that.
    pub(super) async fn write(&mut self, batch: &Batch) -> Result<Written> {
        let metrics = &self.retry.run.metrics;
        metrics.set_in_flight(self.backlog.counted.read as usize + batch.events.len());
        let is_aside = self.one_by_one.is_none() && (batch.is_full || !self.backlog.is_empty());
        if !is_aside || !self.stage(batch).await? {
            return self.write_alone(batch).await;
        }
        match batch.is_full && self.backlog.has_room() && self.is_allowed() {
            true => Ok(Written::Aside),
            false => self.write_backlog().await,
        }
    }

    /// Sets a batch aside; false if the store does not support that.
    async fn stage(&mut self, batch: &Batch) -> Result<bool> {
        let Some(aside) = self.store.backlog() else {
            return Ok(false);
        };
        self.retry
            .through_outage(async || aside.stage(&batch.rows).await)
            .await?;
        self.backlog.add(batch);
        for (event, reject) in batch.rejected() {
            push(
                &mut self.backlog.letters,
                self.dataset,
                self.retry,
                &event,
                reject,
            );
        }
        Ok(true)
    }

    /// Whether the error budget allows the events counted so far, plus those that are not durable yet.
    fn is_allowed(&self) -> bool {
        let (counts, more) = (&self.retry.run.counts, &self.backlog.counted);
        let rejected = get(&counts.rejected) + more.rejected;
        let read = get(&counts.read) + more.read;
        self.budget
            .is_none_or(|budget| budget.check(rejected, read, false).is_ok())
    }

    /// Whether anything is set aside.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Writes what is set aside as one upsert. If the store refuses one of its rows, it is written batch by batch
    /// until the row is found.
    pub(super) async fn write_backlog(&mut self) -> Result<Written> {
        let backlog = std::mem::take(&mut self.backlog);
        let Sink {
            store,
            dead_letters,
            retry,
            ..
        } = self;
        let merged = retry
            .through_outage(async || {
                let aside = store.backlog().ok_or_else(no_backlog)?;
                let upserted = match aside.merge(&backlog.span).await? {
                    Upsert::Done(upserted) => upserted,
                    Upsert::Superseded => return Ok(Ok(None)),
                };
                if let Err(waited) = send(dead_letters, retry, &backlog.letters).await {
                    return Ok(Err(waited));
                }
                store.commit().await?;
                Ok(Ok(Some(upserted)))
            })
            .await
            .flatten();
        match merged {
            Ok(Some(upserted)) => {
                self.enter(backlog.counted, &upserted, &backlog.letters.groups);
                Ok(Written::Durable(Durable {
                    span: backlog.span,
                    begun: backlog.begun.into_iter().collect(),
                    is_urgent: true,
                }))
            }
            Err(e) if e.kind() != Kind::Data => Err(e),
            refused => {
                self.one_by_one = refused.is_err().then_some(backlog.span.to);
                self.store
                    .backlog()
                    .ok_or_else(no_backlog)?
                    .discard()
                    .await?;
                Ok(Written::Nothing)
            }
        }
    }

    /// Rows first, then the dead letters while the rows' transaction is open, then the rows' commit: a
    /// crash at any point replays the batch and loses nothing.
    async fn write_alone(&mut self, batch: &Batch) -> Result<Written> {
        let is_found = |until: &mut Offsets| batch.is_at(until);
        if batch.span.is_empty() {
            self.one_by_one.take_if(is_found);
            return Ok(Written::Durable(Durable {
                span: batch.span.clone(), // the group's offsets must advance, too
                ..Durable::default()
            }));
        }
        let Sink {
            store,
            dead_letters,
            dataset,
            retry,
            ..
        } = self;
        let upserted = retry
            .through_outage(async || {
                let upserted = match store.upsert(&batch.span, &batch.rows).await? {
                    Upsert::Done(upserted) => upserted,
                    Upsert::Superseded => return Ok(Ok(None)),
                };
                let letters = letters(batch, &upserted, dataset, retry);
                if let Err(waited) = send(dead_letters, retry, &letters).await {
                    return Ok(Err(waited));
                }
                store.commit().await?;
                Ok(Ok(Some((upserted, letters.groups))))
            })
            .await
            .flatten()?;
        let Some((upserted, groups)) = upserted else {
            return Ok(Written::Nothing);
        };
        self.one_by_one.take_if(is_found);
        let has_refused = !upserted.refused.is_empty();
        self.enter(Counted::of(batch), &upserted, &groups);
        Ok(Written::Durable(Durable {
            span: batch.span.clone(),
            begun: match batch.events.is_empty() {
                true => Vec::new(),
                false => vec![batch.begun],
            },
            is_urgent: batch.is_full || !batch.rejects.is_empty() || has_refused,
        }))
    }

    /// Counts what is durable.
    fn enter(&self, counted: Counted, upserted: &Upserted, rejected: &Groups) {
        let run = &self.retry.run;
        let counts = &run.counts;
        add(&counts.read, counted.read);
        add(&counts.bytes, counted.bytes);
        let refused = upserted.refused.len() as u64;
        add(&counts.rejected, counted.rejected + refused);
        counts.add_rejected(rejected);
        add(&counts.written, upserted.written);
        add(&counts.deduplicated, upserted.deduplicated);
        add(&counts.skipped, upserted.skipped);
        run.metrics.set_in_flight(0);
    }
}

fn no_backlog() -> Error {
    Error::internal("rows were set aside in a store that does not support that")
}

/// The dead letters of the events that broke a rule or that the store refused.
fn letters(batch: &Batch, upserted: &Upserted, dataset: &Dataset, retry: &Retry) -> Letters {
    let mut letters = Letters::default();
    for (event, reject) in batch.rejected() {
        push(&mut letters, dataset, retry, &event, reject);
    }
    for (i, reason) in &upserted.refused {
        let origin = batch.rows.meta(*i).origin;
        let is_refused =
            |e: &Event<'_>| (e.partition, e.offset) == (origin.partition, origin.offset);
        let reject = Reject {
            field: None,
            fault: Fault::new(Rule::Store, reason),
        };
        if let Some(event) = batch.events.iter().find(is_refused) {
            push(&mut letters, dataset, retry, &event, &reject);
        }
    }
    letters
}

fn push(
    letters: &mut Letters,
    dataset: &Dataset,
    retry: &Retry,
    event: &Event<'_>,
    reject: &Reject,
) {
    let rejected = Rejected {
        source: &dataset.event.topic,
        partition: Some(event.partition),
        offset: event.offset,
        line: None,
        key: event.key,
        value: event.value,
        headers: event.headers,
        reject,
    };
    let run_id = &retry.run.id;
    rejects::push_dead_letter(&mut letters.events, dataset, "stream", run_id, &rejected);
    let field = reject.field.map(|i| &*dataset.fields[i].name);
    letters.groups.count(reject.fault.rule.name(), field, || {
        let place = Place {
            source: dataset.event.topic.clone(),
            line: None,
            partition: Some(event.partition),
            offset: event.offset,
        };
        let to = format!("topic {}", dataset.event.dead_letter_topic());
        (place, reject.fault.detail.clone(), Some(to))
    });
}

/// Waits for an outage of the dead letters' log by itself; its error must not be waited for again.
async fn send(
    dead_letters: &mut Box<dyn Producer>,
    retry: &Retry,
    letters: &Letters,
) -> Result<()> {
    rejects::send(retry, dead_letters.as_mut(), &letters.events).await
}
