//! The Spark job does what `rtp stream` does: the same events go through both, from one topic into two
//! keyspaces, and the results are compared.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rtp::ports::event_log::Producer;
use rtp::record::event::{Event, EventBatch, Headers};
use rtp::servers::kafka::KafkaProducer;
use scylla::client::session::Session;
use scylla::statement::unprepared::Statement;
use scylla::value::Row;

use crate::cassandra::session;
use crate::common::{Place, Ran, tools};
use crate::kafka;
use crate::stack::{Access, Server, does_not_run, server};

/// Options of spark-submit. The first compiler alone and the serial collector start faster, and these jobs are short.
const LOCAL: &str = "--master local[2] --conf spark.ui.enabled=false \
    --driver-java-options '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC'";
const RTP_BIN: &str = env!("CARGO_BIN_EXE_rtp");

const USERS: &str = include_str!("../../schema/users.toml");
const PRODUCTS: &str = include_str!("../products.toml");
const ID: &str = "053a5780-3703-442c-a561-beda535af12c";

/// One test at a time: each needs the whole machine.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Where rtp and Spark must do the same: their own topic, and one keyspace for each.
struct Twins {
    place: Place,
    kafka: &'static Server,
    cassandra: &'static Server,
    topic: String,
    keyspaces: [String; 2],
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

/// Where a run of the job or of rtp writes: the index of its keyspace.
const RTP: usize = 0;
const SPARK: usize = 1;
const DATASETS: [&str; 2] = ["rtp.toml", "spark.toml"];

impl Twins {
    /// None, after saying why, if something must be installed first.
    async fn of(dataset: &str, topic: &str, keyspace: &str) -> Option<Twins> {
        let kafka = server("kafka", Access::Open)?;
        let cassandra = server("cassandra", Access::Open)?;
        if let Err(why) = spark() {
            does_not_run(why);
            return None;
        }
        let own = format!("{:016x}", rand::random::<u64>());
        let twins = Twins {
            place: Place::new(),
            kafka,
            cassandra,
            topic: format!("{topic}_{own}"),
            keyspaces: ["rtp", "spark"].map(|name| format!("{name}_{own}")),
            _alone: ALONE.lock().await,
        };
        for (file, own) in DATASETS.iter().zip(&twins.keyspaces) {
            let dataset = dataset
                .replace(
                    &format!("keyspace = \"{keyspace}\""),
                    &format!("keyspace = \"{own}\""),
                )
                .replace(
                    &format!("topic = \"{topic}\""),
                    &format!("topic = \"{}\"", twins.topic),
                );
            twins.place.write(file, dataset);
            let made = twins.rtp("init", &["--dataset", file]);
            assert_eq!(made.status, 0, "{}", made.stderr);
        }
        Some(twins)
    }

    fn rtp(&self, command: &str, more: &[&str]) -> Ran {
        let log = self.kafka.address("RTP_EVENT_LOG");
        let store = self.cassandra.address("RTP_REALTIME_STORE");
        let servers = [command, "--event-log", log, "--realtime-store", store];
        self.place.rtp(&[&servers, more].concat(), b"")
    }

    fn stream(&self) -> Ran {
        self.rtp(
            "stream",
            &[
                "--until-end",
                "--dataset",
                DATASETS[RTP],
                "--group",
                "by-rtp",
            ],
        )
    }

    fn spark(&self, group: &str, more: &[&str]) -> Job {
        self.start(run(), group, more)
    }

    fn start(&self, mut command: Command, group: &str, more: &[&str]) -> Job {
        command
            .current_dir(self.place.root())
            .env("RTP_EVENT_LOG", self.kafka.address("RTP_EVENT_LOG"))
            .env(
                "RTP_REALTIME_STORE",
                self.cassandra.address("RTP_REALTIME_STORE"),
            )
            .args(["--log-format", "json", "--dataset", DATASETS[SPARK]])
            .args(["--group", group, "--checkpoint", group])
            .args(more);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped());
        Job(child.spawn().unwrap())
    }

