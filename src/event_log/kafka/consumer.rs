//! Reads a topic on Kafka as a member of a consumer group.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Error, Kind, Result};
use crate::event::{Event, Headers, MicroBatch};
use crate::event_log::{Commit, Consumer, Limits, Offsets};
use crate::kafka::{self, Health, PATIENCE};
use crate::url::Server;

/// After this long without a sign of life a member's partitions go to the others.
const SESSION: Duration = Duration::from_secs(10);

/// How long a member may take to commit what it has polled of partitions that others are to have.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a poll waits for its first event.
const WAIT: Duration = Duration::from_millis(20);

/// What to do about a topic that ends before where it was read.
const MADE_ANEW: &str =
    "the topic was deleted and made anew; read it with another --group, into a store made anew";

/// How long a member that leaves waits for the brokers.
const GOODBYE: Duration = Duration::from_secs(3);

/// A change of the partitions that a member reads, which waits to be carried out.
#[derive(Clone, Debug)]
enum Change {
    Given(Vec<i32>),
    Taken(Vec<i32>),
}

/// Collects what the group decides.
#[derive(Clone, Debug, Default)]
struct Membership {
    health: Health,
    changes: Arc<Mutex<Changes>>,
}

#[derive(Debug, Default)]
struct Changes {
    waiting: Vec<Change>,
    /// Nobody is left to carry changes out.
    is_leaving: bool,
}

impl Membership {
    fn changes(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
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

impl ConsumerContext for Membership {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let mut changes = self.changes();
        let numbers = || {
            partitions
                .elements()
                .iter()
                .map(|e| e.partition())
                .collect()
        };
        let is_given = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if changes.is_leaving {
            // The client waits for this answer, whatever comes of it.
            let answered = match (is_given, consumer.rebalance_protocol()) {
                (true, _) => Ok(()),
                (false, RebalanceProtocol::Cooperative) => {
                    consumer.incremental_unassign(partitions)
                }
                (false, _) => consumer.unassign(),
            };
            answered.ok(); // there is nobody to tell
        } else if is_given {
            changes.waiting.push(Change::Given(numbers()));
        } else {
            changes.waiting.push(Change::Taken(numbers()));
        }
    }
}

/// A partition that this member reads.
#[derive(Clone, Copy, Debug)]
struct Owned {
    /// Offset of the next event.
    position: i64,
    /// What this member knows to be committed, or where it started.
    committed: i64,
    /// Others are to have it: nothing more is read of it, and it is given up at this time at the latest.
    leaves: Option<Instant>,
}

/// Commits on a thread of its own, for the client waits for its answer without end.
struct Committer {
    lists: mpsc::Sender<TopicPartitionList>,
    answers: mpsc::Receiver<KafkaResult<()>>,
    /// What was asked for and is not answered yet.
    asked: Option<Offsets>,
    thread: JoinHandle<()>,
}

impl Committer {
    fn start(client: Arc<BaseConsumer<Membership>>) -> Self {
        let (lists, asks) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for list in asks {
                let committed = client.commit(&list, CommitMode::Sync);
                if answer.send(committed).is_err() {
                    return;
                }
            }
        });
        Committer {
            lists,
            answers,
            asked: None,
            thread,
        }
    }
}

/// Reads as a member of a group.
pub struct KafkaConsumer {
    client: Option<Arc<BaseConsumer<Membership>>>,
    committer: Option<Committer>,
    membership: Membership,
    server: Server,
    topic: String,
    owned: BTreeMap<i32, Owned>,
    /// The last known end of each partition, which only a topic that was made anew falls short of.
    ends: BTreeMap<i32, i64>,
    /// Where a store that keeps offsets told us to go on.
    sought: Option<BTreeMap<i32, i64>>,
    /// What the next poll is to say: this one had events that came before it.
    failed: Option<Error>,
}

impl std::fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "KafkaConsumer({}, {}, {:?})",
            kafka::address(&self.server),
            self.topic,
            self.owned
        )
    }
}

