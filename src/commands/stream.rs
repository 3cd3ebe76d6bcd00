//! `rtp stream`: the micro-batch ETL from the event log into the real-time store.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::ahead::Ahead;
use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Kind, Result};
use crate::event::{Event, MicroBatch};
use crate::event_log::{Commit, Consumer, Limits, Offsets, Producer};
use crate::exit::Exit;
use crate::realtime_store::{RealtimeStore, Upsert, Upserted};
use crate::rejects::{self, Budget, Rejected};
use crate::retry::{MaxOutage, through_outage};
use crate::row::{Origin, Rows};
use crate::run::{Run, add, get};
use crate::transform::{Reject, Transform};
use crate::url::{EventLogArg, RealtimeStoreArg, SettingArgs};
use crate::value::{Fault, Rule};

/// Most bytes of a micro-batch. One is stored while the next one is read, so memory holds two of them,
/// and their rows.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// Fewest events of a micro-batch that is worth to be kept aside while more are waiting.
const BACKLOG_FROM: usize = 1_000;

/// Most rows kept aside: random keys then fall on the same page of an index often enough.
const MAX_BACKLOG_ROWS: u64 = 250_000;

/// Most bytes of dead letters kept with them.
const MAX_BACKLOG_LETTERS: usize = 4 << 20;

/// Pause before a reader looks for new events again.
const IDLE: Duration = Duration::from_millis(10);

/// Pause before a member that has nothing left to do looks whether the others have.
const OTHERS: Duration = Duration::from_millis(200);

/// Upsert the topic's events into the real-time store, in micro-batches
///
/// An event that breaks a rule goes to the dead-letter topic, and the stream goes on. Offsets are
/// committed only after rows and dead letters are durable.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    event_log: EventLogArg,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    realtime_store: RealtimeStoreArg,
    /// Consumer group
    #[arg(long, value_name = "NAME", default_value = "rtp")]
    group: String,
    /// Keep the partitions of this name through a restart (Kafka only: static membership of its group)
    #[arg(long, value_name = "NAME")]
    instance_id: Option<String>,
    /// Stop at the end of the topic as it was at the start
    #[arg(long)]
    until_end: bool,
    /// Follow the topic until told to stop; this is the default
    #[arg(long, conflicts_with = "until_end")]
    follow: bool,
    /// Most events of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_batch: u32,
    /// How long a micro-batch waits for more events before it is written, in following
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = crate::time::parse_duration)]
    linger: Duration,
    /// Stop with status 3 after more dead letters than this; what came before is kept and committed
    #[arg(long, value_name = "N|P%")]
    max_dead_letters: Option<Budget>,
    /// End with status 1 if there is no event
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    fn follows(&self) -> bool {
        self.follow || !self.until_end
    }

    /// Whether the error budget allows what was counted, and what is not durable yet.
    fn allows(&self, run: &Run, more: &Counted) -> bool {
        let rejected = get(&run.counts.rejected) + more.rejected;
        let read = get(&run.counts.read) + more.read;
        self.max_dead_letters
            .is_none_or(|budget| budget.check(rejected, read, false).is_ok())
    }

    fn max_outage(&self) -> Duration {
        match self.follows() {
            true => self.outage.following(),
            false => self.outage.bounded(),
        }
    }
}

