//! `rtp stream`: the micro-batch ETL from the event log into the real-time store.

use std::time::Duration;

use crate::commands::args::{EventLogArgs, MaxOutage, RealtimeStoreArg, RunsUntil, apart};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exit::Exit;
use crate::intake::rejects::Budget;
use crate::intake::to_log;
use crate::ports::event_log::{Offsets, Setting};
use crate::ports::realtime_store::Upstream;
use crate::run::retry::Retry;
use crate::run::{Run, get};
use crate::stream::{self, Ports, Settings};

/// Upsert the topic's events into the real-time store, in micro-batches
///
/// An event that breaks a rule goes to the dead-letter topic, and the stream continues. Offsets are
/// committed only after rows and dead letters are durable.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    event_log: EventLogArgs,
    #[command(flatten)]
    realtime_store: RealtimeStoreArg,
    /// Consumer group
    #[arg(long, value_name = "NAME", default_value = "rtp")]
    group: String,
    /// Keep the partitions assigned to this name across restarts (Kafka only: static group membership)
    #[arg(long, value_name = "NAME")]
    instance_id: Option<String>,
    /// Stop at what was the end of the topic when the command started
    #[arg(long)]
    until_end: bool,
    /// Follow the topic until told to stop (the default)
    #[arg(long, conflicts_with = "until_end")]
    follow: bool,
    /// Maximum number of events in a micro-batch
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_batch: u32,
    /// Minimum time to collect events before a micro-batch is written (with --follow); with 0 it is written as
    /// soon as the store is idle, and the events that arrive meanwhile form the next one
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = crate::time::parse_duration)]
    linger: Duration,
    /// Stop with status 3 if there are more dead letters than this; everything before that is kept and committed. A
    /// percentage is checked at the end, and from the 1,000th event on
    #[arg(long, value_name = "N|P%")]
    max_dead_letters: Option<Budget>,
    /// End with status 1 if there are no events
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    fn follows(&self) -> bool {
        self.follow || !self.until_end
    }

    fn runs_until(&self) -> RunsUntil {
        match self.follows() {
            true => RunsUntil::Told,
            false => RunsUntil::Done,
        }
    }
}

/// Streams until the end, or until told to stop.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    apart(
        args.event_log.with(None)?.as_ref(),
        args.realtime_store.realtime_store.as_ref(),
    )?;
    run.metrics.set_in_flight(0);
    let retry = &args.outage.retry(run, args.runs_until());
    let (ports, end) = open(args, dataset, retry).await?;
    let settings = Settings {
        end,
        max_batch: args.max_batch as usize,
        linger: args.linger,
        max_dead_letters: args.max_dead_letters,
    };
    run.metrics.set_ready();
    stream::run(settings, ports, dataset, retry).await?;
    verdict(args, run)
}

/// Joins the group and opens what it streams into. Also returns the end of the topic, unless it is followed.
async fn open(args: &Args, dataset: &Dataset, retry: &Retry) -> Result<(Ports, Option<Offsets>)> {
    let instance = args.instance_id.as_deref();
    let instance = instance.map(|id| Setting::new("--instance-id", "group.instance.id", id));
    let joined = args.event_log.with(instance)?;
    let log = args.event_log.with(None)?;
    let topic = &dataset.event.topic;
    let mut consumer = retry
        .through_outage(async || joined.consumer(topic, &args.group).await)
        .await?;
    let end = match args.follows() {
        true => None,
        false => Some(retry.through_outage(async || consumer.end().await).await?),
    };
    let identity = retry
        .through_outage(async || consumer.identity().await)
        .await?;
    let upstream = Upstream {
        group: &args.group,
        topic: &identity,
    };
    let store = &args.realtime_store.realtime_store;
    let store = retry
        .through_outage(async || store.open(dataset, upstream).await)
        .await?;
    let dead_letters = &dataset.event.dead_letter_topic();
    let dead_letters = to_log::producer(log.as_ref(), dead_letters, retry).await?;
    let ports = Ports {
        consumer,
        store,
        dead_letters,
    };
    Ok((ports, end))
}

fn verdict(args: &Args, run: &Run) -> Result<Exit> {
    match run.stop.requested() {
        Some(signal) if !args.follows() => return Ok(signal.exit()),
        _ => {}
    }
    if get(&run.counts.read) == 0 && !args.follows() {
        run.warn("there are no new events in the topic");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::verdict(get(&run.counts.rejected) == 0))
}