impl KafkaConsumer {
    /// Joins a group. Which partitions it reads is decided while it polls.
    pub async fn open(server: &Server, topic: &str, group: &str) -> Result<Self> {
        let mut config = kafka::config(server)?;
        for (name, value) in [
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", &SESSION.as_millis().to_string()),
            ("heartbeat.interval.ms", "1000"),
            ("queued.max.messages.kbytes", "8192"),
            ("queued.min.messages", "10000"),
            ("fetch.message.max.bytes", "1048576"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "5"),
            ("check.crcs", "true"),
        ] {
            if !server.settings.iter().any(|(n, _)| n == name) {
                config.set(name, value);
            }
        }
        let membership = Membership::default();
        let client = BaseConsumer::from_config_and_context(&config, membership.clone())
            .map_err(|e| kafka::error(server, &e))?;
        let consumer = KafkaConsumer {
            client: Some(Arc::new(client)),
            committer: None,
            membership,
            server: server.clone(),
            topic: topic.into(),
            owned: BTreeMap::new(),
            ends: BTreeMap::new(),
            sought: None,
            failed: None,
        };
        tokio::task::block_in_place(|| {
            let client = consumer.client()?;
            let health = &consumer.membership.health;
            kafka::first_partitions(client.client(), health, server, topic, || {
                client.poll(Duration::ZERO);
            })?;
            consumer.driven("join the group of", client.subscribe(&[topic]))
        })?;
        Ok(consumer)
    }

    fn client(&self) -> Result<&Arc<BaseConsumer<Membership>>> {
        let left = || Error::refused(format!("the group of topic {} was left", self.topic));
        self.client.as_ref().ok_or_else(left)
    }

    fn driven<T>(&self, doing: &str, result: Result<T, KafkaError>) -> Result<T> {
        result.map_err(|e| {
            let health = &self.membership.health;
            let known = match &self.client {
                Some(client) if kafka::is_unknown_topic(&e) => {
                    kafka::why_unknown(client.client(), health, &self.server, &self.topic)
                }
                _ => kafka::error(&self.server, &e),
            };
            health
                .explain(&self.server, known)
                .context(format_args!("cannot {doing} topic {}", self.topic))
        })
    }

    fn partitions(&self) -> Result<i32> {
        let client = self.client()?;
        let health = &self.membership.health;
        let known = kafka::partitions_of_known(client.client(), health, &self.server, &self.topic);
        Ok(i32::try_from(known?).unwrap_or(i32::MAX))
    }

    fn watermarks(&mut self, partition: i32) -> Result<(i64, i64)> {
        let patience = self.membership.health.patience();
        let marks = self
            .client()?
            .fetch_watermarks(&self.topic, partition, patience);
        let (low, high) = self.driven("read the ends of", marks)?;
        let known = self.ends.insert(partition, high).unwrap_or(high);
        if high < known {
            let place = self.place(partition);
            return Err(Error::missing(format!(
                "{place}: it ends at offset {high}, and ended at {known} before"
            ))
            .hint(MADE_ANEW));
        }
        Ok((low, high))
    }

    fn place(&self, partition: i32) -> String {
        let at = kafka::address(&self.server);
        format!("topic {} partition {partition} in {at}", self.topic)
    }

