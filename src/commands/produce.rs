//! `rtp produce`: NDJSON into the event log.

use tokio::sync::Mutex;

use crate::ahead::Ahead;
use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::event::{Event, Headers, MicroBatch};
use crate::event_log::Producer;
use crate::exit::Exit;
use crate::input::{Format, Line};
use crate::intake::{self, Aside, Checked, Intake, IntakeArgs, Reading};
use crate::rejects;
use crate::retry::{MaxOutage, through_outage};
use crate::run::{Run, add};
use crate::transform::{Transform, write_key};
use crate::url::{EventLogArg, ServerUrl, SettingArgs};
use crate::value::Value;

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
    /// Compress the events on Kafka: none, lz4, zstd, snappy or gzip
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

/// Appends a chunk while the next one is read and checked.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let mut intake = Intake::open(&args.intake, run)?;
    let log = Log::open(args, dataset, run).await?;
    let mut chunks = read(args, dataset, run);
    while let Some(chunk) = chunks.next(&run.stop).await? {
        let acknowledged = log.append(&chunk).await?;
        add(&run.counts.written, acknowledged);
        intake.enter(&chunk)?;
        intake.save_state()?;
    }
    match intake.close()? {
        Some(interrupted) => Ok(interrupted),
        None => Ok(intake.verdict()),
    }
}

/// The good lines as events.
fn read(args: &Args, dataset: &Dataset, run: &Run) -> Ahead<Checked<MicroBatch>> {
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
    let take = move |events: &mut MicroBatch,
                     transform: &mut Transform<'_>,
                     line: Line<'_>,
                     values: &[Value<'_>]| {
        transform.check(values)?;
        key.clear();
        write_key(&values[key_column], &mut key);
        events.push(Event {
            partition: 0,
            offset: 0,
            timestamp: transform.now(),
            key: Some(&key),
            value: Some(line.bytes),
            headers: headers.bytes(),
        });
        Ok(())
    };
    intake::read(
        &args.intake,
        reading,
        dataset,
        run,
        MicroBatch::default(),
        take,
    )
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

    /// Appends the events and dead letters of a chunk; yields how many events were acknowledged, which is all.
    async fn append(&self, chunk: &Checked<MicroBatch>) -> Result<u64> {
        let (run, max_outage) = (self.run, self.args.outage.bounded());
        rejects::send(run, max_outage, &self.dead_letters, &chunk.dead_letters).await?;
        let acknowledged = rejects::append(run, max_outage, &self.events, &chunk.good).await?;
        match acknowledged == chunk.good.len() as u64 {
            true => Ok(acknowledged),
            false => Err(Error::refused(format!(
                "{acknowledged} of {} events were acknowledged by {}",
                chunk.good.len(),
                self.url
            ))),
        }
    }
}
