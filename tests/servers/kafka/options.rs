//! Options of the client: codecs, member names, sizes.

use std::sync::Arc;

use rtp::ports::event_log::Producer as _;
use rtp::record::event::{Event, EventBatch, Headers};
use rtp::servers::kafka::KafkaProducer;

use super::{Kafka, block_on, server_at};
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
fn an_existing_topic_that_keeps_events_for_a_shorter_time_is_told() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    let ran = kafka.rtp(&["init"], b"");
    assert!(!ran.stderr.contains("are kept for"), "{}", ran.stderr);
    let dead_letters = format!("{}.dlq", kafka.topic);
    for topic in [&kafka.topic, &dead_letters] {
        kafka.set_on(topic, "retention.ms", "3600000");
    }
    let ran = kafka.rtp(&["init"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for topic in [&kafka.topic, &dead_letters] {
        let said = format!(
            "topic {topic} in {}: events are kept for 3600s, but the dataset asks that they be kept for",
            kafka.address
        );
        let warns = |line: &str| line.contains(&said) && line.contains("\"level\":\"warn\"");
        assert!(ran.stderr.lines().any(warns), "{topic}: {}", ran.stderr);
    }
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
fn what_its_topic_does_not_take_is_a_dead_letter() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    kafka.set("max.message.bytes", "10000");
    // More small events than fit into one batch of the topic.
    let lines = users(500) + &padded(500, 50_000) + &padded(501, 1_200_000);
    let ran = kafka.rtp(&["produce"], lines.as_bytes());
    assert_eq!(ran.counts(), [502, 500, 2, 0, 0], "{}", ran.stderr);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let letters = kafka.dead_letters();
    let letters: Vec<_> = letters.iter().collect();
    assert_eq!(letters.len(), 2);
    let length = |i: usize| letters[i].value.unwrap().len();
    assert!((50_000..51_000).contains(&length(0)), "{}", length(0));
    // The kept start of a line that is too long for any topic, less what does not fit into the dead-letter topic.
    assert!((1_040_000..1_048_577).contains(&length(1)), "{}", length(1));
    let told = |i: usize, name: &str| {
        let header = Headers::read(letters[i].headers).find(|(n, _)| *n == name);
        header.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
    };
    let rule = Some("too_large".to_string());
    assert_eq!(
        (told(0, "rtp.rule"), told(1, "rtp.rule")),
        (rule.clone(), rule)
    );
    assert_eq!(told(0, "rtp.value_bytes"), None);
    assert_eq!(told(1, "rtp.value_bytes"), Some("1048577".into()));
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!(ran.counts(), [500, 500, 0, 0, 0], "{}", ran.stderr);
}

#[test]
fn one_broker_of_several_is_enough() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 3);
    let several = kafka.address.replace("//", "//127.0.0.1:1,");
    let kafka = Kafka {
        address: &several,
        ..kafka
    };
    let ran = kafka.rtp(&["init"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = kafka.rtp(&["produce"], users(10).as_bytes());
    assert_eq!(ran.counts(), [10, 10, 0, 0, 0], "{}", ran.stderr);
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!(ran.counts(), [10, 10, 0, 0, 0], "{}", ran.stderr);
    let ran = kafka.rtp(&["heartbeat", "--group", &kafka.topic], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

/// An event of this many bytes, with a field that the dataset does not have.
fn padded(n: u64, bytes: usize) -> String {
    let user = user(n, 0, "a@example.com");
    let event = user.strip_suffix('}').unwrap();
    format!("{event},\"padding\":\"{}\"}}\n", "x".repeat(bytes))
}

#[test]
fn a_dead_letter_whose_key_leaves_no_room_is_kept_in_parts_and_passed() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    let key = "k".repeat(1_048_300);
    let mut batch = EventBatch::default();
    batch.push(Event::new(Some(key.as_bytes()), Some(b"{}"), &[]));
    let good = user(1, 0, "a@example.com");
    batch.push(Event::new(None, Some(good.as_bytes()), &[]));
    block_on(async {
        let log = server_at(kafka.address);
        let mut producer = KafkaProducer::open(&log, &kafka.topic).await.unwrap();
        producer.send(&Arc::new(batch)).await.unwrap();
        assert_eq!(producer.flush().await.unwrap(), 2);
    });
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    let ended = (ran.status, ran.counts());
    assert_eq!(ended, (1, [2, 1, 1, 0, 0]), "{}", ran.stderr);
    let letters = kafka.dead_letters();
    let values: Vec<&[u8]> = letters.iter().map(|letter| letter.value.unwrap()).collect();
    assert_eq!(
        (values[0], values[1..].concat()),
        (&b"{}"[..], key.into_bytes())
    );
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);
}
