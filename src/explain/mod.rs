//! What became of one record, from what the log, the stores and the files already keep. Nothing is written.

mod key;
mod landing;
mod log;
mod model;
mod outcome;
mod reason;
mod rejects;
mod stored;
mod table;

use std::path::PathBuf;

pub use self::key::Key;
pub use self::model::{
    Cell, DayVersion, Difference, Explained, InLog, Landed, LastVerdict, LeftOut, Letter, Outcome,
    Part, Partition, Place, PossibleLoad, Rejected, Row, State, Time, Trouble, Version,
};
pub use self::table::table;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::loaded::{is_unknown, newest_in};
use crate::ports::batch_store::BatchStores;
use crate::ports::event_log::EventLog;
use crate::ports::ledger::LoadRecord;
use crate::ports::realtime_store::RealtimeStores;
use crate::run::Stop;

/// How many lines of landing files are listed. More of them count for the answer: that a version was loaded must not be
/// overlooked.
const MOST: usize = 100;

/// What is asked, and who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// The key.
    pub key: &'a Key,
    /// The consumer group that feeds the real-time store.
    pub group: &'a str,
    /// The event log.
    pub log: &'a dyn EventLog,
    /// The real-time store.
    pub realtime: &'a dyn RealtimeStores,
    /// The batch store.
    pub batch: &'a dyn BatchStores,
    /// Landing files besides those of the loads.
    pub landing: &'a [PathBuf],
    /// Ends a long search early; the answer is incomplete then.
    pub stop: &'a Stop,
}

/// Asks everybody, without waiting for one that is down: what could not be found out is part of the answer.
pub async fn explain(asked: &Asked<'_>) -> Explained {
    let mut troubles = Vec::new();
    let stand = log::stand(asked).await;
    let (realtime, batch, history, ledger) = tokio::join!(
        stored::realtime(asked),
        stored::batch(asked),
        stored::history(asked),
        stored::ledger(asked)
    );
    let realtime = known(realtime, Part::Realtime, &mut troubles);
    let batch = known(batch, Part::Batch, &mut troubles);
    let history = known(history, Part::History, &mut troubles);
    let kept: stored::Kept = known(ledger, Part::Ledger, &mut troubles);
    let origin = realtime.as_ref().and_then(|row| row.origin);
    let versions = match stand {
        Ok(stand) => log::versions(asked, stand, origin).await.map(Some),
        Err(e) => Err(e),
    };
    let in_log = known(versions, Part::Log, &mut troubles);
    let dead_letters = log::dead_letters(asked, in_log.as_ref()).await;
    let (dead_letters, old_letters) = known(dead_letters, Part::DeadLetters, &mut troubles);
    let search = || in_files(asked, &kept.loads, &mut troubles);
    let (landing, rejects, left_out) = tokio::task::block_in_place(search);
    let loads = batch.as_ref();
    let loads = loads.map(|row| stored::possible_loads(row, &kept.loads, &landing));
    let unknown_loads = unknown_loads(&kept.loads);
    let (newest, cut) = (kept.newest, kept.cut());
    let both = realtime.as_ref().zip(batch.as_ref());
    let differences = both.map(|(a, b)| stored::differences(asked.dataset, a, b));
    let mut found = Explained {
        dataset: asked.dataset.name.clone(),
        key: asked.key.value.clone(),
        outcome: Outcome {
            state: State::Unknown,
            text: String::new(),
        },
        differences: differences.unwrap_or_default(),
        realtime,
        batch,
        history,
        loads: loads.unwrap_or_default(),
        log: in_log,
        dead_letters,
        landing,
        rejects,
        left_out: LeftOut {
            dead_letters: old_letters,
            ..left_out
        },
        verdict: kept.verdict,
        troubles,
        unknown_loads,
    };
    found.outcome = outcome::outcome(&found, newest);
    // Whatever was found is an answer without the files of earlier loads; that nothing has it is none.
    if let Some(cut) = cut.filter(|_| found.outcome.state == State::Unknown) {
        let parts = [Part::Landing, Part::Rejects];
        let troubles = parts.map(|part| Trouble::new(part, &cut));
        found.troubles.extend(troubles);
        found.outcome = outcome::outcome(&found, newest);
    }
    leave_out(&mut found);
    found
}

/// What the landing and reject files have, and how much is left out of that. Blocks.
fn in_files(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> (Vec<Landed>, Vec<Rejected>, LeftOut) {
    let (landing, more_lines) = landing::search(asked, loads, troubles);
    let (rejects, more_rejects) = rejects::rejects(asked, loads, troubles);
    let left_out = LeftOut {
        landing: more_lines,
        rejects: more_rejects,
        ..LeftOut::default()
    };
    (landing, rejects, left_out)
}

/// The loads of which not all that they read can be read again, and how new their records can be.
fn unknown_loads(loads: &[LoadRecord]) -> Vec<(usize, Time)> {
    let unknown = loads
        .iter()
        .enumerate()
        .filter(|(_, load)| is_unknown(load));
    let unknown = unknown.filter_map(|(at, load)| Some((at, Time(newest_in(load)?))));
    unknown.collect()
}

/// Leaves out the lines of landing files that are too many to be listed.
fn leave_out(found: &mut Explained) {
    let many = found.landing.len().saturating_sub(MOST);
    found.landing.drain(..many);
    found.left_out.landing += many as u64;
}

/// The result, or nothing and the trouble.
fn known<T: Default>(result: Result<T>, part: Part, troubles: &mut Vec<Trouble>) -> T {
    match result {
        Ok(known) => known,
        Err(error) => {
            troubles.push(Trouble::new(part, &error));
            T::default()
        }
    }
}
