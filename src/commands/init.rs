//! `rtp init`: the tables of a dataset, made where they are missing.

use crate::dataset::{Dataset, ddl};
use crate::error::{Context, Result};
use crate::exit::Exit;
use crate::run::Run;
use crate::sqlite::{self, Missing};
use crate::url::{BatchStoreArg, EventLogArg, RealtimeStoreArg, ServerUrl};

/// Create the dataset's topics and tables, where they are missing
///
/// Running it again changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    event_log: EventLogArg,
    #[command(flatten)]
    realtime: RealtimeStoreArg,
    #[command(flatten)]
    batch: BatchStoreArg,
    /// Print the statements instead of running them
    #[arg(long)]
    dry_run: bool,
}

/// Creates or prints.
pub fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let stores = [
        (&args.realtime.realtime_store, ddl::sqlite_realtime(dataset)),
        (&args.batch.batch_store, ddl::sqlite_batch(dataset)),
    ];
    if args.dry_run {
        let statements: Vec<String> = stores.into_iter().flat_map(|(_, ddl)| ddl).collect();
        crate::stdout::write(ddl::script(dataset, &statements).as_bytes())?;
        return Ok(Exit::Done);
    }
    let log = &args.event_log.event_log;
    crate::connect::create_topics(log, &crate::connect::topics(dataset))?;
    run.info(format!("topics ready in {log}"));
    for (url, statements) in stores {
        create(url, &statements).context(format_args!("cannot create tables in {url}"))?;
        run.info(format!("tables ready in {url}"));
    }
    Ok(Exit::Done)
}

fn create(url: &ServerUrl, statements: &[String]) -> Result<()> {
    let connection = sqlite::open(url.path(), Missing::Create, 2_048)?;
    let script = format!("BEGIN IMMEDIATE;\n{};\nCOMMIT;", statements.join(";\n"));
    connection
        .execute_batch(&script)
        .map_err(|e| sqlite::error(&e))
}
