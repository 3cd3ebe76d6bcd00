//! The verdicts that the batch store keeps.

use super::format::{Format, history_json, history_table};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::batch_store::BatchStores;
use crate::ports::ledger::{LoadRecord, Verdict};
use crate::run::retry::Retry;
use crate::run::{Run, add};

/// How many verdicts a history shows.
const HISTORY: u32 = 50;

/// How many loads are asked for the newest event time that was loaded.
const LOADS: u32 = 100;

/// Keeps the verdict, and returns the last loads. That it could not be kept is told; the verdict counts all the same.
pub async fn keep(
    store: &dyn BatchStores,
    dataset: &Dataset,
    verdict: &Verdict,
    run: &Run,
) -> Vec<LoadRecord> {
    let kept = async {
        let mut ledger = store.ledger(dataset).await?;
        ledger.add_verdict(verdict).await?;
        ledger.loads(LOADS).await
    };
    kept.await.unwrap_or_else(|e| {
        run.warn(format!("the verdict was not kept for --history: {e}"));
        Vec::new()
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