    fn list(&self, offsets: impl IntoIterator<Item = (i32, i64)>) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = list.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
            self.driven("name an offset of", added)?;
        }
        Ok(list)
    }

    /// The group's committed offset of each of these partitions, none without.
    fn committed_of(&self, partitions: &[i32]) -> Result<BTreeMap<i32, Option<i64>>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let patience = self.membership.health.patience();
        let read = self.client()?.committed_offsets(list, patience);
        let list = self.driven("read the group's offsets of", read)?;
        let mut committed = BTreeMap::new();
        for element in list.elements() {
            self.driven("read the group's offsets of", element.error())?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            committed.insert(element.partition(), offset);
        }
        Ok(committed)
    }

    /// Carries out what the group has decided. A failure leaves it to the next call.
    fn carry_out(&mut self) -> Result<()> {
        loop {
            let change = self.membership.changes().waiting.first().cloned();
            match change {
                None => return self.give_up_drained(),
                Some(Change::Given(partitions)) => self.start(&partitions)?,
                Some(Change::Taken(partitions)) => self.stop(&partitions)?,
            }
            self.membership.changes().waiting.remove(0);
        }
    }

    fn start(&mut self, partitions: &[i32]) -> Result<()> {
        let committed = self.committed_of(partitions)?;
        let mut starts = BTreeMap::new();
        for (partition, committed) in committed {
            let (low, high) = self.watermarks(partition)?;
            let wanted = match &self.sought {
                Some(sought) => sought.get(&partition).copied().filter(|at| *at > 0),
                None => committed,
            };
            let position = wanted.unwrap_or(low);
            self.check_range(partition, position, low, high)?;
            let owned = Owned {
                position,
                committed: committed.unwrap_or(low),
                leaves: None,
            };
            starts.insert(partition, owned);
        }
        let list = self.list(starts.iter().map(|(p, owned)| (*p, owned.position)))?;
        let client = self.client()?;
        let assigned = match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_assign(&list),
            _ => client.assign(&list),
        };
        self.driven("read", assigned)?;
        self.owned.extend(starts);
        Ok(())
    }

    fn check_range(&self, partition: i32, position: i64, low: i64, high: i64) -> Result<()> {
        let place = self.place(partition);
        if position < low {
            return Err(Error::missing(format!(
                "{place}: the events from offset {position} to {} are gone before they were read",
                low - 1
            ))
            .hint("they are older than the topic keeps; raise its retention, or move the group's offset to go on without them"));
        }
        if position > high {
            return Err(Error::missing(format!(
                "{place}: the next event should have offset {position}, but the topic ends at {high}"
            ))
            .hint(MADE_ANEW));
        }
        Ok(())
    }

    /// Others are to have these: they get them when what was polled is committed.
    fn stop(&mut self, partitions: &[i32]) -> Result<()> {
        let is_lost = self.client()?.assignment_lost();
        let leaves = Instant::now() + if is_lost { Duration::ZERO } else { DRAIN };
        for partition in partitions {
            if let Some(owned) = self.owned.get_mut(partition) {
                owned.leaves = Some(leaves);
            }
        }
        Ok(())
    }

    /// Gives the partitions up that others are to have, once nothing of them is on its way; all at once,
    /// for that is what the group waits for.
    fn give_up_drained(&mut self) -> Result<()> {
        let leaving = || self.owned.iter().filter(|(_, o)| o.leaves.is_some());
        let now = Instant::now();
        let is_drained = leaving().all(|(_, owned)| {
            owned.position <= owned.committed || owned.leaves.is_some_and(|at| at <= now)
        });
        if !is_drained || leaving().next().is_none() {
            return Ok(());
        }
        let list = self.list(leaving().map(|(p, owned)| (*p, owned.position)))?;
        let client = self.client()?;
        let given = match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_unassign(&list),
            _ => client.unassign(),
        };
        self.driven("give up partitions of", given)?;
        self.owned.retain(|_, owned| owned.leaves.is_none());
        Ok(())
    }

    fn read(&mut self, limits: Limits) -> Result<MicroBatch> {
        let mut batch = MicroBatch::default();
        if self.client.is_none() {
            return Ok(batch);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let is_changed = !self.membership.changes().waiting.is_empty();
        self.carry_out()?;
        if is_changed {
            return Ok(batch); // the caller learns from the position which partitions these are now
        }
        let started = Instant::now();
        while batch.len() < limits.events && batch.size() < limits.bytes {
            let wait = match batch.is_empty() {
                true => WAIT.saturating_sub(started.elapsed()),
                false => Duration::ZERO,
            };
            let polled = match self.client()?.poll(wait) {
                None => None,
                Some(Ok(message)) => Some(Ok(next(&message, &self.owned, &mut batch))),
                Some(Err(e)) => Some(Err(e)),
            };
            match polled {
                Some(Ok(Some((partition, next)))) => {
                    if let Some(owned) = self.owned.get_mut(&partition) {
                        owned.position = next;
                    }
                }
                Some(Ok(None)) => {}
                Some(Err(e)) => match self.heed(&e) {
                    Err(failed) if !batch.is_empty() => {
                        self.failed = Some(failed);
                        break;
                    }
                    heeded => heeded?,
                },
                None if !self.membership.changes().waiting.is_empty() => {
                    self.carry_out()?;
                    break; // as above
                }
                None if started.elapsed() >= WAIT || !batch.is_empty() => break,
                None => {}
            }
        }
        match batch.is_empty() {
            true => self.ask_if_doubtful()?,
            false => self.membership.health.heard(),
        }
        Ok(batch)
    }

    /// What an error that came in place of a message asks for; those that the client heals are passed over.
    fn heed(&mut self, error: &KafkaError) -> Result<()> {
        if kafka::is_unknown_topic(error) {
            return self.partitions().map(|_| ());
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                for (partition, position) in self.position() {
                    let (low, high) = self.watermarks(partition)?;
                    self.check_range(partition, position, low, high)?;
                    self.go_on_from(partition, position)?; // the client has stopped there
                }
                Ok(())
            }
            _ => {
                let known = kafka::error(&self.server, error);
                match known.is_retriable() || known.kind() == Kind::Data {
                    true => Ok(()),
                    false => Err(self.membership.health.explain(&self.server, known)),
                }
            }
        }
    }

    fn ask_if_doubtful(&self) -> Result<()> {
        match self.membership.health.is_doubtful() {
            true => self.partitions().map(|_| ()),
            false => Ok(()),
        }
    }

    fn try_commit(&mut self, offsets: &Offsets) -> Result<Commit> {
        let news = |owned: &BTreeMap<i32, Owned>, (p, offset): &(i32, i64)| match owned.get(p) {
            Some(owned) => *offset > owned.committed,
            None => true,
        };
        let moved: Offsets = offsets
            .iter()
            .filter(|o| news(&self.owned, o))
            .copied()
            .collect();
        if moved.iter().any(|(p, _)| !self.owned.contains_key(p)) {
            self.rewind()?;
            return Ok(Commit::Superseded);
        }
        if !moved.is_empty() {
            let list = self.list(moved.iter().copied())?;
            match self.commit_list(&moved, &list)? {
                Ok(()) => self.membership.health.heard(),
                Err(e) if is_superseded(&e) => {
                    self.rewind()?;
                    return Ok(Commit::Superseded);
                }
                Err(e) => return self.driven("commit the offsets of", Err(e)),
            }
        }
        for (partition, offset) in moved {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.committed = offset;
            }
        }
        self.carry_out()?;
        Ok(Commit::Done)
    }

    /// `Unavailable` if no answer comes in time; then the next call goes on waiting.
    fn commit_list(
        &mut self,
        offsets: &Offsets,
        list: &TopicPartitionList,
    ) -> Result<KafkaResult<()>> {
        let patience = self.membership.health.patience();
        let client = self.client()?.clone();
        let committer = self
            .committer
            .get_or_insert_with(|| Committer::start(client));
        loop {
            if committer.asked.is_none() {
                committer.lists.send(list.clone()).ok(); // that it has ended shows below
                committer.asked = Some(offsets.clone());
            }
            let answer = match committer.answers.recv_timeout(patience) {
                Ok(answer) => answer,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let at = kafka::address(&self.server);
                    let silent = format!("{at} has not answered a commit for {patience:?}");
                    let silent = Error::unavailable(silent);
                    return Err(self.membership.health.explain(&self.server, silent));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let ended = "internal error: the thread that commits has ended";
                    return Err(Error::refused(ended));
                }
            };
            let asked = committer.asked.take();
            if answer.is_err() || asked.as_ref() == Some(offsets) {
                return Ok(answer);
            }
        }
    }

    /// Goes back to what is committed.
    fn rewind(&mut self) -> Result<()> {
        self.carry_out()?;
        let back = self.owned.iter().map(|(p, o)| (*p, o.committed)).collect();
        self.go_to(&back)
    }

    fn go_to(&mut self, offsets: &BTreeMap<i32, i64>) -> Result<()> {
        for (partition, to) in offsets {
            let owned = self.owned.get(partition);
            if owned.is_some_and(|owned| owned.leaves.is_none() && owned.position != *to) {
                self.go_on_from(*partition, *to)?;
            }
        }
        Ok(())
    }

    fn go_on_from(&mut self, partition: i32, to: i64) -> Result<()> {
        let deadline = Instant::now() + self.membership.health.patience();
        // A partition that was only just given to us cannot be moved yet.
        loop {
            let list = self.list([(partition, to)])?;
            let sought = self.client()?.seek_partitions(list, PATIENCE);
            let failed = match sought {
                Ok(list) => list.elements().iter().find_map(|e| e.error().err()),
                Err(e) => Some(e),
            };
            match failed {
                None => break,
                Some(e) if Instant::now() > deadline => return self.driven("go back in", Err(e)),
                Some(_) => std::thread::sleep(WAIT),
            }
        }
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.position = to;
        }
        Ok(())
    }

    fn seek_to(&mut self, offsets: &Offsets) -> Result<()> {
        let sought: BTreeMap<i32, i64> = offsets.iter().copied().collect();
        let mut starts = BTreeMap::new();
        for (partition, position) in self.position() {
            let to = sought.get(&partition).copied().filter(|at| *at > 0);
            let to = match to {
                Some(to) if to == position => to,
                _ => {
                    let (low, high) = self.watermarks(partition)?;
                    let to = to.unwrap_or(low);
                    self.check_range(partition, to, low, high)?;
                    to
                }
            };
            starts.insert(partition, to);
        }
        self.go_to(&starts)?;
        self.sought = Some(sought);
        Ok(())
    }

    fn all_committed(&mut self) -> Result<Offsets> {
        let partitions: Vec<i32> = (0..self.partitions()?).collect();
        let mut offsets = Offsets::new();
        for (partition, committed) in self.committed_of(&partitions)? {
            let offset = match committed {
                Some(offset) => offset,
                None => self.watermarks(partition)?.0,
            };
            offsets.push((partition, offset));
        }
        self.membership.health.heard();
        Ok(offsets)
    }

    fn ends(&mut self) -> Result<Offsets> {
        (0..self.partitions()?)
            .map(|p| self.watermarks(p).map(|(_, high)| (p, high)))
            .collect()
    }

    /// Says goodbye on a thread of its own, for a broker that is gone is waited for without end.
    fn say_goodbye(&mut self) {
        let Some(client) = self.client.take() else {
            return;
        };
        let committer = self.committer.take();
        self.membership.changes().is_leaving = true;
        self.owned.clear();
        let (said, hears) = mpsc::channel();
        std::thread::spawn(move || {
            if let Some(Committer { lists, thread, .. }) = committer {
                drop(lists);
                thread.join().ok(); // it holds the client as well
            }
            let unanswered = std::mem::take(&mut client.context().changes().waiting);
            if unanswered.iter().any(|c| matches!(c, Change::Taken(_))) {
                client.unassign().ok(); // the group hears it by the goodbye, too
            }
            drop(client);
            said.send(()).ok(); // the wait may be over
        });
        hears.recv_timeout(GOODBYE).ok(); // the group learns it by the session's end
    }
}

