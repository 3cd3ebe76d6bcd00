//! What should say something and does not, without an error of the client: a partition that has no leader, or of which each
//! answer is larger than the client accepts, so that it disconnects and asks again; and a group without a coordinator,
//! which the client looks for forever.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};

use super::KafkaConsumer;
use super::assignment::Owned;
use crate::error::{Context, Result};
use crate::servers::kafka::membership::Membership;
use crate::servers::kafka::{self, SHORT_TIMEOUT};

/// After this long without an event, the end or an error of a partition, its leader is asked; and the group's coordinator
/// after this long without any partition.
const SILENCE: Duration = Duration::from_secs(5);

/// A member that does not look for this long cannot know what it would have heard.
const LOOKS_AWAY: Duration = Duration::from_secs(3);

/// How many partitions are asked about at once.
const AT_ONCE: usize = 32;

/// After this part of the time for all questions, no further one begins, because it may not be answered in the rest.
const LAST_QUESTION: Duration = Duration::from_millis(250);

/// When a member last looked, asked and heard.
pub(super) struct Silence {
    looked: Option<Instant>,
    /// When the group last gave it partitions, answered, or was not expected to.
    group: Instant,
    /// When some question was last not answered well: the next ones follow after a pause, because each may take a
    /// second, and commits wait for it.
    in_vain: Option<Instant>,
    /// Asks about the group, without being a member: a broker answers nothing more on a connection while it keeps a
    /// member waiting there for the others.
    asker: Option<BaseConsumer>,
}

impl std::fmt::Debug for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Silence({:?}, {:?}, {:?})",
            self.looked, self.group, self.in_vain
        )
    }
}

impl Silence {
    pub(super) fn new() -> Self {
        Silence {
            looked: None,
            group: Instant::now(),
            in_vain: None,
            asker: None,
        }
    }
}

impl KafkaConsumer {
    /// Called after each poll: asks about what is silent. Only if nothing more was waiting, because what waits may be
    /// about it.
    pub(super) fn ask_if_silent(&mut self, is_drained: bool) -> Result<()> {
        let now = Instant::now();
        let looked = self.silence.looked.replace(now);
        if !is_drained || looked.is_none_or(|at| now - at > LOOKS_AWAY) {
            self.silence.group = now;
            self.owned.values_mut().for_each(|owned| owned.heard = now);
            return Ok(());
        }
        if self
            .silence
            .in_vain
            .is_some_and(|at| now - at < SHORT_TIMEOUT)
        {
            return Ok(());
        }
        match self.owned.is_empty() {
            true => self.ask_group(now),
            false => self.ask_partitions(now),
        }
    }

    /// A member without partitions may wait for the others, or for a coordinator that does not exist.
    fn ask_group(&mut self, now: Instant) -> Result<()> {
        if now - self.silence.group <= SILENCE || self.membership.health.is_down() {
            return Ok(());
        }
        let mut any = TopicPartitionList::new();
        any.add_partition(&self.topic, 0);
        let asker = match self.silence.asker.take() {
            Some(asker) => asker,
            None => BaseConsumer::from_config(&self.config)
                .map_err(|e| kafka::error(&self.server, &e))?,
        };
        let answer = asker.committed_offsets(any, SHORT_TIMEOUT);
        if answer.is_err() {
            self.silence.asker = Some(asker);
        }
        match answer {
            Ok(_) => {
                self.troubles.coordinator_is_well();
                self.silence.group = now;
                Ok(())
            }
            Err(e) => {
                let known = kafka::error(&self.server, &e);
                if !known.is_retriable() {
                    let topic = format!("cannot join the group of topic {}", self.topic);
                    return Err(self.membership.health.explain(&self.server, known)).context(topic);
                }
                // A busy coordinator may be late once.
                let is_late = e.rdkafka_error_code() == Some(Code::OperationTimedOut);
                let asked = self.silence.in_vain.replace(Instant::now());
                if !is_late || asked.is_some_and(|at| now - at < 3 * SHORT_TIMEOUT) {
                    self.troubles.add_no_coordinator(&e);
                }
                Ok(())
            }
        }
    }

