//! Brokers, topics and events that are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::Kafka;
use crate::common::{Place, Ran, Running, eventually, user, users};
use crate::stack::{Access, own_server, server};

#[test]
fn an_absent_broker_is_named() {
    let place = Place::ready();
    let address = "kafka://127.0.0.1:1";
    for (command, limit) in [
        ("init", "--max-outage"),
        ("produce", "--max-outage"),
        ("stream", "--max-outage"),
        ("heartbeat", "--timeout"),
    ] {
        let ran = place.rtp(&[command, limit, "2s", "--event-log", address], b"");
        let said = format!("{command}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.status, 4, "{said}");
        assert!(said.contains(address), "{said}");
        assert!(said.contains("Connection refused"), "{said}");
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
    std::thread::scope(|scope| {
        // In parallel with the wait, because a full pipe may not be read until the broker continues.
        scope.spawn(|| producing.write(users(400).as_bytes()));
        std::thread::sleep(Duration::from_secs(15)); // longer than any one request may take
        server.signal("CONT");
    });
    producing.write(users(20_000).as_bytes());
    producing.close_input();
    let ran = producing.end();
    assert_eq!(ran.counts(), [60_400, 60_400, 0, 0, 0], "{}", ran.stderr);
    // What is read is what was produced: nothing is in the topic twice.
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((ran.status, ran.counts()[0]), (0, 60_400), "{}", ran.stderr);
}

/// While one member hangs, the coordinator lets the others wait for it. That is no outage.
#[test]
fn a_member_that_waits_for_one_that_hangs_does_not_miss_its_coordinator() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 2);
    kafka.rtp(&["produce"], users(10).as_bytes());
    let older = kafka.start(&["stream"]);
    eventually("the first rows are stored", || kafka.stored() == 10);
    older.signal("STOP"); // until its session has timed out, after 10 s
    let newer = kafka.start(&["stream"]);
    kafka.rtp(&["produce"], users(20).as_bytes());
    eventually("the other rows are stored", || kafka.stored() == 20);
    newer.signal("TERM");
    let ran = newer.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("coordinator"), "{}", ran.stderr);
    older.signal("KILL");
    older.end();
}

#[test]
fn a_killed_broker_is_waited_for_and_nothing_is_lost() {
    let Some(server) = own_server("kafka", "killed") else {
        return;
    };
    let kafka = Kafka::ready(&server, 3);
    let mut producing = kafka.start(&["produce"]);
    let streaming = kafka.start(&["stream", "--max-batch", "500"]);
    producing.write(users(20_000).as_bytes());
    eventually("rows are stored", || kafka.stored() > 0);
    server.signal("KILL");
    let rest: String = (20_000..40_000)
        .map(|n| user(n, 0, "a@example.com") + "\n")
        .collect();
    std::thread::scope(|scope| {
        // In parallel, because a full pipe may not be read until the broker is back.
        scope.spawn(|| producing.write(rest.as_bytes()));
        server.restart();
    });
    producing.close_input();
    let ran = producing.end();
    assert_eq!(ran.counts(), [40_000, 40_000, 0, 0, 0], "{}", ran.stderr);
    eventually("every row is stored", || kafka.stored() == 40_000);
    streaming.signal("TERM");
    let ran = streaming.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

/// How a stream that misses events ends.
fn is_missing(ran: &Ran, told: &[&str]) {
    assert_eq!(ran.status, 5, "{}", ran.stderr);
    for text in told {
        assert!(ran.stderr.contains(text), "no {text:?} in: {}", ran.stderr);
    }
}

#[test]
fn events_that_are_gone_before_they_were_read_are_named() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    for more in [&["--until-end"][..], &[]] {
        let kafka = Kafka::ready(server, 1);
        kafka.rtp(&["produce"], users(30).as_bytes());
        let ran = kafka.rtp(&["stream", "--until-end"], b"");
        assert_eq!(ran.counts()[0], 30, "{}", ran.stderr);
        kafka.rtp(&["produce"], users(20).as_bytes());
        kafka.delete_records(1);
        let ran = kafka.rtp(&[&["stream"], more].concat(), b"");
        let range = "partition 0 in kafka://";
        is_missing(
            &ran,
            &[range, "from offset 30 to 49 were deleted", "retention"],
        );
        assert_eq!(ran.counts(), [0; 5]);
    }
}

