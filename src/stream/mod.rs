//! The micro-batch ETL: events of a topic become rows of the real-time store, each at least once.
//!
//! A micro-batch is stored while those before it are committed, and the next one is read and transformed. An offset is
//! committed only after every row before it is durable in the store, or in the dead letters: a crash at any point
//! replays what was not committed, which changes no row.

mod backlog;
mod batch;
mod group;
mod read_ahead;
mod sink;

use std::time::Duration;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::rejects::Budget;
use crate::ports::event_log::{Consumer, Offsets, Producer};
use crate::ports::realtime_store::RealtimeStore;
use crate::run::retry::Retry;
use crate::run::{Run, get};

use batch::Batch;
use group::Group;
use read_ahead::ReadAhead;
use sink::{Sink, Written};

/// Maximum bytes of a micro-batch. One is stored while the next one is read, so memory holds two of them,
/// and their rows.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// Pause before a member with nothing left to do checks whether the others are done, too.
const GROUP_PAUSE: Duration = Duration::from_millis(200);

/// How to stream.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to stop, in every partition; none means to follow the topic.
    pub end: Option<Offsets>,
    /// Maximum number of events in a micro-batch.
    pub max_batch: usize,
    /// Minimum time to collect events before a micro-batch is written, unless it is full.
    pub linger: Duration,
    /// Maximum number or share of dead letters.
    pub max_dead_letters: Option<Budget>,
}

/// The servers that events flow between.
pub struct Ports {
    /// Reads the topic.
    pub consumer: Box<dyn Consumer>,
    /// Takes the rows.
    pub store: Box<dyn RealtimeStore>,
    /// Takes the events that break a rule.
    pub dead_letters: Box<dyn Producer>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// Streams until the end, or until told to stop, and leaves the group.
pub async fn run(settings: Settings, ports: Ports, dataset: &Dataset, retry: &Retry) -> Result<()> {
    let mut group = Group::new(ports.consumer, retry);
    let sink = Sink::new(ports.store, ports.dead_letters, dataset, retry, &settings);
    let streamed = stream(&settings, &mut group, sink, dataset, &retry.run).await;
    let left = group.leave(streamed.is_err()).await;
    if let (Err(_), Err(also)) = (&streamed, &left) {
        retry.run.warn(also.to_string());
    }
    streamed.and(left)?;
    check_budget(&settings, &retry.run, true)
}

/// The main path.
async fn stream(
    settings: &Settings,
    group: &mut Group,
    mut sink: Sink<'_>,
    dataset: &Dataset,
    run: &Run,
) -> Result<()> {
    group.go_where_the_store_is(&mut sink).await?;
    let mut batches = ReadAhead::start(group, settings, dataset, run);
    let mut read = Ok(());
    while let Some(batch) = next(&mut batches, group, &mut sink, run)
        .await
        .unwrap_or_else(|failed| {
            read = Err(failed);
            None // what was read before that is kept
        })
    {
        // Neither a backlog nor dead letters before it is known that the events are still ours.
        if batch.is_full || !batch.rejects.is_empty() {
            group.settle(&mut sink).await?;
        }
        if group.is_void(&batch) {
            continue;
        }
        match sink.write(&batch).await? {
            Written::Aside => {}
            Written::Nothing => {
                if group.settle(&mut sink).await? {
                    group.reset(&mut sink).await?;
                }
            }
            Written::Durable(durable) => {
                group.add(durable);
                if !group.commit_if_due(&mut sink).await? {
                    continue;
                }
                if ends(settings, &batch, group, &mut sink).await? {
                    return Ok(());
                }
                if let Err(exceeded) = check_budget(settings, run, false) {
                    group.commit_all().await?;
                    return Err(exceeded);
                }
            }
        }
        batches.take_back(batch.rows);
    }
    if sink.has_backlog()
        && let Written::Durable(durable) = sink.write_backlog().await?
    {
        group.add(durable);
    }
    read
}

/// The next batch, while what is durable is committed.
async fn next(
    batches: &mut ReadAhead,
    group: &mut Group,
    sink: &mut Sink<'_>,
    run: &Run,
) -> Result<Option<Batch>> {
    loop {
        tokio::select! {
            biased;
            is_done = group.commit_in_time(), if group.has_uncommitted() => {
                if !is_done? {
                    group.reset(sink).await?;
                }
            }
            batch = batches.next(&run.stop) => return batch,
        }
    }
}

/// Whether the whole group is done, after a batch that leaves this member with nothing to do.
async fn ends(
    settings: &Settings,
    batch: &Batch,
    group: &mut Group,
    sink: &mut Sink<'_>,
) -> Result<bool> {
    let Some(end) = settings.end.as_ref().filter(|end| batch.is_at(end)) else {
        return Ok(false);
    };
    if !group.settle(sink).await? {
        return Ok(false);
    }
    if group.has_reached(end, &batch.span.to, sink).await? {
        return Ok(true);
    }
    if batch.events.is_empty() {
        group.pause(GROUP_PAUSE).await;
    }
    Ok(false)
}

fn check_budget(settings: &Settings, run: &Run, at_end: bool) -> Result<()> {
    let (rejected, read) = (get(&run.counts.rejected), get(&run.counts.read));
    settings
        .max_dead_letters
        .map_or(Ok(()), |budget| budget.check(rejected, read, at_end))
}
