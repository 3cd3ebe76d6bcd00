//! `rtp explain`: what became of one record.

use std::path::PathBuf;

use crate::commands::args::ServerArgs;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::explain::{Asked, Key, State, explain, table};
use crate::run::files::Files;
use crate::run::{Run, add, stdout};

/// Tell what became of one record, and show the evidence
///
/// The first line says it in plain words: in both stores, waiting in the log, in the dead letters, rejected. The others
/// are the evidence: each version in the log, with its offset and run; the rows of both stores, and whether they are
/// what rtp wrote; the load that may have written the batch row; dead letters and rejects with their reasons; the line
/// in the landing file; the last verdict of `verify`. Landing and reject files are those of the last 4,096 loads that
/// still exist.
///
/// The log is read from its oldest event: the partition that the key belongs to, and the others if that has nothing of
/// it. Nothing is written, and no consumer group is disturbed.
///
/// Ends with status 1 if nothing has the record, with status 4 if something did not answer, and with status 5 if nothing
/// has it but there were more loads, whose files were not searched; the rest is told all the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key of the record, as text
    #[arg(allow_hyphen_values = true)]
    key: String,
    #[command(flatten)]
    servers: ServerArgs,
    /// Consumer group that feeds the real-time store
    #[arg(long, default_value = "rtp")]
    group: String,
    /// Also look into this landing file, NDJSON or CSV by its extension; repeatable
    #[arg(long, value_name = "FILE")]
    landing: Vec<PathBuf>,
    /// Format of the answer: lines for people, or one JSON object
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Args {
    /// The files that it reads.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        for path in &self.landing {
            files.read("--landing", path);
        }
        files
    }
}

/// Asks everybody, and prints the answer.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let key = Key::parse(dataset, &args.key)?;
    crate::intake::sniff::check_files(&args.landing, None)?;
    let log = args.servers.log.with([])?;
    let asked = Asked {
        dataset,
        key: &key,
        group: &args.group,
        log: &*log,
        realtime: &*args.servers.realtime.realtime_store,
        batch: &*args.servers.batch.batch_store,
        landing: &args.landing,
        stop: &run.stop,
    };
    let found = explain(&asked).await;
    if let Some(signal) = run.stop.requested() {
        return Ok(signal.exit());
    }
    add(&run.counts.read, 1);
    match found.outcome.state {
        State::Unknown | State::Incomplete => add(&run.counts.skipped, 1),
        _ => add(&run.counts.written, 1),
    }
    let text = match args.format {
        Format::Table => table(&found),
        Format::Json => serde_json::to_string(&found).map_err(Error::internal)? + "\n",
    };
    stdout::write(text.as_bytes())?;
    Ok(found.exit())
}
