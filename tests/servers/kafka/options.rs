//! What the client can be told: codecs, names of members, sizes.

use super::Kafka;
use crate::common::{eventually, user, users};
use crate::stack::{Access, server};

#[test]
fn every_codec_is_read_back() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    for (i, codec) in ["none", "lz4", "zstd", "snappy", "gzip"].iter().enumerate() {
        let lines: String = (0..500)
            .map(|n| user(500 * i as u64 + n, 0, "a@example.com") + "\n")
            .collect();
        let ran = kafka.rtp(&["produce", "--compression", codec], lines.as_bytes());
        assert_eq!(ran.counts()[1], 500, "{codec}: {}", ran.stderr);
        let ran = kafka.rtp(&["stream", "--until-end"], b"");
        assert_eq!(ran.counts(), [500, 500, 0, 0, 0], "{codec}: {}", ran.stderr);
    }
    assert_eq!(kafka.stored(), 2_500);
}

#[test]
fn of_two_members_with_one_name_only_the_newer_stays() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    kafka.rtp(&["produce"], users(10).as_bytes());
    let older = kafka.start(&["stream", "--instance-id", "a"]);
    eventually("the first rows are stored", || kafka.stored() == 10);
    let newer = kafka.start(&["stream", "--instance-id", "a"]);
    let ran = older.end();
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    let told = [kafka.address, "--instance-id"];
    assert!(
        told.iter().all(|t| ran.stderr.contains(t)),
        "{}",
        ran.stderr
    );
    kafka.rtp(
        &["produce"],
        (user(10, 0, "a@example.com") + "\n").as_bytes(),
    );
    eventually("the newer member stores rows", || kafka.stored() == 11);
    newer.signal("TERM");
    let ran = newer.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn a_record_that_is_too_large_is_rejected() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    let lines = users(2) + &padded(2, 1_100_000);
    let ran = kafka.rtp(&["produce", "--rejects", "r.ndjson"], lines.as_bytes());
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [3, 2, 1, 0, 0]),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_event_that_its_topic_does_not_take_is_no_outage() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    kafka.set("max.message.bytes", "10000");
    let lines = users(2) + &padded(2, 50_000);
    let ran = kafka.rtp(&["produce", "--max-outage", "1h"], lines.as_bytes());
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    for told in [kafka.address, &kafka.topic, "max.message.bytes"] {
        assert!(ran.stderr.contains(told), "no {told:?} in: {}", ran.stderr);
    }
}

/// An event with a field that the dataset does not have, so many bytes long.
fn padded(n: u64, bytes: usize) -> String {
    let user = user(n, 0, "a@example.com");
    let event = user.strip_suffix('}').unwrap();
    format!("{event},\"padding\":\"{}\"}}\n", "x".repeat(bytes))
}