/// Streams until the end, or until told to stop.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let instance = (
        "--instance-id",
        "group.instance.id",
        args.instance_id.as_deref(),
    );
    let joined = &args.event_log.with(&args.settings, &[instance])?;
    let log = &args.event_log.with(&args.settings, &[])?;
    let max_outage = args.max_outage();
    let mut consumer = through_outage(run, max_outage, || async {
        connect::consumer(joined, &dataset.event.topic, &args.group).await
    })
    .await?;
    let end = match args.follows() {
        true => None,
        false => {
            let reader = Mutex::new(&mut consumer);
            let end = through_outage(run, max_outage, || async {
                reader.lock().await.end().await
            });
            Some(end.await?)
        }
    };
    let store = through_outage(run, max_outage, || async {
        connect::realtime_store(&args.realtime_store.realtime_store, dataset, &args.group).await
    });
    let sink = Sink {
        store: Mutex::new(store.await?),
        dead_letters: Mutex::new(
            through_outage(run, max_outage, || async {
                connect::producer(log, &dataset.event.dead_letter_topic()).await
            })
            .await?,
        ),
        dataset,
        run,
        max_outage,
    };
    let mut group = Group::join(consumer, run, max_outage);
    run.metrics.set_ready();
    let streamed = stream(args, end, &sink, &mut group).await;
    let left = group.leave().await;
    streamed.and(left)?;
    check_budget(args, run, true)?;
    verdict(args, run)
}

/// A micro-batch is stored while the next one is read and transformed.
async fn stream(
    args: &Args,
    end: Option<Offsets>,
    sink: &Sink<'_>,
    group: &mut Group<'_>,
) -> Result<()> {
    let run = sink.run;
    group.start_where_the_store_is(sink).await?;
    let (spare, spares) = mpsc::channel();
    let mut batches = group.read(args, end.clone(), sink.dataset, spares);
    let mut backlog = Backlog::default();
    // A backlog that the store refuses is stored again batch by batch, up to here.
    let mut one_by_one: Option<Offsets> = None;
    let mut read = Ok(());
    while let Some(batch) = batches.next(&run.stop).await.unwrap_or_else(|failed| {
        read = Err(failed);
        None // what was read before it is kept
    }) {
        if batch.generation != group.generation {
            continue; // read before the group was set back
        }
        let has_events = !batch.events.is_empty();
        let begun = Instant::now();
        let in_flight = backlog.counted.read as usize + batch.events.len();
        run.metrics.set_in_flight(in_flight);
        let in_backlog = has_events
            && one_by_one.is_none()
            && (batch.is_full || !backlog.is_empty())
            && sink.stage(&batch).await?;
        if in_backlog {
            backlog.begun.get_or_insert(begun);
            backlog.add(&batch, sink);
            if batch.is_full && backlog.has_room() && args.allows(run, &backlog.counted) {
                spare.send(batch.rows).ok(); // nobody is left to use them after the end
                continue;
            }
        }
        if !backlog.is_empty() {
            one_by_one = group.store(&mut backlog, sink).await?;
            if batch.generation != group.generation {
                continue;
            }
        }
        if has_events && !in_backlog {
            let stored = through_outage(run, sink.max_outage, || sink.store(&batch));
            let Some(upserted) = stored.await? else {
                group.start_where_the_store_is(sink).await?;
                continue;
            };
            Counted::of(&batch).enter(run, &upserted);
        }
        // The group's offsets must say so too, also when another member did the work.
        let committed = group.commit(&batch.to).await?;
        run.metrics.set_in_flight(0);
        if has_events && !in_backlog && committed == Commit::Done {
            run.metrics.committed(begun.elapsed());
        }
        if committed == Commit::Superseded {
            group.start_where_the_store_is(sink).await?;
        } else if let Some(end) = &end
            && batch.is_at(end)
        {
            if group.has_reached(end, &batch.to, sink).await? {
                return Ok(());
            }
            if batch.events.is_empty() {
                pause(run, OTHERS).await;
            }
        }
        if one_by_one.as_ref().is_some_and(|until| batch.is_at(until)) {
            one_by_one = None;
        }
        check_budget(args, run, false)?;
        spare.send(batch.rows).ok();
    }
    if !backlog.is_empty() {
        group.store(&mut backlog, sink).await?;
    }
    read
}

