//! `rtp produce`: NDJSON into the event log.

use std::path::PathBuf;

use tokio::sync::Mutex;

use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::event::{Event, Headers, MicroBatch};
use crate::event_log::Producer;
use crate::exit::Exit;
use crate::input::{Chunk, Input};
use crate::rejects::{self, Budget, RejectFile, Rejected};
use crate::retry::{MaxOutage, through_outage};
use crate::row::{Origin, Rows};
use crate::run::{Run, add, get};
use crate::transform::{Transform, write_key};
use crate::url::EventLogArg;

/// Check NDJSON, key it and append it to the event log
///
/// Ends 0 only if every line was acknowledged. A line that breaks a rule of the dataset goes to the
/// dead-letter topic, or to the file of --rejects, and the command ends 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files to read; `-` or none is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    event_log: EventLogArg,
    /// Write bad lines to this file instead of the dead-letter topic
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Stop with status 3 after more bad lines than this; what was read before is kept
    #[arg(long, value_name = "N|P%")]
    max_rejects: Option<Budget>,
    /// End with status 5 unless the input ends with the trailer of `fetch --trailer`
    #[arg(long)]
    require_complete: bool,
    /// End with status 1 if there is no record
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Reads, checks and appends.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let mut input = Input::new(&args.files);
    let mut stage = Stage::open(args, dataset, run)?;
    while run.stop.requested().is_none() {
        let Some(chunk) = tokio::task::block_in_place(|| input.next_chunk())? else {
            break;
        };
        stage.chunk(&chunk).await?;
    }
    stage.finish().await?;
    if let Some(signal) = run.stop.requested() {
        return Ok(signal.exit());
    }
    if args.require_complete && !input.is_complete() {
        return Err(Error::missing(
            "the input does not end with a trailer, so it may be cut short",
        )
        .hint("write it with `rtp fetch --trailer`, or leave out --require-complete"));
    }
    if get(&run.counts.written) + get(&run.counts.rejected) == 0 {
        run.warn("there was no record in the input");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::verdict(get(&run.counts.rejected) == 0))
}

/// What a chunk of lines passes through.
struct Stage<'a> {
    dataset: &'a Dataset,
    run: &'a Run,
    args: &'a Args,
    headers: Headers,
    events: Mutex<Box<dyn Producer>>,
    dead_letters: Mutex<Box<dyn Producer>>,
    reject_file: Option<RejectFile>,
}

impl<'a> Stage<'a> {
    fn open(args: &'a Args, dataset: &'a Dataset, run: &'a Run) -> Result<Self> {
        let log = &args.event_log.event_log;
        let mut headers = Headers::default();
        headers.push("rtp.run_id", run.id.as_bytes());
        Ok(Stage {
            dataset,
            run,
            args,
            headers,
            events: Mutex::new(connect::producer(log, &dataset.event.topic)?),
            dead_letters: Mutex::new(connect::producer(log, &dataset.event.dead_letter_topic())?),
            reject_file: args
                .rejects
                .as_deref()
                .map(RejectFile::create)
                .transpose()?,
        })
    }

    async fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        let (good, bad, rejected) = self.sort(chunk)?;
        through_outage(self.run, self.args.outage.bounded(), || async {
            self.events.lock().await.send(&good).await
        })
        .await?;
        through_outage(self.run, self.args.outage.bounded(), || async {
            rejects::send(&mut *self.dead_letters.lock().await, &bad).await
        })
        .await?;
        let acknowledged = self.events.lock().await.flush().await?;
        if acknowledged != good.len() as u64 {
            return Err(Error::refused(format!(
                "{acknowledged} of {} events were acknowledged by {}",
                good.len(),
                self.args.event_log.event_log
            )));
        }
        let counts = &self.run.counts;
        add(&counts.read, chunk.len() as u64 + chunk.skipped);
        add(&counts.bytes, chunk.size() as u64);
        add(&counts.skipped, chunk.skipped);
        add(&counts.written, acknowledged);
        add(&counts.rejected, rejected);
        self.check_budget(false)
    }

    /// The good lines as events, the bad ones as dead letters or in the file, and how many are bad.
    fn sort(&mut self, chunk: &Chunk) -> Result<(MicroBatch, MicroBatch, u64)> {
        let now = crate::time::now_ms();
        let mut transform = Transform::new(self.dataset, now);
        let (mut good, mut bad, mut rejected) = (MicroBatch::default(), MicroBatch::default(), 0);
        let mut key = Vec::with_capacity(64);
        for line in chunk.lines() {
            let mut rows = Rows::new(self.dataset.fields.len());
            let offset = i64::try_from(line.offset).unwrap_or(i64::MAX);
            if let Err(reject) = transform.event(line.bytes, Origin::default(), &mut rows) {
                rejected += 1;
                let record = Rejected {
                    source: &self.dataset.event.topic,
                    partition: None,
                    offset,
                    line: Some(line.number),
                    key: None,
                    value: Some(line.bytes),
                    headers: &[],
                    reject: &reject,
                };
                match &mut self.reject_file {
                    Some(file) => file.write(self.dataset, &record)?,
                    None => rejects::push_dead_letter(
                        &mut bad,
                        self.dataset,
                        "produce",
                        &self.run.id,
                        &record,
                    ),
                }
                continue;
            }
            key.clear();
            write_key(&rows.value(0, self.dataset.event.key), &mut key);
            good.push(Event {
                partition: 0,
                offset: 0,
                timestamp: now,
                key: Some(&key),
                value: Some(line.bytes),
                headers: self.headers.bytes(),
            });
        }
        Ok((good, bad, rejected))
    }

    async fn finish(&mut self) -> Result<()> {
        if let Some(file) = &mut self.reject_file {
            file.sync()?;
        }
        self.check_budget(true)
    }

    fn check_budget(&self, at_end: bool) -> Result<()> {
        let counts = &self.run.counts;
        let read = get(&counts.read) - get(&counts.skipped);
        self.args
            .max_rejects
            .map_or(Ok(()), |b| b.check(get(&counts.rejected), read, at_end))
    }
}
