//! Whether the group's offsets that the real-time store keeps still mean the same events in the log.

use std::time::Instant;

use super::checks::within;
use super::{Check, Watched};
use crate::error::{Error, Result};
use crate::ports::monitor::{Lag, OutOfRange, Stored, Why};

/// What to do about a log that is not the one that was read.
const OTHER_LOG: &str = "the log was deleted, restored or replaced; use a new --group";

/// What to do about events that were deleted.
const RETENTION: &str = "the topic's retention has deleted them (retention.ms, or retention.bytes) and should be raised, or somebody has; a new --group continues with the oldest event that is left";

/// Judges whose offsets the real-time store keeps: a stream continues there, and not where the log says that the group
/// is, so they must be those of this topic.
pub(super) fn judge_topic(
    check: Check,
    group: &str,
    stored: Option<&Stored>,
    lag: Option<&Lag>,
) -> Check {
    let stored = stored.and_then(|stored| stored.topic.as_deref());
    let known = lag.and_then(|lag| lag.topic.as_deref());
    match (stored, known) {
        (Some(stored), Some(known)) if stored != known => {
            let missing = Error::missing(format!(
                "group {group} cannot continue in this store: its offsets belong to `{stored}`, but this log's topic is `{known}`"
            ));
            check.failed(&missing.hint(OTHER_LOG))
        }
        _ => check,
    }
}

/// Judges whether the topic still has the events that the store's offsets stand for. The log's own offsets do not show
/// it, because they are restored together with the log.
pub(super) async fn judge_offsets(watched: &Watched, check: Check, stored: Stored) -> Check {
    let target = watched.clone();
    let found = within(watched.timeout, &watched.event_log, move |times| {
        let (target, stored) = (target.clone(), stored.clone());
        async move { out_of_range(&target, &stored, times.until).await }
    });
    let group = &watched.group;
    match found.await {
        Ok(found) if found.is_empty() => check,
        Ok(found) => {
            let places = places(&found);
            let missing = format!("group {group} cannot continue in this store: {places}");
            check.failed(&Error::missing(missing).hint(way_out(&found)))
        }
        Err(e) => {
            let doing =
                format!("cannot compare the offsets of group {group} in this store with the log");
            check.failed(&e.context(doing))
        }
    }
}

async fn out_of_range(
    watched: &Watched,
    stored: &Stored,
    until: Instant,
) -> Result<Vec<OutOfRange>> {
    let topic = &watched.dataset.event.topic;
    let mut log = watched.event_log.monitor(topic, until).await?;
    let mut found = log.out_of_range(&stored.offsets).await?;
    if !found.is_empty() {
        // Events that a group has just stored may expire at once.
        let mut store = watched.realtime_store.monitor(&watched.dataset).await?;
        let now = store.stored(&watched.group).await?.unwrap_or_default();
        found.retain(|found| now.offsets.get(found.partition) == Some(found.offset));
    }
    Ok(found)
}

/// The reasons, for people.
pub(super) fn places(found: &[OutOfRange]) -> String {
    let places: Vec<String> = found.iter().map(ToString::to_string).collect();
    places.join("; ")
}

/// What to do about them.
pub(super) fn way_out(found: &[OutOfRange]) -> &'static str {
    let is_deleted = |found: &OutOfRange| matches!(found.why, Why::Deleted { .. });
    match found.iter().all(is_deleted) {
        true => RETENTION,
        false => OTHER_LOG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::heartbeat::Status;

    #[test]
    fn offsets_in_a_store_must_be_those_of_this_topic() {
        let lag = Lag {
            topic: Some("this".into()),
            ..Lag::default()
        };
        let unknown = Lag::default();
        let judge = |topic: Option<&str>, lag| {
            let blank = Check::blank("realtime-store", &"sqlite:x.db");
            let stored = Stored {
                topic: topic.map(Into::into),
                ..Stored::default()
            };
            judge_topic(blank, "rtp", Some(&stored), lag)
        };
        for (stored, lag) in [
            (Some("this"), Some(&lag)),
            (None, Some(&lag)),
            (Some("that"), None), // the log's own check says why it is unknown
            (Some("that"), Some(&unknown)),
        ] {
            assert_eq!(judge(stored, lag).status, Status::Ok, "{stored:?} {lag:?}");
        }
        let check = judge(Some("that"), Some(&lag));
        assert_eq!(
            (check.status, check.failed),
            (Status::Failed, Some(Kind::Missing))
        );
        let detail = check.detail.unwrap_or_default();
        assert!(detail.contains("belong to `that`"), "{detail}");
    }
}
