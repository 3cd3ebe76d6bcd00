//! `verify` on live data, on real servers: both stores have the given number of users, 1,000 a second are streamed and
//! loaded, and 37 differences of every class are planted by the servers' own clients. Prints whether exactly those were
//! found, and the time as a ratio to bare scans of the same tables, taken in turns under the same load.
//! docs/benchmarks.md explains how to run and read it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{self, StreamExt};
use harness::{Options, Usage, bare, events, measure, measure_to, spread};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::ColumnIterator;
use scylla::response::PagingState;

/// Users a second that come while the stores are compared, in pieces of a tenth of a second.
const RATE: u64 = 1_000;

/// Seconds of users in a load.
const LOAD_EVERY: u64 = 5;

/// How many of each class are planted. What is in flight is planted last, when the stream is stopped.
const PLANTED: [(&str, usize); 8] = [
    ("lost", 6),
    ("changed_outside", 5),
    ("older_version", 5),
    ("not_loaded_yet", 5),
    ("rejected", 4),
    ("dead_letter", 4),
    ("unexplained", 3),
    ("in_flight", 5),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--bare") {
        println!("{}", bare_scan(&args[1], &args[2]));
        return ExitCode::SUCCESS;
    }
    let options = match Options::read(args.into_iter()) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let Some(bench) = Bench::new() else {
        eprintln!(
            "RTP_EVENT_LOG, RTP_REALTIME_STORE and RTP_BATCH_STORE are not set: run it by `just bench-live`"
        );
        return ExitCode::from(2);
    };
    if bench.run(&options) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

/// Runtime of the scans and of the statements in CQL.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// Reads every column of every row of a table, and returns the number of rows and of bytes.
fn bare_scan(address: &str, table: &str) -> String {
    let (rows, bytes) = if address.starts_with("cassandra:") {
        runtime().block_on(scan_cassandra(address, table))
    } else {
        scan_postgres(address, table)
    };
    format!("{rows} rows, {bytes} bytes")
}

async fn cassandra(address: &str) -> Session {
    let node = address.replace("cassandra://", "");
    let node = node.trim_end_matches('/');
    SessionBuilder::new()
        .known_node(node)
        .build()
        .await
        .unwrap()
}

/// By 256 ranges of tokens, 8 at a time, in pages of 2,000 rows.
async fn scan_cassandra(address: &str, table: &str) -> (u64, u64) {
    const RANGES: u64 = 256;
    let session = cassandra(address).await;
    let columns = columns();
    let cql = format!(
        "SELECT {} FROM {table} WHERE token(id) >= ? AND token(id) <= ?",
        columns.join(", ")
    );
    let mut scan = session.prepare(cql).await.unwrap();
    scan.set_page_size(2_000);
    let (session, scan) = (&session, &scan);
    let range = |i: u64| async move {
        let token = |n: u64| (n ^ 1 << 63).cast_signed();
        let width = u64::MAX / RANGES;
        let last = if i + 1 == RANGES {
            u64::MAX
        } else {
            (i + 1) * width
        };
        let (mut rows, mut bytes) = (0, 0);
        let mut from = PagingState::start();
        loop {
            let range = (token(i * width + 1), token(last));
            let (page, more) = session
                .execute_single_page(scan, range, from)
                .await
                .unwrap();
            let page = page.into_rows_result().unwrap();
            for row in page.rows::<ColumnIterator<'_, '_>>().unwrap() {
                rows += 1;
                for column in row.unwrap() {
                    bytes += column
                        .unwrap()
                        .slice
                        .map_or(0, |s| s.as_slice().len() as u64);
                }
            }
            match more.into_paging_control_flow() {
                std::ops::ControlFlow::Continue(next) => from = next,
                std::ops::ControlFlow::Break(()) => return (rows, bytes),
            }
        }
    };
    stream::iter(0..RANGES)
        .map(range)
        .buffer_unordered(8)
        .fold((0, 0), |sum, some| async move {
            (sum.0 + some.0, sum.1 + some.1)
        })
        .await
}

