//! `rtp transform`: the rules alone, from events to rows, without any server.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::intake::sniff;
use crate::run::clock::ClockWatch;
use crate::run::files::Files;
use crate::run::read_ahead::Ahead;
use crate::run::stdout::{self, Pipe};
use crate::run::{Run, get};
use crate::time::parse_time;
use crate::transform::answers::Writer;
use crate::transform::read::EventSource;

/// Turn events into rows by the dataset's rules, without any server
///
/// Writes one answer per event, in the order of the input: either the row that `stream` would write, with its
/// Cassandra write timestamp, or the rule that the event breaks, with the field and the message of its dead
/// letter. docs/transform.md describes the answers. Each batch is answered before the next one is needed, so
/// that a program can alternate between writing events and reading answers.
///
/// Ends with status 0 if every event became a row, 1 if any was rejected, 5 if the input is cut short.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Files to read; `-` or no file means standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Format of the events: ndjson, one per line; or arrow, an IPC stream with the column `value`, and the events'
    /// times in the log if it has a column `timestamp`
    #[arg(
        long,
        value_enum,
        default_value = "ndjson",
        hide_possible_values = true,
        value_name = "ndjson|arrow"
    )]
    from: Encoding,
    /// Format of the answers: ndjson, one JSON object per line; or arrow, an IPC stream
    #[arg(
        long,
        value_enum,
        default_value = "ndjson",
        hide_possible_values = true,
        value_name = "ndjson|arrow"
    )]
    to: Encoding,
    /// Reject event times more than an hour after this RFC 3339 time or date, and after the event's time in the log
    /// [default: the current time]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    now: Option<Timestamp>,
    /// End with status 5 unless each file ends with the trailer that `fetch --trailer` writes
    #[arg(long)]
    require_complete: bool,
    /// End with status 1 if there are no events
    #[arg(long)]
    require_records: bool,
}

const AFTER_HELP: &str = "\
Example: rtp fetch --count 500 | rtp transform | jq 'select(.rtp_rule)'";

/// The format of events or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Encoding {
    Ndjson,
    Arrow,
}

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        files.read_inputs(&self.files);
        files.write("standard output", Path::new("-"));
        files
    }
}

/// Writes the answers to a batch while the next one is read.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    if args.require_complete && args.from == Encoding::Arrow {
        return Err(Error::invalid(
            "--require-complete works only with NDJSON; an Arrow stream must always be complete",
        ));
    }
    match args.from {
        Encoding::Ndjson => sniff::check_files(&args.files, Some(FileFormat::Ndjson))?,
        Encoding::Arrow => sniff::existing(&args.files).map(|_| ())?,
    }
    let mut output = match args.to {
        Encoding::Ndjson => Writer::ndjson(dataset),
        Encoding::Arrow => Writer::arrow(dataset)?,
    };
    let mut source = match args.from {
        Encoding::Ndjson => EventSource::ndjson(&args.files),
        Encoding::Arrow => EventSource::arrow(&args.files),
    };
    let (rules, now) = (dataset.clone(), args.now);
    let mut batches = Ahead::start(move || source.next(&rules, now));
    let mut incomplete = None;
    let mut clock = ClockWatch::new(now.map(|_| "--now"));
    // The schema goes first, because the program at the other end may wait for it before it sends anything.
    let mut pipe = send(&mut output)?;
    while pipe == Pipe::Open
        && let Some(batch) = batches.next(&run.stop).await?
    {
        clock.look(run, batch.ahead);
        output.write(&batch.answers)?;
        pipe = send(&mut output)?;
        batch.count(run);
        if let Some(place) = batch.cut {
            return Err(Error::missing(format!(
                "the input is cut short: {place} ends in the middle of a record"
            )));
        }
        let ended = batch.ended.filter(|input| !input.is_complete);
        incomplete = incomplete.or(ended);
    }
    if pipe == Pipe::Closed {
        return Ok(Exit::Done);
    }
    if let Some(signal) = run.stop.requested() {
        return Ok(signal.exit());
    }
    if let Some(input) = incomplete.filter(|_| args.require_complete) {
        return Err(Error::missing(format!(
            "{} does not end with a trailer, so it may be cut short",
            input.name
        ))
        .hint("write it with `rtp fetch --trailer`, or omit --require-complete"));
    }
    output.finish()?;
    send(&mut output)?;
    let [good, bad] = [&run.counts.written, &run.counts.rejected].map(get);
    if good + bad == 0 {
        run.warn("there are no events in the input");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::verdict(bad == 0))
}

/// Blocks here if the reader is slow.
fn send(output: &mut Writer) -> Result<Pipe> {
    tokio::task::block_in_place(|| stdout::write(&output.take()))
}
