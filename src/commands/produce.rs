//! `rtp produce`: NDJSON into the event log.

use std::time::Duration;

use tokio::time::timeout;

use crate::commands::args::{EventLogArgs, IntakeArgs, MaxOutage, RunsUntil};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exit::Exit;
use crate::intake::Intake;
use crate::intake::chunk::FileFormat;
use crate::intake::to_log::{self, Log, Sending};
use crate::ports::event_log::Setting;
use crate::run::Run;
use crate::run::files::Files;
use crate::run::retry::Retry;

/// After this long without more input, wait until everything sent is acknowledged.
const SETTLE_AFTER: Duration = Duration::from_millis(20);

/// Check NDJSON records, key them and append them to the event log
///
/// Ends with status 0 only if every line was acknowledged. A line that breaks a rule of the dataset goes to the
/// dead-letter topic, or to the --rejects file, and the command ends with status 1. Whatever stops the command,
/// the lines read before that are kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    intake: IntakeArgs,
    #[command(flatten)]
    event_log: EventLogArgs,
    /// Compression of the events: none, lz4, zstd, snappy or gzip (Kafka only)
    #[arg(long, value_enum, value_name = "CODEC", hide_possible_values = true)]
    compression: Option<Compression>,
    #[command(flatten)]
    outage: MaxOutage,
}

/// How Kafka compresses a batch of events.
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

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = self.intake.named_files();
        self.event_log.read_by(&mut files);
        files
    }
}

/// Appends chunks while the next one is read and checked.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let options = args.intake.options();
    let retry = args.outage.retry(run, RunsUntil::Done);
    let intake = Intake::open(&options, Some(FileFormat::Ndjson), &retry)?;
    let log = open(args, dataset, retry).await?;
    let mut chunks = to_log::read(&options, &log, dataset, run);
    let mut sending = Sending::new(intake, log);
    loop {
        let next = match timeout(SETTLE_AFTER, chunks.next(&run.stop)).await {
            Ok(next) => next,
            Err(_) => {
                sending.settle().await?;
                chunks.next(&run.stop).await
            }
        };
        if !matches!(next, Ok(Some(_))) {
            sending.settle().await?; // whatever ends the input, what was read before is kept
        }
        let Some(chunk) = next? else { break };
        sending.send(chunk).await?;
    }
    let mut intake = sending.into_intake();
    match intake.close().await? {
        Some(interrupted) => Ok(interrupted),
        None => Ok(intake.verdict()),
    }
}

async fn open(args: &Args, dataset: &Dataset, retry: Retry) -> Result<Log> {
    let codec = args.compression.map(Compression::name);
    let codec = codec.map(|name| Setting::new("--compression", "compression.type", name));
    let log = args.event_log.with(codec)?;
    let open = async |topic: &str| to_log::producer(log.as_ref(), topic, &retry).await;
    Ok(Log {
        events: open(&dataset.event.topic).await?,
        dead_letters: open(&dataset.event.dead_letter_topic()).await?,
        name: log.to_string(),
        retry,
    })
}