/// By COPY in binary, the fastest that PostgreSQL has.
fn scan_postgres(address: &str, table: &str) -> (u64, u64) {
    let mut client = postgres::Client::connect(address, postgres::NoTls).unwrap();
    let sql = format!(
        "COPY {table} ({}) TO STDOUT (FORMAT binary)",
        columns().join(", ")
    );
    let mut copied = client.copy_out(&sql).unwrap();
    let (mut bytes, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match copied.read(&mut buffer).unwrap() {
            0 => break,
            n => bytes += n as u64,
        }
    }
    drop(copied);
    let row = client
        .query_one(&format!("SELECT count(*) FROM {table}"), &[])
        .unwrap();
    let rows: i64 = row.get(0);
    (rows.cast_unsigned(), bytes)
}

/// The columns of the users dataset, as far as both stores have them.
fn columns() -> Vec<String> {
    let dataset = rtp::dataset::Dataset::load(None).unwrap();
    dataset.fields.iter().map(|f| f.name.clone()).collect()
}

/// Topic, keyspace and table of one run, and where its files are.
struct Bench {
    name: String,
    folder: PathBuf,
    log: String,
    realtime: String,
    batch: String,
}

/// The keys that are planted, by class.
type Planted = BTreeMap<&'static str, BTreeSet<String>>;

impl Bench {
    fn new() -> Option<Bench> {
        let address = |name| std::env::var(name).ok();
        let name = format!("live_{}", std::process::id());
        let folder = harness::workspace().join(&name);
        let bench = Bench {
            log: address("RTP_EVENT_LOG")?,
            realtime: address("RTP_REALTIME_STORE")?,
            batch: address("RTP_BATCH_STORE")?,
            name,
            folder,
        };
        std::fs::create_dir_all(&bench.folder).unwrap();
        let mut text = include_str!("../schema/users.toml").to_owned();
        for (from, to) in [
            (
                "topic = \"user_events\"",
                format!("topic = \"{}\"", bench.name),
            ),
            (
                "keyspace = \"realtime\"",
                format!("keyspace = \"{}\"", bench.name),
            ),
            (
                "table = \"batch_users\"",
                format!("table = \"{}\"", bench.name),
            ),
        ] {
            assert!(text.contains(from), "the users dataset has no {from}");
            text = text.replace(from, &to);
        }
        std::fs::write(bench.folder.join("live.toml"), text).unwrap();
        Some(bench)
    }

    /// rtp with the options that the command needs.
    fn rtp(&self, args: &[&str]) -> Command {
        let servers = [
            ("--event-log", &self.log, "init produce stream verify"),
            ("--realtime-store", &self.realtime, "init stream verify"),
            ("--batch-store", &self.batch, "init load-batch verify"),
        ];
        let mut command = harness::rtp(&self.folder);
        command.args(args).args(["--dataset", "live.toml"]);
        for (option, address, commands) in servers {
            if commands.split(' ').any(|name| name == args[0]) {
                command.args([option, address]);
            }
        }
        command
    }

    fn write(&self, file: &str, lines: &str) {
        std::fs::write(self.folder.join(file), lines).unwrap();
    }

    /// Produces or loads these records, which must end with this status.
    fn put(&self, command: &[&str], file: &str, lines: &str, status: i32) {
        self.write(file, lines);
        let rejects = format!("{file}.rejects");
        let args = [
            command,
            &["--rejects", &rejects, file][if command[0] == "produce" { 2.. } else { 0.. }],
        ]
        .concat();
        measure_to(&mut self.rtp(&args), status);
    }

    fn sql(&self, sql: &str) -> u64 {
        let mut client = postgres::Client::connect(&self.batch, postgres::NoTls).unwrap();
        client.execute(sql, &[]).unwrap()
    }

    fn cql(&self, statements: impl Iterator<Item = String>) {
        runtime().block_on(async {
            let session = cassandra(&self.realtime).await;
            for cql in statements {
                session.query_unpaged(cql, ()).await.unwrap();
            }
        });
    }

