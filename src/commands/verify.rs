//! `rtp verify`: whether both layers agree.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::commands::args::{MaxOutage, RunsUntil, ServerArgs};
use crate::commands::verify_series::{self, OpenSeries};
use crate::dataset::{Dataset, Nulls};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::ports::ledger::{Ledger, LoadRecord, Verdict};
use crate::ports::table_reader::TableReader;
use crate::run::files::Files;
use crate::run::retry::Retry;
use crate::run::{Run, add, stdout, streams};
use crate::time::{now_ms, parse_duration};
use crate::verify::format::{Format, history_json, history_table};
use crate::verify::{
    Compare, Compared, Comparison, Repair, Report, Sample, Tolerances, Witnesses, compare,
    compare_keys, compare_landing, document, listed_keys, verdict,
};

/// How many differences are shown.
const DEFAULT_SAMPLE: u64 = 20;

/// How many verdicts --history shows.
const HISTORY: u32 = 50;

/// How many loads are asked for the newest event time that was loaded.
const LOADS: u32 = 100;

/// Compare every row and value of the batch store with those of the real-time store
///
/// A key is missing, if it is in the real-time store, but not in the batch store; extra, if it is the other way round;
/// changed, if a column differs; duplicate, if a store has it more than once. Rows that differ are read again before
/// they are reported, after --grace if records keep coming. What still differs gets a class, with its evidence:
///
/// in_flight: its event waits in the log; dead_letter: it is among them; rejected: a load rejected it; not_loaded_yet:
/// it came after the last load; older_version: the batch store has one, and the newer one is not loaded yet. These are
/// explained, and the layers agree.
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
    #[arg(long, default_value = "rtp", value_name = "NAME")]
    group: String,
    /// Read what differs again after this time; 10s is right while the stream follows its topic
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = parse_duration)]
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
    #[arg(long)]
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
    /// End with status 1 if both tables are empty
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        files.read_inputs(&self.against);
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

/// Compares, and gives the verdict.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    args.check()?;
    let verification = Verification {
        args,
        dataset,
        run,
        retry: args.outage.retry(run, RunsUntil::Done),
    };
    match args.history {
        true => verification.history().await,
        false => verification.verify().await,
    }
}

/// A run of the command.
struct Verification<'a> {
    args: &'a Args,
    dataset: &'a Dataset,
    run: &'a Run,
    retry: Retry,
}

/// What was compared.
struct Outcome {
    compared: Compared,
    /// Whether it was everything.
    is_whole: bool,
    /// Bad records in a landing file.
    bad_records: u64,
}