/// A micro-batch, read and transformed.
struct Batch {
    generation: u64,
    /// Positions before and after it.
    from: Offsets,
    to: Offsets,
    /// None only at the end that was asked for, of the partitions that this member reads, and when
    /// nothing follows a full micro-batch.
    events: MicroBatch,
    /// Whether it is as large as allowed, so that more events are likely to wait.
    is_full: bool,
    rows: Rows,
    /// Index and reason of the bad ones.
    rejects: Vec<(usize, Reject)>,
}

impl Batch {
    /// Whether nothing is left of the partitions that this member reads, which may be none.
    fn is_at(&self, end: &Offsets) -> bool {
        at_end(&self.to, end)
    }
}

/// What was read, to be counted once it is durable.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    read: u64,
    bytes: u64,
    rejected: u64,
}

impl Counted {
    fn of(batch: &Batch) -> Self {
        Counted {
            read: batch.events.len() as u64,
            bytes: batch.events.size() as u64,
            rejected: batch.rejects.len() as u64,
        }
    }

    fn enter(self, run: &Run, upserted: &Upserted) {
        let counts = &run.counts;
        add(&counts.read, self.read);
        add(&counts.bytes, self.bytes);
        add(
            &counts.rejected,
            self.rejected + upserted.refused.len() as u64,
        );
        add(&counts.written, upserted.written);
        add(&counts.deduplicated, upserted.deduplicated);
        add(&counts.skipped, upserted.skipped);
    }
}

/// Micro-batches whose rows the store keeps aside: what is to be done for all of them at once.
#[derive(Debug, Default)]
struct Backlog {
    /// When the first of them was read.
    begun: Option<Instant>,
    from: Offsets,
    to: Offsets,
    letters: MicroBatch,
    counted: Counted,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.counted.read == 0
    }

    fn has_room(&self) -> bool {
        self.counted.read < MAX_BACKLOG_ROWS && self.letters.size() < MAX_BACKLOG_LETTERS
    }

    fn add(&mut self, batch: &Batch, sink: &Sink<'_>) {
        go_on(&mut self.from, &mut self.to, &batch.from, &batch.to);
        sink.push_rejects(&mut self.letters, batch);
        let more = Counted::of(batch);
        self.counted.read += more.read;
        self.counted.bytes += more.bytes;
        self.counted.rejected += more.rejected;
    }
}

/// The group's reader and a count of how often it was set back: what was read before that is void.
struct Reader {
    consumer: Box<dyn Consumer>,
    generation: u64,
}

/// Membership in the consumer group, shared with the thread that reads ahead.
struct Group<'a> {
    reader: Arc<Mutex<Reader>>,
    generation: u64,
    run: &'a Run,
    max_outage: Duration,
}

/// Where rows and rejects end.
struct Sink<'a> {
    store: Mutex<Box<dyn RealtimeStore>>,
    dead_letters: Mutex<Box<dyn Producer>>,
    dataset: &'a Dataset,
    run: &'a Run,
    max_outage: Duration,
}

impl<'a> Group<'a> {
    fn join(consumer: Box<dyn Consumer>, run: &'a Run, max_outage: Duration) -> Self {
        Group {
            reader: Arc::new(Mutex::new(Reader {
                consumer,
                generation: 0,
            })),
            generation: 0,
            run,
            max_outage,
        }
    }

    /// A store that keeps offsets with its rows knows best what it holds.
    async fn start_where_the_store_is(&mut self, sink: &Sink<'_>) -> Result<()> {
        self.generation = through_outage(self.run, self.max_outage, || async {
            let offsets = sink.store.lock().await.offsets().await?;
            let reader = &mut *self.reader.lock().await;
            if let Some(offsets) = offsets {
                reader.consumer.seek(&offsets).await?;
            }
            reader.generation += 1;
            Ok(reader.generation)
        })
        .await?;
        Ok(())
    }

