//! Compares a series with the table that it belongs to: it must have the newest row of each key, in the bucket of that
//! row's event time, and besides only older versions.
//!
//! The table is scanned into the event time and digest of each key, for a bounded number of keys, and the rows of the
//! series are compared with these; a larger table takes several passes. What does not fit is read again from both
//! before it is reported, after a grace if one is asked for, and gets a class.

mod compared;
mod evidence;
pub(super) mod open;
mod recheck;

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::ops::ControlFlow;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

pub use self::compared::ComparedSeries;
pub(super) use self::open::name;
use self::recheck::{AT_ONCE, Recheck};
use super::buckets::{Hashed, go_on};
use super::{Comparison, Report};
use crate::dataset::Series;
use crate::error::Result;
use crate::ports::series_reader::{Place, SeriesReader};
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::record::value::Value;
use crate::run::retry::Retry;

/// Keys in a pass, of 25 bytes each in a hash table: just below the size at which it would double.
const PASS_KEYS: u64 = 900_000;

/// Maximum suspects in a pass. If some of them differ, the comparison ends with it; if none does, smaller passes take its
/// place.
const SUSPECTS: usize = 1 << 16;

/// Smaller passes that take the place of one with too many suspects: with the keys of a full pass, and one suspect of
/// each, these have few enough.
const SMALLER: u64 = 16;

/// Maximum passes: with more of them, the keys of a pass are too few to have so many suspects, unless one key has.
const PASSES: u64 = 1 << 28;

/// What is compared of a series.
#[derive(Clone, Copy, Debug)]
pub struct SeriesPart<'a> {
    /// The series.
    pub series: &'a Series,
    /// The only keys; all of them, if none are named.
    pub only: Option<&'a [Value<'static>]>,
    /// About how many rows the table has.
    pub rows: u64,
}

/// Compares a series with its dataset's table. None if a stop was requested before the end.
pub async fn compare_series(
    comparison: &Comparison,
    SeriesPart { series, only, rows }: SeriesPart<'_>,
    mut reader: Box<dyn SeriesReader>,
    mut table: Box<dyn TableReader>,
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Option<ComparedSeries>> {
    let only: Option<HashSet<u64>> =
        only.map(|keys| keys.iter().map(|key| hash(key, &mut Vec::new())).collect());
    let mut recheck = Recheck {
        comparison,
        series,
        only: only.as_ref(),
        reader: &mut *reader,
        table: &mut *table,
        retry,
        base: None,
        extra: Vec::new(),
    };
    let passes = rows / PASS_KEYS + 1;
    let mut left: Vec<Pass> = (0..passes).rev().map(|n| (n, passes)).collect();
    let mut compared = ComparedSeries::default();
    while let Some(pass) = left.pop() {
        let part = compare_pass(&mut recheck, pass, report).await?;
        if comparison.stop.requested().is_some() {
            return Ok(None);
        }
        let (n, passes) = pass;
        // Suspects that fit when they are read again, such as newest rows with `null = "unset"`, say nothing about the
        // rows that were not seen.
        if part.is_cut && part.differences() == 0 && passes < PASSES {
            left.extend((0..SMALLER).map(|i| (n * SMALLER + i, passes * SMALLER)));
            continue;
        }
        compared.add(&part);
        if part.is_cut {
            break;
        }
    }
    Ok(Some(compared))
}

/// Compares the keys of a pass.
async fn compare_pass(
    recheck: &mut Recheck<'_>,
    pass: Pass,
    report: &mut Report<'_>,
) -> Result<ComparedSeries> {
    let (comparison, retry) = (recheck.comparison, recheck.retry);
    let mut keys = Keys::new(comparison, recheck.series, recheck.only, pass);
    let scan = async || {
        keys.newest.clear();
        recheck.table.scan(&mut TableRows(&mut keys)).await
    };
    retry.through_outage(scan).await?;
    let scan = async || {
        keys.versions.clear();
        keys.rows = 0;
        recheck.reader.scan(&mut SeriesRows(&mut keys)).await?;
        std::mem::replace(&mut keys.failed, Ok(()))
    };
    retry.through_outage(scan).await?;
    if !keys.are_too_many() && keys.newest.values().any(|newest| !newest.is_in_series) {
        let scan = async || {
            keys.lacking.clear();
            recheck.table.scan(&mut Lacking(&mut keys)).await
        };
        retry.through_outage(scan).await?;
    }
    let scanned = Instant::now();
    let mut compared = ComparedSeries {
        keys: keys.newest.len() as u64,
        rows: keys.rows,
        is_cut: keys.are_too_many(),
        ..ComparedSeries::default()
    };
    keys.newest = HashMap::default(); // what follows needs memory, too
    if !keys.versions.is_empty() || !keys.lacking.is_empty() {
        comparison.wait(scanned).await;
        recheck.ask().await;
    }
    let goes_on = || comparison.stop.requested().is_none();
    for places in keys.versions.chunks(AT_ONCE).take_while(|_| goes_on()) {
        recheck.versions(places, report, &mut compared).await?;
    }
    for lacking in keys.lacking.chunks(AT_ONCE).take_while(|_| goes_on()) {
        recheck.newest(lacking, report, &mut compared).await?;
    }
    recheck.finish(report, &mut compared).await?;
    Ok(compared)
}

fn hash(key: &Value<'_>, encoding: &mut Vec<u8>) -> u64 {
    encoding.clear();
    key.encode(encoding);
    xxh3_64(encoding)
}

/// The number of a pass, and of how many.
type Pass = (u64, u64);

/// The keys of a pass, and what does not fit.
struct Keys<'a> {
    comparison: &'a Comparison,
    series: &'a Series,
    /// The hashes of the only keys that are compared, if only some are.
    only: Option<&'a HashSet<u64>>,
    pass: Pass,
    newest: HashMap<u64, Newest, BuildHasherDefault<Hashed>>,
    /// Keys whose newest row is not in the series.
    lacking: Vec<Value<'static>>,
    /// Where rows of the series stand that do not fit.
    versions: Vec<Place>,
    /// Rows of the series.
    rows: u64,
    /// Rows seen, for a look at the stop signal now and then.
    seen: u64,
    failed: Result<()>,
    encoding: Vec<u8>,
}