    fn log(&self) -> rtp::servers::address::Address {
        kafka::server_at(self.kafka.address("RTP_EVENT_LOG"))
    }

    async fn send(&self, events: &[(Option<&str>, Option<Vec<u8>>)]) {
        let mut headers = Headers::default();
        headers.push("origin", b"test");
        let mut batch = EventBatch::default();
        for (key, value) in events {
            batch.push(Event::new(
                key.map(str::as_bytes),
                value.as_deref(),
                headers.bytes(),
            ));
        }
        let mut producer = KafkaProducer::open(&self.log(), &self.topic).await.unwrap();
        producer.send(&Arc::new(batch)).await.unwrap();
        assert_eq!(producer.flush().await.unwrap(), events.len() as u64);
    }

    fn committed(&self, group: &str) -> BTreeMap<i32, i64> {
        let mut config = kafka::config_at(self.kafka.address("RTP_EVENT_LOG"));
        let client: BaseConsumer = config.set("group.id", group).create().unwrap();
        let metadata = client.fetch_metadata(Some(&self.topic), None).unwrap();
        let partitions = metadata.topics()[0].partitions().len();
        kafka::committed(&client, &self.topic, partitions as i32).unwrap()
    }

    /// The dead letters of a run: key, value and headers of each, without the run's id.
    async fn dead_letters(&self, run_id: &str) -> Vec<(Letter, Vec<(String, String)>)> {
        let topic = format!("{}.dlq", self.topic);
        let mut letters = Vec::new();
        let all = kafka::everything_in(&self.log(), &topic, "test").await;
        for event in all.iter() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let mut headers: Vec<(String, String)> = Headers::read(event.headers)
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect();
            let run = headers.iter().position(|(name, _)| name == "rtp.run_id");
            if headers.remove(run.unwrap()).1 != run_id {
                continue;
            }
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            letters.push(((owned(event.key), owned(event.value)), headers));
        }
        letters.sort();
        letters
    }

    /// Compares what both have written to a table: every column of every row, and the write time of
    /// every cell.
    async fn compare(&self, table: &str, rows: usize) {
        let session = session(self.cassandra).await;
        let [ours, theirs] = [
            read(&session, &self.keyspaces[RTP], table).await,
            read(&session, &self.keyspaces[SPARK], table).await,
        ];
        assert_eq!(ours.len(), rows, "{table}");
        for (key, row) in &ours {
            assert_eq!(Some(row), theirs.get(key), "{table}: {key}");
        }
        assert_eq!(theirs.len(), rows, "{table}");
    }
}

/// Key and value.
type Letter = (Option<Vec<u8>>, Option<Vec<u8>>);

/// The rows of a table by key, with the write times of their cells.
async fn read(session: &Session, keyspace: &str, table: &str) -> BTreeMap<String, String> {
    let columns = "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
    let found = session
        .query_unpaged(columns, (keyspace, table))
        .await
        .unwrap();
    let found = found.into_rows_result().unwrap();
    let (mut keys, mut others) = (Vec::new(), Vec::new());
    for column in found.rows::<(String, String)>().unwrap() {
        match column.unwrap() {
            (name, kind) if kind == "regular" => others.push(name),
            (name, _) => keys.push(name),
        }
    }
    let times: Vec<String> = others.iter().map(|c| format!("writetime({c})")).collect();
    let all = [&keys[..], &others, &times].concat().join(", ");
    let select = format!("SELECT {all} FROM {keyspace}.{table}");
    // In small pages, because the server reads a tombstone for each null.
    let select = Statement::new(select).with_page_size(500);
    let pager = session.query_iter(select, ()).await.unwrap();
    let rows = pager.rows_stream::<Row>().unwrap();
    rows.map_ok(|row| {
        let (key, values) = row.columns.split_at(keys.len());
        (format!("{key:?}"), format!("{values:?}"))
    })
    .try_collect()
    .await
    .unwrap()
}

