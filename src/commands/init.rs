//! `rtp init`: creates the topics and tables of a dataset where they are missing.

use crate::commands::args::{MaxOutage, RunsUntil, ServerArgs};
use crate::dataset::{Dataset, ddl};
use crate::error::Result;
use crate::exit::Exit;
use crate::ports::event_log;
use crate::run::Run;

/// Create the dataset's topics and tables where they are missing
///
/// Running it again changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print the statements for these servers instead of running them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Creates or prints.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let log = &args.servers.log.with(None)?;
    let realtime = &args.servers.realtime.realtime_store;
    let batch = &args.servers.batch.batch_store;
    let topics = event_log::topics(dataset);
    if args.dry_run {
        let statements = [
            log.statements(&topics),
            realtime.statements(dataset),
            batch.statements(dataset),
        ];
        crate::run::stdout::write(ddl::script(dataset, &statements.concat()).as_bytes())?;
        return Ok(Exit::Done);
    }
    let retry = args.outage.retry(run, RunsUntil::Done);
    retry
        .through_outage(async || log.create(&topics).await)
        .await?;
    run.info(format!("topics ready in {log}"));
    retry
        .through_outage(async || realtime.create(dataset).await)
        .await?;
    run.info(format!("tables ready in {realtime}"));
    retry
        .through_outage(async || batch.create(dataset).await)
        .await?;
    run.info(format!("tables ready in {batch}"));
    Ok(Exit::Done)
}