#[test]
fn a_heartbeat_tells_of_a_group_that_is_outside_of_its_topic_or_has_never_read_it() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    let beat = |status: i32, words: &str| {
        let ran = kafka.rtp(&["heartbeat", "--group", &kafka.topic], b"");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.status, status, "{said}");
        assert!(said.contains(words), "{said}");
    };
    let commit = |offset| {
        let mut config = kafka.config();
        let client: BaseConsumer = config.set("group.id", &kafka.topic).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&kafka.topic, 0, Offset::Offset(offset))
            .unwrap();
        client.commit(&list, CommitMode::Sync).unwrap();
    };
    kafka.rtp(&["produce"], users(20).as_bytes());
    beat(1, "has never committed, and 20 events are waiting");
    // The embedded real-time store has offsets of its own, which are those of the group as long as the stream commits them.
    let streamed = kafka.rtp(&["stream", "--until-end", "--group", &kafka.topic], b"");
    assert_eq!(streamed.status, 0, "{}", streamed.stderr);
    beat(0, "is at the end");
    commit(100);
    beat(
        5,
        "its offset in partition 0 is 100, but the topic ends at 20",
    );
    commit(10);
    beat(0, "is 10 events behind");
    kafka.delete_records(1);
    beat(
        5,
        "its offset in partition 0 is 10, but the events from there to offset 19 were deleted",
    );
}

#[test]
fn events_that_vanish_while_a_stream_is_behind_are_named() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    for more in [&["--until-end"][..], &[]] {
        let kafka = Kafka::ready(server, 1);
        kafka.rtp(&["produce"], users(100_000).as_bytes());
        let small = ["stream", "--max-batch", "100", "--linger", "0"];
        let stream = kafka.start(&[&small[..], more].concat());
        eventually("the first rows are stored", || kafka.stored() > 0);
        stream.signal("STOP");
        kafka.delete_records(1);
        stream.signal("CONT");
        let ran = stream.end();
        is_missing(&ran, &["partition 0 in kafka://", "to 99999 were deleted"]);
        let [read, written, ..] = ran.counts();
        assert_eq!((read, written), (kafka.stored(), read), "{}", ran.stderr);
        let next = format!("the events from offset {read} to 99999");
        is_missing(&ran, &[&next]);
    }
}

#[test]
fn what_a_follower_has_read_may_be_deleted_while_it_loses_its_session() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    let produce = |from: u64| {
        let lines = (from..from + 20).map(|n| user(n, 0, "a@example.com") + "\n");
        kafka.rtp(&["produce"], lines.collect::<String>().as_bytes());
    };
    produce(0);
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!(ran.counts()[0], 20, "{}", ran.stderr);
    // It starts at offset 20, by what the store says.
    let following = kafka.start(&["stream"]);
    produce(20);
    let client: BaseConsumer = kafka
        .config()
        .set("group.id", &kafka.topic)
        .create()
        .unwrap();
    eventually("it has committed all", || {
        let committed = super::committed(&client, &kafka.topic, 1);
        committed == Some(BTreeMap::from([(0, 40)]))
    });
    following.signal("STOP");
    kafka.delete_records(1);
    eventually("its session is over", || {
        let list = client.fetch_group_list(Some(&kafka.topic), None);
        list.is_ok_and(|list| list.groups().iter().all(|g| g.members().is_empty()))
    });
    following.signal("CONT");
    produce(40);
    eventually("it goes on", || kafka.stored() == 60);
    following.signal("TERM");
    let ran = following.end();
    assert_eq!((ran.status, ran.counts()[0]), (0, 40), "{}", ran.stderr);
}

#[test]
fn members_end_though_all_events_of_a_partition_were_deleted() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 2);
    kafka.rtp(&["produce"], users(100).as_bytes());
    kafka.delete_records(2);
    let until_end = ["stream", "--until-end", "--max-outage", "60s"];
    // Each waits until the other one has reached the end of its partition.
    let members = [kafka.start(&until_end), kafka.start(&until_end)];
    for ran in members.map(Running::end) {
        assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);
    }
}

