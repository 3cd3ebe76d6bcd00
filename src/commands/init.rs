//! `rtp init`: creates the topics and tables of a dataset where they are missing, and checks those that are there.

use crate::commands::args::{MaxOutage, RunsUntil, ServerArgs, apart};
use crate::dataset::{Dataset, ddl};
use crate::error::Result;
use crate::exit::Exit;
use crate::ports::event_log;
use crate::run::Run;

/// Create the dataset's topics and tables where they are missing
///
/// Running it again changes nothing. A table or topic that exists and does not fit the dataset stays as it is; the
/// message lists the differences, and the status is 2.
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
    apart(log.as_ref(), realtime.as_ref())?;
    // A log that keeps more than the dataset asks for loses nothing; a store that keeps or writes something else may.
    for says in log.without_effect(dataset) {
        run.info(format!("{log}: {says}"));
    }
    for says in realtime.without_effect(dataset) {
        run.warn(format!("{realtime}: {says}"));
    }
    let retry = args.outage.retry(run, RunsUntil::Done);
    let says = retry
        .through_outage(async || log.create(&topics).await)
        .await?;
    says.into_iter().for_each(|says| run.warn(says));
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