    /// Whether the whole group is done, by the log and by a store that keeps offsets: a member that
    /// died leaves its work to us. `position` is stored and committed.
    async fn has_reached(
        &self,
        end: &Offsets,
        position: &Offsets,
        sink: &Sink<'_>,
    ) -> Result<bool> {
        through_outage(self.run, self.max_outage, || async {
            let committed = self.reader.lock().await.consumer.committed().await?;
            let stored = sink.store.lock().await.offsets().await?;
            let is_done = |(p, end): &(i32, i64)| {
                let is_stored = stored.as_ref().is_none_or(|stored| {
                    let at = offset_in(stored, *p).max(offset_in(position, *p));
                    at.unwrap_or(0) >= *end
                });
                is_stored && offset_in(&committed, *p).is_some_and(|at| at >= *end)
            };
            Ok(end.iter().all(is_done))
        })
        .await
    }

    /// Stores a backlog as one upsert and commits it. If the store refuses one of its rows, the group
    /// is set back before it; yields the end of what is then to be stored batch by batch, so that the
    /// row is found.
    async fn store(&mut self, backlog: &mut Backlog, sink: &Sink<'_>) -> Result<Option<Offsets>> {
        let backlog = std::mem::take(backlog);
        let stored = through_outage(self.run, self.max_outage, || sink.merge(&backlog)).await;
        let stored = match stored {
            Err(e) if e.kind() == Kind::Data => Err(e),
            other => Ok(other?),
        };
        let Ok(Some(upserted)) = stored else {
            sink.store.lock().await.discard().await?;
            self.start_where_the_store_is(sink).await?;
            return Ok(stored.is_err().then_some(backlog.to));
        };
        match (self.commit(&backlog.to).await?, backlog.begun) {
            (Commit::Superseded, _) => self.start_where_the_store_is(sink).await?,
            (Commit::Done, Some(begun)) => self.run.metrics.committed(begun.elapsed()),
            (Commit::Done, None) => {}
        }
        backlog.counted.enter(self.run, &upserted);
        Ok(None)
    }

    /// What this member has not done goes to the others at once.
    async fn leave(&self) -> Result<()> {
        self.reader.lock().await.consumer.leave().await
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<Commit> {
        let (committed, generation) = through_outage(self.run, self.max_outage, || async {
            let reader = &mut *self.reader.lock().await;
            let committed = reader.consumer.commit(offsets).await?;
            if committed == Commit::Superseded {
                reader.generation += 1;
            }
            Ok((committed, reader.generation))
        })
        .await?;
        self.generation = generation;
        Ok(committed)
    }

    /// Starts reading ahead, up to the end or for ever.
    fn read(
        &self,
        args: &Args,
        end: Option<Offsets>,
        dataset: &Dataset,
        spare: mpsc::Receiver<Rows>,
    ) -> Ahead<Batch> {
        let mut reading = Reading {
            was_full: false,
            reader: self.reader.clone(),
            end,
            limits: Limits {
                events: args.max_batch as usize,
                bytes: MAX_BATCH_BYTES,
            },
            linger: args.linger,
            max_outage: self.max_outage,
            dataset: dataset.clone(),
            run: self.run.clone(),
            spare,
        };
        let runtime = tokio::runtime::Handle::current();
        Ahead::start(move || runtime.block_on(reading.next()))
    }
}

/// What the thread that reads ahead needs.
struct Reading {
    reader: Arc<Mutex<Reader>>,
    end: Option<Offsets>,
    limits: Limits,
    linger: Duration,
    max_outage: Duration,
    dataset: Dataset,
    run: Run,
    /// Rows that were stored, whose memory is used again.
    spare: mpsc::Receiver<Rows>,
    /// Whether the last micro-batch was full, and may have been kept aside.
    was_full: bool,
}

impl Reading {
    /// The next micro-batch: one without events at the end and when nothing follows a full one, none
    /// when told to stop.
    async fn next(&mut self) -> Result<Option<Batch>> {
        while self.run.stop.requested().is_none() {
            let mut polled = self.poll(self.limits).await?;
            let is_end = self.end.as_ref().is_some_and(|end| at_end(&polled.to, end));
            if polled.events.is_empty() && !is_end && !self.was_full {
                self.pause(IDLE).await;
                continue;
            }
            let fills = self.end.is_none() && !polled.events.is_empty();
            if fills && !self.fill(&mut polled).await? {
                continue;
            }
            let Polled {
                generation,
                from,
                to,
                events,
            } = polled;
            let mut rows = self
                .spare
                .try_recv()
                .unwrap_or_else(|_| Rows::new(self.dataset.fields.len()));
            let rejects = transform(&self.dataset, &events, &mut rows);
            self.was_full = events.len() >= BACKLOG_FROM
                && (events.len() >= self.limits.events
                    || events.size() + events.size() / 8 >= self.limits.bytes);
            return Ok(Some(Batch {
                generation,
                from,
                to,
                is_full: self.was_full,
                events,
                rows,
                rejects,
            }));
        }
        Ok(None)
    }

