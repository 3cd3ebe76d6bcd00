//! Reads a topic on Kafka as a member of a consumer group.

mod assignment;
mod lookup;
mod poll;
mod silence;
mod troubles;

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use self::assignment::Owned;
use self::silence::Silence;
use self::troubles::Troubles;
use super::committer::{Committer, Silent};
use super::membership::Membership;
use super::queue::Queue;
use crate::error::{Error, Result};
use crate::ports::event_log::{Consumer, Epoch, Limits, Offsets, Polled, Span};
use crate::servers::address::Address;
use crate::servers::kafka;

/// After this long without a sign of life, a member's partitions are given to the others.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a member that leaves waits for the brokers.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads as a member of a group. Its positions have no marks: a topic that is recreated has another id, the brokers do not
/// give an acknowledged event's offset to another one, and to read an event again at each start would cost a fetch. Only
/// an unclean leader election, which is off by default, breaks that; it is noticed if a partition ends before it did.
pub struct KafkaConsumer {
    /// None once the group was left.
    queue: Option<Queue<Membership>>,
    committer: Option<Committer>,
    membership: Membership,
    server: Address,
    config: ClientConfig,
    topic: String,
    epoch: Epoch,
    owned: BTreeMap<i32, Owned>,
    /// The last known end of each partition. Only a topic that was recreated ends before it.
    ends: BTreeMap<i32, i64>,
    /// Where a store that keeps offsets told us to continue, and what was stored there since.
    sought: Option<Offsets>,
    /// Whether no partition was assigned since the store told us.
    is_sought_new: bool,
    /// The error that the next poll must return, because this one had events that came before it.
    failed: Option<Error>,
    troubles: Troubles,
    silence: Silence,
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
    pub async fn open(server: &Address, topic: &str, group: &str) -> Result<Self> {
        let mut config = kafka::config(server)?;
        for (name, value) in [
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            (
                "session.timeout.ms",
                &SESSION_TIMEOUT.as_millis().to_string(),
            ),
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
        let queue = Queue::of(&Arc::new(client))
            .ok_or_else(|| Error::internal("a consumer without a queue"))?;
        let consumer = KafkaConsumer {
            queue: Some(queue),
            committer: None,
            membership,
            server: server.clone(),
            config,
            topic: topic.into(),
            epoch: Epoch::default(),
            owned: BTreeMap::new(),
            ends: BTreeMap::new(),
            sought: None,
            is_sought_new: false,
            failed: None,
            troubles: Troubles::default(),
            silence: Silence::new(),
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

    fn queue(&self) -> Result<&Queue<Membership>> {
        let left = || {
            Error::refused(format!(
                "this member has already left the group of topic {}",
                self.topic
            ))
        };
        self.queue.as_ref().ok_or_else(left)
    }

    fn client(&self) -> Result<&Arc<BaseConsumer<Membership>>> {
        self.queue().map(Queue::client)
    }

    fn try_commit(&mut self, span: &Span) -> Result<Epoch> {
        let mut done = Offsets::default();
        for (partition, range) in span.ranges() {
            let Some(owned) = self.owned.get(&partition) else {
                continue; // it belongs to others, who start at the group's offset
            };
            if range.start > owned.done {
                return Ok(self.set_back(|_, owned| owned.done));
            }
            done.set(partition, owned.done.max(range.end));
        }
        self.remember(span);
        // What a store reports as done is committed, too.
        let news = self.owned.iter().filter_map(|(partition, owned)| {
            let done = done.get(*partition).unwrap_or(owned.done);
            (done > owned.committed).then_some((*partition, done))
        });
        let news: Offsets = news.collect();
        if !news.is_empty() {
            let list = self.list(news.iter())?;
            let patience = self.membership.health.patience();
            let client = Arc::clone(self.client()?);
            let committer = self
                .committer
                .get_or_insert_with(|| Committer::start(client));
            match committer.commit(&news, &list, patience) {
                Ok(Ok(())) => {
                    self.troubles.group_is_well(); // only its members may commit
                    self.membership.health.heard();
                }
                Ok(Err(e)) if is_superseded(&e) => return Ok(self.set_back(|_, owned| owned.done)),
                Ok(Err(e)) => return self.driven("commit the offsets of", Err(e)),
                Err(silent) => return Err(self.explain_silence(silent, patience)),
            }
        }
        for (partition, offset) in done.iter() {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.done = offset;
            }
        }
        for (partition, offset) in news.iter() {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.committed = offset;
            }
        }
        self.carry_out()?;
        Ok(self.epoch)
    }

    fn explain_silence(&self, silent: Silent, patience: Duration) -> Error {
        match silent {
            Silent::Ended => Error::internal("the thread that commits has ended"),
            Silent::Waiting => {
                let at = kafka::address(&self.server);
                let silent = format!("{at} has not answered a commit for {patience:?}");
                let silent = Error::unavailable(silent);
                self.membership.health.explain(&self.server, silent)
            }
        }
    }

    fn go_to(&mut self, offsets: Option<&Offsets>) -> Result<Epoch> {
        let Some(sought) = offsets else {
            return Ok(self.set_back(|_, owned| owned.done));
        };
        let mut starts = BTreeMap::new();
        for (partition, position) in self.position().iter() {
            let to = match sought.get(partition).filter(|at| *at > 0) {
                Some(to) if to == position => to,
                to => {
                    let (low, high) = self.watermarks(partition)?;
                    let to = to.unwrap_or(low);
                    self.check_range(partition, to, low, high)?;
                    to
                }
            };
            starts.insert(partition, to);
        }
        for (partition, owned) in &mut self.owned {
            owned.done = starts.get(partition).copied().unwrap_or(owned.done);
        }
        self.sought = Some(sought.clone());
        self.is_sought_new = true;
        Ok(self.set_back(|_, owned| owned.done))
    }

    /// Leaves the group on a thread of its own, because the client waits forever for a broker that is gone.
    fn say_goodbye(&mut self) {
        let Some(queue) = self.queue.take() else {
            return;
        };
        let client = Arc::clone(queue.client());
        drop(queue);
        let committer = self.committer.take();
        self.owned.clear();
        let (said, hears) = mpsc::channel();
        std::thread::spawn(move || {
            let ended = committer.map_or(Ok(()), Committer::end);
            if client.context().leave() {
                client.unassign().ok(); // the group learns it from leaving, too
            }
            drop(client);
            said.send(ended.is_ok()).ok(); // the caller may have stopped waiting
        });
        hears.recv_timeout(LEAVE_TIMEOUT).ok(); // the group learns it when the session expires
    }
}

fn is_superseded(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::IllegalGeneration | Code::UnknownMemberId | Code::AssignmentLost)
    )
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn identity(&mut self) -> Result<String> {
        tokio::task::block_in_place(|| self.identify())
    }

    async fn poll(&mut self, limits: Limits) -> Result<Polled> {
        tokio::task::block_in_place(|| self.read(limits))
    }

    async fn commit(&mut self, span: &Span) -> Result<Epoch> {
        tokio::task::block_in_place(|| self.try_commit(span))
    }

    async fn seek(&mut self, offsets: Option<&Offsets>) -> Result<Epoch> {
        tokio::task::block_in_place(|| self.go_to(offsets))
    }

    async fn committed(&mut self) -> Result<Offsets> {
        tokio::task::block_in_place(|| self.all_committed())
    }

    async fn leave(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.say_goodbye());
        Ok(())
    }

    async fn start(&mut self) -> Result<Offsets> {
        tokio::task::block_in_place(|| self.starts())
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
