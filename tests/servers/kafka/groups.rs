//! Members of one group that come, go and die.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rtp::ports::log_reader::LogReader as _;
use rtp::servers::kafka::log_reader::KafkaLogReader;

use super::{Kafka, STORE, server_at};
use crate::common::{eventually, user};
use crate::stack::{Access, server};

/// How many events wait at least while members come and go, so that each of them is always in the middle of its work.
const WAITING: u64 = 60_000;

const PARTITIONS: u32 = 6;

/// The topic's group as its brokers and the store see it.
struct Group<'a> {
    kafka: &'a Kafka<'a>,
    client: BaseConsumer,
}

impl<'a> Group<'a> {
    fn of(kafka: &'a Kafka<'a>) -> Group<'a> {
        let mut config = kafka.config();
        config.set("group.id", &kafka.topic); // it only queries, and does not join
        let client = config.create().unwrap();
        Group { kafka, client }
    }

    fn owners(&self) -> BTreeSet<String> {
        super::owners(&self.client, &self.kafka.topic, &self.kafka.topic)
    }

    /// None before the group has a coordinator.
    fn committed(&self) -> Option<BTreeMap<i32, i64>> {
        super::committed(&self.client, &self.kafka.topic, PARTITIONS as i32)
    }

    /// The offset of the next event that is produced.
    fn end(&self, partition: i32) -> i64 {
        let topic = &self.kafka.topic;
        let ends = self.client.fetch_watermarks(topic, partition, None);
        ends.unwrap().1
    }

    /// The offset that the store keeps with its rows.
    fn stored(&self, partition: i32) -> i64 {
        let max = format!(
            "SELECT coalesce(max(offset), 0) FROM rtp_offsets WHERE partition = {partition}"
        );
        self.kafka.place.query(STORE, &max).parse().unwrap()
    }

    /// Polls until `is_over`; returns how often.
    fn never_commits_what_is_not_stored(&self, is_over: &AtomicBool) -> u32 {
        let mut samples = 0;
        while !is_over.load(Ordering::Relaxed) {
            if let Some(committed) = self.committed() {
                for (partition, committed) in committed {
                    let stored = self.stored(partition);
                    let place = format!("partition {partition}");
                    assert!(committed <= stored, "{place}: {committed} > {stored}");
                }
                samples += 1;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        samples
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_that_members_read_are_told() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, PARTITIONS);
    kafka.rtp(
        &["produce"],
        (user(1, 0, "a@example.com") + "\n").as_bytes(),
    );
    let address = server_at(server.address("RTP_EVENT_LOG"));
    let mut reader = KafkaLogReader::open(&address, &kafka.topic).await.unwrap();
    let followed = async |reader: &mut KafkaLogReader| reader.followed(&kafka.topic).await.unwrap();
    assert_eq!(followed(&mut reader).await, BTreeSet::new());
    let stream = kafka.start(&["stream"]);
    let all: BTreeSet<i32> = (0..PARTITIONS as i32).collect();
    while followed(&mut reader).await != all {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What is assigned of another topic is none of this one.
    let letters = format!("{}.dlq", kafka.topic);
    let mut of_letters = KafkaLogReader::open(&address, &letters).await.unwrap();
    assert_eq!(followed(&mut of_letters).await, BTreeSet::new());
    stream.signal("TERM");
    assert_eq!(stream.end().status, 0);
    assert_eq!(followed(&mut reader).await, BTreeSet::new());
}

#[test]
fn a_group_loses_nothing_while_its_members_come_and_go() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = &Kafka::ready(kafka, PARTITIONS);
    let (is_fed, is_over) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let (samples, sent) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| Group::of(kafka).never_commits_what_is_not_stored(is_over));
        let feeder = scope.spawn(|| feed(kafka, is_fed));
        let feed_no_more = || {
            is_fed.store(true, Ordering::Relaxed);
            feeder.join().unwrap()
        };
        let members = AssertUnwindSafe(|| come_and_go(kafka, feed_no_more));
        let sent = std::panic::catch_unwind(members);
        is_fed.store(true, Ordering::Relaxed);
        is_over.store(true, Ordering::Relaxed);
        let samples = sampler.join().unwrap();
        let sent = sent.unwrap_or_else(|failed| std::panic::resume_unwind(failed));
        (samples, sent)
    });
    assert!(samples > 0, "nothing was sampled");

    let right = "SELECT count(*) FROM users
        WHERE email = CAST(substr(id, -12) AS INTEGER) || '@example.com'";
    assert_eq!(kafka.place.query(STORE, right), sent.to_string());
    let rest = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((rest.status, rest.counts()), (0, [0; 5]), "{}", rest.stderr);
}

