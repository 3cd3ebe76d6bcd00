//! `rtp aggregate`: how many rows of a day have each value of the dataset's dimensions.

use std::path::PathBuf;

use crate::aggregate::{Day, Figures};
use crate::commands::args::{BatchStoreArg, MaxOutage, RunsUntil};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exit::Exit;
use crate::ports::aggregates::Fewer;
use crate::run::Run;
use crate::run::files::Files;

/// Count the batch store's rows of a day by the dataset's dimensions, and store the figures
///
/// The rows of a day are those whose event time is on that day in UTC. For each [[aggregate]] of the dataset, the store
/// counts them by value, in one statement; the figures are in its table rtp_aggregates. A day is computed in one
/// transaction; running it again changes only the figures that no longer hold.
///
/// The batch table has only the newest row of each key, so a key that is loaded again leaves its former day. A day that
/// has fewer rows than its stored figures count therefore keeps them, and a warning says so; --replace replaces them. With
/// a history, a day keeps its rows.
///
/// A day without rows is told. The summary counts figures: new and changed ones as written, unchanged ones as skipped.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    batch_store: BatchStoreArg,
    /// The day, in UTC: 2026-11-24, yesterday or today
    #[arg(long, value_name = "DAY", value_parser = Day::parse)]
    date: Day,
    /// The last day, if there are several
    #[arg(long, value_name = "DAY", value_parser = Day::parse)]
    to: Option<Day>,
    /// Replace the figures even of a day that has fewer rows now
    #[arg(long)]
    replace: bool,
    /// Write the figures of these days to this file, as NDJSON; `-` means standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// End with status 1 if one of the days has no rows
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        if let Some(path) = self.batch_store.batch_store.file() {
            files.read("the batch store", path);
        }
        if let Some(path) = &self.output {
            files.write("--output", path);
        }
        files
    }
}

/// Computes the days in order.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let figures = Figures {
        dataset,
        from: args.date,
        to: args.to,
        fewer: match args.replace {
            true => Fewer::Replace,
            false => Fewer::Keep,
        },
        output: args.output.as_deref(),
        require_records: args.require_records,
        retry: args.outage.retry(run, RunsUntil::Done),
    };
    let store = &args.batch_store.batch_store;
    figures.run(async || store.aggregates(dataset).await).await
}