    /// Asks about all silent partitions at once, those that were silent for longest first.
    fn ask_partitions(&mut self, now: Instant) -> Result<()> {
        let is_read = |o: &Owned| o.leaves.is_none() && !o.is_set_back;
        let is_silent = |o: &Owned, how_long| is_read(o) && now - o.heard > how_long;
        if !self.owned.values().any(|o| is_silent(o, SILENCE)) {
            return Ok(());
        }
        // Together with those that would be asked about next, so that the trouble is told with all of them.
        let silent = self.owned.iter();
        let silent = silent.filter(|(_, o)| is_silent(o, SILENCE - SHORT_TIMEOUT));
        let mut silent: Vec<(Instant, i32)> = silent.map(|(p, o)| (o.heard, *p)).collect();
        silent.sort_unstable();
        let partitions: Vec<i32> = silent.into_iter().map(|(_, p)| p).collect();
        for (partition, marks) in ends_of(self.client()?, &self.topic, &partitions) {
            let Some(owned) = self.owned.get_mut(&partition) else {
                continue;
            };
            owned.heard = now; // asked once in a while
            let position = owned.position;
            match self.why_silent(partition, position, marks)? {
                None => self.troubles.partition_is_well(partition),
                Some(why) => {
                    self.troubles.add_silent(partition, position, why);
                    self.silence.in_vain = Some(Instant::now());
                    self.ask_again_soon(partition, now);
                }
            }
        }
        Ok(())
    }

    /// Why nothing arrives of a partition, by what its leader says of its ends; none if nothing is there. An error if
    /// what is there can never be read.
    fn why_silent(
        &mut self,
        partition: i32,
        position: i64,
        marks: KafkaResult<(i64, i64)>,
    ) -> Result<Option<String>> {
        match self.driven("read the ends of", marks) {
            Ok((_, high)) if high == position => Ok(None),
            // A new leader may not know the end yet; if it lasts, events are gone.
            Ok((_, high)) if high < position => Ok(Some(format!(
                "the next event should have offset {position}, but it ends at {high}"
            ))),
            Ok((_, high)) => match self.membership.health.too_large(SILENCE + LOOKS_AWAY) {
                Some(reason) => self.stop_at(partition, position, &reason).map(|()| None),
                None => Ok(Some(format!(
                    "nothing arrives from offset {position} on, but it ends at {high}"
                ))),
            },
            Err(e) if e.is_retriable() => Ok(Some(e.to_string())),
            Err(e) => Err(e),
        }
    }

    /// So that a short outage is not taken for a long one.
    fn ask_again_soon(&mut self, partition: i32, now: Instant) {
        let soon = now.checked_sub(SILENCE);
        if let (Some(owned), Some(soon)) = (self.owned.get_mut(&partition), soon) {
            owned.heard = soon;
        }
    }

    /// The group has given partitions, or none: it has a coordinator.
    pub(super) fn group_answers(&mut self) {
        self.troubles.group_is_well();
        self.silence.group = Instant::now();
    }
}

/// The ends of these partitions, of many at once, so that all questions together take no longer than one may. What there
/// was no time left to ask about is not in the answer.
fn ends_of(
    client: &BaseConsumer<Membership>,
    topic: &str,
    partitions: &[i32],
) -> BTreeMap<i32, KafkaResult<(i64, i64)>> {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let ask = || {
        let mut known = Vec::new();
        while begun.elapsed() < LAST_QUESTION
            && let Some(partition) = partitions.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let left = SHORT_TIMEOUT.saturating_sub(begun.elapsed());
            known.push((*partition, client.fetch_watermarks(topic, *partition, left)));
        }
        known
    };
    std::thread::scope(|scope| {
        let threads = partitions.len().min(AT_ONCE);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
        let known = threads.into_iter();
        let known = known.flat_map(|thread| thread.join().unwrap_or_else(|e| resume_unwind(e)));
        known.collect()
    })
}
