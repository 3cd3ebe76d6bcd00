//! `rtp init`: the tables of a dataset, made where they are missing.

use crate::connect;
use crate::dataset::{Dataset, ddl};
use crate::error::Result;
use crate::exit::Exit;
use crate::retry::{MaxOutage, through_outage};
use crate::run::Run;
use crate::url::ServerArgs;

/// Create the dataset's topics and tables, where they are missing
///
/// Running it again changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print the statements for these addresses instead of running them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Creates or prints.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let log = &args.servers.event_log()?;
    let realtime = &args.servers.realtime.realtime_store;
    let batch = &args.servers.batch.batch_store;
    let topics = connect::topics(dataset);
    if args.dry_run {
        let statements = [
            connect::topic_statements(log, &topics)?,
            connect::realtime_statements(realtime, dataset)?,
            connect::batch_statements(batch, dataset)?,
        ];
        crate::stdout::write(ddl::script(dataset, &statements.concat()).as_bytes())?;
        return Ok(Exit::Done);
    }
    let max_outage = args.outage.bounded();
    through_outage(run, max_outage, || connect::create_topics(log, &topics)).await?;
    run.info(format!("topics ready in {log}"));
    through_outage(run, max_outage, || {
        connect::create_realtime_tables(realtime, dataset)
    })
    .await?;
    run.info(format!("tables ready in {realtime}"));
    through_outage(run, max_outage, || {
        connect::create_batch_tables(batch, dataset)
    })
    .await?;
    run.info(format!("tables ready in {batch}"));
    Ok(Exit::Done)
}