/// Produces as fast as events are stored; returns how many were acknowledged.
fn feed(kafka: &Kafka<'_>, is_fed: &AtomicBool) -> u64 {
    let mut produce = kafka.start(&["produce"]);
    let mut sent = 0;
    while !is_fed.load(Ordering::Relaxed) {
        if sent >= kafka.stored() + WAITING {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let lines: String = (sent..sent + 5_000)
            .map(|n| user(n, 0, &format!("{n}@example.com")) + "\n")
            .collect();
        produce.write(lines.as_bytes());
        sent += 5_000;
    }
    produce.close_input();
    let ran = produce.end();
    assert_eq!(ran.counts(), [sent, sent, 0, 0, 0], "{}", ran.stderr);
    sent
}

/// One member is killed, one is stopped, and the last one does the rest. Returns how many events there were.
fn come_and_go(kafka: &Kafka<'_>, feed_no_more: impl FnOnce() -> u64) -> u64 {
    let group = Group::of(kafka);
    let owners = |names: &[&str]| {
        let names = names.iter().map(ToString::to_string).collect();
        let what = format!("{names:?} own the partitions");
        eventually(&what, || group.owners() == names);
    };
    let member = |name: &str| {
        let name = format!("client.id={name}");
        kafka.start(&["stream", "--max-batch", "50", "-X", &name])
    };
    let killed = member("killed");
    owners(&["killed"]);
    eventually("it has stored rows", || kafka.stored() > 0);
    let stopped = member("stopped");
    owners(&["killed", "stopped"]);
    let last = member("last");
    owners(&["killed", "last", "stopped"]);
    killed.signal("KILL");
    killed.end();
    owners(&["last", "stopped"]);
    let before: Vec<i64> = (0..PARTITIONS as i32).map(|p| group.stored(p)).collect();
    eventually("every partition goes on", || {
        (0..)
            .zip(&before)
            .all(|(p, before)| group.stored(p) > *before)
    });
    stopped.signal("TERM");
    let ran = stopped.end();
    let [read, written, ..] = ran.counts();
    assert_eq!((ran.status, read), (0, written), "{}", ran.stderr);
    assert!(read > 0, "the second member did nothing");
    let sent = feed_no_more();
    eventually("all rows are stored", || kafka.stored() == sent);
    last.signal("TERM");
    let ran = last.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // Every row is new, so the last member repeated none of the earlier work.
    let [read, written, ..] = ran.counts();
    assert_eq!(read, written, "{}", ran.stderr);
    sent
}

#[test]
fn a_member_with_a_name_finds_its_partitions_again() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = &Kafka::ready(kafka, 2);
    let group = Group::of(kafka);
    let member = |name: &str| {
        let client = format!("client.id={name}");
        // Long enough for the restart on a slow machine.
        let session = ["-X", "session.timeout.ms=60000"];
        kafka.start(
            &[
                &["stream", "--instance-id", name, "-X", &client],
                &session[..],
            ]
            .concat(),
        )
    };
    let both = BTreeSet::from(["stays".to_string(), "restarts".to_string()]);
    let stays = member("stays");
    let restarts = member("restarts");
    eventually("each owns a partition", || group.owners() == both);
    restarts.signal("TERM");
    let ran = restarts.end();
    assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);

    let lines: String = (0..100)
        .map(|n| user(n, 0, "a@example.com") + "\n")
        .collect();
    kafka.rtp(&["produce"], lines.as_bytes());
    let is_done = |p: i32| group.stored(p) == group.end(p);
    let done = || (0..2).filter(|p| is_done(*p)).count();
    eventually("one partition is at its end", || done() == 1);
    // Enough time for the group to redistribute the partitions of a member that left.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((done(), group.owners()), (1, both.clone()));

    let restarts = member("restarts");
    eventually("so is the other", || done() == 2);
    assert_eq!(group.owners(), both);
    let read = [stays, restarts].map(|member| {
        member.signal("TERM");
        let ran = member.end();
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.counts()[0]
    });
    assert!(!read.contains(&0), "{read:?}");
    assert_eq!(read.iter().sum::<u64>(), 100);
}