/// What the table has of a key.
struct Newest {
    time: i64,
    digest: u64,
    is_in_series: bool,
}

impl<'a> Keys<'a> {
    fn new(
        comparison: &'a Comparison,
        series: &'a Series,
        only: Option<&'a HashSet<u64>>,
        pass: Pass,
    ) -> Self {
        Keys {
            comparison,
            series,
            only,
            pass,
            newest: HashMap::default(),
            lacking: Vec::new(),
            versions: Vec::new(),
            rows: 0,
            seen: 0,
            failed: Ok(()),
            encoding: Vec::new(),
        }
    }

    fn hash(&mut self, key: &Value<'_>) -> u64 {
        hash(key, &mut self.encoding)
    }

    /// Whether a key belongs to this pass.
    fn wants(&mut self, key: &Value<'_>) -> bool {
        let (pass, passes) = self.pass;
        let hash = self.hash(key);
        let is_named = self.only.is_none_or(|only| only.contains(&hash));
        is_named && ((hash >> 32) * passes) >> 32 == pass
    }

    /// The digest of a row; none if a value does not fit its type.
    fn digest(&mut self, row: &StoredRow<'_>) -> Option<u64> {
        self.encoding.clear();
        for &i in &self.comparison.dataset.digest_order {
            row.values[i].encode(&mut self.encoding);
        }
        row.foreign.is_empty().then(|| xxh3_64(&self.encoding))
    }

    fn are_too_many(&self) -> bool {
        self.lacking.len() + self.versions.len() >= SUSPECTS
    }

    fn go_on(&mut self) -> ControlFlow<()> {
        self.seen += 1;
        match self.are_too_many() {
            true => ControlFlow::Break(()),
            false => go_on(self.comparison, self.seen),
        }
    }
}

/// The first scan: the rows of the table.
struct TableRows<'k, 'a>(&'k mut Keys<'a>);

impl Visitor for TableRows<'_, '_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        self.0.wants(key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let event = &self.0.comparison.dataset.event;
        let digest = self.0.digest(&row);
        let hash = self.0.hash(&row.values[event.key]);
        // A row that cannot be in a series fits none of its rows, so it is looked at again.
        let (time, digest) = match (&row.values[event.time], digest) {
            (Value::Timestamp(time), Some(digest)) => (*time, digest),
            _ => (i64::MIN, 0),
        };
        let newest = Newest {
            time,
            digest,
            is_in_series: false,
        };
        self.0.newest.insert(hash, newest);
        self.0.go_on()
    }
}

/// The second scan: the rows of the series.
struct SeriesRows<'k, 'a>(&'k mut Keys<'a>);

impl Visitor for SeriesRows<'_, '_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        self.0.wants(key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let keys = &mut *self.0;
        keys.rows += 1;
        let place = match Place::stored(&keys.comparison.dataset, row.values) {
            Ok(place) => place,
            Err(e) => {
                keys.failed = Err(e);
                return ControlFlow::Break(());
            }
        };
        let is_placed = place.is_right(keys.series);
        let digest = keys.digest(&row);
        let hash = keys.hash(&place.key);
        let fits = match keys.newest.get_mut(&hash) {
            Some(newest) if is_placed && place.time == newest.time => {
                // If its values differ, it is a suspect itself.
                newest.is_in_series = true;
                digest == Some(newest.digest)
            }
            Some(newest) => is_placed && place.time < newest.time,
            None => false,
        };
        if !fits {
            keys.versions.push(place);
        }
        keys.go_on()
    }
}

/// A third scan, if the series lacks rows: the keys of these.
struct Lacking<'k, 'a>(&'k mut Keys<'a>);

impl Visitor for Lacking<'_, '_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        let hash = self.0.hash(key);
        let newest = self.0.newest.get(&hash);
        newest.is_some_and(|newest| !newest.is_in_series)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let key = &row.values[self.0.comparison.dataset.event.key];
        self.0.lacking.push(key.owned());
        self.0.go_on()
    }
}

#[cfg(test)]
mod tests;
