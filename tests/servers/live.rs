//! `rtp verify` while a stream writes and one load after the other comes in: of what differs, exactly what was planted
//! fails, each key with its class. What was planted is the test's own doing, by the servers' own clients.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scylla::client::session_builder::SessionBuilder;

use crate::common::{Place, Ran, user};
use crate::postgres::Database;
use crate::stack::{Access, Server, server};

/// Users that are in both stores before anything is planted.
const BASE: u64 = 20_000;

/// The first of those that come while the stores are compared.
const LIVE: u64 = 100_000;

struct Live {
    place: Place,
    /// The servers' addresses, as options.
    servers: Vec<String>,
}

impl Live {
    fn new(kafka: &Server, cassandra: &Server, postgres: &Database) -> Live {
        let place = Place::new();
        let dataset = include_str!("../../schema/users.toml")
            .replace("keyspace = \"realtime\"", "keyspace = \"live\"")
            .replace("topic = \"user_events\"", "topic = \"live_events\"");
        place.write("live.toml", dataset);
        let servers = [
            ("--dataset", "live.toml"),
            ("--event-log", kafka.address("RTP_EVENT_LOG")),
            ("--realtime-store", cassandra.address("RTP_REALTIME_STORE")),
            ("--batch-store", &postgres.url),
        ];
        let servers = servers
            .iter()
            .flat_map(|(option, value)| [option.to_string(), value.to_string()])
            .collect();
        Live { place, servers }
    }

    /// The arguments of a command that uses only some of the servers.
    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let needs: &[&str] = match args[0] {
            "produce" => &["--dataset", "--event-log"],
            "stream" => &["--dataset", "--event-log", "--realtime-store"],
            "load-batch" => &["--dataset", "--batch-store"],
            _ => &[
                "--dataset",
                "--event-log",
                "--realtime-store",
                "--batch-store",
            ],
        };
        let given = self
            .servers
            .chunks(2)
            .filter(|pair| needs.contains(&&*pair[0]));
        let given = given.flatten().map(String::as_str);
        args.iter().copied().chain(given).collect()
    }

    fn rtp(&self, args: &[&str], input: &str, status: i32) -> Ran {
        let ran = self.place.rtp(&self.args(args), input.as_bytes());
        assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
        ran
    }

    fn load(&self, file: &str, records: &str, status: i32) {
        self.place.write(file, records);
        let rejects = format!("{file}.rejects");
        self.rtp(&["load-batch", "--rejects", &rejects, file], "", status);
    }

    /// Produces 2,000 users a second and loads them every second, until told to stop.
    fn feed(&self, done: &AtomicBool) {
        let mut producer = self.place.start(&self.args(&["produce"]));
        let mut next = LIVE;
        while !done.load(Ordering::SeqCst) {
            let mut loaded = String::new();
            for _ in 0..10 {
                let some: String = (next..next + 200)
                    .map(|n| user(n, 600 + (n - LIVE) / 2_000, "live@example.com") + "\n")
                    .collect();
                next += 200;
                producer.write(some.as_bytes());
                loaded.push_str(&some);
                std::thread::sleep(Duration::from_millis(100));
            }
            self.load(&format!("live-{next}.ndjson"), &loaded, 0);
        }
        producer.close_input();
        let ended = producer.end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
}

fn some(numbers: &[u64], second: u64) -> String {
    let lines = numbers
        .iter()
        .map(|n| user(*n, second, "b@example.com") + "\n");
    lines.collect()
}

fn key(n: u64) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// What is planted, by class.
fn expected() -> BTreeMap<&'static str, BTreeSet<u64>> {
    BTreeMap::from([
        ("lost", BTreeSet::from([1, 2, 3, 4, 5])),
        ("changed_outside", BTreeSet::from([6, 7, 8, 9])),
        ("unexplained", BTreeSet::from([30_001, 30_002])),
        ("rejected", BTreeSet::from([30_003])),
        ("dead_letter", BTreeSet::from([30_004])),
        ("older_version", BTreeSet::from([10, 11])),
        ("not_loaded_yet", BTreeSet::from([30_005, 30_006])),
    ])
}

