//! A topic on Kafka as a client sees it that is in none of the groups that read it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Error, Result};
use crate::servers::address::Address;
use crate::servers::kafka::{self, Health, REQUEST_TIMEOUT, SHORT_TIMEOUT, WORDS, queue};

/// How long a client that has not found its topic listens for the reason.
const LISTEN_TIMEOUT: Duration = Duration::from_millis(5);

/// The shortest wait for an answer, at the end of the time limit.
const LAST_WAIT: Duration = Duration::from_millis(10);

/// A partition, the offset of its oldest event, and the one that the next event will get.
pub(super) type Ends = (i32, i64, i64);

/// A client, or what has one, that nobody waits for when it is closed: that takes a tenth of a second, and it has nothing
/// to commit and no group to leave.
pub(super) struct Unhurried<T: Send + 'static>(Option<T>);

impl<T: Send> Unhurried<T> {
    pub(super) fn new(client: T) -> Self {
        Unhurried(Some(client))
    }
}

impl<T: Send> Deref for Unhurried<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(client) => client,
            None => unreachable!("it is only taken when it is dropped"),
        }
    }
}

impl<T: Send> Drop for Unhurried<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without a thread, it is closed here: the closure is dropped, and the client with it.
        let closing = thread::Builder::new().name("kafka-close".into());
        let closing = closing.spawn(move || drop(client)).ok();
        let mut all = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|thread| !thread.is_finished());
        all.extend(closing);
    }
}

