//! `rtp verify`: whether both layers agree.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::commands::args::{MaxOutage, RunsUntil, ServerArgs};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::run::files::Files;
use crate::run::retry::Retry;
use crate::run::{Run, stdout, streams};
use crate::time::{now_ms, parse_duration};
use crate::verify::format::Format;
use crate::verify::{
    self, Compare, DEFAULT_GROUP, Repair, Report, Request, Sample, Scope, Tolerances, Witnesses,
    document, keep, newest_loaded, verdict,
};

/// How many differences are shown.
const DEFAULT_SAMPLE: u64 = 20;

/// Compare every row and value of the batch store with those of the real-time store
///
/// A key is missing, if it is in the real-time store, but not in the batch store; extra, if it is the other way round;
/// changed, if a column differs; duplicate, if a store has it more than once. Rows that differ are read again before
/// they are reported, after --grace if records keep coming. What still differs gets a class, with its evidence:
///
/// in_flight: its event waits in the log; dead_letter: it is among them; rejected: a load rejected it; not_loaded_yet:
/// it came after the last load; older_version: the batch store has one, and the newer one is not loaded yet; expired: the
/// real-time store has dropped it by its ttl. These are explained, and the layers agree.
///
/// lost: it was read or loaded, but the store does not have it; changed_outside: a row is not what rtp wrote; duplicate;
/// unexplained: nothing that is kept tells why. With these, the layers do not agree. Neither do they if only one of them
/// is empty.
///
/// The stores' rows are not changed, and their writers are never blocked. The verdict is kept in the batch store, unless
/// only some keys or a landing file were compared. The tables that a real-time store keeps for reads by time are compared
/// with its main table if --series is given.
///
/// Ends with status 0 if the layers agree, 1 if not. The summary counts the rows of both stores: equal rows as written,
/// rows whose difference is explained as skipped, other rows that differ as rejected, duplicates beyond the first row of
/// their key as deduplicated.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: ServerArgs,
    /// Consumer group of the stream: what it has not committed is in flight
    #[arg(long, default_value = DEFAULT_GROUP, value_name = "NAME")]
    group: String,
    /// Read what differs again after this time; 10s is right while the stream follows its topic
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = parse_grace)]
    grace: Duration,
    /// How far the values of a column may differ: a number for numbers, a duration for timestamps and dates, or
    /// `ignore` to leave the column out of the comparison; repeatable
    #[arg(long, value_name = "COLUMN=AMOUNT")]
    tolerance: Vec<String>,
    /// Also compare each table for reads by time with the real-time store's main table. missing: it lacks the newest row
    /// of a key; extra: it has a row of a key that the main table lacks, a newer row, or one in a wrong bucket or shard;
    /// changed: the newest row has other values. With a `ttl`, a row in its place may outlive its key
    #[arg(long)]
    series: bool,
    /// Compare only the keys in this file, the NDJSON that --output wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["against", "series", "history"])]
    rerun: Option<PathBuf>,
    /// Compare the records of this landing file with both stores, instead of the stores with each other: each must have
    /// the record, or a newer one of its key; repeatable
    #[arg(long, value_name = "FILE", conflicts_with_all = ["series", "history"])]
    against: Vec<PathBuf>,
    /// Show the last verdicts, the newest first, as --format table or json; nothing is compared
    #[arg(
        long,
        conflicts_with_all = ["rerun", "series", "tolerance", "grace", "sample", "output", "repair"]
    )]
    history: bool,
    /// Write the verdict to standard output, with its classes and some differences of each: table, json, csv, markdown,
    /// html or junit
    #[arg(long, value_enum, hide_possible_values = true)]
    format: Option<Format>,
    /// Show at most this many differences on stderr, with their values [default: 20, with values only if stderr
    /// is a terminal, because logs are kept]
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Write every difference to this file, with class, kind, key, store, column, both values and the evidence, as CSV if
    /// it is named *.csv, otherwise as NDJSON; `-` means standard output. For a table for reads by time, its name is in
    /// place of the store, and its value in place of the batch store's
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the records that a store lacks to this file, as NDJSON for `rtp produce` and `rtp load-batch`
    #[arg(long, value_name = "FILE")]
    repair: Option<PathBuf>,
    /// End with status 1 if there is nothing to compare: both tables are empty, or the list or landing file is
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        for path in &self.against {
            files.read("--against", path);
        }
        if let Some(path) = &self.rerun {
            files.read("--rerun", path);
        }
        for (option, path) in [("--output", &self.output), ("--repair", &self.repair)] {
            if let Some(path) = path {
                files.write(option, path);
            }
        }
        files
    }

    fn check(&self) -> Result<()> {
        let is_stdout = |path: &PathBuf| path.as_os_str() == "-";
        if self.format.is_some() && self.output.as_ref().is_some_and(is_stdout) {
            return Err(Error::invalid(
                "--format and --output - both write to standard output; name a file for --output",
            ));
        }
        match (self.history, self.format) {
            (false, _) | (true, None | Some(Format::Table | Format::Json)) => Ok(()),
            _ => Err(Error::invalid("--history supports --format table and json")),
        }
    }
}

