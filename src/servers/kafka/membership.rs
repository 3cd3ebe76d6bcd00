//! What a consumer group decides for a member: collected as it arrives, applied by the member.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;

use crate::servers::kafka::Health;

/// A change to the partitions that a member reads, waiting to be applied.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Given(Vec<i32>),
    Taken(Vec<i32>),
}

/// Collects what the group decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    pub(super) health: Health,
    changes: Arc<Mutex<Changes>>,
}

#[derive(Debug, Default)]
struct Changes {
    waiting: Vec<Change>,
    /// Nobody is left to apply changes.
    is_leaving: bool,
}

impl Membership {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a change until it is applied.
    pub(super) fn push(&self, change: Change) {
        self.changes().waiting.push(change);
    }

    /// The oldest change that is not applied yet.
    pub(super) fn first(&self) -> Option<Change> {
        self.changes().waiting.first().cloned()
    }

    /// Marks the oldest change as applied.
    pub(super) fn done(&self) {
        self.changes().waiting.remove(0);
    }

    /// From now on, changes are answered but not applied. Returns whether one that takes partitions away waits for
    /// its answer.
    pub(super) fn leave(&self) -> bool {
        let mut changes = self.changes();
        changes.is_leaving = true;
        let unanswered = std::mem::take(&mut changes.waiting);
        unanswered.iter().any(|c| matches!(c, Change::Taken(_)))
    }
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.error(error, reason);
    }
}

/// The callbacks after a membership has ended, when the client handles its own events.
impl ConsumerContext for Membership {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let numbers = || {
            partitions
                .elements()
                .iter()
                .map(|e| e.partition())
                .collect()
        };
        let is_given = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        match (self.changes().is_leaving, is_given) {
            (true, true) => {}
            // The client waits for this answer, whatever its result; there is nobody to report an error to.
            (true, false) => drop(unassign(consumer, partitions)),
            (false, true) => self.push(Change::Given(numbers())),
            (false, false) => self.push(Change::Taken(numbers())),
        }
    }
}

/// Reads these partitions, from these offsets on.
pub(super) fn assign(
    client: &BaseConsumer<Membership>,
    partitions: &TopicPartitionList,
) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_assign(partitions),
        _ => client.assign(partitions),
    }
}

/// Gives up these partitions.
pub(super) fn unassign(
    client: &BaseConsumer<Membership>,
    partitions: &TopicPartitionList,
) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(partitions),
        _ => client.unassign(),
    }
}
