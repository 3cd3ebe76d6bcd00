//! The merged view of both layers: never an older row than either of them holds.
//!
//! The layers offer keys (each of them all of its own; or, where that would cost too much, the real-time store those of
//! rows after a boundary), which are walked in one order: `walk` says why. For each key both stores are read, and the
//! newer row by (event time, canonical digest) is shown, as everywhere in rtp. Each read of a store is of one committed
//! state.

pub mod cursor;
pub mod merge;
pub mod query;
mod walk;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::batch_store::BatchStores;
use crate::ports::ledger::{Ledger, Verdict};
use crate::ports::realtime_store::RealtimeStores;
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::record::value::Value;

use self::merge::{Merged, Version, newest};
pub use self::query::{Boundary, Query};
pub use self::walk::Walk;

/// Both layers, open for reading.
pub struct View {
    dataset: Arc<Dataset>,
    realtime: Box<dyn TableReader>,
    batch: Box<dyn TableReader>,
    ledger: Box<dyn Ledger>,
}

impl View {
    /// Opens both stores' tables, and rtp's own records about its loads.
    pub async fn open(
        dataset: &Arc<Dataset>,
        realtime: &dyn RealtimeStores,
        batch: &dyn BatchStores,
    ) -> Result<View> {
        Ok(View {
            realtime: realtime.table(dataset).await?,
            batch: batch.table(dataset).await?,
            ledger: batch.ledger(dataset).await?,
            dataset: Arc::clone(dataset),
        })
    }

    /// The event time of the newest record that was loaded since the table was last replaced, in milliseconds since 1970
    /// UTC. None without one.
    pub async fn newest_loaded(&mut self) -> Result<Option<i64>> {
        Ok(self.ledger.newest().await?.in_table)
    }

    /// The boundary of a listing: the one asked for; or else none, unless that would cost a scan of the real-time store
    /// for each of many pages. `is_whole` says that the listing is read to its end.
    pub async fn boundary(&mut self, asked: Boundary, is_whole: bool) -> Result<Option<i64>> {
        match asked {
            Boundary::At(time) => Ok(Some(time)),
            Boundary::Without => Ok(None),
            Boundary::Unasked if is_whole || self.realtime.has_key_order() => Ok(None),
            Boundary::Unasked => self.newest_loaded().await,
        }
    }

    /// The table by which a real-time store without an order of keys finds new rows.
    fn finds_by(&self) -> Option<&str> {
        let series = self.dataset.realtime.series.first();
        series
            .filter(|_| !self.realtime.has_key_order())
            .map(|series| &*series.table)
    }

    /// The last verdict of `verify`.
    pub async fn verdict(&mut self) -> Result<Option<Verdict>> {
        Ok(self.ledger.verdicts(1).await?.into_iter().next())
    }

    /// The newest row of a key, from whichever layer has it.
    pub async fn row(&mut self, key: &Value<'static>) -> Result<Option<Merged>> {
        Ok(self.rows(std::slice::from_ref(key)).await?.pop())
    }

    /// The newest rows of these keys, in their order; a key that no layer has any more has none.
    async fn rows(&mut self, keys: &[Value<'static>]) -> Result<Vec<Merged>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let as_of = crate::time::now_ms();
        let (mut realtime, mut batch) =
            (Versions::new(&self.dataset), Versions::new(&self.dataset));
        let (read, also_read) = tokio::join!(
            self.realtime.read(keys, &mut realtime),
            self.batch.read(keys, &mut batch)
        );
        read?;
        also_read?;
        let (mut realtime, mut batch) = (realtime.by_key(keys)?, batch.by_key(keys)?);
        let both = realtime.iter_mut().zip(&mut batch);
        let merged = both.filter_map(|(r, b)| newest(r.take(), b.take(), as_of));
        Ok(merged.collect())
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// The rows that a layer has.
struct Versions<'d> {
    dataset: &'d Dataset,
    rows: Vec<Version>,
}

impl<'d> Versions<'d> {
    fn new(dataset: &'d Dataset) -> Self {
        Versions {
            dataset,
            rows: Vec::new(),
        }
    }

    /// The newest row of each of these keys, which are sorted.
    fn by_key(self, keys: &[Value<'static>]) -> Result<Vec<Option<Version>>> {
        let key = self.dataset.event.key;
        let mut found: Vec<Option<Version>> = Vec::new();
        found.resize_with(keys.len(), || None);
        for row in self.rows {
            let at = keys
                .binary_search_by(|k| crate::record::row::compare_keys(k, &row.values[key]))
                .map_err(|_| Error::refused("a store has answered with a row of another key"))?;
            let is_newer = |there: &Version| there.version() < row.version();
            if found[at].as_ref().is_none_or(is_newer) {
                found[at] = Some(row);
            }
        }
        Ok(found)
    }
}

impl Visitor for Versions<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.rows.push(Version::of(self.dataset, row));
        ControlFlow::Continue(())
    }
}
