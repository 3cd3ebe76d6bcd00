//! `rtp heartbeat`: whether the log and both stores are alive, and how far behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::commands::args::ServerArgs;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exit::Exit;
use crate::heartbeat::webhook::WebhookUrl;
use crate::heartbeat::{Alerts, Watched, report, round};
use crate::run::files::Files;
use crate::run::stdout::{self, Pipe};
use crate::run::{Run, streams};
use crate::time::{parse_duration, parse_positive_duration};

/// Check the event log and both stores: probes, lag and freshness
///
/// All three are checked at the same time. A check is ok; stale, if it exceeds a limit given here; or failed,
/// if the server does not accept a probe and return it, or `rtp init` has not been run on it. Probes use a
/// topic and tables of their own. The lag is the number of events from where the consumer group continues: from
/// its last commit, or from the offset that the real-time store keeps, if that is less. In seconds, it is the age of
/// the first of them. The age of a store is the time since `stream` or `load-batch` last committed to it.
///
/// Without limits, no lag is stale, unless the group has never committed and events are waiting. An offset of the
/// group that is not in the topic means failed, whether the log has it or the real-time store: the topic was recreated or
/// restored, or has lost events.
///
/// A single round ends with the status of the worst check: 0 ok, 1 stale, 2 failed because of a wrong setting or because
/// something that `rtp init` creates is missing, 4 failed, 5 failed because data is missing. With --interval the rounds
/// continue whatever fails, and the command ends with 0 when told to stop. The summary counts checks: those that are ok
/// as written, the others as rejected.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: ServerArgs,
    /// Check once (the default)
    #[arg(long)]
    once: bool,
    /// Repeat the checks at this interval, measured from start to start
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration, conflicts_with = "once")]
    interval: Option<Duration>,
    /// Consumer group whose lag is checked
    #[arg(long, default_value = "rtp", value_name = "NAME")]
    group: String,
    /// Time limit for each check
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_positive_duration)]
    timeout: Duration,
    /// Stale if the group lags by more than N events
    #[arg(long, value_name = "N")]
    max_lag: Option<u64>,
    /// Stale if the first of these events is older than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_lag_age: Option<Duration>,
    /// Stale if the real-time store's last write is older than this
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    max_age_realtime: Option<Duration>,
    /// Stale if the batch store's last load is older than this
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    max_age_batch: Option<Duration>,
    /// Format of standard output: a table, or one JSON object per round
    #[arg(
        long,
        value_enum,
        default_value = "table",
        hide_possible_values = true,
        value_name = "table|json"
    )]
    format: RoundFormat,
    /// Post JSON to this webhook when the verdict turns bad, and when it recovers
    #[arg(
        long,
        env = "RTP_ALERT_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    alert_url: Option<WebhookUrl>,
    /// Remember in this file what the webhook was last told, so that repeated single rounds do not repeat an alert
    #[arg(long, value_name = "FILE", requires = "alert_url")]
    state: Option<PathBuf>,
}

impl Args {
    /// The file that it writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        if let Some(path) = &self.state {
            files.write("--state", path);
        }
        files
    }
}

/// How a round is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RoundFormat {
    Table,
    Json,
}

/// Checks once, or until told to stop.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    streams::check_output()?; // before anything is probed
    let watched = Watched {
        dataset: Arc::new(dataset.clone()),
        event_log: args.servers.log.with(None)?,
        realtime_store: args.servers.realtime.realtime_store.clone(),
        batch_store: args.servers.batch.batch_store.clone(),
        group: args.group.clone(),
        timeout: args.timeout,
        max_lag: args.max_lag,
        max_lag_age: args.max_lag_age,
        max_age_realtime: args.max_age_realtime,
        max_age_batch: args.max_age_batch,
    };
    let mut alerts = match &args.alert_url {
        None => None,
        Some(url) => Some(Alerts::new(url.clone(), args.state.as_deref())?),
    };
    loop {
        let started = tokio::time::Instant::now();
        let round = tokio::select! {
            round = round(&watched, &run.id) => round,
            signal = run.stop.wait() => return Ok(match args.interval {
                Some(_) => Exit::Done,
                None => signal.exit(),
            }),
        };
        report::count(run, &round);
        report::publish(run, &round, &dataset.event.topic);
        let printed = match args.format {
            RoundFormat::Table => report::table(&round),
            RoundFormat::Json => report::json(&round)?,
        };
        let pipe = stdout::write(printed.as_bytes())?;
        if let Some(alerts) = &mut alerts
            && let Err(e) = alerts.after(&round).await
        {
            run.warn(format!("cannot deliver the alert: {e}"));
        }
        let Some(interval) = args.interval else {
            return Ok(round.exit());
        };
        if pipe == Pipe::Closed {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep_until(started + interval) => {}
            _ = run.stop.wait() => return Ok(Exit::Done),
        }
    }
}