/// Takes a message, if it is the next one of a partition that we read; yields where that goes on.
fn next(
    message: &BorrowedMessage<'_>,
    owned: &BTreeMap<i32, Owned>,
    batch: &mut MicroBatch,
) -> Option<(i32, i64)> {
    let (partition, offset) = (message.partition(), message.offset());
    let owned = owned.get(&partition)?;
    if owned.leaves.is_some() || offset < owned.position {
        return None;
    }
    let mut headers = Headers::default();
    if let Some(list) = message.headers() {
        for header in list.iter() {
            headers.push(header.key, header.value.unwrap_or_default());
        }
    }
    batch.push(Event {
        partition,
        offset,
        timestamp: message.timestamp().to_millis().unwrap_or(0),
        key: message.key(),
        value: message.payload(),
        headers: headers.bytes(),
    });
    Some((partition, offset + 1))
}

fn is_superseded(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::IllegalGeneration | Code::UnknownMemberId | Code::AssignmentLost)
    )
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn poll(&mut self, limits: Limits) -> Result<MicroBatch> {
        tokio::task::block_in_place(|| self.read(limits))
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<Commit> {
        tokio::task::block_in_place(|| self.try_commit(offsets))
    }

    fn position(&self) -> Offsets {
        self.owned.iter().map(|(p, o)| (*p, o.position)).collect()
    }

    async fn seek(&mut self, offsets: &Offsets) -> Result<()> {
        tokio::task::block_in_place(|| self.seek_to(offsets))
    }

    async fn committed(&mut self) -> Result<Offsets> {
        tokio::task::block_in_place(|| self.all_committed())
    }

    async fn leave(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.say_goodbye());
        Ok(())
    }

    async fn end(&mut self) -> Result<Offsets> {
        tokio::task::block_in_place(|| self.ends())
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}
