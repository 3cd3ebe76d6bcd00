//! The verdicts that the batch store keeps.

use super::format::{Format, history_json, history_table};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::batch_store::BatchStores;
use crate::ports::ledger::Verdict;
use crate::run::retry::Retry;
use crate::run::{Run, add};

/// How many verdicts a history shows.
const HISTORY: u32 = 50;

/// Keeps the verdict. That it could not be kept is told; it counts all the same.
pub async fn keep(store: &dyn BatchStores, dataset: &Dataset, verdict: &Verdict, run: &Run) {
    let kept = async {
        let mut ledger = store.ledger(dataset).await?;
        ledger.add_verdict(verdict).await
    };
    if let Err(e) = kept.await {
        run.warn(format!("the verdict was not kept for --history: {e}"));
    }
}

/// The newest event time that was loaded since the table was last replaced, in milliseconds since 1970 UTC, none if nothing
/// was; or why the store does not say, which is told.
pub async fn newest_loaded(
    store: &dyn BatchStores,
    dataset: &Dataset,
    run: &Run,
) -> Result<Option<i64>, String> {
    let newest = async { Ok(store.ledger(dataset).await?.newest().await?.in_table) };
    newest.await.map_err(|e: Error| {
        run.warn(format!("the newest loaded record is not known: {e}"));
        e.to_string()
    })
}

/// The last verdicts as text, and whether there are any.
pub async fn history(
    store: &dyn BatchStores,
    dataset: &Dataset,
    format: Option<Format>,
    retry: &Retry,
) -> Result<(Vec<u8>, bool)> {
    let read = async || store.ledger(dataset).await?.verdicts(HISTORY).await;
    let verdicts = retry.through_outage(read).await?;
    let mut text = Vec::new();
    let written = match format {
        Some(Format::Json) => history_json(&verdicts, &mut text),
        _ => history_table(&verdicts, &mut text),
    };
    written.map_err(Error::internal)?;
    let counts = &retry.run.counts;
    add(&counts.read, verdicts.len() as u64);
    add(&counts.written, verdicts.len() as u64);
    if verdicts.is_empty() {
        let dataset = &dataset.name;
        let run = &retry.run;
        run.warn(format!("no verdict on {dataset} has been kept yet"));
    }
    Ok((text, !verdicts.is_empty()))
}
