//! What a stream says if it cannot read: record batches that are damaged on the broker's disk or too large, and groups that
//! do not admit it.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::{Kafka, owners};
use crate::common::{Ran, eventually, user};
use crate::stack::{Access, Server, server};

/// The folders and files below this one.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .flat_map(|path| [vec![path.clone()], below(&path)].concat())
        .collect()
}

/// The file in which the broker keeps the first events of partition 0.
fn segment(server: &Server, topic: &str) -> PathBuf {
    let name = format!("{topic}-0/00000000000000000000.log");
    let mut found = below(&server.folder).into_iter();
    found.find(|path| path.ends_with(&name)).unwrap()
}

/// Position, length and first offset of the record batches in a segment.
fn batches(segment: &[u8]) -> Vec<(usize, usize, i64)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        let offset = i64::from_be_bytes(segment[at..at + 8].try_into().unwrap());
        let length = u32::from_be_bytes(segment[at + 8..at + 12].try_into().unwrap());
        let length = length as usize + 12;
        found.push((at, length, offset));
        at += length;
    }
    found
}

/// Changes one byte in the middle of the record batch with this number; returns its first offset.
fn damage(segment: &Path, number: usize) -> i64 {
    let bytes = std::fs::read(segment).unwrap();
    let (at, length, offset) = batches(&bytes)[number];
    let middle = at + length / 2;
    let file = std::fs::File::options().write(true).open(segment).unwrap();
    let changed = [bytes[middle] ^ 0x55];
    file.write_all_at(&changed, middle as u64).unwrap();
    offset
}

/// Produces this many batches of 50 users.
fn produce(kafka: &Kafka<'_>, batches: u64) {
    for batch in 0..batches {
        let lines: String = (50 * batch..50 * (batch + 1))
            .map(|n| user(n, 0, "a@example.com") + "\n")
            .collect();
        let ran = kafka.rtp(&["produce"], lines.as_bytes());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
}

fn ends(ran: &Ran, status: i32, told: &[&str]) {
    assert_eq!(ran.status, status, "{}", ran.stderr);
    for text in told {
        assert!(ran.stderr.contains(text), "no {text:?} in: {}", ran.stderr);
    }
}

#[test]
fn a_damaged_record_batch_is_named_and_not_skipped() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    for mode in ["--until-end", "--follow"] {
        let kafka = Kafka::ready(server, 1);
        produce(&kafka, 4);
        let offset = damage(&segment(server, &kafka.topic), 2);
        let from = format!("the events from offset {offset} on cannot be read");
        // The second time nothing comes before it.
        for read in [offset as u64, 0] {
            let ran = kafka.rtp(&["stream", mode], b"");
            ends(&ran, 5, &["partition 0 in kafka://", &from, "CRC"]);
            assert_eq!(ran.counts()[0], read, "{}", ran.stderr);
            assert_eq!(kafka.stored(), offset as u64);
        }
    }
}

#[test]
fn a_group_with_another_assignor_is_waited_for_aloud() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = &Kafka::ready(server, 1);
    produce(kafka, 1);
    let is_over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut config = kafka.config();
            config
                .set("group.id", &kafka.topic)
                .set("client.id", "other")
                .set("partition.assignment.strategy", "range");
            let other: BaseConsumer = config.create().unwrap();
            other.subscribe(&[&kafka.topic]).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                other.poll(Duration::from_millis(100));
            }
        });
        let asks: BaseConsumer = kafka.config().set("group.id", "asks").create().unwrap();
        eventually("the other member reads", || {
            owners(&asks, &kafka.topic, &kafka.topic).contains("other")
        });
        let told = ["protocol", "cooperative-sticky", &kafka.topic];
        for mode in ["--until-end", "--follow"] {
            let ran = kafka.rtp(&["stream", mode, "--max-outage", "2s"], b"");
            ends(&ran, 4, &told);
        }
        // With more patience, it goes on once the other member has left.
        let waiting = kafka.start(&["stream", "--until-end"]);
        is_over.store(true, Ordering::Relaxed);
        other.join().unwrap();
        let ran = waiting.end();
        assert_eq!((ran.status, ran.counts()[0]), (0, 50), "{}", ran.stderr);
    });
}

#[test]
fn a_session_that_the_broker_refuses_is_no_outage() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    produce(&kafka, 1);
    let short = ["stream", "--until-end", "-X", "session.timeout.ms=100"];
    let ran = kafka.rtp(&short, b"");
    ends(&ran, 4, &["session timeout", "-X session.timeout.ms"]);
    assert_eq!(ran.counts(), [0; 5]);
}
