//! What is known before rows are read: where the group and the loads had got to. A row that is not there afterwards,
//! although they were past it, is not on its way.

use std::time::Duration;

use tokio::time::timeout;

use super::Witnesses;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::ledger::LoadRecord;

/// How many loads are looked at; what was loaded by an earlier one is not known.
pub(super) const LOADS: u32 = 10_000;

/// How long each witness may take to answer. A difference without its evidence is unexplained, which is said.
const ANSWER: Duration = Duration::from_secs(20);

/// What the log and the batch store's ledger said before the rows were read; an error says why one of them is silent.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) log: Result<LogBase, String>,
    /// The last loads, the newest first.
    pub(super) loads: Result<Vec<LoadRecord>, String>,
}

/// Where the log and the group stood.
#[derive(Clone, Debug)]
pub(super) struct LogBase {
    /// Whether the group has committed anything. If not, the stream has another group.
    pub(super) has_committed: bool,
    /// Where the group continues: what it has committed, the oldest event in a partition without a commit.
    pub(super) committed: Offsets,
    /// Where the partitions begin and end.
    pub(super) bounds: Span,
    /// The first events that were produced after the last load had begun.
    pub(super) after_load: Offsets,
}

impl Base {
    /// Asks both.
    pub(super) async fn take(witnesses: Option<&Witnesses>, dataset: &Dataset) -> Base {
        let Some(witnesses) = witnesses else {
            let nobody = "nobody was asked".to_string();
            return Base {
                log: Err(nobody.clone()),
                loads: Err(nobody),
            };
        };
        let loads = in_time(async {
            let mut ledger = witnesses.batch_store.ledger(dataset).await?;
            ledger.loads(LOADS).await
        });
        let loads = loads.await;
        let begun = loads.as_ref().ok().and_then(|loads| loads.first());
        let begun = begun.map_or(i64::MAX, |load| load.info.started_at);
        let log = in_time(async {
            let mut log = witnesses.event_log.reader(&dataset.event.topic).await?;
            let mut committed = log.committed(&witnesses.group).await?;
            let bounds = log.bounds().await?;
            let has_committed = !committed.is_empty();
            committed.set_missing(&bounds.from);
            let after_load = match begun {
                i64::MAX => bounds.from.clone(),
                begun => log.at_time(begun).await?,
            };
            Ok(LogBase {
                has_committed,
                committed,
                bounds,
                after_load,
            })
        });
        Base {
            log: log.await,
            loads,
        }
    }

    /// The last load.
    pub(super) fn last_load(&self) -> Option<&LoadRecord> {
        self.loads.as_ref().ok()?.first()
    }

    /// The newest event time that was loaded, in milliseconds since 1970 UTC.
    pub(super) fn boundary(&self) -> Option<i64> {
        let loads = self.loads.as_ref().ok()?;
        loads.iter().filter_map(|load| load.info.newest).max()
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T>>) -> Result<T, String> {
    let answer = timeout(ANSWER, asked).await;
    let answer =
        answer.unwrap_or_else(|_| Err(Error::unavailable(format!("no answer within {ANSWER:?}"))));
    answer.map_err(|e| e.to_string())
}
