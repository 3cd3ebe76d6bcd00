//! What keeps a member from reading although the brokers answer: the client reports it in place of events, tries again by
//! itself, and does not say when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::servers::kafka::queue::Failure;

/// The client repeats what concerns a partition at each attempt, every 500 ms by default; what it has not repeated for
/// this long is over.
const OVER_AFTER: Duration = Duration::from_secs(2);

/// What was reported last, by partition; none is the group as a whole.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Option<i32>, (Instant, Failure)>);

impl Troubles {
    /// Keeps what was reported.
    pub(super) fn add(&mut self, failure: Failure) {
        let about = failure.place.map(|(partition, _)| partition);
        self.0.insert(about, (Instant::now(), failure));
    }

    /// The group has assigned partitions, or taken them away: this member belongs to it.
    pub(super) fn group_is_well(&mut self) {
        self.0.remove(&None);
    }

    /// Something of a partition was read, or it is no longer ours to read.
    pub(super) fn partition_is_well(&mut self, partition: i32) {
        self.0.remove(&Some(partition));
    }

    /// What lasts; that of the group first, because it explains the others.
    pub(super) fn first(&mut self) -> Option<&Failure> {
        self.0
            .retain(|about, (at, _)| about.is_none() || at.elapsed() < OVER_AFTER);
        self.0.values().map(|(_, failure)| failure).next()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn failure(place: Option<(i32, i64)>) -> Failure {
        Failure {
            code: Code::Unknown,
            reason: "as planned".into(),
            place,
        }
    }

    #[test]
    fn troubles_last_until_there_is_a_sign_that_they_are_over() {
        let mut troubles = Troubles::default();
        assert!(troubles.first().is_none());
        for place in [Some((1, 7)), None, Some((2, 9))] {
            troubles.add(failure(place));
        }
        assert_eq!(troubles.first().unwrap().place, None);
        troubles.group_is_well();
        assert_eq!(troubles.first().unwrap().place, Some((1, 7)));
        troubles.partition_is_well(1);
        troubles.partition_is_well(3);
        assert_eq!(troubles.first().unwrap().place, Some((2, 9)));
    }

    #[test]
    fn what_is_not_repeated_is_over_except_for_the_group() {
        let before = Instant::now().checked_sub(OVER_AFTER).unwrap();
        let mut troubles = Troubles::default();
        troubles.0.insert(Some(1), (before, failure(Some((1, 7)))));
        assert!(troubles.first().is_none());
        troubles.0.insert(None, (before, failure(None)));
        assert!(troubles.first().is_some());
    }
}
