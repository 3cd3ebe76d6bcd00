//! Events from other producers: in transactions, and with headers that are not text.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rtp::ports::event_log::{Producer as _, Span};
use rtp::ports::log_reader::{EventVisitor, LogReader as _};
use rtp::record::event::{Event, EventBatch, Headers};
use rtp::servers::kafka::KafkaProducer;
use rtp::servers::kafka::log_reader::KafkaLogReader;

use super::{Kafka, block_on, server_at};
use crate::common::user;
use crate::stack::{Access, server};

const TIMEOUT: Duration = Duration::from_secs(120);

/// A producer that writes in transactions.
struct Transactions<'a> {
    producer: BaseProducer,
    topic: &'a str,
}

impl<'a> Transactions<'a> {
    fn of(kafka: &'a Kafka<'_>) -> Self {
        let mut config = kafka.config();
        config.set("transactional.id", &kafka.topic);
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        let topic = &kafka.topic;
        Transactions { producer, topic }
    }

    /// Begins one with these users.
    fn begin(&self, users: std::ops::Range<u64>) {
        self.producer.begin_transaction().unwrap();
        for n in users {
            let value = user(n, 0, "a@example.com");
            let record = BaseRecord::<[u8], str>::to(self.topic).payload(&value);
            self.producer.send(record).unwrap();
        }
        self.producer.flush(TIMEOUT).unwrap();
    }
}

fn is_ok(kafka: &Kafka<'_>) {
    let group = ["--group", &kafka.topic, "--max-lag", "7"];
    let ran = kafka.rtp(&[&["heartbeat", "--once"][..], &group].concat(), b"");
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn what_is_committed_is_streamed_and_a_transaction_leaves_no_lag() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(kafka, 1);
    let transactions = Transactions::of(&kafka);
    let until_end = |expected: u64| {
        let ran = kafka.rtp(&["stream", "--until-end", "--max-outage", "20s"], b"");
        let read = (ran.status, ran.counts()[1]);
        assert_eq!(read, (0, expected), "{}", ran.stderr);
    };
    transactions.begin(0..3);
    transactions.producer.commit_transaction(TIMEOUT).unwrap();
    until_end(3);
    is_ok(&kafka);
    transactions.begin(10..12);
    transactions.producer.abort_transaction(TIMEOUT).unwrap();
    until_end(0);
    is_ok(&kafka);
    // Events of an open transaction are not delivered yet, and nobody waits for them.
    transactions.begin(20..24);
    until_end(0);
    transactions.producer.commit_transaction(TIMEOUT).unwrap();
    // Markers alone are not lag either, for a group that has not seen them.
    until_end(4);
    is_ok(&kafka);
    transactions.begin(30..31);
    transactions.producer.abort_transaction(TIMEOUT).unwrap();
    is_ok(&kafka);
    assert_eq!(kafka.stored(), 7);
}

/// Everything in a span of partition 0, read by nobody's group; how many events it has.
fn count_in(kafka: &Kafka<'_>, from: i64, to: i64) -> usize {
    struct Count(usize);
    impl EventVisitor for Count {
        fn event(&mut self, _: Event<'_>) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }
    let span = Span {
        from: [(0, from)].into(),
        to: [(0, to)].into(),
    };
    block_on(async {
        let server = server_at(kafka.address);
        let mut reader = KafkaLogReader::open(&server, &kafka.topic).await.unwrap();
        let mut count = Count(0);
        reader.read(&span, &mut count).await.unwrap();
        count.0
    })
}

fn bounds(kafka: &Kafka<'_>) -> (i64, i64) {
    block_on(async {
        let server = server_at(kafka.address);
        let mut reader = KafkaLogReader::open(&server, &kafka.topic).await.unwrap();
        let span = reader.bounds().await.unwrap();
        (span.from.get(0).unwrap(), span.to.get(0).unwrap())
    })
}

#[test]
fn a_reading_ends_although_a_transaction_left_no_events() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(kafka, 1);
    let transactions = Transactions::of(&kafka);
    transactions.begin(0..3);
    transactions.producer.commit_transaction(TIMEOUT).unwrap();
    transactions.begin(10..12);
    transactions.producer.abort_transaction(TIMEOUT).unwrap();
    // Three events, two that count for nothing, and two markers.
    assert_eq!(bounds(&kafka), (0, 7));
    for (from, to, expected) in [(0, 7, 3), (0, 4, 3), (2, 6, 1), (3, 7, 0), (3, 4, 0)] {
        assert_eq!(count_in(&kafka, from, to), expected, "{from}..{to}");
    }
    // What is not committed yet is after the end.
    transactions.begin(20..24);
    assert_eq!((bounds(&kafka), count_in(&kafka, 0, 11)), ((0, 7), 3));
    transactions.producer.commit_transaction(TIMEOUT).unwrap();
    assert_eq!((bounds(&kafka), count_in(&kafka, 0, 12)), ((0, 12), 7));
    kafka.delete_records(1);
    assert_eq!((bounds(&kafka), count_in(&kafka, 0, 12)), ((12, 12), 0));
}

#[test]
fn a_follower_passes_what_transactions_leave() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(kafka, 1);
    let transactions = Transactions::of(&kafka);
    let streaming = kafka.start(&["stream"]);
    for n in 0..20 {
        transactions.begin(10 * n..10 * n + 5);
        match n % 2 {
            0 => transactions.producer.commit_transaction(TIMEOUT).unwrap(),
            _ => transactions.producer.abort_transaction(TIMEOUT).unwrap(),
        }
    }
    crate::common::eventually("committed events are stored", || kafka.stored() == 50);
    std::thread::sleep(Duration::from_secs(1));
    streaming.signal("TERM");
    let ran = streaming.end();
    assert_eq!((ran.status, ran.counts()[1]), (0, 50), "{}", ran.stderr);
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);
}

#[test]
fn a_header_whose_name_is_not_utf8_makes_one_dead_letter() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(kafka, 1);
    let mut headers = Headers::default();
    headers.push_bytes(b"bad\xff", b"1");
    let mut batch = EventBatch::default();
    for (n, headers) in [(0, &[][..]), (1, headers.bytes()), (2, &[])] {
        let value = user(n, 0, "a@example.com");
        batch.push(Event::new(None, Some(value.as_bytes()), headers));
    }
    block_on(async {
        let log = server_at(kafka.address);
        let mut producer = KafkaProducer::open(&log, &kafka.topic).await.unwrap();
        producer.send(&Arc::new(batch)).await.unwrap();
        assert_eq!(producer.flush().await.unwrap(), 3);
    });
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [3, 2, 1, 0, 0]),
        "{}",
        ran.stderr
    );
    let letters = kafka.dead_letters();
    let letter = letters.iter().next().unwrap();
    assert_eq!(letter.value, Some(user(1, 0, "a@example.com").as_bytes()));
    let parts: Vec<_> = Headers::parts(letter.headers).collect();
    assert_eq!(parts[0], (&b"bad\xff"[..], &b"1"[..]));
    let rule = parts.iter().find(|(name, _)| *name == b"rtp.rule");
    assert_eq!(rule.map(|(_, rule)| *rule), Some(&b"invalid_utf8"[..]));
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);
}
