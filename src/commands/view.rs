//! `rtp view`: the newest row of each key, from both stores.

use std::sync::Arc;

use jiff::Timestamp;

use crate::commands::args::{BatchStoreArg, MaxOutage, RealtimeStoreArg, RunsUntil};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::retry::Retry;
use crate::run::stdout::{self, Pipe};
use crate::run::{Run, add};
use crate::view::merge::Merged;
use crate::view::{Query, View, Walk, cursor, query};

/// Rows that are read and printed at once.
const PAGE: usize = 1_000;

/// Keys of a layer that are read at once in a listing that is printed to its end.
const AHEAD: usize = 50_000;

/// Print the newest row of each key, whichever of the two stores has it
///
/// The batch store is complete up to the boundary, the newest event time of its last load. Its keys are listed, and
/// those that the real-time store has with a later event time. Both stores are read for each key, and the newer row by
/// event time and digest is printed, so none is older than what either store holds, also while a load or a stream is
/// running. Nothing is written to the stores.
///
/// Each line is a JSON object: `layer` (batch, realtime, or both if they hold the same row), `event_time`, `as_of` (when
/// both stores were read), `lag_seconds` between these two, and `row`. Rows are in the order of their keys.
///
/// Ends with status 1 if KEY is in neither store.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the row of this key only
    #[arg(conflicts_with_all = ["conditions", "limit", "after", "boundary"])]
    key: Option<String>,
    /// Print only rows with this value; repeatable, for all of several values
    #[arg(long = "where", id = "conditions", value_name = "FIELD=VALUE")]
    conditions: Vec<String>,
    /// Print at most this many rows; a message then names the cursor for --after
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Continue a listing behind its last row
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// List the keys that the real-time store has with a later event time than this [default: the newest event time of
    /// the last load]
    #[arg(long, value_name = "TIME", value_parser = crate::time::parse_time)]
    boundary: Option<Timestamp>,
    #[command(flatten)]
    realtime: RealtimeStoreArg,
    #[command(flatten)]
    batch: BatchStoreArg,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Prints one row, or a listing.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let dataset = &Arc::new(dataset.clone());
    let key = args.key.as_deref().map(|key| query::key(dataset, key));
    let key = key.transpose()?;
    let query = args.query(dataset)?;
    let retry = &args.outage.retry(run, RunsUntil::Done);
    let (realtime, batch) = (&*args.realtime.realtime_store, &*args.batch.batch_store);
    let mut view = retry
        .through_outage(async || View::open(dataset, realtime, batch).await)
        .await?;
    match key {
        Some(key) => {
            let row = retry.through_outage(async || view.row(&key).await).await?;
            print(dataset, row.as_slice(), run)?;
            Ok(Exit::verdict(row.is_some()))
        }
        None => args.list(dataset, query, view, retry).await,
    }
}

impl Args {
    fn query(&self, dataset: &Dataset) -> Result<Query> {
        let boundary = self.boundary.map(Timestamp::as_millisecond);
        let filters = self.conditions.iter();
        let filters = filters.map(|text| query::parse_filter(dataset, text));
        let mut query = Query {
            filters: filters.collect::<Result<_>>()?,
            boundary,
            after: None,
        };
        if let Some(cursor) = &self.after {
            cursor::resume(dataset, &mut query, cursor, boundary)?;
        }
        Ok(query)
    }

    async fn list(
        &self,
        dataset: &Arc<Dataset>,
        mut query: Query,
        mut view: View,
        retry: &Retry,
    ) -> Result<Exit> {
        let run = &retry.run;
        if query.boundary.is_none() && query.after.is_none() {
            query.boundary = retry.through_outage(async || view.boundary().await).await?;
        }
        let limit = self.limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let mut walk = Walk::new(query, limit.min(AHEAD));
        let mut left = limit;
        while left > 0 && !walk.is_end() {
            let rows = retry
                .through_outage(async || walk.next(&mut view, left.min(PAGE)).await)
                .await?;
            if let Some(signal) = run.stop.requested() {
                return Ok(signal.exit());
            }
            if print(dataset, &rows, run)? == Pipe::Closed {
                return Ok(Exit::Done);
            }
            left -= rows.len();
            if left == 0
                && !walk.is_end()
                && let Some(key) = walk.position()
            {
                let cursor = cursor::encode(dataset, walk.query(), key);
                run.notice(format!(
                    "there may be more rows: --after {cursor} continues"
                ));
            }
        }
        Ok(Exit::Done)
    }
}

fn print(dataset: &Dataset, rows: &[Merged], run: &Run) -> Result<Pipe> {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, &row.shown(dataset)).map_err(Error::internal)?;
        lines.push(b'\n');
    }
    let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    add(&run.counts.read, count);
    add(&run.counts.written, count);
    add(&run.counts.bytes, lines.len() as u64);
    stdout::write(&lines)
}