async fn plant(live: &Live, cassandra: &Server, postgres: &Database) {
    live.rtp(&["produce"], &some(&[30_003, 30_005, 30_006], 0), 0);
    live.rtp(&["produce"], &some(&[10, 11], 60), 0);
    live.rtp(&["stream", "--until-end"], "", 0);
    let bad = |n| user(n, 0, "b@example.com").replace("\"b@example.com\"", "7");
    live.load(
        "rejected.ndjson",
        &(bad(30_003) + "\n" + &some(&[30_001, 30_002, 30_004], 0)),
        1,
    );
    live.rtp(&["produce"], &(bad(30_004) + "\n"), 1);
    let ids = |numbers: &[u64]| {
        let keys: Vec<String> = numbers.iter().map(|n| format!("'{}'", key(*n))).collect();
        keys.join(", ")
    };
    for sql in [
        format!("DELETE FROM batch_users WHERE id IN ({})", ids(&[1, 2, 3])),
        format!(
            "UPDATE batch_users SET email = 'x' WHERE id IN ({})",
            ids(&[6, 7])
        ),
    ] {
        postgres.psql(&sql).unwrap();
    }
    let node = cassandra
        .address("RTP_REALTIME_STORE")
        .replace("cassandra://", "");
    let session = SessionBuilder::new()
        .known_node(node)
        .build()
        .await
        .unwrap();
    for cql in [4, 5]
        .map(|n| format!("DELETE FROM live.users WHERE id = {}", key(n)))
        .into_iter()
        .chain([8, 9].map(|n| format!("UPDATE live.users SET email = 'x' WHERE id = {}", key(n))))
    {
        session.query_unpaged(cql, ()).await.unwrap();
    }
}

/// The keys that `--output` lists, by class.
fn found(place: &Place) -> BTreeMap<String, BTreeSet<u64>> {
    let list = std::fs::read_to_string(place.path("list.ndjson")).unwrap();
    let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in list.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (class, key) = (line["class"].as_str(), line["key"].as_str());
        let number = key.unwrap().rsplit('-').next().unwrap().parse().unwrap();
        found
            .entry(class.unwrap().into())
            .or_default()
            .insert(number);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_was_planted_is_found_while_both_layers_are_written() {
    let open = |name| server(name, Access::Open);
    let (Some(kafka), Some(cassandra)) = (open("kafka"), open("cassandra")) else {
        return;
    };
    let Some(postgres) = Database::new("live") else {
        return;
    };
    let live = Live::new(kafka, cassandra, &postgres);
    let base: String = (0..BASE)
        .map(|n| user(n, 0, "a@example.com") + "\n")
        .collect();
    live.rtp(&["init"], "", 0);
    live.rtp(&["produce"], &base, 0);
    live.rtp(&["stream", "--until-end"], "", 0);
    live.load("base.ndjson", &base, 0);
    plant(&live, cassandra, &postgres).await;

    let done = AtomicBool::new(false);
    let follower = live.place.start(&live.args(&["stream"]));
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| live.feed(&done));
        for _ in 0..2 {
            let verify = ["verify", "--grace", "5s", "--output", "list.ndjson"];
            live.rtp(&verify, "", 1);
            let found = found(&live.place);
            for (class, planted) in expected() {
                let mut of_class = found.get(class).cloned().unwrap_or_default();
                if ["older_version", "not_loaded_yet"].contains(&class) {
                    // A user that has come since may be on its way.
                    of_class.retain(|n| *n < LIVE);
                }
                assert_eq!(of_class, planted, "{class}: {found:?}");
            }
            let in_flight = found.get("in_flight").into_iter().flatten();
            assert!(in_flight.clone().all(|n| *n >= LIVE), "{found:?}");
            let known = |class: &String| class == "in_flight" || expected().contains_key(&**class);
            assert!(found.keys().all(known), "{found:?}");
        }
        done.store(true, Ordering::SeqCst);
        feeder.join().unwrap();
    });
    follower.signal("TERM");
    assert_eq!(follower.end().status, 0);

    // Without a stream, what comes now waits in the log.
    live.load("waits.ndjson", &some(&[30_007, 30_008], 0), 0);
    live.rtp(&["produce"], &some(&[30_007, 30_008], 0), 0);
    live.rtp(&["verify", "--output", "list.ndjson"], "", 1);
    let found = found(&live.place);
    let mut expected = expected();
    expected.insert("in_flight", BTreeSet::from([30_007, 30_008]));
    let expected = expected
        .into_iter()
        .map(|(class, keys)| (class.to_string(), keys));
    assert_eq!(found, expected.collect());
}
