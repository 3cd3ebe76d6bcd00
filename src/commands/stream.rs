//! `rtp stream`: the micro-batch ETL from the event log into the real-time store.

use std::time::Duration;

use tokio::sync::Mutex;

use crate::connect;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::event::{Event, MicroBatch};
use crate::event_log::{Commit, Consumer, Limits, Offsets, Producer};
use crate::exit::Exit;
use crate::realtime_store::{RealtimeStore, Upsert, Upserted};
use crate::rejects::{self, Budget, Rejected};
use crate::retry::{MaxOutage, through_outage};
use crate::row::{Origin, Rows};
use crate::run::{Run, add, get};
use crate::transform::{Reject, Transform};
use crate::url::{EventLogArg, RealtimeStoreArg};
use crate::value::{Fault, Rule};

/// Most bytes of a micro-batch, which bounds memory.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// Pause before a follower looks for new events again.
const IDLE: Duration = Duration::from_millis(50);

/// Upsert the topic's events into the real-time store, in micro-batches
///
/// An event that breaks a rule goes to the dead-letter topic, and the stream goes on. Offsets are
/// committed only after rows and dead letters are durable. Without --until-end it follows the topic
/// until it is told to stop.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    event_log: EventLogArg,
    #[command(flatten)]
    realtime_store: RealtimeStoreArg,
    /// Consumer group
    #[arg(long, value_name = "NAME", default_value = "rtp")]
    group: String,
    /// Stop at the end of the topic as it was at the start
    #[arg(long)]
    until_end: bool,
    /// Most events of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_batch: u32,
    /// Stop with status 3 after more dead letters than this; what came before is kept and committed
    #[arg(long, value_name = "N|P%")]
    max_dead_letters: Option<Budget>,
    /// End with status 1 if there is no event
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Streams until the end, or until told to stop.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let log = &args.event_log.event_log;
    let consumer = connect::consumer(log, &dataset.event.topic, &args.group)?;
    let store = connect::realtime_store(&args.realtime_store.realtime_store, dataset, &args.group)?;
    let dead_letters = connect::producer(log, &dataset.event.dead_letter_topic())?;
    let sink = Mutex::new((store, dead_letters));
    let limits = Limits {
        events: args.max_batch as usize,
        bytes: MAX_BATCH_BYTES,
    };
    let consumer = Mutex::new(consumer);
    let end = consumer.lock().await.end().await?;
    let max_outage = match args.until_end {
        true => args.outage.bounded(),
        false => args.outage.following(),
    };

    start_where_the_store_is(&consumer, &sink).await?;
    while run.stop.requested().is_none() {
        let from = consumer.lock().await.position();
        if args.until_end && reached(&from, &end) {
            // The group's offsets must say so too, also when another member did the work.
            if commit(&consumer, &from, run, max_outage).await? == Commit::Done {
                break;
            }
            start_where_the_store_is(&consumer, &sink).await?;
            continue;
        }
        let batch = through_outage(run, max_outage, || async {
            consumer.lock().await.poll(limits).await
        })
        .await?;
        if batch.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(IDLE) => {}
                _ = run.stop.wait() => {}
            }
            continue;
        }
        let (rows, rejects) = transform(dataset, &batch);
        let to = consumer.lock().await.position();
        let stored = through_outage(run, max_outage, || async {
            let (store, dead_letters) = &mut *sink.lock().await;
            store_batch(
                store.as_mut(),
                dead_letters,
                dataset,
                run,
                (&from, &to),
                &batch,
                (&rows, &rejects),
            )
            .await
        });
        let Some(counted) = stored.await? else {
            start_where_the_store_is(&consumer, &sink).await?;
            continue;
        };
        if commit(&consumer, &to, run, max_outage).await? == Commit::Superseded {
            start_where_the_store_is(&consumer, &sink).await?;
        }
        count(run, &batch, &rejects, &counted);
        check_budget(args, run, false)?;
    }
    check_budget(args, run, true)?;
    verdict(args, run)
}

async fn commit(
    consumer: &Mutex<Box<dyn Consumer>>,
    offsets: &Offsets,
    run: &Run,
    max_outage: Duration,
) -> Result<Commit> {
    through_outage(run, max_outage, || async {
        consumer.lock().await.commit(offsets).await
    })
    .await
}

/// Where rows and rejects end.
type Sink = (Box<dyn RealtimeStore>, Box<dyn Producer>);

