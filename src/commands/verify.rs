//! `rtp verify`: whether both stores hold the same rows.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::commands::args::{MaxOutage, RunsUntil, ServerArgs};
use crate::dataset::{Dataset, Nulls, Series};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::ports::series_reader::SeriesReader;
use crate::ports::table_reader::TableReader;
use crate::run::Run;
use crate::run::files::Files;
use crate::run::retry::Retry;
use crate::time::parse_duration;
use crate::verify::{
    ComparedSeries, Comparison, Report, Sample, Side, Tolerances, Witnesses, compare,
    compare_series,
};

/// How many differences are shown.
const DEFAULT_SAMPLE: u64 = 20;

/// Compare every row and value of the batch store with those of the real-time store
///
/// A key is missing, if it is in the real-time store, but not in the batch store; extra, if it is the other way round;
/// changed, if a column differs; duplicate, if a store has it more than once. Rows that differ are read again before
/// they are reported, after --grace if data keeps coming. What still differs gets a class, with its evidence:
///
/// in flight: its event waits in the log; dead letter: it is among them; rejected: a load rejected it; not loaded yet:
/// it came after the last load; older version: the batch store has one, and the newer one is not loaded yet. These are
/// explained, and the layers agree.
///
/// lost: it was read or loaded, but the store does not have it; changed outside: a row is not what rtp wrote;
/// duplicate; unexplained: nothing that is kept tells why. With these, they do not. Neither do they if only one of them
/// is empty. The tables' writers are never blocked.
///
/// The tables that a real-time store keeps for reads by time are compared with its main table if `--series` is given.
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
    /// Read what differs again after this time, while records keep coming: 10s, if the stream follows the topic
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
    /// Show at most this many differences on stderr, with their values [default: 20, with values only if stderr
    /// is a terminal, because logs are kept]
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Write every difference to this file, with class, kind, key, store, column, both values and the evidence; `-` means standard output.
    /// For a table for reads by time, its name is in place of the store, and its value in place of the batch store's
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Format of --output [default: csv for a file named *.csv, otherwise ndjson]
    #[arg(
        long,
        value_enum,
        requires = "output",
        hide_possible_values = true,
        value_name = "ndjson|csv"
    )]
    format: Option<FileFormat>,
    /// End with status 1 if both tables are empty
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    /// The file that it writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        if let Some(path) = &self.output {
            files.write("--output", path);
        }
        files
    }
}

/// Opens both tables, compares them, and gives the verdict.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let tolerances = Tolerances::parse(dataset, &args.tolerance)?;
    let witnesses = Witnesses {
        event_log: args.servers.log.with(None)?,
        batch_store: args.servers.batch.batch_store.clone(),
        group: args.group.clone(),
    };
    let mut comparison = Comparison::new(dataset, tolerances, run.stop.clone());
    comparison.witnesses = Some(witnesses);
    comparison.grace = args.grace;
    let comparison = Arc::new(comparison);
    let names = [
        format!("{}.{}", dataset.realtime.keyspace, dataset.realtime.table),
        dataset.batch.table.clone(),
    ];
    let retry = &args.outage.retry(run, RunsUntil::Done);
    let servers = &args.servers;
    let (realtime, batch) = (&servers.realtime.realtime_store, &servers.batch.batch_store);
    let realtime = retry
        .through_outage(async || realtime.table(dataset).await)
        .await?;
    let batch = retry
        .through_outage(async || batch.table(dataset).await)
        .await?;
    if dataset.nulls == Nulls::Unset {
        run.warn(format!(
            "the dataset has null = \"unset\", so a value in {} counts as equal to a null in {}",
            names[0], names[1]
        ));
    }
    // Before the comparison of the stores, which may take long: one that is not there is told at once.
    let opened = args.open_series(dataset, retry).await?;
    let mut report = args.report(&names, run)?;
    let compared = compare(&comparison, [realtime, batch], retry, &mut report).await?;
    if let Some(signal) = run.stop.requested() {
        return Ok(signal.exit());
    }
    let compared =
        compared.ok_or_else(|| Error::internal("the comparison ended without a result"))?;
    let rows = compared.rows[Side::Realtime as usize];
    let series = compare_all(&comparison, opened, rows, retry, &mut report).await?;
    if let Some(signal) = run.stop.requested() {
        return Ok(signal.exit());
    }
    report.finish()?;
    compared.count(run);
    compared.tell(&names, &comparison.tolerances, run);
    for (series, compared) in &series {
        compared.tell(series, &names[0], &comparison.tolerances, run);
    }
    let is_equal = compared.agrees() && series.iter().all(|(_, compared)| compared.is_equal());
    let has_records = compared.rows != [0, 0] || !args.require_records;
    Ok(Exit::verdict(is_equal && has_records))
}

/// Compares all series. Their names and results; some or none of them after a stop.
async fn compare_all(
    comparison: &Comparison,
    opened: Vec<OpenSeries<'_>>,
    rows: u64,
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Vec<(String, ComparedSeries)>> {
    let mut all = Vec::new();
    for one in opened {
        report.turn_to(one.name.clone());
        let (series, reader, table) = (one.series, one.reader, one.table);
        let compared =
            compare_series(comparison, series, reader, table, rows, retry, report).await?;
        match compared {
            Some(compared) => all.push((one.name, compared)),
            None => break,
        }
    }
    Ok(all)
}

/// A series that is open for reading, with its name and its table.
struct OpenSeries<'d> {
    series: &'d Series,
    name: String,
    reader: Box<dyn SeriesReader>,
    table: Box<dyn TableReader>,
}

impl Args {
    /// Opens the tables for reads by time that have rows of their own, or says that they are not compared.
    async fn open_series<'d>(
        &self,
        dataset: &'d Dataset,
        retry: &Retry,
    ) -> Result<Vec<OpenSeries<'d>>> {
        let run = &retry.run;
        let store = &self.servers.realtime.realtime_store;
        let mut all = Vec::new();
        for series in &dataset.realtime.series {
            let name = format!("{}.{}", dataset.realtime.keyspace, series.table);
            if store.series(dataset, series).is_none() {
                if self.series {
                    let table = &dataset.realtime.table;
                    run.info(format!(
                        "{name} shows the rows of {table}, so there is nothing to compare"
                    ));
                }
                continue;
            }
            if !self.series {
                run.info(format!("{name} was not compared; --series compares it"));
                continue;
            }
            let open = async || match store.series(dataset, series) {
                Some(opening) => opening.await,
                None => Err(Error::internal("a series has gone")),
            };
            all.push(OpenSeries {
                series,
                name,
                reader: retry.through_outage(open).await?,
                table: retry
                    .through_outage(async || store.table(dataset).await)
                    .await?,
            });
        }
        Ok(all)
    }

    fn report<'r>(&self, names: &[String; 2], run: &'r Run) -> Result<Report<'r>> {
        let output = self.output.as_ref().map(|path| {
            let format = self.format.unwrap_or_else(|| FileFormat::of(path));
            (path, format)
        });
        let sample = Sample {
            most: self.sample.unwrap_or(DEFAULT_SAMPLE),
            has_values: self.sample.is_some() || std::io::stderr().is_terminal(),
        };
        Report::create(run, names.clone(), sample, output)
    }
}
