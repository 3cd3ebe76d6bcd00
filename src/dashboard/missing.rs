//! The words for data that the stream cannot read any more.

use super::log_eye::LogSeen;
use super::words::number;
use crate::ports::monitor::{OutOfRange, Why};

/// Partitions that the sentence names.
const NAMED: usize = 3;

/// A log that is not the one that the stream has read.
const OTHER_LOG: &str = "the log was deleted, restored or replaced since the stream read it, so the stream cannot continue";

/// What the group cannot read any more.
pub(super) fn missing(log: &LogSeen) -> Option<String> {
    let [mut deleted, mut others] = [Vec::new(), Vec::new()];
    let mut events = 0;
    for OutOfRange {
        partition,
        offset,
        why,
    } in &log.missing()
    {
        match why {
            Why::Deleted { low } => {
                events += low.saturating_sub(*offset).unsigned_abs();
                deleted.push(format!("partition {partition}, offsets {offset} to {}", low - 1));
            }
            Why::Beyond { end } => others.push(format!(
                "the stream has read up to offset {offset} of partition {partition}, but the topic ends at {end}"
            )),
            Why::OtherEvents => others.push(format!(
                "partition {partition} has other events than those that the stream has read"
            )),
        }
    }
    if log.other_topic.is_some() {
        others.push(OTHER_LOG.into());
    }
    let mut says = Vec::new();
    if !deleted.is_empty() {
        let was = if events == 1 {
            "event was"
        } else {
            "events were"
        };
        says.push(format!(
            "{} {was} deleted from the log before the stream had read {} ({})",
            number(events),
            if events == 1 { "it" } else { "them" },
            shortened(deleted)
        ));
    }
    if !others.is_empty() {
        says.push(shortened(others));
    }
    (!says.is_empty()).then(|| format!("Data is missing: {}", says.join("; ")))
}

/// The first of them, and how many more there are.
fn shortened(mut texts: Vec<String>) -> String {
    let more = texts.len().saturating_sub(NAMED);
    texts.truncate(NAMED);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}