#[test]
fn a_topic_that_goes_while_a_command_runs_is_missing() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    kafka.rtp(&["produce"], users(100_000).as_bytes());
    let small = ["stream", "--max-batch", "100", "--linger", "0"];
    let other = ["--until-end", "--group", "other", "--realtime-store"];
    let made = kafka.rtp(&["init", "--realtime-store", "sqlite:other.db"], b"");
    assert_eq!(made.status, 0, "{}", made.stderr);
    let ending = kafka.start(&[&small[..], &other, &["sqlite:other.db"]].concat());
    let first = || kafka.place.query("other.db", "SELECT count(*) FROM users") != "0";
    eventually("the first rows are stored", first);
    ending.signal("STOP"); // its client has read ahead no more than 8 of the 18 MB
    let following = kafka.start(&["stream"]);
    eventually("all rows are stored", || kafka.stored() == 100_000);
    let mut producing = kafka.start(&["produce"]);
    // A chunk is sent when it is full or its input has paused.
    producing.write((user(100_000, 0, "a@example.com") + "\n").as_bytes());
    eventually("the producer has sent", || kafka.stored() == 100_001);
    kafka.delete_topic();
    ending.signal("CONT");
    producing.write(users(1).as_bytes());
    producing.close_input();
    let gone = format!(
        "topic {} in {} no longer exists",
        kafka.topic, kafka.address
    );
    for ran in [ending.end(), following.end(), producing.end()] {
        is_missing(&ran, &[&gone, "rtp init"]);
    }
}

#[test]
fn a_recreated_topic_is_missing_what_was_read() {
    let Some(server) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(server, 1);
    kafka.rtp(&["produce"], users(100).as_bytes());
    let following = kafka.start(&["stream"]);
    eventually("all rows are stored", || kafka.stored() == 100);
    let client = kafka
        .config()
        .set("group.id", &kafka.topic)
        .create()
        .unwrap();
    let committed = || super::committed(&client, &kafka.topic, 1);
    eventually("they are committed", || {
        committed() == Some(BTreeMap::from([(0, 100)]))
    });
    following.signal("STOP"); // it must not see the moment without a topic
    kafka.delete_topic();
    kafka.rtp(&["init"], b"");
    following.signal("CONT");
    is_missing(&following.end(), &["recreated"]);
    let ran = kafka.rtp(&["stream", "--until-end"], b"");
    let told = [kafka.topic.as_str(), "that of partition 0", "--group NEW"];
    is_missing(&ran, &told);
}

#[test]
fn a_broker_that_does_not_answer_is_waited_for_as_long_as_told() {
    let Some(server) = own_server("kafka", "states") else {
        return;
    };
    let kafka = Kafka::ready(&server, 3);
    kafka.rtp(&["produce"], users(10).as_bytes());
    let until_end = ["stream", "--until-end", "--group", "other"];
    let commands = [&["produce"][..], &until_end, &["stream"], &["init"]];
    for state in ["STOP", "KILL"] {
        let store = format!("sqlite:{state}.db");
        let own = ["--realtime-store", &store];
        kafka.rtp(&[&["init"][..], &own].concat(), b"");
        let follow = ["stream", "--max-outage", "2s"];
        let following = kafka.start(&[&follow[..], &own].concat());
        let count = "SELECT count(*) FROM users";
        eventually("the events are stored", || {
            kafka.place.query(&format!("{state}.db"), count) == "10"
        });
        server.signal(state);
        let asked = commands.map(|args| {
            let mut started = kafka.start(&[args, &["--max-outage", "2s"]].concat());
            started.close_input();
            started
        });
        let told = |ran: &Ran, words: &str| {
            assert_eq!(ran.status, 4, "{state}: {}", ran.stderr);
            let is_told = ran.stderr.contains(kafka.address) && ran.stderr.contains(words);
            assert!(is_told, "{state}: {}", ran.stderr);
        };
        for running in asked.into_iter().chain([following]) {
            told(&running.end(), "--max-outage");
        }
        let beat = kafka.rtp(&["heartbeat", "--timeout", "2s", "--format", "json"], b"");
        assert_eq!(beat.status, 4, "{}", beat.stderr);
        let round: serde_json::Value = serde_json::from_str(&beat.stdout).unwrap();
        let log = &round["checks"][0];
        assert_eq!(
            (&log["status"], &log["address"]),
            (&"failed".into(), &kafka.address.into())
        );

        let waiting = [&["produce"][..], &until_end, &["init"]].map(|args| {
            let mut started = kafka.start(args);
            started.close_input();
            started
        });
        std::thread::sleep(Duration::from_secs(2)); // so that they have found no broker
        match state {
            "STOP" => server.signal("CONT"),
            _ => server.restart(),
        }
        for running in waiting {
            let ran = running.end();
            assert_eq!(ran.status, 0, "{state}: {}", ran.stderr);
        }
    }
}
