//! What the dashboard sees of both stores. Rows are counted up to a bound, and estimated beyond it.

use std::sync::Arc;

use super::Sources;
use super::profiles::{ProfileEye, Profiles};
use crate::error::Result;
use crate::ports::aggregates::Aggregates;
use crate::ports::ledger::{Ledger, LoadRecord, Verdict};
use crate::ports::monitor::{RowCount, StoreMonitor};

/// Loads and verdicts that are shown.
pub(super) const MOST: u32 = 200;

/// The real-time store, as the last look found it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RealtimeSeen {
    pub(crate) rows: Option<RowCount>,
    /// When rows were last committed, in milliseconds since 1970 UTC.
    pub(crate) last_write: Option<i64>,
    pub(crate) remark: Option<String>,
}

/// The batch store, as the last look found it.
#[derive(Clone, Debug, Default)]
pub(crate) struct BatchSeen {
    /// When it was looked at, in milliseconds since 1970 UTC.
    pub(crate) at: i64,
    pub(crate) rows: Option<RowCount>,
    pub(crate) last_write: Option<i64>,
    pub(crate) remark: Option<String>,
    /// The event time of the newest record that was loaded since the table was last replaced, in milliseconds since 1970
    /// UTC.
    pub(crate) newest_loaded: Option<i64>,
    /// The newest first.
    pub(crate) loads: Vec<LoadRecord>,
    /// The newest first.
    pub(crate) verdicts: Vec<Verdict>,
    /// The figures of the last day that has some.
    pub(crate) profiles: Option<Arc<Profiles>>,
}

impl BatchSeen {
    /// The time after which all loads are known; none if all of them are.
    pub(crate) fn loads_known_after(&self) -> Option<i64> {
        let is_full = self.loads.len() >= MOST as usize;
        let oldest = self.loads.iter().rev().map(|load| load.loaded_at);
        // A record that somebody has damaged may have any time.
        let oldest = oldest.filter(|at| *at > 0).min();
        oldest.filter(|_| is_full)
    }
}

/// Looks at the real-time store.
pub(crate) struct RealtimeEye(Box<dyn StoreMonitor>);

impl RealtimeEye {
    pub(crate) async fn open(sources: &Sources) -> Result<Self> {
        let monitor = sources.realtime.monitor(&sources.dataset).await?;
        Ok(RealtimeEye(monitor))
    }

    pub(crate) async fn look(&mut self) -> Result<RealtimeSeen> {
        Ok(RealtimeSeen {
            rows: self.0.rows().await?,
            last_write: self.0.last_write().await?,
            remark: self.0.remark().await?,
        })
    }
}

/// Looks at the batch store.
pub(crate) struct BatchEye {
    monitor: Box<dyn StoreMonitor>,
    ledger: Box<dyn Ledger>,
    figures: Box<dyn Aggregates>,
}

impl BatchEye {
    pub(crate) async fn open(sources: &Sources) -> Result<Self> {
        Ok(BatchEye {
            figures: sources.batch.aggregates(&sources.dataset).await?,
            monitor: sources.batch.monitor(&sources.dataset).await?,
            ledger: sources.batch.ledger(&sources.dataset).await?,
        })
    }

    /// Looks once; `profiles` outlives this connection.
    pub(crate) async fn look(
        &mut self,
        sources: &Sources,
        profiles: &mut ProfileEye,
    ) -> Result<BatchSeen> {
        Ok(BatchSeen {
            at: crate::time::now_ms(),
            rows: self.monitor.rows().await?,
            last_write: self.monitor.last_write().await?,
            remark: self.monitor.remark().await?,
            newest_loaded: self.ledger.newest().await?.in_table,
            loads: self.ledger.loads(MOST).await?,
            verdicts: self.ledger.verdicts(MOST).await?,
            profiles: profiles.look(&mut *self.figures, &sources.dataset).await?,
        })
    }
}
