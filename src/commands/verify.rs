//! `rtp verify`: whether both stores hold the same rows.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use crate::commands::args::{BatchStoreArg, MaxOutage, RealtimeStoreArg, RunsUntil};
use crate::dataset::{Dataset, Nulls};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::run::Run;
use crate::run::files::Files;
use crate::verify::{Comparison, Report, Sample, Tolerances, compare};

/// How many differences are shown.
const DEFAULT_SAMPLE: u64 = 20;

/// Compare every row and value of the batch store with those of the real-time store
///
/// There are four classes of difference. missing: the key is in the real-time store, but not in the batch store;
/// extra: the other way round; changed: a column differs, shown with both values; duplicate: a store has the key
/// more than once. Rows that differ are read again before they are reported. Nothing is written to the stores,
/// and their writers are never blocked.
///
/// Ends with status 0 if the stores are equal, 1 if not. The summary counts the rows of both stores: equal rows
/// as written, rows that differ as rejected, duplicates beyond the first row of their key as deduplicated.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    realtime: RealtimeStoreArg,
    #[command(flatten)]
    batch: BatchStoreArg,
    /// How far the values of a column may differ: a number for numbers, a duration for timestamps and dates, or
    /// `ignore` to leave the column out of the comparison; repeatable
    #[arg(long, value_name = "COLUMN=AMOUNT")]
    tolerance: Vec<String>,
    /// Show at most this many differences on stderr, with their values [default: 20, with values only if stderr
    /// is a terminal, because logs are kept]
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Write every difference to this file, with class, key, store, column and both values; `-` means standard output
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
    let comparison = Arc::new(Comparison::new(dataset, tolerances, run.stop.clone()));
    let names = [
        format!("{}.{}", dataset.realtime.keyspace, dataset.realtime.table),
        dataset.batch.table.clone(),
    ];
    let retry = &args.outage.retry(run, RunsUntil::Done);
    let (realtime, batch) = (&args.realtime.realtime_store, &args.batch.batch_store);
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
    let mut report = args.report(&names, run)?;
    let compared = compare(&comparison, [realtime, batch], retry, &mut report).await?;
    if let Some(signal) = run.stop.requested() {
        return Ok(signal.exit());
    }
    let compared =
        compared.ok_or_else(|| Error::internal("the comparison ended without a result"))?;
    report.finish()?;
    compared.count(run);
    compared.tell(&names, &comparison.tolerances, run);
    Ok(match compared.rows {
        [0, 0] if compared.is_equal() => Exit::verdict(!args.require_records),
        _ => Exit::verdict(compared.is_equal()),
    })
}

impl Args {
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
