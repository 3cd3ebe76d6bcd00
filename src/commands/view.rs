//! `rtp view`: the newest row of each key, from both stores.

use std::sync::Arc;

use crate::commands::args::{BatchStoreArg, MaxOutage, RealtimeStoreArg, RunsUntil};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::retry::Retry;
use crate::run::stdout::{self, Pipe};
use crate::run::{Run, add};
use crate::view::merge::Merged;
use crate::view::{Boundary, Query, View, Walk, cursor, query};

/// Rows that are read and printed at once.
const PAGE: usize = 1_000;

/// Keys of a layer that are read at once in a listing that is printed to its end: many, because a store without an order
/// of keys is scanned for them.
const AHEAD: usize = 200_000;

/// Print the newest row of each key, whichever of the two stores has it
///
/// All keys of both stores are listed. Both stores are read for each key, and the newer row by event time and digest is
/// printed, so none is older than what either store holds, also while a load or a stream is running. Nothing is written
/// to the stores.
///
/// Each line is a JSON object: `layer` (batch, realtime, or both if they hold the same row), `event_time`, `as_of` (when
/// both stores were read), `lag_seconds` between these two, and `row`. Rows are in the order of their keys.
///
/// Cassandra keeps no such order. With --limit, its keys are therefore listed only if their event time is after a
/// boundary, which is the newest event time of all loads; a message then says what is not listed. --boundary none
/// lists them all, by reading Cassandra's whole table.
///
/// Ends with status 1 if KEY is in neither store, and with 5 if a row could not be listed, because its key does not have
/// the declared type.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the row of this key only
    #[arg(allow_negative_numbers = true, conflicts_with_all = ["conditions", "limit", "after", "boundary"])]
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
    /// List a key that only the real-time store has only if its event time is later; none lists all of them [default:
    /// none; the newest event time of all loads if the real-time store is Cassandra and --limit is given]
    #[arg(long, value_name = "TIME|none", value_parser = Boundary::parse)]
    boundary: Option<Boundary>,
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
    let (mut query, boundary) = args.query(dataset)?;
    let retry = &args.outage.retry(run, RunsUntil::Done);
    let (realtime, batch) = (&*args.realtime.realtime_store, &*args.batch.batch_store);
    let mut view = retry
        .through_outage(async || View::open(dataset, realtime, batch).await)
        .await?;
    match key {
        Some(key) => {
            let row = retry.through_outage(async || view.row(&key).await).await?;
            print(dataset, row.as_slice(), run)?;
            if row.is_none() {
                run.notice(format!("neither store has a row with the key `{key}`"));
            }
            Ok(Exit::verdict(row.is_some()))
        }
        None => {
            let is_whole = args.limit.is_none();
            query.boundary = retry
                .through_outage(async || view.boundary(boundary, is_whole).await)
                .await?;
            args.list(dataset, query, view, retry).await
        }
    }
}

impl Args {
    /// What is asked for.
    fn query(&self, dataset: &Dataset) -> Result<(Query, Boundary)> {
        let filters = self.conditions.iter();
        let filters = filters.map(|text| query::parse_filter(dataset, text));
        let mut query = Query {
            filters: filters.collect::<Result<_>>()?,
            ..Query::default()
        };
        let mut boundary = self.boundary.unwrap_or_default();
        if let Some(cursor) = &self.after {
            boundary = cursor::resume(dataset, &mut query, cursor, boundary)?;
        }
        Ok((query, boundary))
    }

    async fn list(
        &self,
        dataset: &Arc<Dataset>,
        query: Query,
        mut view: View,
        retry: &Retry,
    ) -> Result<Exit> {
        let run = &retry.run;
        let limit = self.limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let mut walk = Walk::new(query, limit.min(AHEAD));
        if let Some(left_out) = walk.left_out(&view) {
            run.notice(format!("{left_out}; --boundary none lists them"));
        }
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
        match walk.misfits(&view) {
            misfits if misfits.is_empty() => Ok(Exit::Done),
            misfits => Err(Error::missing(misfits.join("; "))
                .hint("change these keys in the store, or remove the rows, and list it again")),
        }
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