/// The longest grace: with more, the end of the wait could not be told.
const MAX_GRACE: Duration = Duration::from_secs(365 * 24 * 3_600);

fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    match grace <= MAX_GRACE {
        true => Ok(grace),
        false => Err(format!("expected at most 365d, got `{text}`")),
    }
}

/// Compares, and gives the verdict.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    args.check()?;
    let retry = args.outage.retry(run, RunsUntil::Done);
    if args.history {
        return history(args, dataset, &retry).await;
    }
    if args.format.is_some() {
        streams::check_output()?; // before anything is compared
    }
    let started_at = now_ms();
    let request = args.request(dataset)?;
    let opened = request.open(&retry).await?;
    let batch_store = &*request.witnesses.batch_store;
    let boundary = match args.format {
        Some(_) => newest_loaded(batch_store, dataset, run).await,
        None => Ok(None),
    };
    let mut report = args.report(&request.names(), run)?;
    let Some(outcome) = request.compare(opened, &retry, &mut report).await? else {
        return interrupted(run);
    };
    report.finish()?;
    outcome.count(run);
    outcome.tell(run);
    let verdict = verdict(&outcome, started_at, run);
    if outcome.is_whole() {
        keep(batch_store, dataset, &verdict, run).await;
    }
    if let Some(format) = args.format {
        let about = Compare {
            dataset: &dataset.name,
            stores: request.stores(),
            boundary,
            grace: args.grace,
        };
        let document = document(verdict, &outcome, &about);
        let mut text = Vec::new();
        let written = format.write(&document, &mut text);
        written.map_err(Error::internal)?;
        stdout::write(&text)?;
    }
    Ok(Exit::verdict(outcome.agrees()))
}

/// Shows the last verdicts.
async fn history(args: &Args, dataset: &Dataset, retry: &Retry) -> Result<Exit> {
    streams::check_output()?;
    let store = &*args.servers.batch.batch_store;
    let (text, has_any) = verify::history(store, dataset, args.format, retry).await?;
    stdout::write(&text)?;
    Ok(Exit::verdict(has_any || !args.require_records))
}

fn interrupted(run: &Run) -> Result<Exit> {
    match run.stop.requested() {
        Some(signal) => Ok(signal.exit()),
        None => Err(Error::internal("the comparison ended without a result")),
    }
}

impl Args {
    fn request<'a>(&self, dataset: &'a Dataset) -> Result<Request<'a>> {
        let servers = &self.servers;
        let scope = match (&self.rerun, self.against.is_empty()) {
            (Some(list), _) => Scope::Listed(list.clone()),
            (None, false) => Scope::Landing(self.against.clone()),
            (None, true) => Scope::Whole {
                series: self.series,
            },
        };
        Ok(Request {
            dataset,
            realtime_store: servers.realtime.realtime_store.clone(),
            witnesses: Witnesses {
                event_log: servers.log.with(None)?,
                batch_store: servers.batch.batch_store.clone(),
                realtime_store: Some(servers.realtime.realtime_store.clone()),
                group: self.group.clone(),
            },
            tolerances: Tolerances::parse(dataset, &self.tolerance)?,
            grace: self.grace,
            scope,
            require_records: self.require_records,
        })
    }

    fn report<'r>(&self, names: &[String; 2], run: &'r Run) -> Result<Report<'r>> {
        let output = self
            .output
            .as_ref()
            .map(|path| (path, FileFormat::of(path)));
        let sample = Sample {
            most: self.sample.unwrap_or(DEFAULT_SAMPLE),
            has_values: self.sample.is_some() || std::io::stderr().is_terminal(),
        };
        let mut report = Report::create(run, names.clone(), sample, output)?;
        if let Some(path) = &self.repair {
            report.repair_with(Repair::create(path)?);
        }
        Ok(report)
    }
}
