//! `rtp heartbeat`: whether the log and both stores are alive, and how far behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::alert::WebhookUrl;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::heartbeat::{Alerts, Check, Round, Status, Watch, round};
use crate::metrics::{Checked, GroupLag};
use crate::run::{Run, add, printable};
use crate::stdout::{self, Reader};
use crate::time::parse_duration;
use crate::url::ServerArgs;

/// Check the event log and both stores: a probe written and read back, lag, freshness
///
/// All three are checked at the same time. A check is ok; stale, if it is over a limit given here; or
/// failed, if the server does not take a probe and give it back, or was not made by `rtp init`.
/// Probes go to a topic and tables of their own. The lag in seconds is the age of the first event
/// that the consumer group has not committed; the age of a store is the time since its last commit
/// by `stream` or `load-batch`.
///
/// A single round ends with the status of the worst check: 0 ok, 1 stale, 4 failed. With --interval
/// it goes on whatever fails, and ends 0 when told to stop. The summary counts checks: written are
/// ok, rejected are not.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: ServerArgs,
    /// Check once; the default
    #[arg(long)]
    once: bool,
    /// Check again and again, from start to start
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "once")]
    interval: Option<Duration>,
    /// Consumer group whose lag counts
    #[arg(long, default_value = "rtp", value_name = "NAME")]
    group: String,
    /// How long each check may take
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    timeout: Duration,
    /// Stale if the group is more events behind
    #[arg(long, value_name = "N")]
    max_lag: Option<u64>,
    /// Stale if the first event that the group has not committed is older
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_lag_age: Option<Duration>,
    /// Stale if the real-time store's last write is older
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age_realtime: Option<Duration>,
    /// Stale if the batch store's last load is older
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age_batch: Option<Duration>,
    /// How standard output is written: a table, or one JSON object a round
    #[arg(
        long,
        value_enum,
        default_value = "table",
        hide_possible_values = true,
        value_name = "table|json"
    )]
    format: Format,
    /// Post JSON to this webhook when the verdict turns bad, and when it is well again
    #[arg(
        long,
        env = "RTP_ALERT_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    alert_url: Option<WebhookUrl>,
    /// Keep what the webhook was told in this file, so that single rounds tell it once, too
    #[arg(long, value_name = "FILE", requires = "alert_url")]
    state: Option<PathBuf>,
}

/// How a round is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Checks once, or until told to stop.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let watch = Watch {
        dataset: Arc::new(dataset.clone()),
        event_log: args.servers.event_log()?,
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
            round = round(&watch, &run.id) => round,
            signal = run.stop.wait() => return Ok(match args.interval {
                Some(_) => Exit::Done,
                None => signal.exit(),
            }),
        };
        count(run, &round);
        tell(run, &round, &dataset.event.topic);
        let reader = stdout::write(printed(&round, args.format)?.as_bytes())?;
        if let Some(alerts) = &mut alerts
            && let Err(e) = alerts.after(&round).await
        {
            run.warn(format!("the alert is not delivered, {e}"));
        }
        let Some(interval) = args.interval else {
            return Ok(round.status.exit());
        };
        if reader == Reader::Gone {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep_until(started + interval) => {}
            _ = run.stop.wait() => return Ok(Exit::Done),
        }
    }
}

fn count(run: &Run, round: &Round) {
    let ok = round.checks.iter().filter(|c| c.status == Status::Ok);
    let (all, ok) = (round.checks.len() as u64, ok.count() as u64);
    add(&run.counts.read, all);
    add(&run.counts.written, ok);
    add(&run.counts.rejected, all - ok);
}

/// Tells Prometheus.
fn tell(run: &Run, round: &Round, topic: &str) {
    let checks = round.checks.iter().map(|check| checked(check, topic));
    run.metrics.set_round(&checks.collect::<Vec<_>>());
    run.metrics.set_ready();
}

fn checked<'a>(check: &'a Check, topic: &'a str) -> Checked<'a> {
    let lag = check.lag_seconds.zip(check.group.as_deref());
    Checked {
        check: check.check,
        is_up: check.status != Status::Failed,
        is_ok: check.status == Status::Ok,
        latency: check.latency_ms.map(|ms| ms / 1e3),
        age: check.age_seconds,
        lag: lag.map(|(seconds, group)| GroupLag {
            group,
            topic,
            seconds,
            partitions: &check.lag_by_partition,
        }),
    }
}

fn printed(round: &Round, format: Format) -> Result<String> {
    match format {
        Format::Json => serde_json::to_string(round)
            .map(|json| json + "\n")
            .map_err(|e| Error::refused(format!("internal error: {e}"))),
        Format::Table => Ok(table(round)),
    }
}

fn table(round: &Round) -> String {
    let mut out = format!("{} {}\n", round.time, round.status.name());
    let mut line = |cells: [&str; 7]| {
        let [check, status, latency, records, lag, age, detail] = cells;
        let line = format!(
            "{check:<14}  {status:<6}  {latency:>10}  {records:>11}  {lag:>11}  {age:>11}  {detail}"
        );
        out.push_str(line.trim_end());
        out.push('\n');
    };
    line([
        "CHECK",
        "STATUS",
        "LATENCY_MS",
        "LAG_RECORDS",
        "LAG_SECONDS",
        "AGE_SECONDS",
        "DETAIL",
    ]);
    for check in &round.checks {
        let detail = printable(check.detail.as_deref().unwrap_or_default()).replace('\n', " ");
        line([
            check.check,
            check.status.name(),
            &cell(check.latency_ms),
            &cell(check.lag_records),
            &cell(check.lag_seconds),
            &cell(check.age_seconds),
            &detail,
        ]);
    }
    out
}

fn cell(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}
