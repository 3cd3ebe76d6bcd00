//! `rtp produce`: NDJSON into the event log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::ahead::Ahead;
use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::event::{Event, Headers, MicroBatch};
use crate::event_log::Producer;
use crate::exit::Exit;
use crate::input::{Chunk, Format, Line};
use crate::intake::{self, Aside, Checked, Intake, IntakeArgs, Reading};
use crate::rejects;
use crate::retry::{MaxOutage, through_outage};
use crate::run::{Run, add};
use crate::transform::{Reject, Transform, write_key};
use crate::url::{EventLogArg, ServerUrl, SettingArgs};
use crate::value::Value;

/// Most chunks whose events are on their way at once.
const BEHIND: usize = 32;

/// After this long without more input everything sent is waited for.
const LINGER: Duration = Duration::from_millis(20);

/// Check NDJSON, key it and append it to the event log
///
/// Ends 0 only if every line was acknowledged. A line that breaks a rule of the dataset goes to the
/// dead-letter topic, or to the file of --rejects, and the command ends 1. Whatever stops it, what was
/// read before is kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    intake: IntakeArgs,
    #[command(flatten)]
    event_log: EventLogArg,
    #[command(flatten)]
    settings: SettingArgs,
    /// Compress the events: none, lz4, zstd, snappy or gzip (Kafka only)
    #[arg(long, value_enum, value_name = "CODEC", hide_possible_values = true)]
    compression: Option<Compression>,
    #[command(flatten)]
    outage: MaxOutage,
}

/// How Kafka keeps a batch of events.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Compression {
    None,
    Lz4,
    Zstd,
    Snappy,
    Gzip,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
            Compression::Snappy => "snappy",
            Compression::Gzip => "gzip",
        }
    }
}

/// Appends chunks while the next one is read and checked.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let mut sending = Sending {
        intake: Intake::open(&args.intake, run)?,
        log: Log::open(args, dataset, run).await?,
        on_their_way: VecDeque::new(),
    };
    let max_size = sending.log.events.lock().await.max_size();
    let mut chunks = read(args, dataset, run, max_size.unwrap_or(usize::MAX));
    loop {
        let next = match timeout(LINGER, chunks.next(&run.stop)).await {
            Ok(next) => next,
            Err(_) => {
                sending.settle(0).await?;
                chunks.next(&run.stop).await
            }
        };
        if !matches!(next, Ok(Some(_))) {
            sending.settle(0).await?; // whatever ends the input, what was read before is kept
        }
        let Some(chunk) = next? else { break };
        sending.send(chunk).await?;
    }
    let mut intake = sending.intake;
    match intake.close()? {
        Some(interrupted) => Ok(interrupted),
        None => Ok(intake.verdict()),
    }
}

/// Chunks on their way to the log, and the books that they are entered into on arrival.
struct Sending<'a> {
    intake: Intake<'a>,
    log: Log<'a>,
    /// With the number of their events: the log has these.
    on_their_way: VecDeque<Checked<u64>>,
}

impl Sending<'_> {
    /// Sends a chunk. One with bad records is waited for: their budget may end here.
    async fn send(&mut self, chunk: Checked<MicroBatch>) -> Result<()> {
        let chunk = chunk.map(Arc::new);
        self.log.send(&chunk).await?;
        let behind = if chunk.rejected == 0 { BEHIND } else { 0 };
        let counted = chunk.map(|events| events.len() as u64);
        self.on_their_way.push_back(counted);
        self.settle(behind).await
    }

    /// Waits until no more than so many chunks are on their way, and enters those that have arrived.
    async fn settle(&mut self, behind: usize) -> Result<()> {
        let mut acknowledged = self.log.settle(behind).await?;
        add(&self.log.run.counts.written, acknowledged);
        let mut entered = Ok(());
        while let Some(chunk) = self.on_their_way.front() {
            let Some(rest) = acknowledged.checked_sub(chunk.good) else {
                break;
            };
            acknowledged = rest;
            // All that has arrived is entered, also after one that exceeds the budget.
            entered = entered.and(self.intake.enter(chunk));
            self.on_their_way.pop_front();
        }
        entered?;
        if acknowledged > 0 || self.on_their_way.len() > behind {
            let (url, on_their_way) = (&self.log.url, self.on_their_way.len());
            return Err(Error::refused(format!(
                "{url} has acknowledged {acknowledged} events too many or too few, {on_their_way} chunks are open"
            )));
        }
        self.intake.save_state()
    }
}

/// The good lines as events.
fn read(args: &Args, dataset: &Dataset, run: &Run, max_size: usize) -> Ahead<Checked<MicroBatch>> {
    let reading = Reading {
        format: Some(Format::Ndjson),
        null: String::new(),
        destination: dataset.event.topic.clone(),
        aside: match args.intake.rejects {
            Some(_) => Aside::File,
            None => Aside::DeadLetters,
        },
    };
    let key_column = dataset.event.key;
    let mut headers = Headers::default();
    headers.push("rtp.run_id", run.id.as_bytes());
    let mut key = Vec::with_capacity(64);
    let beside = headers.bytes().len() + key.capacity();
    let empty = move |chunk: &Chunk| {
        let mut events = MicroBatch::default();
        events.reserve(chunk.len(), chunk.size() + chunk.len() * beside);
        events
    };
    let take = move |events: &mut MicroBatch,
                     transform: &mut Transform<'_>,
                     line: Line<'_>,
                     values: &[Value<'_>]| {
        transform.check(values)?;
        key.clear();
        write_key(&values[key_column], &mut key);
        let event = Event::new(Some(&key), Some(line.bytes), headers.bytes());
        if event.size() > max_size {
            return Err(Reject::too_large(event.size(), max_size));
        }
        events.push(event);
        Ok(())
    };
    intake::read(&args.intake, reading, dataset, run, empty, take)
}

/// The topic and its dead letters.
struct Log<'a> {
    run: &'a Run,
    args: &'a Args,
    url: ServerUrl,
    events: Mutex<Box<dyn Producer>>,
    dead_letters: Mutex<Box<dyn Producer>>,
}

impl<'a> Log<'a> {
    async fn open(args: &'a Args, dataset: &Dataset, run: &'a Run) -> Result<Self> {
        let codec = args.compression.map(Compression::name);
        let compression = ("--compression", "compression.codec", codec);
        let url = args.event_log.with(&args.settings, &[compression])?;
        let open = async |topic: &str| {
            let opened = through_outage(run, args.outage.bounded(), || async {
                connect::producer(&url, topic).await
            });
            opened.await.map(Mutex::new)
        };
        Ok(Log {
            run,
            args,
            events: open(&dataset.event.topic).await?,
            dead_letters: open(&dataset.event.dead_letter_topic()).await?,
            url: url.clone(),
        })
    }

    /// Sends the events of a chunk, once its dead letters are acknowledged.
    async fn send(&self, chunk: &Checked<Arc<MicroBatch>>) -> Result<()> {
        let (run, max_outage) = (self.run, self.args.outage.bounded());
        rejects::send(run, max_outage, &self.dead_letters, &chunk.dead_letters).await?;
        through_outage(run, max_outage, || async {
            self.events.lock().await.send(&chunk.good).await
        })
        .await
    }

    /// Waits until the events of all but the last `behind` chunks are acknowledged; yields how many are.
    async fn settle(&self, behind: usize) -> Result<u64> {
        through_outage(self.run, self.args.outage.bounded(), || async {
            self.events.lock().await.settle(behind).await
        })
        .await
    }
}
