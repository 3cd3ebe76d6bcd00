//! What keeps a member from reading although the brokers answer: the client reports it in place of events, tries again by
//! itself, and does not say when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::servers::kafka::queue::Failure;

/// What this member has not heard again for this long is over: the client repeats what concerns a partition at each
/// attempt, every 500 ms by default.
const OVER_AFTER: Duration = Duration::from_secs(2);

/// How the client begins what it says if the group does not admit this member. It does not say when the group does.
const NOT_ADMITTED: [&str; 2] = ["JoinGroup failed", "FindCoordinator response error"];

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Coordinator,
    Group,
    Partition(i32),
    Client,
}

impl About {
    fn of(failure: &Failure) -> About {
        let is_left_out = |said: &&str| failure.reason.starts_with(*said);
        match failure.place {
            Some((partition, _)) => About::Partition(partition),
            None if NOT_ADMITTED.iter().any(is_left_out) => About::Group,
            None => About::Client,
        }
    }
}

/// What was reported last, and when; without a time it lasts until there is a sign.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<About, (Option<Instant>, Failure)>);

impl Troubles {
    /// Keeps what was reported.
    pub(super) fn add(&mut self, failure: Failure) {
        let about = About::of(&failure);
        // What lasts until there is a sign still does, whatever the client says of it meanwhile.
        let lasts = about == About::Group || matches!(self.0.get(&about), Some((None, _)));
        self.0.insert(about, ((!lasts).then(Instant::now), failure));
    }

    /// Keeps that a partition is silent, and why, until it is not.
    pub(super) fn add_silent(&mut self, partition: i32, position: i64, reason: String) {
        let failure = Failure {
            code: Code::TimedOutQueue,
            reason,
            place: Some((partition, position)),
        };
        self.0.insert(About::Partition(partition), (None, failure));
    }

    /// Keeps that the group has no coordinator that answers, until one does.
    pub(super) fn add_no_coordinator(&mut self, error: &KafkaError) {
        let failure = Failure {
            code: Code::CoordinatorNotAvailable,
            reason: format!("the group's coordinator does not answer: {error}"),
            place: None,
        };
        self.0.insert(About::Coordinator, (None, failure));
    }

    /// The group's coordinator has answered. Whether the group admits this member is another question.
    pub(super) fn coordinator_is_well(&mut self) {
        self.0.remove(&About::Coordinator);
    }

    /// The group has assigned partitions, or accepted a commit: this member belongs to it.
    pub(super) fn group_is_well(&mut self) {
        self.0.remove(&About::Group);
        self.coordinator_is_well();
    }

    /// Something of a partition was read, or it is no longer ours to read.
    pub(super) fn partition_is_well(&mut self, partition: i32) {
        self.0.remove(&About::Partition(partition));
    }

    /// What lasts; that of the group first, because it explains the others. That of a partition names all that are in
    /// trouble.
    pub(super) fn first(&mut self) -> Option<Failure> {
        self.0
            .retain(|_, (at, _)| at.is_none_or(|at| at.elapsed() < OVER_AFTER));
        let (about, (_, failure)) = self.0.first_key_value()?;
        let mut failure = failure.clone();
        if matches!(about, About::Partition(_)) {
            let others = self.0.keys().skip(1).filter_map(|about| match about {
                About::Partition(partition) => Some(partition.to_string()),
                _ => None,
            });
            let others: Vec<String> = others.collect();
            let these = match others.len() {
                0 => return Some(failure),
                1 => "partition",
                _ => "partitions",
            };
            let also = format!("; {these} {} cannot be read either", others.join(", "));
            failure.reason.push_str(&also);
        }
        Some(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(place: Option<(i32, i64)>, reason: &str) -> Failure {
        Failure {
            code: Code::Unknown,
            reason: reason.into(),
            place,
        }
    }

    fn left_out() -> Failure {
        failure(None, "JoinGroup failed: as planned")
    }

    fn at(partition: i32) -> Failure {
        failure(Some((partition, 7)), "Fetch from broker 1 failed")
    }

    #[test]
    fn troubles_last_until_there_is_a_sign_that_they_are_over() {
        let mut troubles = Troubles::default();
        assert!(troubles.first().is_none());
        for failure in [at(1), left_out(), at(2)] {
            troubles.add(failure);
        }
        assert_eq!(troubles.first().unwrap().place, None);
        troubles.group_is_well();
        assert_eq!(troubles.first().unwrap().place, Some((1, 7)));
        troubles.partition_is_well(1);
        troubles.partition_is_well(3);
        assert_eq!(troubles.first().unwrap().place, Some((2, 7)));
    }

    #[test]
    fn what_is_not_repeated_is_over_except_that_the_group_does_not_admit_the_member() {
        let before = Instant::now().checked_sub(OVER_AFTER).unwrap();
        let mut troubles = Troubles::default();
        for failure in [at(1), failure(None, "1 request(s) timed out")] {
            let about = About::of(&failure);
            troubles.0.insert(about, (Some(before), failure));
            assert!(troubles.first().is_none());
        }
        troubles.add(left_out());
        troubles.add_silent(1, 7, "no leader".into());
        troubles.add(failure(Some((1, 7)), "still no leader"));
        assert!(troubles.0.values().all(|(at, _)| at.is_none()));
        troubles.group_is_well();
        assert_eq!(troubles.first().unwrap().reason, "still no leader");
    }

    #[test]
    fn all_partitions_in_trouble_are_named_and_a_group_without_coordinator_comes_first() {
        let mut troubles = Troubles::default();
        for (partition, also) in [
            (0, ""),
            (3, "; partition 3 cannot be read either"),
            (12, "; partitions 3, 12 cannot be read either"),
        ] {
            troubles.add_silent(partition, 7, "no leader".into());
            let told = troubles.first().unwrap();
            assert_eq!(told.place, Some((0, 7)));
            assert_eq!(told.reason, format!("no leader{also}"));
        }
        troubles.add(left_out());
        assert_eq!(troubles.first().unwrap().reason, left_out().reason);
        troubles.add_no_coordinator(&KafkaError::AdminOp(Code::OperationTimedOut));
        let told = troubles.first().unwrap();
        assert_eq!(told.code, Code::CoordinatorNotAvailable);
        troubles.coordinator_is_well();
        assert_eq!(troubles.first().unwrap().reason, left_out().reason);
        troubles.group_is_well();
        troubles.partition_is_well(0);
        let told = troubles.first().unwrap();
        assert_eq!(
            (told.place, told.reason.as_str()),
            (
                Some((3, 7)),
                "no leader; partition 12 cannot be read either"
            )
        );
    }
}