    /// Waits for more events until the micro-batch is full or has waited long enough. False if the
    /// group was set back in the meantime.
    async fn fill(&self, polled: &mut Polled) -> Result<bool> {
        let started = Instant::now();
        loop {
            let limits = Limits {
                events: self.limits.events.saturating_sub(polled.events.len()),
                bytes: self.limits.bytes.saturating_sub(polled.events.size()),
            };
            let left = self.linger.saturating_sub(started.elapsed());
            let is_full = limits.events == 0 || limits.bytes == 0;
            if is_full || left.is_zero() || self.run.stop.requested().is_some() {
                return Ok(true);
            }
            self.pause(IDLE.min(left)).await;
            let more = self.poll(limits).await?;
            if more.generation != polled.generation {
                return Ok(false);
            }
            polled.add(more);
        }
    }

    async fn poll(&self, limits: Limits) -> Result<Polled> {
        through_outage(&self.run, self.max_outage, || async {
            let reader = &mut *self.reader.lock().await;
            let from = reader.consumer.position();
            let events = reader.consumer.poll(limits).await?;
            let to = to_of(&from, &reader.consumer.position());
            Ok(Polled {
                generation: reader.generation,
                from,
                to,
                events,
            })
        })
        .await
    }

    async fn pause(&self, duration: Duration) {
        pause(&self.run, duration).await;
    }
}

/// What polls have brought.
struct Polled {
    generation: u64,
    from: Offsets,
    to: Offsets,
    events: MicroBatch,
}

impl Polled {
    /// Adds what a later poll has brought, which may be of partitions that this member did not read before.
    fn add(&mut self, more: Polled) {
        more.events.iter().for_each(|event| self.events.push(event));
        go_on(&mut self.from, &mut self.to, &more.from, &more.to);
    }
}

/// Takes a range further by a later one, which may be of partitions that it did not have before.
fn go_on(from: &mut Offsets, to: &mut Offsets, next_from: &Offsets, next_to: &Offsets) {
    for (partition, offset) in next_from {
        if offset_in(from, *partition).is_none() {
            from.push((*partition, *offset));
            to.push((*partition, *offset));
        }
    }
    *to = to_of(to, next_to);
}

/// The positions after a poll, in the partitions of those before it: one that was given to others
/// stays where it was.
fn to_of(before: &Offsets, after: &Offsets) -> Offsets {
    let moved = |(p, at): &(i32, i64)| (*p, offset_in(after, *p).unwrap_or(*at));
    before.iter().map(moved).collect()
}

fn offset_in(offsets: &Offsets, partition: i32) -> Option<i64> {
    let found = offsets.iter().find(|(p, _)| *p == partition);
    found.map(|(_, offset)| *offset)
}

fn at_end(position: &Offsets, end: &Offsets) -> bool {
    end.iter()
        .all(|(p, end)| offset_in(position, *p).is_none_or(|at| at >= *end))
}

async fn pause(run: &Run, duration: Duration) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        _ = run.stop.wait() => {}
    }
}

