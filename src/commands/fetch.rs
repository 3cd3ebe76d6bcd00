//! `rtp fetch`: the records of an HTTP API as NDJSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::commands::args::{ApiArg, MaxOutage, RunsUntil};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::files::Files;
use crate::run::{Run, stdout};
use crate::source;
use crate::source::http::Timeouts;
use crate::source::landing::{self, Claim, Wanted};
use crate::source::pace::LimitArg;
use crate::source::walk::{WalkSettings, walk};
use crate::time::{parse_positive_duration, parse_time};

/// Fetch records from an HTTP API and write them as NDJSON
///
/// Each record becomes one line with the dataset's fields. Pages are written in order, each one whole or not
/// at all. Temporary failures (time-outs, 429, 5xx, broken bodies) are retried.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    api: ApiArg,
    /// Number of records to fetch [default: one page of an endless source, otherwise all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seed, for sources that take one: the same seed and page give the same records [default: the run ID]
    #[arg(long, value_name = "TEXT")]
    seed: Option<String>,
    /// First page to fetch, for sources with numbered pages
    #[arg(long, value_name = "N", conflicts_with = "state")]
    page: Option<u64>,
    /// Event time of all records of this run: an RFC 3339 time or a date, not in the future [default: now]
    #[arg(long, env = "RTP_AS_OF", value_name = "TIME", value_parser = parse_time)]
    as_of: Option<jiff::Timestamp>,
    /// Write records as received, minus the dataset's secrets
    #[arg(long)]
    raw: bool,
    /// Write to this file, which appears only once it is complete
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// End with a trailer: a line that counts the records, so that readers can detect truncated input
    #[arg(long)]
    trailer: bool,
    /// Fetch nothing if the --out file is complete and holds --count records; if another rtp is fetching it,
    /// wait for that one
    #[arg(long, requires = "out", requires = "trailer", conflicts_with = "state")]
    unless_complete: bool,
    /// Resume after the page recorded in this file; it is updated once --out is complete or, if the records go to a
    /// pipe, by the reader's --commit-state
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Number of concurrent requests, for sources with numbered pages
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    concurrency: u8,
    /// Maximum requests per second
    #[arg(long, value_name = "N", value_parser = positive)]
    rps: Option<f64>,
    /// Rate limit to use instead of the dataset's, in the dataset's unit (records or requests): for example
    /// 20000/300s, or none
    #[arg(long, value_name = "N/DURATION")]
    limit: Option<LimitArg>,
    /// Time limit for connecting
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_positive_duration)]
    connect_timeout: Duration,
    /// How long a response may go without sending any bytes
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_positive_duration)]
    idle_timeout: Duration,
    /// Time limit for one request
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_positive_duration)]
    request_timeout: Duration,
    /// Time limit for the whole run; exceeding it ends the run with status 4
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    max_elapsed: Option<Duration>,
    /// End with status 1 if there are no records
    #[arg(long)]
    require_records: bool,
    /// End with status 1 if there is a field that no record has, and leave the files of --out and --state as they are
    #[arg(long, conflicts_with = "raw")]
    require_fields: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 => Ok(n),
        _ => Err("expected a number above 0, such as 5 or 0.5".into()),
    }
}

/// Fetches, within the time limit.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let fetch = fetch(args, dataset, run);
    match args.max_elapsed {
        None => fetch.await,
        Some(limit) => tokio::time::timeout(limit, fetch)
            .await
            .unwrap_or_else(|_| {
                Err(Error::refused(format!("time limit of {limit:?} exceeded"))
                    .hint("--max-elapsed sets it"))
            }),
    }
}

async fn fetch(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let retry = &args.outage.retry(run, RunsUntil::Done);
    let claim = match &args.out {
        Some(path) if args.unless_complete => {
            Some(landing::claim(path, args.wanted(), retry).await?)
        }
        _ => None,
    };
    if let Some(Claim::Ends(exit)) = claim {
        return Ok(exit);
    }
    let api = source::api_address(args.api.given(), dataset)?;
    let (api, declared) = source::open(&api, dataset, args.timeouts())?;
    walk(&args.settings(), api, &declared, dataset, retry).await
}

impl Args {
    /// Whether the records go to a file that appears once it is complete.
    pub fn has_out(&self) -> bool {
        self.out.is_some()
    }

    /// Whether the records go to a file, by `--out` or by redirection.
    pub fn writes_a_file(&self) -> bool {
        self.out.is_some() || stdout::is_file()
    }

    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        let api = self.api.given();
        let file = api.and_then(|(api, place)| Some((api.strip_prefix("file://")?, place)));
        if let Some((path, place)) = file {
            files.read(place, Path::new(path));
        }
        files.write("--out", self.out.as_deref().unwrap_or(Path::new("-")));
        if let Some(path) = &self.state {
            files.write("--state", path);
        }
        files
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            count: self.count,
            require_records: self.require_records,
        }
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout,
            idle: self.idle_timeout,
            total: self.request_timeout,
        }
    }

    fn settings(&self) -> WalkSettings {
        WalkSettings {
            count: self.count,
            seed: self.seed.clone(),
            page: self.page,
            as_of: self.as_of,
            raw: self.raw,
            concurrency: self.concurrency.into(),
            rps: self.rps,
            limit: self.limit,
            state: self.state.clone(),
            out: self.out.clone(),
            trailer: self.trailer,
            require_records: self.require_records,
            require_fields: self.require_fields,
        }
    }
}
