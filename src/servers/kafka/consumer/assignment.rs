//! Which partitions a member reads, and its positions in them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::KafkaConsumer;
use crate::error::Result;
use crate::ports::event_log::{Epoch, Offsets, Span};
use crate::servers::kafka::REQUEST_TIMEOUT;
use crate::servers::kafka::membership::{self, Change};

/// Pause before the client is told again to go back.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a member may take to commit what it has polled of partitions that move to others.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A partition that this member reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    /// Offset of the next event.
    pub(super) position: i64,
    /// Whether the client reads elsewhere, and must go to the position before the next poll.
    pub(super) is_set_back: bool,
    /// Everything before this is committed; or this is where this member started because a store said so. A commit
    /// that starts further on would skip events.
    pub(super) done: i64,
    /// What the group has committed, as far as this member knows; the oldest event if it has committed nothing.
    pub(super) committed: i64,
    /// Set if it moves to another member: nothing more is read of it, and it is given up at this time at the latest.
    pub(super) leaves: Option<Instant>,
    /// When there was last an event or the end of it, or none was expected.
    pub(super) heard: Instant,
}

impl KafkaConsumer {
    /// Applies what the group has decided. After a failure, the next call tries again.
    pub(super) fn carry_out(&mut self) -> Result<()> {
        while let Some(change) = self.membership.first() {
            match change {
                Change::Given(partitions) => self.start(&partitions)?,
                Change::Taken(partitions) => self.stop(&partitions)?,
            }
            self.membership.done();
        }
        self.give_up_drained()
    }

    pub(super) fn start(&mut self, partitions: &[i32]) -> Result<()> {
        let committed = self.committed_of(partitions)?;
        let mut starts = BTreeMap::new();
        for (partition, committed) in committed {
            let (low, high) = self.watermarks(partition)?;
            let position = self.start_of(partition, committed, low);
            self.check_range(partition, position, low, high)?;
            let owned = Owned {
                position,
                is_set_back: false,
                done: position,
                committed: committed.unwrap_or(low),
                leaves: None,
                heard: Instant::now(),
            };
            starts.insert(partition, owned);
        }
        let list = self.list(starts.iter().map(|(p, owned)| (*p, owned.position)))?;
        self.driven("read", membership::assign(self.client()?, &list))?;
        self.owned.extend(starts);
        // A member that joins may first be given nothing.
        self.is_sought_new &= partitions.is_empty();
        Ok(())
    }

    /// Where to start in a partition: what the store said may be older than what other members have stored since, and the
    /// events between deleted. If that is wrong, the store refuses what comes next, and is asked again.
    fn start_of(&self, partition: i32, committed: Option<i64>, low: i64) -> i64 {
        let Some(sought) = &self.sought else {
            return committed.unwrap_or(low);
        };
        match (sought.get(partition).filter(|at| *at > 0), committed) {
            (None, _) => low,
            (Some(at), Some(committed)) if at < low && !self.is_sought_new => committed.max(at),
            (Some(at), _) => at,
        }
    }

    /// A store that keeps offsets has this span: a partition that comes back after a lost session continues there.
    pub(super) fn remember(&mut self, span: &Span) {
        let Some(sought) = &mut self.sought else {
            return;
        };
        let ends: Offsets = span.ranges().map(|(p, range)| (p, range.end)).collect();
        sought.raise_to(&ends);
    }

    /// These partitions move to other members, which get them once what was polled is committed.
    pub(super) fn stop(&mut self, partitions: &[i32]) -> Result<()> {
        let is_lost = self.client()?.assignment_lost();
        let leaves = Instant::now()
            + if is_lost {
                Duration::ZERO
            } else {
                DRAIN_TIMEOUT
            };
        for partition in partitions {
            if let Some(owned) = self.owned.get_mut(partition) {
                owned.leaves = Some(leaves);
            }
        }
        Ok(())
    }

    /// Gives up the partitions that move to other members, once nothing of them is in flight; all at once,
    /// because that is what the group waits for.
    pub(super) fn give_up_drained(&mut self) -> Result<()> {
        let leaving = || self.owned.iter().filter(|(_, o)| o.leaves.is_some());
        let now = Instant::now();
        let is_drained = leaving().all(|(_, owned)| {
            owned.position <= owned.done || owned.leaves.is_some_and(|at| at <= now)
        });
        if !is_drained || leaving().next().is_none() {
            return Ok(());
        }
        let list = self.list(leaving().map(|(p, owned)| (*p, owned.position)))?;
        let given_up = membership::unassign(self.client()?, &list);
        self.driven("give up partitions of", given_up)?;
        let troubles = &mut self.troubles;
        self.owned.retain(|partition, owned| {
            let stays = owned.leaves.is_none();
            if !stays {
                troubles.partition_is_well(*partition);
            }
            stays
        });
        Ok(())
    }

    /// Starts a new epoch at these positions: the client goes there before the next poll.
    pub(super) fn set_back(&mut self, position: impl Fn(i32, &Owned) -> i64) -> Epoch {
        for (partition, owned) in &mut self.owned {
            owned.position = position(*partition, owned);
            owned.is_set_back = true;
        }
        self.epoch = self.epoch.next();
        self.epoch
    }

    /// Moves the client to where it was reset to.
    pub(super) fn go_back(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.membership.health.patience();
        loop {
            let is_due = |o: &Owned| o.is_set_back && o.leaves.is_none();
            let due = self.owned.iter().filter(|(_, owned)| is_due(owned));
            let due: Vec<(i32, i64)> = due.map(|(p, owned)| (*p, owned.position)).collect();
            if due.is_empty() {
                return Ok(());
            }
            let sought = self
                .client()?
                .seek_partitions(self.list(due)?, REQUEST_TIMEOUT);
            let mut failed = sought.as_ref().err().cloned();
            for element in sought.iter().flat_map(|list| list.elements()) {
                match (element.error(), self.owned.get_mut(&element.partition())) {
                    (Err(e), _) => failed = Some(e),
                    (Ok(()), Some(owned)) => {
                        owned.is_set_back = false;
                        owned.heard = Instant::now();
                    }
                    (Ok(()), None) => {}
                }
            }
            match failed {
                None => {}
                Some(e) if Instant::now() > deadline => return self.driven("go back in", Err(e)),
                // A partition that was only just assigned to us cannot be moved yet.
                Some(_) => std::thread::sleep(RETRY_PAUSE),
            }
        }
    }

    pub(super) fn position(&self) -> Offsets {
        self.owned.iter().map(|(p, o)| (*p, o.position)).collect()
    }
}