/// Makes rows of the good events; yields the bad ones: index and reason.
fn transform(dataset: &Dataset, batch: &MicroBatch, rows: &mut Rows) -> Vec<(usize, Reject)> {
    let mut transform = Transform::new(dataset, crate::time::now_ms());
    let mut rejects = Vec::new();
    rows.clear();
    for (i, event) in batch.iter().enumerate() {
        let origin = Origin {
            partition: event.partition,
            offset: event.offset,
        };
        let read = match event.value {
            Some(value) => transform.event(value, origin, rows),
            None => Err(Reject {
                field: None,
                fault: Fault::new(Rule::Tombstone, "an event without a value"),
            }),
        };
        if let Err(reject) = read {
            rejects.push((i, reject));
        }
    }
    rejects
}

impl Sink<'_> {
    /// Keeps the rows of a batch aside, if the store does that.
    async fn stage(&self, batch: &Batch) -> Result<bool> {
        through_outage(self.run, self.max_outage, || async {
            self.store.lock().await.stage(&batch.rows).await
        })
        .await
    }

    /// As `store`, for what was kept aside.
    async fn merge(&self, backlog: &Backlog) -> Result<Option<Upserted>> {
        let store = &mut *self.store.lock().await;
        let upserted = match store.merge(&backlog.from, &backlog.to).await? {
            Upsert::Done(upserted) => upserted,
            Upsert::Superseded => return Ok(None),
        };
        self.send(&backlog.letters).await?;
        store.commit().await?;
        Ok(Some(upserted))
    }

    /// Rows first, then the dead letters while the rows' transaction is open, then the rows' commit: a
    /// crash at any point replays the batch and loses nothing. None if another member was faster.
    async fn store(&self, batch: &Batch) -> Result<Option<Upserted>> {
        let store = &mut *self.store.lock().await;
        let upserted = match store.upsert(&batch.from, &batch.to, &batch.rows).await? {
            Upsert::Done(upserted) => upserted,
            Upsert::Superseded => return Ok(None),
        };
        let mut letters = MicroBatch::default();
        self.push_rejects(&mut letters, batch);
        for (i, reason) in &upserted.refused {
            let origin = batch.rows.meta(*i).origin;
            let refused =
                |e: &Event<'_>| (e.partition, e.offset) == (origin.partition, origin.offset);
            let reject = Reject {
                field: None,
                fault: Fault::new(Rule::Store, reason),
            };
            if let Some(event) = batch.events.iter().find(refused) {
                push(&mut letters, self.dataset, self.run, &event, &reject);
            }
        }
        self.send(&letters).await?;
        store.commit().await?;
        Ok(Some(upserted))
    }

    async fn send(&self, letters: &MicroBatch) -> Result<()> {
        rejects::send(self.run, self.max_outage, &self.dead_letters, letters).await
    }

    /// The dead letters of the events that broke a rule.
    fn push_rejects(&self, letters: &mut MicroBatch, batch: &Batch) {
        let mut rejects = batch.rejects.iter().peekable();
        for (i, event) in batch.events.iter().enumerate() {
            let Some((bad, reject)) = rejects.peek() else {
                return;
            };
            if *bad == i {
                push(letters, self.dataset, self.run, &event, reject);
                rejects.next();
            }
        }
    }
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

fn check_budget(args: &Args, run: &Run, at_end: bool) -> Result<()> {
    let (rejected, read) = (get(&run.counts.rejected), get(&run.counts.read));
    args.max_dead_letters
        .map_or(Ok(()), |budget| budget.check(rejected, read, at_end))
}

fn verdict(args: &Args, run: &Run) -> Result<Exit> {
    match run.stop.requested() {
        Some(signal) if !args.follows() => return Ok(signal.exit()),
        _ => {}
    }
    if get(&run.counts.read) == 0 && !args.follows() {
        run.warn("there was no new event in the topic");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::verdict(get(&run.counts.rejected) == 0))
}
