//! The event log on a real Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use rtp::error::Result;
use rtp::ports::conformance::event_log::{CASES, Harness};
use rtp::ports::conformance::log_reader as reader;
use rtp::ports::conformance::monitor as conformance;
use rtp::ports::conformance::{Abilities, Ability};
use rtp::ports::event_log::{Consumer, EventLog, FIRST_EVENT_WAIT, Limits, Producer, Topic};
use rtp::ports::log_reader::LogReader;
use rtp::ports::monitor::LogMonitor;
use rtp::record::event::EventBatch;
use rtp::servers::address::Address;
use rtp::servers::kafka::log_reader::KafkaLogReader;
use rtp::servers::kafka::monitor::KafkaLogMonitor;
use rtp::servers::kafka::{Kafka as Broker, KafkaConsumer, KafkaProducer};

use crate::common::{Place, Ran, Running};
use crate::keeps;
use crate::stack::{self, Access, server};

mod faults;
mod foreign;
mod groups;
mod options;
mod unreadable;

const STORE: &str = ".rtp/realtime.db";

struct Log(Address);

impl Log {
    fn of(kafka: &stack::Server) -> Log {
        Log(server_at(kafka.address("RTP_EVENT_LOG")))
    }
}

/// The server at an address such as `kafka://127.0.0.1:9092`.
pub fn server_at(address: &str) -> Address {
    let (host, port) = address["kafka://".len()..].split_once(':').unwrap();
    Address {
        hosts: vec![(host.into(), port.parse().unwrap())],
        ..Address::default()
    }
}

/// The configuration of a client other than rtp's.
pub fn config_at(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    let broker = address.strip_prefix("kafka://").unwrap();
    config.set("bootstrap.servers", broker);
    config
}

/// The members of a group that own a partition of the topic, by client id, once the group is stable.
pub fn owners(client: &BaseConsumer, group: &str, topic: &str) -> BTreeSet<String> {
    let list = match client.fetch_group_list(Some(group), None) {
        // A broker that has just started reads its groups first.
        Err(KafkaError::GroupListFetch(RDKafkaErrorCode::CoordinatorLoadInProgress)) => {
            return BTreeSet::new();
        }
        list => list.unwrap(),
    };
    let Some(group) = list.groups().iter().find(|g| g.state() == "Stable") else {
        return BTreeSet::new();
    };
    let owns = |assigned: &[u8]| {
        let mut parts = assigned.windows(topic.len());
        parts.any(|part| part == topic.as_bytes())
    };
    let members = group.members().iter();
    let owners = members.filter(|m| m.assignment().is_some_and(owns));
    owners.map(|m| m.client_id().to_string()).collect()
}

/// All events of a topic, read by a group that commits nothing.
pub async fn everything_in(server: &Address, topic: &str, group: &str) -> EventBatch {
    let mut consumer = KafkaConsumer::open(server, topic, group).await.unwrap();
    let end = consumer.end().await.unwrap();
    let count = end.iter().map(|(_, end)| end).sum::<i64>() as usize;
    let mut events = EventBatch::default();
    while events.len() < count {
        let limits = Limits {
            events: 1_000,
            bytes: 8 << 20,
            wait: FIRST_EVENT_WAIT,
        };
        let polled = consumer.poll(limits).await.unwrap();
        polled.events.iter().for_each(|event| events.push(event));
    }
    consumer.leave().await.unwrap();
    events
}

/// What the client's group has committed in each partition, or 0. The client only queries: a member that
/// joins and leaves at once may be counted as still present. None before the group has a coordinator.
pub fn committed(
    client: &BaseConsumer,
    topic: &str,
    partitions: i32,
) -> Option<BTreeMap<i32, i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let committed = client.committed_offsets(list, None).ok()?;
    let offset = |offset| match offset {
        Offset::Offset(offset) => offset,
        _ => 0,
    };
    let elements = committed.elements();
    let offsets = elements.iter().map(|e| (e.partition(), offset(e.offset())));
    Some(offsets.collect())
}

impl Abilities for Log {
    fn lacks(&self) -> &[Ability] {
        &[
            Ability::RemovesOldProbes,
            Ability::MarksPositions,
            Ability::LeavesNoGaps,
        ]
    }
}

#[async_trait]
impl Harness for Log {
    async fn create(&self, topics: &[Topic]) -> Result<()> {
        Broker(self.0.clone()).create(topics).await.map(|_| ())
    }

    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(KafkaProducer::open(&self.0, topic).await?))
    }

    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(KafkaConsumer::open(&self.0, topic, group).await?))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }
}

#[async_trait]
impl conformance::log::Harness for Log {
    async fn monitor(&self, topic: &str) -> Result<Box<dyn LogMonitor>> {
        let until = Instant::now() + self.patience();
        Ok(Box::new(
            KafkaLogMonitor::open(&self.0, topic, until).await?,
        ))
    }
}