    /// Waits until Cassandra has merged the files that the filling has left, for ten minutes at most.
    fn wait_for_compactions(&self) {
        let until = Instant::now() + Duration::from_secs(600);
        runtime().block_on(async {
            let session = cassandra(&self.realtime).await;
            let tasks = "SELECT * FROM system_views.sstable_tasks";
            while Instant::now() < until {
                let answer = session.query_unpaged(tasks, ()).await.unwrap();
                if answer.into_rows_result().unwrap().rows_num() == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            panic!("Cassandra still compacts after ten minutes");
        });
    }

    /// Whether exactly what was planted was found, in each of the comparisons.
    fn run(&self, options: &Options) -> bool {
        let users = events(options.events);
        measure(&mut self.rtp(&["init"]));
        measure(self.rtp(&["produce"]).arg(&users));
        measure(&mut self.rtp(&["stream", "--until-end"]));
        measure(self.rtp(&["load-batch"]).arg(&users));
        let mut planted = self.plant(&users);
        eprintln!(
            "{} users are in both stores; planted: {:?}",
            options.events,
            counts(&planted)
        );

        let done = AtomicBool::new(false);
        let fed = Mutex::new(Fed::default());
        let mut follower = self.follow();
        std::thread::sleep(Duration::from_secs(2));
        let exact = std::thread::scope(|scope| {
            let feeder = scope.spawn(|| self.feed(&done, &fed));
            let until_the_end = EndsFeeding(&done);
            // Whoever scans servers first that were just filled pays for their compilers, caches and compactions.
            self.wait_for_compactions();
            self.bare_scans();
            let (mut exact, mut ratios) = (true, Vec::new());
            let mut before = self.bare_scans();
            for round in 0..options.pairs.max(1) {
                let ours = self.verify(&[]);
                exact &= self.judge(&planted, "without grace", ours);
                let after = self.bare_scans();
                // The servers become faster from scan to scan for a while, so those before and after it count alike.
                let slower = [before, after].map(|scans| scans[0].max(scans[1]).as_secs_f64());
                let ratio = 2.0 * ours.wall.as_secs_f64() / (slower[0] + slower[1]);
                eprintln!(
                    "round {}: verify {:.2} s between bare scans of Cassandra in {:.2} and {:.2} s, and of PostgreSQL in {:.2} and {:.2} s: {ratio:.2}x the slower one",
                    round + 1,
                    ours.wall.as_secs_f64(),
                    before[0].as_secs_f64(),
                    after[0].as_secs_f64(),
                    before[1].as_secs_f64(),
                    after[1].as_secs_f64(),
                );
                ratios.push(ratio);
                before = after;
            }
            let (low, middle, high) = spread(ratios.into_iter());
            println!(
                "verify takes {middle:.2}x the time of the slower store's bare scan ({low:.2} to {high:.2})"
            );
            let graced = self.verify(&["--grace", "10s"]);
            exact &= self.judge(&planted, "with --grace 10s", graced);

            // With the stream stopped, what comes waits in the log; the feeder goes on.
            follower.stop();
            let waits = record("dddddddd", 0..count("in_flight"), BASE_TIME);
            self.put(&["load-batch"], "waits.ndjson", &waits, 0);
            self.put(&["produce"], "produced.ndjson", &waits, 0);
            planted.insert("in_flight", keys("dddddddd", 0..count("in_flight")));
            let stopped = self.verify(&[]);
            exact &= self.judge(&planted, "with the stream stopped", stopped);
            drop(until_the_end);
            feeder.join().unwrap();
            exact
        });
        let fed = fed.into_inner().unwrap();
        println!(
            "meanwhile {:.0} users/s were produced, and loaded in {} loads",
            fed.produced as f64 / fed.seconds,
            fed.loads
        );
        println!("{}", if exact { "exact" } else { "NOT EXACT" });
        exact
    }

    fn follow(&self) -> Follower {
        let said = std::fs::File::create(self.folder.join("stream.err")).unwrap();
        let mut command = self.rtp(&["stream"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        Follower(command.spawn().unwrap())
    }

    /// One comparison, which must end with 1: some of what is planted fails.
    fn verify(&self, options: &[&str]) -> Usage {
        let args = [&["verify", "--output", "list.ndjson"], options].concat();
        measure_to(&mut self.rtp(&args), 1)
    }

    fn bare_scans(&self) -> [Duration; 2] {
        let table = format!("{}.users", self.name);
        let scans = [(&self.realtime, &table), (&self.batch, &self.name)];
        scans.map(|(address, table)| measure(&mut bare(&self.folder, &[address, table])).wall)
    }

    /// Plants all but what is in flight, and returns it.
    fn plant(&self, users: &Path) -> Planted {
        let lines = BufReader::new(std::fs::File::open(users).unwrap()).lines();
        let ids: Vec<String> = lines
            .take(100)
            .map(|line| line.unwrap()[7..43].to_owned())
            .collect();
        let (lost, changed, older) = (&ids[0..6], &ids[6..11], &ids[11..16]);
        let newer: String = older
            .iter()
            .map(|id| user(id, "2026-11-01T00:01:00.000Z"))
            .collect();
        let good = |prefix, class| record(prefix, 0..count(class), BASE_TIME);
        let bad = |prefix, class| good(prefix, class).replace("\"b@example.com\"", "7");
        self.put(
            &["produce"],
            "produced.ndjson",
            &(newer + &good("aaaaaaaa", "not_loaded_yet") + &good("bbbbbbbb", "rejected")),
            0,
        );
        measure(&mut self.rtp(&["stream", "--until-end"]));
        let loaded = bad("bbbbbbbb", "rejected")
            + &good("cccccccc", "dead_letter")
            + &good("eeeeeeee", "unexplained");
        self.put(&["load-batch"], "loaded.ndjson", &loaded, 1);
        self.put(
            &["produce"],
            "bad.ndjson",
            &bad("cccccccc", "dead_letter"),
            1,
        );
        let quoted = |ids: &[String]| {
            ids.iter()
                .map(|id| format!("'{id}'"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let table = &self.name;
        assert_eq!(
            self.sql(&format!(
                "DELETE FROM {table} WHERE id IN ({})",
                quoted(&lost[..3])
            )),
            3
        );
        assert_eq!(
            self.sql(&format!(
                "UPDATE {table} SET email = 'x' WHERE id IN ({})",
                quoted(&changed[..3])
            )),
            3
        );
        let deleted = lost[3..]
            .iter()
            .map(|id| format!("DELETE FROM {table}.users WHERE id = {id}"));
        let updated = changed[3..]
            .iter()
            .map(|id| format!("UPDATE {table}.users SET email = 'x' WHERE id = {id}"));
        self.cql(deleted.chain(updated));
        let all = |prefix, class| keys(prefix, 0..count(class));
        BTreeMap::from([
            ("lost", lost.iter().cloned().collect()),
            ("changed_outside", changed.iter().cloned().collect()),
            ("older_version", older.iter().cloned().collect()),
            ("not_loaded_yet", all("aaaaaaaa", "not_loaded_yet")),
            ("rejected", all("bbbbbbbb", "rejected")),
            ("dead_letter", all("cccccccc", "dead_letter")),
            ("unexplained", all("eeeeeeee", "unexplained")),
        ])
    }

    /// Compares what was listed with what was planted. A user that has come since may be on its way.
    fn judge(&self, planted: &Planted, what: &str, used: Usage) -> bool {
        let list = std::fs::read_to_string(self.folder.join("list.ndjson")).unwrap();
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in list.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let member = |name: &str| line[name].as_str().unwrap().to_owned();
            found
                .entry(member("class"))
                .or_default()
                .insert(member("key"));
        }
        let mut on_their_way = 0;
        for class in ["in_flight", "not_loaded_yet", "older_version"] {
            let some = found.entry(class.into()).or_default();
            let before = some.len();
            some.retain(|key| !key.starts_with("ffffffff"));
            on_their_way += before - some.len();
        }
        found.retain(|_, keys| !keys.is_empty());
        let exact = found.len() == planted.len()
            && planted
                .iter()
                .all(|(class, keys)| found.get(*class) == Some(keys));
        println!(
            "verify {what}: {} of {} planted differences found, {}; {on_their_way} users on their way; {:.2} s, {:.1} MB",
            planted
                .iter()
                .map(|(class, keys)| found
                    .get(*class)
                    .map_or(0, |f| f.intersection(keys).count()))
                .sum::<usize>(),
            planted.values().map(BTreeSet::len).sum::<usize>(),
            if exact {
                "each in its class and no other"
            } else {
                "NOT EXACTLY"
            },
            used.wall.as_secs_f64(),
            used.memory as f64 / 1e6,
        );
        if !exact {
            eprintln!("planted: {planted:#?}\nfound: {found:#?}");
        }
        exact
    }

    /// Produces users at the rate, and loads them, until told to stop.
    fn feed(&self, done: &AtomicBool, fed: &Mutex<Fed>) {
        let said = std::fs::File::create(self.folder.join("produce.err")).unwrap();
        let mut producer = self.rtp(&["produce", "-"]);
        let mut producer = producer
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut input = producer.stdin.take().unwrap();
        let began = Instant::now();
        let (mut next, mut loads, mut pieces) = (0, Vec::new(), 0u32);
        while !done.load(Ordering::SeqCst) {
            let mut loaded = String::new();
            for _ in 0..LOAD_EVERY * 10 {
                let time = rtp::time::format_ms(now_ms());
                let some = record("ffffffff", next..next + RATE as usize / 10, &time);
                next += RATE as usize / 10;
                input.write_all(some.as_bytes()).unwrap();
                loaded.push_str(&some);
                pieces += 1;
                let due = began + pieces * Duration::from_millis(100);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let file = format!("live-{next}.ndjson");
            self.write(&file, &loaded);
            let mut load = self.rtp(&["load-batch", &file]);
            loads.push(
                load.stdin(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap(),
            );
        }
        drop(input);
        assert!(producer.wait().unwrap().success());
        *fed.lock().unwrap() = Fed {
            produced: next,
            seconds: began.elapsed().as_secs_f64(),
            loads: loads.len(),
        };
        for mut load in loads {
            assert!(load.wait().unwrap().success());
        }
    }
}

/// What came in while the stores were compared.
#[derive(Default)]
struct Fed {
    produced: usize,
    seconds: f64,
    loads: usize,
}

/// Event time of all users that are there before.
const BASE_TIME: &str = "2026-11-01T00:00:00.000Z";

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn count(class: &str) -> usize {
    PLANTED.iter().find(|(name, _)| *name == class).unwrap().1
}

fn counts(planted: &Planted) -> BTreeMap<&str, usize> {
    planted
        .iter()
        .map(|(class, keys)| (*class, keys.len()))
        .collect()
}

fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}-0000-4000-8000-{n:012}")
}

fn keys(prefix: &str, numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|n| key(prefix, n)).collect()
}

fn record(prefix: &str, numbers: std::ops::Range<usize>, time: &str) -> String {
    numbers.map(|n| user(&key(prefix, n), time)).collect()
}

fn user(id: &str, time: &str) -> String {
    format!(
        "{{\"id\":\"{id}\",\"first_name\":\"B\",\"email\":\"b@example.com\",\"nationality\":\"DE\",\"fetched_at\":\"{time}\"}}\n"
    )
}

/// A stream that follows its topic; it ends with this value at the latest.
struct Follower(Child);

impl Follower {
    fn stop(&mut self) {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}

/// Tells the feeder to end, also if a comparison panics.
struct EndsFeeding<'a>(&'a AtomicBool);

impl Drop for EndsFeeding<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