impl Verification<'_> {
    async fn verify(&self) -> Result<Exit> {
        let (args, dataset, run) = (self.args, self.dataset, self.run);
        if args.format.is_some() {
            streams::check_output()?; // before anything is compared
        }
        let started_at = now_ms();
        let comparison = Arc::new(self.comparison()?);
        let names = [
            format!("{}.{}", dataset.realtime.keyspace, dataset.realtime.table),
            dataset.batch.table.clone(),
        ];
        let tables = self.tables().await?;
        if dataset.nulls == Nulls::Unset {
            run.warn(format!(
                "the dataset has null = \"unset\", so a value in {} counts as equal to a null in {}",
                names[0], names[1]
            ));
        }
        // Before the comparison of the stores, which may take long: one that is not there is told at once.
        let opened = self.series().await?;
        let mut report = args.report(&names, run)?;
        let outcome = self
            .compare(&comparison, tables, &names, &mut report)
            .await?;
        let Some(outcome) = outcome else {
            return interrupted(run);
        };
        let compared = outcome.compared;
        let rows = compared.rows[0];
        let series =
            verify_series::compare_all(&comparison, opened, rows, &self.retry, &mut report).await?;
        if let Some(signal) = run.stop.requested() {
            return Ok(signal.exit());
        }
        report.finish()?;
        compared.count(run);
        add(&run.counts.read, outcome.bad_records);
        add(&run.counts.rejected, outcome.bad_records);
        compared.tell(&names, &comparison.tolerances, run);
        for (series, compared) in &series {
            compared.tell(series, &names[0], &comparison.tolerances, run);
        }
        let agrees = compared.agrees() && series.iter().all(|(_, compared)| compared.is_equal());
        let verdict = verdict(&compared, agrees, started_at, run);
        let loads = match outcome.is_whole {
            true => self.keep(&verdict).await,
            false => Vec::new(),
        };
        if let Some(format) = args.format {
            let stores = self.stores(&names);
            let about = Compare {
                dataset: &dataset.name,
                stores,
                boundary: loads.iter().filter_map(|load| load.info.newest).max(),
                grace: args.grace,
            };
            let sentence = compared.sentence(&names, &comparison.tolerances);
            let mut text = Vec::new();
            let document = document(&verdict, &compared, sentence, &about);
            format
                .write(&document, &mut text)
                .map_err(Error::internal)?;
            stdout::write(&text)?;
        }
        let has_records = compared.rows != [0, 0] || !args.require_records;
        Ok(Exit::verdict(
            agrees && has_records && outcome.bad_records == 0,
        ))
    }

    fn comparison(&self) -> Result<Comparison> {
        let tolerances = Tolerances::parse(self.dataset, &self.args.tolerance)?;
        let mut comparison = Comparison::new(self.dataset, tolerances, self.run.stop.clone());
        comparison.grace = self.args.grace;
        comparison.witnesses = Some(Witnesses {
            event_log: self.args.servers.log.with(None)?,
            batch_store: self.args.servers.batch.batch_store.clone(),
            group: self.args.group.clone(),
        });
        Ok(comparison)
    }

    async fn tables(&self) -> Result<[Box<dyn TableReader>; 2]> {
        let servers = &self.args.servers;
        let (realtime, batch) = (&servers.realtime.realtime_store, &servers.batch.batch_store);
        let realtime = self
            .retry
            .through_outage(async || realtime.table(self.dataset).await)
            .await?;
        let batch = self
            .retry
            .through_outage(async || batch.table(self.dataset).await)
            .await?;
        Ok([realtime, batch])
    }

    async fn series(&self) -> Result<Vec<OpenSeries<'_>>> {
        let is_whole = self.args.rerun.is_none() && self.args.against.is_empty();
        let store = &*self.args.servers.realtime.realtime_store;
        match is_whole {
            true => verify_series::open(store, self.dataset, self.args.series, &self.retry).await,
            false => Ok(Vec::new()),
        }
    }

    /// Compares what was asked for. None after a stop.
    async fn compare(
        &self,
        comparison: &Arc<Comparison>,
        tables: [Box<dyn TableReader>; 2],
        names: &[String; 2],
        report: &mut Report<'_>,
    ) -> Result<Option<Outcome>> {
        let (args, retry) = (self.args, &self.retry);
        let mut bad_records = 0;
        let compared = match &args.rerun {
            Some(list) => {
                let keys = listed_keys(list, self.dataset)?;
                compare_keys(comparison, tables, keys, retry, report).await?
            }
            None if args.against.is_empty() => compare(comparison, tables, retry, report).await?,
            None => {
                let files = &args.against;
                let done = compare_landing(comparison, tables, names, files, retry, report);
                done.await?.map(|(compared, landing)| {
                    bad_records = landing.rejected;
                    let (records, files) = (landing.records, files.len());
                    self.run.info(format!(
                        "looked up {records} records of {files} landing files in both stores"
                    ));
                    if let Some(bad) = landing.first_bad {
                        self.run
                            .warn(format!("{bad_records} records are bad; {bad}"));
                    }
                    compared
                })
            }
        };
        Ok(compared.map(|compared| Outcome {
            compared,
            is_whole: args.rerun.is_none() && args.against.is_empty(),
            bad_records,
        }))
    }

    /// Keeps the verdict, and returns the last loads. That it could not be kept is told; the verdict counts all the same.
    async fn keep(&self, verdict: &Verdict) -> Vec<LoadRecord> {
        let kept = async {
            let mut ledger = self.ledger().await?;
            ledger.add_verdict(verdict).await?;
            ledger.loads(LOADS).await
        };
        kept.await.unwrap_or_else(|e| {
            self.run
                .warn(format!("the verdict was not kept for --history: {e}"));
            Vec::new()
        })
    }

    async fn ledger(&self) -> Result<Box<dyn Ledger>> {
        let store = &self.args.servers.batch.batch_store;
        store.ledger(self.dataset).await
    }

    /// Address and table of each store.
    fn stores(&self, [realtime, batch]: &[String; 2]) -> [(String, String); 2] {
        let servers = &self.args.servers;
        [
            (
                servers.realtime.realtime_store.to_string(),
                realtime.clone(),
            ),
            (servers.batch.batch_store.to_string(), batch.clone()),
        ]
    }

    async fn history(&self) -> Result<Exit> {
        streams::check_output()?;
        let read = async || self.ledger().await?.verdicts(HISTORY).await;
        let verdicts = self.retry.through_outage(read).await?;
        let mut text = Vec::new();
        let written = match self.args.format {
            Some(Format::Json) => history_json(&verdicts, &mut text),
            _ => history_table(&verdicts, &mut text),
        };
        written.map_err(Error::internal)?;
        stdout::write(&text)?;
        let counts = &self.run.counts;
        add(&counts.read, verdicts.len() as u64);
        add(&counts.written, verdicts.len() as u64);
        if verdicts.is_empty() {
            let dataset = &self.dataset.name;
            self.run
                .warn(format!("no verdict on {dataset} has been kept yet"));
        }
        Ok(Exit::verdict(
            !verdicts.is_empty() || !self.args.require_records,
        ))
    }
}

fn interrupted(run: &Run) -> Result<Exit> {
    match run.stop.requested() {
        Some(signal) => Ok(signal.exit()),
        None => Err(Error::internal("the comparison ended without a result")),
    }
}

impl Args {
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