#[async_trait]
impl reader::Harness for Log {
    async fn reader(&self, topic: &str) -> Result<Box<dyn LogReader>> {
        Ok(Box::new(KafkaLogReader::open(&self.0, topic).await?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_keeps_every_guarantee() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    keeps(reader::CASES, &Log::of(kafka)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_log_keeps_every_guarantee() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    keeps(CASES, &Log::of(kafka)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_keeps_every_guarantee() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    keeps(conformance::log::CASES, &Log::of(kafka)).await;
}

/// Where rtp runs with its own topic on a Kafka server, and embedded stores.
struct Kafka<'a> {
    place: Place,
    address: &'a str,
    topic: String,
}

impl<'a> Kafka<'a> {
    fn ready(kafka: &'a stack::Server, partitions: u32) -> Kafka<'a> {
        let place = Place::new();
        let topic = format!("users_{:016x}", rand::random::<u64>());
        let dataset = include_str!("../../../schema/users.toml")
            .replace("topic = \"user_events\"", &format!("topic = \"{topic}\""))
            .replace("partitions = 3", &format!("partitions = {partitions}"));
        place.write("dataset.toml", dataset);
        let address = kafka.address("RTP_EVENT_LOG");
        let ready = Kafka {
            place,
            address,
            topic,
        };
        let ran = ready.rtp(&["init"], b"");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ready
    }

    /// By default a stream's group has the topic's name, because tests that share a server must not share
    /// a group.
    fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        let log = ["--event-log", self.address, "--dataset", "dataset.toml"];
        let group = ["--group", &self.topic];
        match args.first() == Some(&"stream") && !args.contains(&"--group") {
            true => [args, &log, &group].concat(),
            false => [args, &log].concat(),
        }
    }

    fn rtp(&self, args: &[&str], stdin: &[u8]) -> Ran {
        self.place.rtp(&self.args(args), stdin)
    }

    fn start(&self, args: &[&str]) -> Running {
        self.place.start(&self.args(args))
    }

    /// The number of rows in the store.
    fn stored(&self) -> u64 {
        let count = self.place.query(STORE, "SELECT count(*) FROM users");
        count.parse().unwrap()
    }

    fn config(&self) -> ClientConfig {
        config_at(self.address)
    }

    /// Sets a property of the topic.
    fn set(&self, name: &str, value: &str) {
        self.set_on(&self.topic, name, value);
    }

    /// Sets a property of another topic.
    fn set_on(&self, topic: &str, name: &str, value: &str) {
        let admin: AdminClient<_> = self.config().create().unwrap();
        let topic = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let altered = block_on(admin.alter_configs([&topic], &AdminOptions::new()));
        altered.unwrap()[0].as_ref().unwrap();
    }

    fn dead_letters(&self) -> EventBatch {
        let topic = format!("{}.dlq", self.topic);
        block_on(everything_in(&server_at(self.address), &topic, &self.topic))
    }

    fn delete_topic(&self) {
        let admin: AdminClient<_> = self.config().create().unwrap();
        let deleted = block_on(admin.delete_topics(&[&self.topic], &AdminOptions::new()));
        deleted.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes all events that are in the topic now, as retention does.
    fn delete_records(&self, partitions: i32) {
        let admin: AdminClient<_> = self.config().create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition, Offset::End)
                .unwrap();
        }
        let deleted = block_on(admin.delete_records(&list, &AdminOptions::new()));
        for partition in deleted.unwrap().elements() {
            partition.error().unwrap();
        }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

#[test]
fn settings_of_the_client_are_for_kafka_and_not_those_we_rely_on() {
    let place = Place::ready();
    for (args, message) in [
        (
            &["produce", "-X", "linger.ms=1"][..],
            "-X works only with Kafka",
        ),
        (
            &["produce", "--compression", "zstd"],
            "--compression works only with Kafka",
        ),
        (
            &["stream", "--instance-id", "a"],
            "--instance-id works only with Kafka",
        ),
        (
            &[
                "stream",
                "--event-log",
                "kafka://h",
                "-X",
                "enable.auto.commit=true",
            ],
            "only after the rows are durable",
        ),
        (
            &["init", "--event-log", "kafka://h", "-X", "nonsense=1"],
            "nonsense",
        ),
        (
            &["produce", "--event-log", "kafka://h", "-X", "hunter2"],
            "-X: expected NAME=VALUE",
        ),
        (
            &[
                "produce",
                "--event-log",
                "kafka://h",
                "-X",
                "sasl.password=hunter2",
            ],
            "RTP_KAFKA_PASSWORD_FILE",
        ),
        (
            &[
                "stream",
                "--event-log",
                "kafka://h",
                "-X",
                "linger.ms=hunter2",
            ],
            "invalid setting linger.ms",
        ),
        (
            &["produce", "--event-log", "kafka://h?sasl=plain"],
            "needs a user",
        ),
    ] {
        let ran = place.rtp(args, b"");
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{args:?}: {}", ran.stderr);
    }
}
