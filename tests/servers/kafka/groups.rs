//! Members of one group that come, go and die.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::{Kafka, STORE};
use crate::common::{Running, eventually, user};
use crate::stack::{Access, server};

/// How many events the group has to share, unless `RTP_TEST_EVENTS` says otherwise.
const EVENTS: u64 = 60_000;

const PARTITIONS: u32 = 6;

/// The group as its brokers and the store see it.
struct Group<'a> {
    kafka: &'a Kafka<'a>,
    client: BaseConsumer,
}

impl<'a> Group<'a> {
    fn of(kafka: &'a Kafka<'a>) -> Group<'a> {
        let mut config = kafka.config();
        config.set("group.id", "rtp"); // it only asks, and does not join
        let client = config.create().unwrap();
        Group { kafka, client }
    }

    /// How many of its members own a partition, once the group has agreed on that.
    fn owners(&self) -> usize {
        let list = self.client.fetch_group_list(Some("rtp"), None).unwrap();
        let Some(group) = list.groups().iter().find(|g| g.state() == "Stable") else {
            return 0;
        };
        let topic = self.kafka.topic.as_bytes();
        let owns = |assignment: &[u8]| assignment.windows(topic.len()).any(|part| part == topic);
        let assigned = group.members().iter().filter_map(|m| m.assignment());
        assigned.filter(|a| owns(a)).count()
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.kafka.topic, 0, PARTITIONS as i32 - 1);
        let committed = self.client.committed_offsets(list, None).unwrap();
        let offset = |offset| match offset {
            Offset::Offset(offset) => offset,
            _ => 0,
        };
        let elements = committed.elements();
        let offsets = elements.iter().map(|e| (e.partition(), offset(e.offset())));
        offsets.collect()
    }

    /// The offset that the store keeps with its rows.
    fn stored(&self, partition: i32) -> i64 {
        let max = format!(
            "SELECT coalesce(max(offset), 0) FROM rtp_offsets WHERE partition = {partition}"
        );
        self.kafka.place.query(STORE, &max).parse().unwrap()
    }

    /// Looks again and again until `is_over`; yields how often.
    fn never_commits_what_is_not_stored(&self, is_over: &AtomicBool) -> u32 {
        let mut samples = 0;
        while !is_over.load(Ordering::Relaxed) {
            for (partition, committed) in self.committed() {
                let stored = self.stored(partition);
                assert!(
                    committed <= stored,
                    "{committed} committed, {stored} stored in partition {partition}"
                );
            }
            samples += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        samples
    }
}

#[test]
fn a_group_loses_nothing_while_its_members_come_and_go() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let events = std::env::var("RTP_TEST_EVENTS").map_or(EVENTS, |n| n.parse().unwrap());
    let kafka = &Kafka::ready(kafka, PARTITIONS);
    let lines: String = (0..events)
        .map(|n| user(n, 0, &format!("{n}@example.com")) + "\n")
        .collect();
    let ran = kafka.rtp(&["produce"], lines.as_bytes());
    assert_eq!(ran.counts(), [events, events, 0, 0, 0], "{}", ran.stderr);

    let started = Instant::now();
    let is_over = &AtomicBool::new(false);
    let samples = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| Group::of(kafka).never_commits_what_is_not_stored(is_over));
        let members = std::panic::catch_unwind(|| come_and_go(kafka, events));
        is_over.store(true, Ordering::Relaxed);
        let samples = sampler.join().unwrap();
        members.unwrap_or_else(|failed| std::panic::resume_unwind(failed));
        samples
    });
    eprintln!(
        "{events} events are drained after {:?}, sampled {samples} times",
        started.elapsed()
    );

    let right = "SELECT count(*) FROM users
        WHERE email = CAST(substr(id, -12) AS INTEGER) || '@example.com'";
    assert_eq!(kafka.place.query(STORE, right), events.to_string());
    let rest = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((rest.status, rest.counts()), (0, [0; 5]), "{}", rest.stderr);
}

/// One member is killed, one is stopped, and the last one does the rest.
fn come_and_go(kafka: &Kafka<'_>, events: u64) {
    let group = Group::of(kafka);
    let member = |more: &[&str]| -> Running {
        kafka.start(&[&["stream", "--max-batch", "50", "--linger", "0"], more].concat())
    };
    let apart = || std::thread::sleep(Duration::from_secs(2));
    let killed = member(&[]);
    apart();
    let stopped = member(&[]);
    apart();
    let last = member(&["--until-end"]);
    eventually("each member owns partitions", || group.owners() == 3);
    killed.signal("KILL");
    let left = events - kafka.stored();
    assert!(left > 0, "nothing is left to do: let there be more events");
    killed.end();
    assert!(
        group.owners() > 1,
        "the second member owns none when it is stopped"
    );
    stopped.signal("TERM");
    let ran = stopped.end();
    let [read, written, ..] = ran.counts();
    assert_eq!((ran.status, read), (0, written), "{}", ran.stderr);
    assert!(read > 0, "the second member did nothing");
    let ran = last.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // Every row is new, so that nothing was done before that the last member has done.
    let [read, written, ..] = ran.counts();
    assert_eq!(read, written, "{}", ran.stderr);
}
