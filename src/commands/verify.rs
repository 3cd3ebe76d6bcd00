//! `rtp verify`: whether both stores hold the same rows.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::connect;
use crate::dataset::{Dataset, Nulls};
use crate::error::Result;
use crate::exit::Exit;
use crate::retry::{MaxOutage, through_outage};
use crate::run::{Run, add};
use crate::url::{BatchStoreArg, RealtimeStoreArg};
use crate::verify::{Format, Outcome, Plan, Report, Sample, Tolerances, compare};

/// How many differences are shown.
const DEFAULT_SAMPLE: u64 = 20;

/// Compare every row and value of the batch store with those of the real-time store
///
/// Differences are of four classes. missing: the key is in the real-time store, not in the batch
/// store; extra: the other way round; changed: a column differs, with both values; duplicate: a store
/// has the key more than once. Rows that differ are read again before they are reported. Nothing is
/// written to the stores, and nobody who writes to them is made to wait.
///
/// Ends with status 0 if the stores are equal, 1 if not. The summary counts the rows of both stores:
/// written are equal, rejected differ, deduplicated are duplicates beyond the first row of their key.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    realtime: RealtimeStoreArg,
    #[command(flatten)]
    batch: BatchStoreArg,
    /// How far the values of a column may be apart: a number for numbers, a duration for timestamps
    /// and dates, or `ignore` for a column that is not compared; can be given several times
    #[arg(long, value_name = "COLUMN=AMOUNT")]
    tolerance: Vec<String>,
    /// Show at most this many differences on stderr [default: 20, and the values only on a terminal, for
    /// a log is kept]
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Write every difference to this file, with class, key, store, column and both values; `-` is standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How --output is written [default: csv for a file that ends so, otherwise ndjson]
    #[arg(
        long,
        value_enum,
        requires = "output",
        hide_possible_values = true,
        value_name = "ndjson|csv"
    )]
    format: Option<Format>,
    /// End with status 1 if both tables are empty
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Opens both tables, compares them, and gives the verdict.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let tolerances = Tolerances::parse(dataset, &args.tolerance)?;
    let names = [
        format!("{}.{}", dataset.realtime.keyspace, dataset.realtime.table),
        dataset.batch.table.clone(),
    ];
    let max_outage = args.outage.bounded();
    let (realtime, batch) = (&args.realtime.realtime_store, &args.batch.batch_store);
    let realtime = through_outage(run, max_outage, || async {
        connect::realtime_table(realtime, dataset).await
    });
    let batch = through_outage(run, max_outage, || async {
        connect::batch_table(batch, dataset).await
    });
    let tables = [realtime.await?, batch.await?].map(|table| Arc::new(Mutex::new(table)));
    if dataset.nulls == Nulls::Unset {
        run.warn(format!(
            "the dataset says null = \"unset\": a value in {} where {} has null counts as equal",
            names[0], names[1]
        ));
    }
    let strict = tolerances.are_strict();
    let plan = Arc::new(Plan::new(dataset, tolerances, run.stop.clone()));
    let output = args.output.as_ref().map(|path| {
        let format = args.format.unwrap_or_else(|| Format::of(path));
        (path, format)
    });
    let sample = Sample {
        most: args.sample.unwrap_or(DEFAULT_SAMPLE),
        has_values: args.sample.is_some() || std::io::stderr().is_terminal(),
    };
    let mut report = Report::create(run, names.clone(), sample, output)?;
    let outcome = compare(&plan, &tables, run, max_outage, &mut report).await?;
    let (Some(outcome), None) = (outcome, run.stop.requested()) else {
        return Ok(run
            .stop
            .requested()
            .map_or(Exit::Done, |signal| signal.exit()));
    };
    report.finish()?;
    count(run, &outcome);
    Ok(verdict(args, run, &names, &outcome, strict))
}

fn count(run: &Run, outcome: &Outcome) {
    let counts = &run.counts;
    let differing = outcome.differing_rows + outcome.surplus_rows;
    // Rows written during the comparison can make more differ than the first scan has seen.
    let read = (outcome.rows[0] + outcome.rows[1]).max(differing);
    add(&counts.read, read);
    add(&counts.written, read - differing);
    add(&counts.rejected, outcome.differing_rows);
    add(&counts.deduplicated, outcome.surplus_rows);
    add(&counts.bytes, outcome.bytes);
}

fn verdict(args: &Args, run: &Run, names: &[String; 2], outcome: &Outcome, strict: bool) -> Exit {
    let [realtime, batch] = names;
    let rows = outcome.rows;
    if !outcome.is_equal() {
        run.warn(format!(
            "not equal: {} missing in {batch}, {} extra in {batch}, {} changed, {} duplicate; {} rows in {realtime}, {} in {batch}",
            outcome.missing, outcome.extra, outcome.changed, outcome.duplicates, rows[0], rows[1]
        ));
        return Exit::No;
    }
    if rows == [0, 0] {
        run.warn(format!("{realtime} and {batch} are both empty"));
        return Exit::verdict(!args.require_records);
    }
    let tolerance = if strict {
        ""
    } else {
        ", within the tolerances"
    };
    run.info(match rows {
        [a, b] if a == b => format!("equal: {a} rows in {realtime} and {batch}{tolerance}"),
        [a, b] => format!(
            "equal: {a} rows in {realtime}, {b} in {batch}{tolerance}; rows were written meanwhile"
        ),
    });
    Exit::Done
}
