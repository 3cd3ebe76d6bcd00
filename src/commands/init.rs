//! `rtp init`: the tables of a dataset, made where they are missing.

use crate::connect;
use crate::dataset::{Dataset, ddl};
use crate::error::Result;
use crate::exit::Exit;
use crate::run::Run;
use crate::url::ServerArgs;

/// Create the dataset's topics and tables, where they are missing
///
/// Running it again changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print the statements instead of running them
    #[arg(long)]
    dry_run: bool,
}

/// Creates or prints.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    if args.dry_run {
        let statements = [ddl::sqlite_realtime(dataset), ddl::sqlite_batch(dataset)].concat();
        crate::stdout::write(ddl::script(dataset, &statements).as_bytes())?;
        return Ok(Exit::Done);
    }
    let log = &args.servers.event_log()?;
    connect::create_topics(log, &connect::topics(dataset)).await?;
    run.info(format!("topics ready in {log}"));
    let realtime = &args.servers.realtime.realtime_store;
    connect::create_realtime_tables(realtime, dataset).await?;
    run.info(format!("tables ready in {realtime}"));
    let batch = &args.servers.batch.batch_store;
    connect::create_batch_tables(batch, dataset).await?;
    run.info(format!("tables ready in {batch}"));
    Ok(Exit::Done)
}