/// Whether the job can run here; an error says what must be installed first.
pub fn spark() -> Result<(), &'static str> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        let asked = run().arg("--help").output().unwrap();
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        match asked.status.code() {
            Some(0) => Ok(()),
            Some(3) => Err(said),
            _ => panic!("{said}"),
        }
    });
    ready.as_ref().copied().map_err(String::as_str)
}

pub fn run() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("spark/run"));
    command
        .env_clear()
        .env("RTP_SPARK_ARGS", LOCAL)
        .env("RTP_BIN", RTP_BIN)
        .env("RTP_TOOLS_DIR", tools());
    let kept = [
        "PATH",
        "HOME",
        "JAVA_HOME",
        "RTP_SPARK_PYTHON",
        "RTP_SPARK_JARS",
    ];
    for name in kept {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// The running job.
struct Job(Child);

impl Job {
    fn end(mut self) -> Ran {
        let mut stderr = String::new();
        let mut pipe = self.0.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        Ran {
            status: self.0.wait().unwrap().code().unwrap_or(-1),
            stdout: String::new(),
            stderr,
        }
    }

    /// Waits until the metrics say that this many events were read; returns the number of micro-batches.
    async fn has_read(&mut self, events: f64) -> f64 {
        let mut lines = BufReader::new(self.0.stderr.as_mut().unwrap());
        let mut line = String::new();
        while !line.contains("metrics at ") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "no metrics");
        }
        let url = line.split("metrics at ").nth(1).unwrap();
        let url = url.split('"').next().unwrap().to_string();
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
            let value = |name: &str| -> f64 {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.rsplit(' ').next().unwrap().parse().unwrap()
            };
            let batches = value("rtp_stream_batch_duration_seconds_count ");
            if value("rtp_stream_read_total ") >= events && batches > 0.0 {
                assert!(value("rtp_stream_batch_duration_seconds_sum ") > 0.0);
                return batches;
            }
            assert!(Instant::now() < deadline, "{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// User number `n` at a time, without some of the optional fields.
fn user(n: u64, time: &str, email: &str) -> Vec<u8> {
    let mut more = String::new();
    if !n.is_multiple_of(3) {
        more += &format!(r#","first_name":"Zoë {n}""#);
    }
    if !n.is_multiple_of(5) {
        more += r#","registered":"2010-02-03T04:05:06.789+01:00""#;
    }
    if n.is_multiple_of(7) {
        more += r#","last_name":null,"post_code":1e3"#;
    }
    format!(
        r#"{{"id":"00000000-0000-4000-8000-{n:012}","email":"{email}","fetched_at":"{time}"{more}}}"#
    )
    .into_bytes()
}

const TIME: &str = "2026-11-01T00:00:00Z";

/// An event of a user, with more members.
fn with(more: &str) -> String {
    format!(r#"{{"id":"{ID}","fetched_at":"{TIME}"{more}}}"#)
}

fn bad_users() -> Vec<Vec<u8>> {
    let deep = format!(r#","x":{}1{}"#, "[".repeat(128), "]".repeat(128));
    let texts = [
        "{\"a\":".to_string(),
        "null".into(),
        "[1,2]".into(),
        "42 x".into(),
        " ".into(),
        "{\"a\":NaN}".into(),
        "{\"a\":\"\u{1}\"}".into(),
        with("") + " {}",
        with(r#","email":"a","email":"b""#),
        with(r#","registered":null,"registered_date":null"#),
        with(&deep),
        with(r#","email":3"#),
        with(r#","email":"a\u0000""#),
        with(r#","email":"\ud800""#),
        with(r#","dob":"1970""#),
        with(r#","dob":"2016-12-31T23:59:60Z""#),
        with(r#","dob":"0000-01-01T00:00:00Z""#),
        with("").replace("2026", "2927"),
        with("").replace(ID, "no id"),
        format!(r#"{{"id":"{ID}"}}"#),
    ];
    let mut values: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    values.push(b"{\"a\":\"\xc3\x28\"}".to_vec());
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn spark_makes_the_same_rows_and_dead_letters_as_rtp() {
    let Some(twins) = Twins::of(USERS, "user_events", "realtime").await else {
        return;
    };
    let mut numbered: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut add = |n, time, mail| numbered.push((n, user(n, time, mail)));
    (0..20_000).for_each(|n| add(n, TIME, "a@x.org"));
    // Several versions of a key with the same time; later and earlier ones.
    (0..100).for_each(|n| add(n, TIME, "b@x.org"));
    (0..100).for_each(|n| add(n, TIME, "c@x.org"));
    (100..200).for_each(|n| add(n, "2026-11-02T03:00:00.001Z", "b@x.org"));
    (200..300).for_each(|n| add(n, "2026-10-31T23:59:59.999Z", "b@x.org"));
    let more = r#","post_code":[1, {"a" : "\u0041"}],"x":{"email":1}"#;
    numbered.push((20_000, with(more).into()));
    let keys: Vec<String> = numbered.iter().map(|(n, _)| n.to_string()).collect();
    let keyed = keys.iter().map(|key| Some(key.as_str())).zip(numbered);
    let mut events: Vec<_> = keyed.map(|(key, (_, value))| (key, Some(value))).collect();
    let bad = bad_users();
    let rejected = bad.len() as u64 + 2;
    events.extend(bad.into_iter().map(|value| (Some("bad"), Some(value))));
    events.extend([(Some("tombstone"), None), (None, Some(b"no key".to_vec()))]);
    twins.send(&events).await;

    let ours = twins.stream();
    assert_eq!(ours.status, 1, "{}", ours.stderr);
    let theirs = twins.spark("first", &["--until-end"]).end();
    assert_eq!(theirs.status, 1, "{}", theirs.stderr);
    let [read, written, bad, deduplicated, _] = theirs.counts();
    assert_eq!([read, bad], [events.len() as u64, rejected]);
    assert_eq!([written, deduplicated], [20_001, 400]);
    assert_eq!([ours.counts()[0], ours.counts()[2]], [read, bad]);
    assert_eq!(twins.committed("first"), twins.committed("by-rtp"));
    twins.compare("users", 20_001).await;
    twins.compare("users_by_hour", 20_201).await;

    let run_id = |ran: &Ran| ran.summary()["run_id"].as_str().unwrap().to_string();
    let [ours, theirs] = [
        twins.dead_letters(&run_id(&ours)).await,
        twins.dead_letters(&run_id(&theirs)).await,
    ];
    assert_eq!(ours.len() as u64, rejected);
    assert_eq!(ours.len(), theirs.len());
    for ((letter, ours), (same, theirs)) in ours.iter().zip(&theirs) {
        assert_eq!(letter, same);
        assert_eq!(ours, theirs);
    }

    // Repeating all of it, in other micro-batches, changes nothing.
    let again = twins
        .spark("second", &["--until-end", "--max-batch", "7000"])
        .end();
    assert_eq!(again.status, 1, "{}", again.stderr);
    assert_eq!([again.counts()[0], again.counts()[2]], [read, rejected]);
    twins.compare("users", 20_001).await;
    twins.compare("users_by_hour", 20_201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_job_loses_nothing_and_a_stopped_one_repeats_nothing() {
    let Some(twins) = Twins::of(USERS, "user_events", "realtime").await else {
        return;
    };
    let keys: Vec<String> = (0..30_000).map(|n| n.to_string()).collect();
    let event = |(n, key)| (Some(key), Some(user(n, TIME, "a@x.org")));
    let events = (0..).zip(keys.iter().map(String::as_str)).map(event);
    twins.send(&events.collect::<Vec<_>>()).await;
    let following = ["--max-batch", "1500", "--metrics-port", "0"];
    let committed = || twins.committed("group").values().sum();

    let mut killed = twins.spark("group", &following);
    killed.has_read(3_000.0).await;
    killed.signal("KILL");
    assert_eq!(killed.end().status, -1);
    let before: i64 = committed();
    assert!((3_000..30_000).contains(&before), "{before}");

    let mut stopped = twins.spark("group", &following);
    let batches = stopped.has_read(3_000.0).await;
    assert!(batches >= 1.0);
    stopped.signal("TERM");
    let stopped = stopped.end();
    assert_eq!(stopped.status, 0, "{}", stopped.stderr);
    let after: i64 = committed();
    assert!(after < 30_000, "{after}");

    let rest = twins.spark("group", &["--until-end"]).end();
    assert_eq!(rest.status, 0, "{}", rest.stderr);
    assert_eq!(rest.counts()[0] as i64, 30_000 - after);
    assert_eq!(committed(), 30_000);
    let ours = twins.stream();
    assert_eq!(ours.status, 0, "{}", ours.stderr);
    twins.compare("users", 30_000).await;
    twins.compare("users_by_hour", 30_000).await;
}

/// Values at the limits of their types: field and JSON. Some are rejects.
const EDGES: &[(&str, &[&str])] = &[
    (
        "price",
        &[
            "1.00",
            "-0",
            "0.10",
            "1e0",
            "1e3",
            "0e9",
            "1.5E-3",
            "-120",
            "1e999",
            "1e1000",
            "true",
            "\"5\"",
            "12345678901234567890.1234",
            "0.100000000000000000000000000001",
        ],
    ),
    (
        "weight_kg",
        &[
            "-0.0",
            "1e400",
            "1e308",
            "4.9e-324",
            "0.1",
            "1e22",
            "9007199254740993",
            "\"1\"",
        ],
    ),
    (
        "quantity",
        &[
            "2147483647",
            "2147483648",
            "-2147483648",
            "1.0",
            "1.5",
            "-0",
            "1e3",
            "1e10",
        ],
    ),
    (
        "id",
        &[
            "9223372036854775807",
            "9223372036854775808",
            "-5",
            "1e3",
            "null",
        ],
    ),
    (
        "released",
        &[
            "\"0001-01-01\"",
            "\"9999-12-31\"",
            "\"0000-12-31\"",
            "\"1500-02-28\"",
            "\"1582-10-10\"",
            "\"2026-02-30\"",
            "\"20260101\"",
            "5",
        ],
    ),
    (
        "tags",
        &[
            "[1,\t2]",
            "{\"a\" : [ 1,2 ], \"b\":\"\\u0041\\n\"}",
            "17",
            "1.50",
            "true",
            "\"\"",
            "\"a\\u0000b\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud800x\"",
            "-0.0",
            "1E5",
        ],
    ),
    (
        "lot",
        &[
            "\"053A5780-3703-442c-a561-beda535af12c\"",
            "\"053a57803703442ca561beda535af12c\"",
            "\"{053a5780-3703-442c-a561-beda535af12c}\"",
            "\"URN:uuid:053a5780-3703-442c-a561-beda535af12c\"",
            "\"{053a57803703442ca561beda535af12c}\"",
            "\"053a5780-3703-442ca561-beda535af12c\"",
            "3",
        ],
    ),
    ("in_stock", &["false", "\"true\"", "1"]),
    (
        "seen_at",
        &[
            "\"2026-01-01T00:00:00.1239Z\"",
            "\"2026-01-01 00:00:00,5z\"",
            "\"20260101T000000+0130\"",
            "\"2026-01-01T00:00:00-01:30:15\"",
            "\"2026-01-01T00:00:00+01[Europe/Berlin]\"",
            "\"2026-01-01T00:00:00\"",
            "\"2026-01-01T24:00:00Z\"",
            "\"1900-02-29T00:00:00Z\"",
            "\"0001-01-01T00:00:00Z\"",
            "\"0001-01-01T00:30:00+01:00\"",
            "\"9999-12-31T23:59:59.9999Z\"",
            "\"9999-12-31T23:59:59-01:00\"",
            "\"1969-12-31T23:59:59.9999Z\"",
            "\"1500-03-01T00:00:00Z\"",
        ],
    ),
    (
        "updated_at",
        &[
            "\"1400-01-01T00:00:00.001Z\"",
            "\"2927-01-01T00:00:00Z\"",
            "null",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn another_dataset_needs_no_other_job() {
    let unset = format!("null = \"unset\"\n{PRODUCTS}");
    let Some(twins) = Twins::of(&unset, "product_events", "shop").await else {
        return;
    };
    let mut values = Vec::new();
    for (field, edges) in EDGES {
        for edge in *edges {
            let id = (1_u64 << 53) + values.len() as u64;
            let mut product = BTreeMap::from([
                ("id", id.to_string()),
                ("article", "\"S\"".into()),
                ("variants", "[ ]".into()),
                ("price", "1".into()),
                ("in_stock", "true".into()),
                ("updated_at", "\"2026-01-01T00:00:00Z\"".into()),
                ("seen_at", "\"2026-01-02T00:00:00Z\"".into()),
            ]);
            product.insert(field, (*edge).into());
            let members: Vec<String> = product
                .iter()
                .map(|(k, v)| format!("\"{k}\":{v}"))
                .collect();
            values.push(format!("{{{}}}", members.join(",")).into_bytes());
        }
    }
    let keys: Vec<String> = (0..values.len()).map(|n| n.to_string()).collect();
    let keyed = keys.iter().map(|key| Some(key.as_str()));
    twins
        .send(&keyed.zip(values.into_iter().map(Some)).collect::<Vec<_>>())
        .await;
    let ours = twins.stream();
    // The binary is one of spark-submit's files.
    let mut command = run();
    command
        .env_remove("RTP_BIN")
        .env("RTP_SPARK_ARGS", format!("{LOCAL} --files {RTP_BIN}"));
    let theirs = twins.start(command, "group", &["--until-end"]).end();
    assert_eq!([ours.status, theirs.status], [1, 1], "{}", theirs.stderr);
    assert_eq!(ours.counts(), theirs.counts());
    let written = ours.counts()[1] as usize;
    twins.compare("products", written).await;
    twins.compare("products_by_day", written).await;
    let run_id = |ran: &Ran| ran.summary()["run_id"].as_str().unwrap().to_string();
    let letters = twins.dead_letters(&run_id(&theirs)).await;
    let expected = twins.dead_letters(&run_id(&ours)).await;
    for ((letter, ours), (same, theirs)) in expected.iter().zip(&letters) {
        assert_eq!(letter, same);
        assert_eq!(ours, theirs);
    }
    assert_eq!(letters.len() as u64, ours.counts()[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_must_mend_ends_the_job_at_its_start() {
    let Some(twins) = Twins::of(USERS, "user_events", "realtime").await else {
        return;
    };
    twins.place.write(
        "nowhere.toml",
        USERS.replace("topic = \"user_events\"", "topic = \"nowhere\""),
    );
    twins.place.write("nothing.toml", "name = \"nothing\"\n");
    for (more, said) in [
        (
            &["--dataset", "nowhere.toml"][..],
            "no topic nowhere; run `rtp init`",
        ),
        (
            &["--dataset", "nothing.toml"],
            "invalid dataset nothing.toml",
        ),
        (
            &["--event-log", "kafka://me:hunter2@h"],
            "RTP_KAFKA_PASSWORD_FILE",
        ),
    ] {
        let ran = twins.spark("group", more).end();
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"));
    }
}

/// `users` of the job's keyspace: how many.
async fn written(twins: &Twins) -> usize {
    let session = session(twins.cassandra).await;
    read(&session, &twins.keyspaces[SPARK], "users").await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_aborted_transactions_are_passed_over() {
    let Some(twins) = Twins::of(USERS, "user_events", "realtime").await else {
        return;
    };
    let patience = Duration::from_secs(30);
    let mut config = kafka::config_at(twins.kafka.address("RTP_EVENT_LOG"));
    config.set("transactional.id", &twins.topic);
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(patience).unwrap();
    for (n, is_committed) in [(1, true), (2, false), (3, true), (4, false)] {
        producer.begin_transaction().unwrap();
        let value = user(n, TIME, "a@x.org");
        let record = BaseRecord::to(&twins.topic).key("k").payload(&value);
        producer.send(record).unwrap();
        match is_committed {
            true => producer.commit_transaction(patience).unwrap(),
            false => {
                producer.flush(patience).unwrap();
                producer.abort_transaction(patience).unwrap();
            }
        }
    }
    let ran = twins.spark("group", &["--until-end"]).end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.counts()[..2], [2, 2]);
    assert_eq!(written(&twins).await, 2);
    // The group is at the end, after four events and the marker of each transaction, so no lag is reported.
    let ends: Vec<i64> = twins.committed("group").into_values().collect();
    assert_eq!(ends.iter().sum::<i64>(), 8, "{ends:?}");
}

/// A binary that describes the dataset correctly, and then does this instead of its work.
fn faulty(twins: &Twins, fault: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*'--from arrow'*) {fault} ;;\n*) exec '{RTP_BIN}' \"$@\" ;;\nesac\n"
    );
    twins.place.write("rtp", script);
    let path = twins.place.path("rtp");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_does_not_answer_all_events_fails_the_job_and_loses_nothing() {
    let Some(twins) = Twins::of(USERS, "user_events", "realtime").await else {
        return;
    };
    let keys: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let event = |(n, key)| (Some(key), Some(user(n, TIME, "a@x.org")));
    let events = (0..).zip(keys.iter().map(String::as_str)).map(event);
    twins.send(&events.collect::<Vec<_>>()).await;
    let one = "echo '{}' | '{RTP_BIN}' transform --to arrow".replace("{RTP_BIN}", RTP_BIN);
    for (fault, said) in [
        ("echo no more >&2; exit 9", "status 9, no more"),
        (&format!("{one}; cat > /dev/null"), "1 answers to"),
        (&format!("'{RTP_BIN}' \"$@\"; exit 7"), "status 7"),
    ] {
        let ran = twins
            .spark("group", &["--until-end", "--rtp", &faulty(&twins, fault)])
            .end();
        assert_eq!(ran.status, 4, "{fault}: {}", ran.stderr);
        let errors: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|l| l.contains("\"error\""))
            .collect();
        assert!(
            errors
                .concat()
                .contains("rtp transform did not answer all events"),
            "{}",
            ran.stderr
        );
        assert!(errors.concat().contains(said), "{fault}: {}", ran.stderr);
        assert_eq!(twins.committed("group").values().sum::<i64>(), 0);
    }
    let ran = twins.spark("group", &["--until-end"]).end();
    assert_eq!((ran.status, ran.counts()[1]), (0, 50), "{}", ran.stderr);
    assert_eq!(written(&twins).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_the_logs_makes_no_event_future() {
    let Some(twins) = Twins::of(USERS, "user_events", "realtime").await else {
        return;
    };
    twins
        .send(&[(Some("1"), Some(user(1, TIME, "a@x.org")))])
        .await;
    let behind = format!(
        "shift 7; exec '{RTP_BIN}' transform --from arrow --to arrow --now 2026-10-01 \"$@\""
    );
    let rtp = faulty(&twins, &behind);
    let ran = twins.spark("group", &["--until-end", "--rtp", &rtp]).end();
    let counts = ran.counts();
    assert_eq!(
        (ran.status, counts[..3].to_vec()),
        (0, vec![1, 1, 0]),
        "{}",
        ran.stderr
    );
}
