//! A round of checks in the forms for people, for machines and for Prometheus.

use super::figures::figures;
use super::{Round, Status};
use crate::error::{Error, Result};
use crate::run::{Run, add, printable};

/// Counts the checks: those that are ok as written, the others as rejected.
pub fn count(run: &Run, round: &Round) {
    let ok = round.checks.iter().filter(|c| c.status == Status::Ok);
    let (all, ok) = (round.checks.len() as u64, ok.count() as u64);
    add(&run.counts.read, all);
    add(&run.counts.written, ok);
    add(&run.counts.rejected, all - ok);
}

/// Publishes the round for Prometheus.
pub fn publish(run: &Run, round: &Round, topic: &str) {
    run.metrics.set_figures(figures(round, topic));
    run.metrics.set_ready();
}

/// The round as one JSON object on a line.
pub fn json(round: &Round) -> Result<String> {
    let json = serde_json::to_string(round).map_err(Error::internal)?;
    Ok(json + "\n")
}

/// The round as a table.
pub fn table(round: &Round) -> String {
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
        let detail = printable(check.detail.as_deref().unwrap_or_default());
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
