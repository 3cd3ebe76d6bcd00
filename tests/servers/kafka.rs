//! The event log on a real Kafka.

use std::time::Duration;

use async_trait::async_trait;
use rtp::conformance::{Abilities, Ability};
use rtp::error::Result;
use rtp::event_log::conformance::{CASES, Harness};
use rtp::event_log::kafka::{KafkaConsumer, KafkaProducer, create};
use rtp::event_log::{Consumer, Producer, Topic};
use rtp::monitor::kafka::KafkaLogMonitor;
use rtp::monitor::{LogMonitor, conformance};
use rtp::url::Server;

use crate::common::{Place, Ran, Running, eventually, user, users};
use crate::keeps;
use crate::stack::{self, Access, own_server, server};

const STORE: &str = ".rtp/realtime.db";

struct Log(Server);

impl Log {
    fn of(kafka: &stack::Server) -> Log {
        let address = kafka.address("RTP_EVENT_LOG").strip_prefix("kafka://");
        let (host, port) = address.unwrap().split_once(':').unwrap();
        Log(Server {
            hosts: vec![(host.into(), port.parse().unwrap())],
            ..Server::default()
        })
    }
}

impl Abilities for Log {
    fn lacks(&self) -> &[Ability] {
        &[Ability::RemovesOldProbes]
    }
}

#[async_trait]
impl Harness for Log {
    async fn create(&self, topics: &[Topic]) -> Result<()> {
        create(&self.0, topics).await
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
        Ok(Box::new(KafkaLogMonitor::open(&self.0, topic).await?))
    }
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

/// Where rtp runs with a topic of its own on a Kafka, and embedded stores.
struct Kafka<'a> {
    place: Place,
    address: &'a str,
}

impl<'a> Kafka<'a> {
    fn ready(kafka: &'a stack::Server, partitions: u32) -> Kafka<'a> {
        let place = Place::new();
        let topic = format!("users_{:016x}", rand::random::<u64>());
        let dataset = include_str!("../../schema/users.toml")
            .replace("topic = \"user_events\"", &format!("topic = \"{topic}\""))
            .replace("partitions = 3", &format!("partitions = {partitions}"));
        place.write("dataset.toml", dataset);
        let address = kafka.address("RTP_EVENT_LOG");
        let ready = Kafka { place, address };
        let ran = ready.rtp(&["init"], b"");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ready
    }

    fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        let log = ["--event-log", self.address, "--dataset", "dataset.toml"];
        [args, &log].concat()
    }

    fn rtp(&self, args: &[&str], stdin: &[u8]) -> Ran {
        self.place.rtp(&self.args(args), stdin)
    }

    fn start(&self, args: &[&str]) -> Running {
        self.place.start(&self.args(args))
    }

    fn stored(&self) -> u64 {
        let count = self.place.query(STORE, "SELECT count(*) FROM users");
        count.parse().unwrap()
    }
}

#[test]
fn a_group_loses_nothing_while_its_members_come_and_go() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(kafka, 6);
    let lines: String = (0..60_000)
        .map(|n| user(n, 0, &format!("{n}@example.com")) + "\n")
        .collect();
    let ran = kafka.rtp(&["produce"], lines.as_bytes());
    assert_eq!(ran.counts(), [60_000, 60_000, 0, 0, 0], "{}", ran.stderr);

    let member = |more: &[&str]| {
        kafka.start(&[&["stream", "--max-batch", "50", "--linger", "0"], more].concat())
    };
    let killed = member(&[]);
    eventually("the first member stores rows", || kafka.stored() > 1_000);
    let stopped = member(&[]);
    let last = member(&["--until-end"]);
    std::thread::sleep(Duration::from_secs(2)); // so that they have joined, or are about to
    killed.signal("KILL");
    killed.end();
    stopped.signal("TERM");
    let asked = std::time::Instant::now();
    let ran = stopped.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "drained in {:?}",
        asked.elapsed()
    );
    let ran = last.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);

    let right = "SELECT count(*) FROM users
        WHERE email = CAST(substr(id, -12) AS INTEGER) || '@example.com'";
    assert_eq!(kafka.place.query(STORE, right), "60000");
    let rest = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((rest.status, rest.counts()), (0, [0; 5]), "{}", rest.stderr);
}

#[test]
fn an_absent_broker_is_named_and_waited_for_as_long_as_told() {
    let place = Place::ready();
    let address = "kafka://127.0.0.1:1";
    for command in ["produce", "stream"] {
        let args = [command, "--event-log", address, "--max-outage", "2s"];
        let ran = place.rtp(&args, users(1).as_bytes());
        assert_eq!(ran.status, 4, "{}", ran.stderr);
        let told = ran.stderr.contains(address) && ran.stderr.contains("--max-outage");
        assert!(told, "{}", ran.stderr);
    }
}

#[test]
fn settings_of_the_client_are_for_kafka_and_not_those_we_rely_on() {
    let place = Place::ready();
    for (args, message) in [
        (&["produce", "-X", "linger.ms=1"][..], "-X is for Kafka"),
        (
            &["produce", "--compression", "zstd"],
            "--compression is for Kafka",
        ),
        (
            &["stream", "--instance-id", "a"],
            "--instance-id is for Kafka",
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
            &["produce", "--event-log", "kafka://h?sasl=plain"],
            "needs a user",
        ),
    ] {
        let ran = place.rtp(args, b"");
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_paused_broker_costs_nothing_and_doubles_nothing() {
    let Some(server) = own_server("kafka", "paused") else {
        return;
    };
    let kafka = Kafka::ready(&server, 3);
    let mut producing = kafka.start(&["produce"]);
    producing.write(users(40_000).as_bytes());
    server.signal("STOP");
    producing.write(users(400).as_bytes()); // no more than a pipe holds, for it is not read now
    std::thread::sleep(Duration::from_secs(15)); // longer than any one request may take
    server.signal("CONT");
    producing.write(users(20_000).as_bytes());
    producing.close_input();
    let ran = producing.end();
    assert_eq!(ran.counts(), [60_400, 60_400, 0, 0, 0], "{}", ran.stderr);
    // What is read is what was produced: nothing is in the topic twice.
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((ran.status, ran.counts()[0]), (0, 60_400), "{}", ran.stderr);
}

#[test]
fn a_killed_broker_is_waited_for_and_nothing_is_lost() {
    let Some(server) = own_server("kafka", "killed") else {
        return;
    };
    let kafka = Kafka::ready(&server, 3);
    kafka.rtp(&["produce"], users(40_000).as_bytes());
    let streaming = kafka.start(&["stream", "--max-batch", "500"]);
    eventually("rows are stored", || kafka.stored() > 0);
    server.signal("KILL");
    server.restart();
    let ran = kafka.rtp(
        &["produce"],
        (user(50_000, 0, "a@example.com") + "\n").as_bytes(),
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    eventually("every row is stored", || kafka.stored() == 40_001);
    streaming.signal("TERM");
    let ran = streaming.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}
