//! A second member of a group comes and goes under a steady load, at a rate at which batches are read ahead:
//! every acknowledged event must be in the store, according to our own query.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rdkafka::consumer::BaseConsumer;
use scylla::client::session_builder::SessionBuilder;
use uuid::Uuid;

use crate::common::{Place, Running, eventually, user};
use crate::kafka;
use crate::stack::{Access, Server, server};

/// Events per second.
const RATE: u64 = 4_000;
/// Events that are written at once.
const AT_ONCE: u64 = 20;

const PARTITIONS: u32 = 4;
const JOINS: usize = 2;

/// One load at a time: two at once are more than a small machine carries, and a store that answers too late is an outage.
pub(crate) static LOAD: Mutex<()> = Mutex::new(());

/// How the second member leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    Leaves,
    IsKilled,
    /// It hangs for longer than its session, then continues and leaves.
    IsStopped,
}

/// A separate topic, keyspace and group.
pub(crate) struct Pipeline {
    place: Place,
    pub(crate) log: String,
    store: String,
    /// Name of the keyspace, the topic and the group.
    pub(crate) keyspace: String,
}

impl Pipeline {
    pub(crate) fn ready(kafka: &Server, store: &str, partitions: u32) -> Pipeline {
        let place = Place::new();
        let name = format!("joins_{:016x}", rand::random::<u64>());
        let dataset = include_str!("../../schema/users.toml")
            .replace("topic = \"user_events\"", &format!("topic = \"{name}\""))
            .replace("partitions = 3", &format!("partitions = {partitions}"))
            .replace("keyspace = \"realtime\"", &format!("keyspace = \"{name}\""));
        place.write("dataset.toml", dataset);
        let pipeline = Pipeline {
            place,
            log: kafka.address("RTP_EVENT_LOG").into(),
            store: store.into(),
            keyspace: name,
        };
        let init = pipeline.start(&["init", "--realtime-store", store]).end();
        assert_eq!(init.status, 0, "{}", init.stderr);
        pipeline
    }

    fn start(&self, args: &[&str]) -> Running {
        let more = ["--event-log", &self.log, "--dataset", "dataset.toml"];
        self.place.start(&[args, &more].concat())
    }

    pub(crate) fn stream(&self, more: &[&str]) -> Running {
        let group = ["--group", &self.keyspace, "--realtime-store", &self.store];
        self.start(&[&["stream"], &group[..], more].concat())
    }

    /// Produces at a steady rate until `is_over` of the number of events sent; returns how many were acknowledged.
    pub(crate) fn load(&self, rate: u64, is_over: &dyn Fn(u64) -> bool) -> u64 {
        let mut produce = self.start(&["produce"]);
        let started = Instant::now();
        let mut sent = 0;
        while !is_over(sent) {
            let lines: String = (sent..sent + AT_ONCE)
                .map(|n| user(n, 0, "a@example.com") + "\n")
                .collect();
            produce.write(lines.as_bytes());
            sent += AT_ONCE;
            let due = Duration::from_secs(sent) / u32::try_from(rate).unwrap();
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        produce.close_input();
        let ran = produce.end();
        assert_eq!((ran.status, ran.counts()[1]), (0, sent), "{}", ran.stderr);
        sent
    }

    /// The second member comes, owns partitions, and goes.
    fn come_and_go(&self, departure: Departure) {
        let seconds = |n| std::thread::sleep(Duration::from_secs(n));
        let mut config = kafka::config_at(&self.log);
        config.set("group.id", &self.keyspace); // it only queries, and does not join
        let client: BaseConsumer = config.create().unwrap();
        let owns =
            |name: &str| kafka::owners(&client, &self.keyspace, &self.keyspace).contains(name);
        for join in 0..JOINS {
            let name = format!("second-{join}");
            let second = self.stream(&["-X", &format!("client.id={name}")]);
            eventually("the second member owns a partition", || owns(&name));
            seconds(3);
            match departure {
                Departure::Leaves => second.signal("TERM"),
                Departure::IsKilled => second.signal("KILL"),
                Departure::IsStopped => {
                    second.signal("STOP");
                    seconds(15);
                    second.signal("CONT");
                    seconds(3);
                    second.signal("TERM");
                }
            }
            let expected = if departure == Departure::IsKilled {
                -1
            } else {
                0
            };
            let ran = second.end();
            assert_eq!(ran.status, expected, "{}", ran.stderr);
            seconds(3);
        }
    }

    /// Returns how many events were acknowledged, once everything in the topic is committed.
    fn run(&self, departure: Departure) -> u64 {
        let _one_at_a_time = LOAD.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.stream(&[]);
        std::thread::sleep(Duration::from_secs(4));
        let sent = std::thread::scope(|scope| {
            let joins = scope.spawn(|| self.come_and_go(departure));
            let sent = self.load(RATE, &|_| joins.is_finished());
            joins
                .join()
                .unwrap_or_else(|failed| std::panic::resume_unwind(failed));
            sent
        });
        first.signal("TERM");
        let ran = first.end();
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let rest = self.stream(&["--until-end"]).end();
        assert_eq!(rest.status, 0, "{}", rest.stderr);
        sent
    }
}

fn ids(count: u64) -> BTreeSet<Uuid> {
    let id = |n| format!("00000000-0000-4000-8000-{n:012}");
    (0..count).map(|n| id(n).parse().unwrap()).collect()
}

async fn nothing_is_lost_in_cassandra(departure: Departure) {
    let Some((kafka, cassandra)) =
        server("kafka", Access::Open).zip(server("cassandra", Access::Open))
    else {
        return;
    };
    let store = cassandra.address("RTP_REALTIME_STORE");
    let pipeline = Pipeline::ready(kafka, store, PARTITIONS);
    let sent = tokio::task::block_in_place(|| pipeline.run(departure));
    let node = store.strip_prefix("cassandra://").unwrap();
    let session = SessionBuilder::new()
        .known_node(node)
        .build()
        .await
        .unwrap();
    let select = format!("SELECT id FROM {}.users", pipeline.keyspace);
    let rows = session.query_iter(select, ()).await.unwrap();
    let rows: Vec<(Uuid,)> = rows
        .rows_stream::<(Uuid,)>()
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let stored: BTreeSet<Uuid> = rows.into_iter().map(|(id,)| id).collect();
    let lost = ids(sent).difference(&stored).count();
    assert_eq!(lost, 0, "of {sent} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_and_leaves_costs_no_event() {
    nothing_is_lost_in_cassandra(Departure::Leaves).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_costs_no_event() {
    nothing_is_lost_in_cassandra(Departure::IsKilled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_stopped_for_longer_than_its_session_costs_no_event() {
    nothing_is_lost_in_cassandra(Departure::IsStopped).await;
}

#[test]
fn a_member_that_joins_and_leaves_costs_no_event_of_a_store_with_offsets() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let pipeline = Pipeline::ready(kafka, "sqlite:.rtp/realtime.db", PARTITIONS);
    let sent = pipeline.run(Departure::Leaves);
    let count = "SELECT count(*) FROM users";
    let stored = pipeline.place.query(".rtp/realtime.db", count);
    assert_eq!(stored, sent.to_string());
}
