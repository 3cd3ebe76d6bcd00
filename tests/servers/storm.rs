//! Members of one group join, leave, die and hang for longer than their session while Cassandra stands still for 8 s again
//! and again. No event may be lost or wrong at the end, and at no time may an offset be committed before its rows are in
//! the table, according to our own queries.
//!
//! One round by default; `RTP_STORM_ROUNDS=20` runs the seeds 1 to 20, one after the other, and `RTP_STORM_ROUNDS=7-9`
//! those from 7 to 9.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::common::Running;
use crate::joins::{LOAD, Pipeline};
use crate::kafka;
use crate::stack::{Access, Server, own_server, server};

const EVENTS: u64 = 300_000;
/// Events per second: enough for batches to be read ahead.
const RATE: u64 = 8_000;
const PARTITIONS: u32 = 6;
const MOST_MEMBERS: usize = 4;
/// How many events below a committed offset are looked up.
const LOOKED_UP: usize = 40;
const PAUSE: Duration = Duration::from_secs(8);
/// Longer than the session of a member.
const HANG: Duration = Duration::from_secs(15);

/// Where each event lies in the topic, as our own reader finds it.
#[derive(Default)]
struct Topic(BTreeMap<i32, Vec<Uuid>>);

impl Topic {
    /// Reads what is there, for a moment; returns whether anything new came.
    fn read_on(&mut self, reader: &BaseConsumer) -> bool {
        let mut is_new = false;
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until
            && let Some(message) = reader.poll(Duration::from_millis(5))
        {
            let message = message.unwrap();
            let event: serde_json::Value =
                serde_json::from_slice(message.payload().unwrap()).unwrap();
            let events = self.0.entry(message.partition()).or_default();
            assert_eq!(
                events.len() as i64,
                message.offset(),
                "no event is sent twice"
            );
            events.push(event["id"].as_str().unwrap().parse().unwrap());
            is_new = true;
        }
        is_new
    }

    fn count(&self) -> u64 {
        self.0.values().map(|events| events.len() as u64).sum()
    }
}

fn reader(pipeline: &Pipeline) -> BaseConsumer {
    let mut config = kafka::config_at(&pipeline.log);
    config.set("group.id", &pipeline.keyspace); // it queries the group's offsets, and does not join
    config.set("enable.auto.commit", "false");
    let reader: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS as i32 {
        let added = all.add_partition_offset(&pipeline.keyspace, partition, Offset::Beginning);
        added.unwrap();
    }
    reader.assign(&all).unwrap();
    reader
}

/// What the second thread saw while the members worked.
struct Watched {
    topic: Topic,
    samples: u32,
}

/// Reads the topic along, and looks up the last events below each committed offset; those that Cassandra cannot answer,
/// because it stands still, are looked up the next time.
fn watch(
    pipeline: &Pipeline,
    session: &Session,
    runtime: &Handle,
    is_over: &AtomicBool,
) -> Watched {
    let reader = reader(pipeline);
    let mut watched = Watched {
        topic: Topic::default(),
        samples: 0,
    };
    let select = format!("SELECT id FROM {}.users WHERE id IN ?", pipeline.keyspace);
    let mut checked = BTreeMap::new();
    loop {
        let ends = is_over.load(Ordering::Relaxed);
        let is_new = watched.topic.read_on(&reader);
        let committed = kafka::committed(&reader, &pipeline.keyspace, PARTITIONS as i32);
        for (partition, offset) in committed.unwrap_or_default() {
            let events = watched
                .topic
                .0
                .get(&partition)
                .map_or(&[][..], Vec::as_slice);
            let to = usize::try_from(offset).unwrap_or(0);
            if to > events.len() || checked.get(&partition) == Some(&to) {
                continue; // our own reader is behind, or nothing was committed since
            }
            let ids = &events[to.saturating_sub(LOOKED_UP)..to];
            let answer = session.query_unpaged(select.as_str(), (ids,));
            let answer = async { tokio::time::timeout(Duration::from_millis(400), answer).await };
            let Ok(Ok(found)) = runtime.block_on(answer) else {
                break;
            };
            let found = found.into_rows_result().unwrap().rows_num();
            assert_eq!(
                found,
                ids.len(),
                "committed ahead: partition {partition}, offset {offset}"
            );
            checked.insert(partition, to);
            watched.samples += 1;
        }
        if ends && !is_new {
            return watched;
        }
    }
}

/// Cassandra stands still for 8 s, works for 2 to 6, and so on.
fn pause_again_and_again(cassandra: &Server, mut random: StdRng, is_over: &AtomicBool) -> u32 {
    let mut pauses = 0;
    while !is_over.load(Ordering::Relaxed) {
        let paused = cassandra.stopped();
        std::thread::sleep(PAUSE);
        drop(paused);
        pauses += 1;
        std::thread::sleep(Duration::from_secs(random.random_range(2..=6)));
    }
    pauses
}

/// Members other than the one that stays.
struct Members<'a> {
    pipeline: &'a Pipeline,
    running: Vec<Running>,
    /// Those that hang, and until when.
    hanging: Vec<(Instant, Running)>,
    changes: BTreeMap<&'static str, u32>,
}