/// A store that keeps offsets with its rows knows best what it holds.
async fn start_where_the_store_is(
    consumer: &Mutex<Box<dyn Consumer>>,
    sink: &Mutex<Sink>,
) -> Result<()> {
    match sink.lock().await.0.offsets().await? {
        Some(offsets) => consumer.lock().await.seek(&offsets).await,
        None => Ok(()),
    }
}

fn reached(position: &Offsets, end: &Offsets) -> bool {
    position
        .iter()
        .zip(end)
        .all(|((_, at), (_, end))| at >= end)
}

/// The bad events of a batch: index and reason.
type Rejects = Vec<(usize, Reject)>;

/// Rows of the good events, and the bad ones.
fn transform(dataset: &Dataset, batch: &MicroBatch) -> (Rows, Rejects) {
    let mut transform = Transform::new(dataset, crate::time::now_ms());
    let (mut rows, mut rejects) = (Rows::new(dataset.fields.len()), Vec::new());
    for (i, event) in batch.iter().enumerate() {
        let origin = Origin {
            partition: event.partition,
            offset: event.offset,
        };
        let read = match event.value {
            Some(value) => transform.event(value, origin, &mut rows),
            None => Err(Reject {
                field: None,
                fault: Fault::new(Rule::Tombstone, "an event without a value"),
            }),
        };
        if let Err(reject) = read {
            rejects.push((i, reject));
        }
    }
    (rows, rejects)
}

/// Rows first, then the dead letters while the rows' transaction is open, then the rows' commit: a
/// crash at any point replays the batch and loses nothing. None if another member was faster.
async fn store_batch(
    store: &mut dyn RealtimeStore,
    dead_letters: &mut Box<dyn Producer>,
    dataset: &Dataset,
    run: &Run,
    (from, to): (&Offsets, &Offsets),
    batch: &MicroBatch,
    (rows, rejects): (&Rows, &[(usize, Reject)]),
) -> Result<Option<Upserted>> {
    let upserted = match store.upsert(from, to, rows).await? {
        Upsert::Done(upserted) => upserted,
        Upsert::Superseded => return Ok(None),
    };
    let mut letters = MicroBatch::default();
    let events: Vec<Event<'_>> = match rejects.is_empty() && upserted.refused.is_empty() {
        true => Vec::new(),
        false => batch.iter().collect(),
    };
    for (i, reject) in rejects {
        push(&mut letters, dataset, run, &events[*i], reject);
    }
    for (i, reason) in &upserted.refused {
        let origin = rows.meta(*i).origin;
        let refused = |e: &&Event<'_>| (e.partition, e.offset) == (origin.partition, origin.offset);
        let reject = Reject {
            field: None,
            fault: Fault::new(Rule::Store, reason),
        };
        if let Some(event) = events.iter().find(refused) {
            push(&mut letters, dataset, run, event, &reject);
        }
    }
    rejects::send(dead_letters, &letters).await?;
    store.commit().await?;
    Ok(Some(upserted))
}

fn push(
    letters: &mut MicroBatch,
    dataset: &Dataset,
    run: &Run,
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
    rejects::push_dead_letter(letters, dataset, "stream", &run.id, &rejected);
}

fn count(run: &Run, batch: &MicroBatch, rejects: &[(usize, Reject)], counted: &Upserted) {
    let counts = &run.counts;
    add(&counts.read, batch.len() as u64);
    add(&counts.bytes, batch.size() as u64);
    add(
        &counts.rejected,
        (rejects.len() + counted.refused.len()) as u64,
    );
    add(&counts.written, counted.written);
    add(&counts.deduplicated, counted.deduplicated);
    add(&counts.skipped, counted.skipped);
}

fn check_budget(args: &Args, run: &Run, at_end: bool) -> Result<()> {
    let (rejected, read) = (get(&run.counts.rejected), get(&run.counts.read));
    args.max_dead_letters
        .map_or(Ok(()), |budget| budget.check(rejected, read, at_end))
}

fn verdict(args: &Args, run: &Run) -> Result<Exit> {
    match run.stop.requested() {
        Some(signal) if args.until_end => return Ok(signal.exit()),
        _ => {}
    }
    if get(&run.counts.read) == 0 && args.until_end {
        run.warn("there was no new event in the topic");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::verdict(get(&run.counts.rejected) == 0))
}