/// The threads that close clients.
static CLOSING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// How long they may take: a signal does not end the process meanwhile.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until all clients are closed, but not for ever: the end of the process takes away what their threads use.
pub(crate) fn wait_until_closed() {
    let until = Instant::now() + CLOSE_TIMEOUT;
    let all = std::mem::take(&mut *CLOSING.lock().unwrap_or_else(PoisonError::into_inner));
    for thread in all {
        while !thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The partitions of a topic in a member's assignment, as Kafka's consumer protocol writes it: a version, and for each topic
/// its name and partitions. None if it is not one.
fn assigned_in(mut bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn number(bytes: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    let _version = take(&mut bytes, 2)?;
    let mut found = Vec::new();
    for _ in 0..number(&mut bytes)? {
        let length = u16::from_be_bytes(take(&mut bytes, 2)?.try_into().ok()?);
        let name = take(&mut bytes, length.into())?;
        for _ in 0..number(&mut bytes)? {
            let partition = number(&mut bytes)?;
            if name == topic.as_bytes() {
                found.push(partition);
            }
        }
    }
    Some(found)
}

/// Reads partitions of a topic, independently of the groups that read it.
pub(super) struct PartitionReader {
    pub(super) client: Unhurried<BaseConsumer<Health>>,
    pub(super) health: Health,
    pub(super) server: Address,
    pub(super) topic: String,
    pub(super) group: String,
    /// What the client is for: a verb, for messages.
    doing: &'static str,
    pub(super) until: Instant,
}

/// The configuration of such a client, which asks for the offsets of a group.
pub(super) fn config(server: &Address, group: &str) -> Result<ClientConfig> {
    let mut config = kafka::config(server)?;
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        // An offset that expires between two requests is no reason to read from elsewhere.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true");
    Ok(config)
}

impl std::fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionReader({})", self.topic)
    }
}

impl PartitionReader {
    /// `group` is the group whose offsets are queried.
    pub(super) fn open(
        server: &Address,
        topic: &str,
        group: &str,
        doing: &'static str,
        until: Instant,
    ) -> Result<Self> {
        let mut config = config(server, group)?;
        config
            .set("queued.min.messages", "1")
            .set("fetch.wait.max.ms", "50");
        let health = Health::default();
        let client = BaseConsumer::from_config_and_context(&config, health.clone())
            .map_err(|e| kafka::error(server, &e))?;
        Ok(PartitionReader {
            client: Unhurried::new(client),
            health,
            server: server.clone(),
            topic: topic.into(),
            group: group.into(),
            doing,
            until,
        })
    }

    /// How long the next request may take, so that its failure is still told in time.
    pub(super) fn patience(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        left.clamp(LAST_WAIT, REQUEST_TIMEOUT)
    }

    pub(super) fn driven<T>(&self, doing: &str, result: Result<T, KafkaError>) -> Result<T> {
        result.map_err(|e| self.explained(doing, kafka::error(&self.server, &e)))
    }

    pub(super) fn explained(&self, doing: &str, error: Error) -> Error {
        self.health
            .explain(&self.server, error)
            .context(format_args!("cannot {doing} topic {}", self.topic))
    }

    /// Waits until a broker knows the topic; after the time limit, or if that cannot help, the reason.
    pub(super) fn find_topic(&self) -> Result<()> {
        loop {
            let (client, patience) = (self.client.client(), self.patience().min(SHORT_TIMEOUT));
            let known = kafka::asked(client, &self.health, &self.server, &self.topic, patience);
            for _ in 0..WORDS {
                if self.client.poll(LISTEN_TIMEOUT).is_none() {
                    break;
                }
            }
            match known {
                Ok(_) => return Ok(()),
                Err(e)
                    if e.is_retriable()
                        && !self.health.is_down()
                        && Instant::now() < self.until => {}
                Err(e) => return Err(self.explained(self.doing, e)),
            }
        }
    }

    pub(super) fn partitions(&self) -> Result<Vec<i32>> {
        let (client, patience) = (self.client.client(), self.patience());
        let number = kafka::asked(client, &self.health, &self.server, &self.topic, patience)
            .map_err(|e| self.explained(self.doing, e))?;
        Ok((0..i32::try_from(number).unwrap_or(i32::MAX)).collect())
    }

    pub(super) fn ends(&self, partitions: &[i32]) -> Result<Vec<Ends>> {
        let ends = |partition: &i32| {
            let marks = self
                .client
                .fetch_watermarks(&self.topic, *partition, self.patience());
            let (low, high) = self.driven("read the ends of", marks)?;
            Ok((*partition, low, high))
        };
        partitions.iter().map(ends).collect()
    }

    /// The partitions that nothing was read from, with the offset; all of the topic if there are none.
    pub(super) fn places(&self, unread: &BTreeMap<i32, i64>) -> String {
        let place = |(partition, offset): (&i32, &i64)| format!("{partition} from offset {offset}");
        let places: Vec<String> = unread.iter().map(place).collect();
        match places.is_empty() {
            true => format!("topic {}", self.topic),
            false => format!("topic {} partition {}", self.topic, places.join(", ")),
        }
    }

    /// The group's committed offset in each of these partitions that has one.
    pub(super) fn committed(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        let doing = format!("read the offsets of group {} in", self.group);
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let read = self.client.committed_offsets(list, self.patience());
        let mut committed = BTreeMap::new();
        for element in self.driven(&doing, read)?.elements() {
            self.driven(&doing, element.error())?;
            if let Offset::Offset(offset) = element.offset() {
                committed.insert(element.partition(), offset);
            }
        }
        Ok(committed)
    }

    /// The partitions of the topic that are assigned to members of a group.
    pub(super) fn assigned(&self, group: &str) -> Result<BTreeSet<i32>> {
        let listed = self.client.fetch_group_list(Some(group), self.patience());
        let groups = self.driven("list the groups that read", listed)?;
        let members = groups.groups().iter().flat_map(|group| group.members());
        let assignments = members.filter_map(|member| member.assignment());
        let partitions = assignments.filter_map(|bytes| assigned_in(bytes, &self.topic));
        Ok(partitions.flatten().collect())
    }

    /// None from brokers that are older than topic ids.
    pub(super) fn identity(&self) -> Result<Option<String>> {
        let id = queue::topic_id(self.client.client(), &self.topic, self.patience());
        let id = self.driven("ask for the id of", id)?;
        Ok(id.map(|id| format!("kafka topic {id}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_a_topic_are_read_from_an_assignment() {
        let topic = |name: &str, partitions: &[i32]| -> Vec<u8> {
            let length = u16::try_from(name.len()).unwrap().to_be_bytes();
            let count = i32::try_from(partitions.len()).unwrap().to_be_bytes();
            let numbers = partitions.iter().flat_map(|p| p.to_be_bytes());
            let mut bytes = [&length[..], name.as_bytes(), &count].concat();
            bytes.extend(numbers);
            bytes
        };
        let head = [&1_u16.to_be_bytes()[..], &2_i32.to_be_bytes()].concat();
        let data = i32::MAX.to_be_bytes();
        let both = [&head[..], &topic("a", &[7]), &topic("b", &[0, 2]), &data].concat();
        assert_eq!(assigned_in(&both, "b"), Some(vec![0, 2]));
        assert_eq!(assigned_in(&both, "c"), Some(Vec::new()));
        for cut in 0..both.len() - data.len() {
            assert_eq!(assigned_in(&both[..cut], "b"), None, "{cut}");
        }
    }
}