impl Members<'_> {
    fn change(&mut self, random: &mut StdRng) {
        let now = Instant::now();
        while let Some(at) = self.hanging.iter().position(|(until, _)| *until <= now) {
            let (_, member) = self.hanging.swap_remove(at);
            member.signal("CONT");
            self.running.push(member);
        }
        let members = self.running.len() + self.hanging.len();
        let what = match (random.random_range(0..10), self.running.is_empty()) {
            (_, true) | (0..4, _) if members < MOST_MEMBERS => "joins",
            (_, true) => return,
            (0..6, _) => "leaves",
            (6..8, _) => "hangs",
            _ => "is killed",
        };
        *self.changes.entry(what).or_default() += 1;
        if what == "joins" {
            self.running.push(self.pipeline.stream(&[]));
            return;
        }
        let at = random.random_range(0..self.running.len());
        let member = self.running.swap_remove(at);
        match what {
            "leaves" => ends_well(member),
            "hangs" => {
                member.signal("STOP");
                self.hanging.push((now + HANG, member));
            }
            _ => {
                member.signal("KILL");
                assert_eq!(member.end().status, -1);
            }
        }
    }

    fn end(self) {
        for (_, member) in &self.hanging {
            member.signal("CONT");
        }
        let hanging = self.hanging.into_iter().map(|(_, member)| member);
        self.running.into_iter().chain(hanging).for_each(ends_well);
    }
}

/// Sets a flag when it is dropped.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A member may wait for a Cassandra that stands still, or for a coordinator that waits for members that hang. If that is
/// interrupted, it says so.
fn ends_well(member: Running) {
    member.signal("TERM");
    let ran = member.end();
    let waited = ran
        .stderr
        .contains("interrupted by SIGTERM while waiting (");
    let expected = if waited { 143 } else { 0 };
    assert_eq!(ran.status, expected, "{}", ran.stderr);
}

/// Id, partition and offset of each row.
async fn rows(session: &Session, keyspace: &str) -> BTreeMap<Uuid, (i32, i64, String)> {
    let select = format!("SELECT id, rtp_partition, rtp_offset, email FROM {keyspace}.users");
    let rows = session.query_iter(select, ()).await.unwrap();
    let rows = rows.rows_stream::<(Uuid, i32, i64, String)>().unwrap();
    rows.map_ok(|(id, partition, offset, email)| (id, (partition, offset, email)))
        .try_collect()
        .await
        .unwrap()
}

/// One round; returns what happened in it.
fn round(seed: u64, kafka: &Server, cassandra: &Server, session: &Session) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let pipeline = Pipeline::ready(kafka, cassandra.address("RTP_REALTIME_STORE"), PARTITIONS);
    let runtime = Handle::current();
    let (is_sent, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let stays = pipeline.stream(&[]);
    let mut members = Members {
        pipeline: &pipeline,
        running: Vec::new(),
        hanging: Vec::new(),
        changes: BTreeMap::new(),
    };
    let (watched, pauses, changes) = std::thread::scope(|scope| {
        let (pipeline, is_sent, is_over) = (&pipeline, &is_sent, &is_over);
        // A failure below must not leave the other threads running.
        let _end = (EndsWith(is_sent), EndsWith(is_over));
        let watcher = scope.spawn(move || watch(pipeline, session, &runtime, is_over));
        let pauser = StdRng::seed_from_u64(seed + 1_000);
        let pauser = scope.spawn(move || pause_again_and_again(cassandra, pauser, is_sent));
        let load = scope.spawn(|| pipeline.load(RATE, &|sent| sent >= EVENTS));
        while !load.is_finished() {
            std::thread::sleep(Duration::from_millis(random.random_range(500..4_000)));
            members.change(&mut random);
        }
        is_sent.store(true, Ordering::Relaxed);
        assert_eq!(load.join().unwrap(), EVENTS);
        let pauses = pauser.join().unwrap();
        let changes = format!("{:?}", members.changes);
        members.end();
        ends_well(stays);
        let rest = pipeline.stream(&["--until-end"]).end();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(rest.status, 0, "{}", rest.stderr);
        (watcher.join().unwrap(), pauses, changes)
    });
    let (mut lost, mut wrong) = (0, 0);
    let stored = Handle::current().block_on(rows(session, &pipeline.keyspace));
    assert_eq!(watched.topic.count(), EVENTS);
    for (partition, events) in &watched.topic.0 {
        for (offset, id) in (0..).zip(events) {
            match stored.get(id) {
                None => lost += 1,
                Some((p, o, email)) => {
                    let is_right = (p, *o, email.as_str()) == (partition, offset, "a@example.com");
                    wrong += u32::from(!is_right);
                }
            }
        }
    }
    let told = format!(
        "seed {seed}: {EVENTS} events, {pauses} pauses, {changes}, {} samples: lost {lost}, wrong {wrong}",
        watched.samples
    );
    assert!(
        lost == 0 && wrong == 0 && stored.len() as u64 == EVENTS,
        "{told}"
    );
    assert!(pauses >= 2 && watched.samples > 20, "{told}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_while_cassandra_stands_still_lose_nothing() {
    let Some((kafka, cassandra)) =
        server("kafka", Access::Open).zip(own_server("cassandra", "storm"))
    else {
        return;
    };
    let node = cassandra.address("RTP_REALTIME_STORE");
    let node = node.strip_prefix("cassandra://").unwrap();
    let session = SessionBuilder::new().known_node(node).build().await;
    let session = session.unwrap();
    let rounds = std::env::var("RTP_STORM_ROUNDS").unwrap_or("1".into());
    let (first, last) = rounds.split_once('-').unwrap_or(("1", &rounds));
    let seeds: RangeInclusive<u64> = first.parse().unwrap()..=last.parse().unwrap();
    tokio::task::block_in_place(|| {
        let _one_at_a_time = LOAD.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!seeds.is_empty(), "{rounds}");
        for seed in seeds {
            eprintln!("{}", round(seed, kafka, &cassandra, &session));
        }
    });
}
