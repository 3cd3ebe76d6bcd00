//! What the dashboard sees of both stores. Rows are counted up to a bound, and estimated beyond it.

use super::Sources;
use super::profiles::Profiles;
use crate::error::Result;
use crate::ports::aggregates::Aggregates;
use crate::ports::ledger::{Ledger, LoadRecord, Verdict};
use crate::ports::monitor::{RowCount, StoreMonitor};

/// Loads and verdicts that are shown.
const MOST: u32 = 200;

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
    pub(crate) rows: Option<RowCount>,
    pub(crate) last_write: Option<i64>,
    pub(crate) remark: Option<String>,
    /// The newest first.
    pub(crate) loads: Vec<LoadRecord>,
    /// The newest first.
    pub(crate) verdicts: Vec<Verdict>,
    /// The figures of the last day that has some.
    pub(crate) profiles: Option<Profiles>,
}

impl BatchSeen {
    /// The event time of the newest record of the last load that had any.
    pub(crate) fn boundary(&self) -> Option<i64> {
        self.loads.iter().find_map(|load| load.info.newest)
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

    pub(crate) async fn look(&mut self, sources: &Sources) -> Result<BatchSeen> {
        Ok(BatchSeen {
            rows: self.monitor.rows().await?,
            last_write: self.monitor.last_write().await?,
            remark: self.monitor.remark().await?,
            loads: self.ledger.loads(MOST).await?,
            verdicts: self.ledger.verdicts(MOST).await?,
            profiles: Profiles::read(&mut *self.figures, &sources.dataset).await?,
        })
    }
}
