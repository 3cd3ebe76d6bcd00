//! The real-time store on a real Cassandra.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::error::{Error, Result};
use rtp::ports::conformance::{self, Abilities, Ability};
use rtp::ports::event_log::Span;
use rtp::ports::monitor::StoreMonitor;
use rtp::ports::realtime_store::{RealtimeStore, RealtimeStores, Upstream};
use rtp::ports::table_reader::TableReader;
use rtp::record::row::Rows;
use rtp::servers;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::PagingState;
use scylla::statement::unprepared::Statement;
use scylla::value::CqlTimestamp;

use super::common::{Place, Ran, Running, eventually, user, users};
use super::keeps;
use super::stack::{Access, Server, own_durable_server, own_server, server};

/// The tables of a Cassandra cluster.
struct Tables(Arc<dyn RealtimeStores>);

impl Tables {
    fn of(server: &Server) -> Tables {
        let address = server.address("RTP_REALTIME_STORE");
        Tables(servers::realtime_store(address).unwrap())
    }
}

impl Abilities for Tables {
    fn lacks(&self) -> &[Ability] {
        // A test cannot choose which row Cassandra refuses: see the tests below.
        &[
            Ability::Transactions,
            Ability::ComparesVersions,
            Ability::RefusesRows,
            Ability::FailsInTheMiddle,
            Ability::HoldsForeignValues,
        ]
    }
}

#[async_trait]
impl conformance::realtime_store::Harness for Tables {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        self.0.create(dataset).await
    }

    async fn open(
        &self,
        dataset: &Dataset,
        upstream: Upstream<'_>,
    ) -> Result<Box<dyn RealtimeStore>> {
        self.0.open(dataset, upstream).await
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        self.0.table(dataset).await
    }

    async fn series(&self, dataset: &Dataset) -> Result<Vec<(i64, i64, String)>> {
        let server = server("cassandra", Access::Open).unwrap();
        let (keyspace, series) = (&dataset.realtime.keyspace, &dataset.realtime.series[0]);
        let select = format!("SELECT hour, id, title FROM {keyspace}.{}", series.table);
        let rows = session(server).await.query_unpaged(select, ()).await;
        let rows = rows.unwrap().into_rows_result().unwrap();
        let rows = rows.rows::<(CqlTimestamp, i64, String)>().unwrap();
        Ok(rows
            .map(|row| row.unwrap())
            .map(|(hour, id, title)| (hour.0, id, title))
            .collect())
    }

    async fn refuse(&self, _: &Dataset, _: &str) -> Result<()> {
        Err(Error::refused("cannot be arranged"))
    }

    async fn fail_at(&self, _: &Dataset, _: &str) -> Result<()> {
        Err(Error::refused("cannot be arranged"))
    }
}

#[async_trait]
impl conformance::table_reader::Harness for Tables {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        self.0.create(dataset).await
    }

    async fn write(&self, dataset: &Dataset, rows: &Rows) -> Result<()> {
        let upstream = Upstream {
            group: "group",
            topic: "topic",
        };
        let mut store = self.0.open(dataset, upstream).await?;
        store.upsert(&Span::default(), rows).await?;
        store.commit().await
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        self.0.table(dataset).await
    }

    fn keeps(&self) -> conformance::table_reader::Kept {
        conformance::table_reader::Kept {
            origin: true,
            digest: false,
            write_timestamps: true,
        }
    }

    async fn plant_text(&self, _: &Dataset, _: &str, _: &str) -> Result<()> {
        Err(Error::refused("Cassandra's columns hold their type"))
    }
}

#[async_trait]
impl conformance::monitor::store::Harness for Tables {
    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        self.0.monitor(dataset).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_every_guarantee() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    keeps(
        conformance::realtime_store::CASES,
        &Tables::of(cassandra) as &dyn conformance::realtime_store::Harness,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_keeps_every_guarantee() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    keeps(
        conformance::table_reader::CASES,
        &Tables::of(cassandra) as &dyn conformance::table_reader::Harness,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_keeps_every_guarantee() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    keeps(
        conformance::monitor::store::CASES,
        &Tables::of(cassandra) as &dyn conformance::monitor::store::Harness,
    )
    .await;
}

/// The built-in dataset in its own keyspace, so that tests on the same server do not collide.
static DATASET: LazyLock<String> =
    LazyLock::new(|| std::fs::read_to_string("schema/users.toml").unwrap());

/// A place whose commands use this server, and its dataset.
fn place(server: &Server, keyspace: &str) -> Place {
    let place = Place::new();
    let own = format!("keyspace = \"{keyspace}\"");
    place.write(
        "users.toml",
        DATASET.replace("keyspace = \"realtime\"", &own),
    );
    let made = rtp(&place, server, &["init"], b"");
    assert_eq!(made.status, 0, "{}", made.stderr);
    place
}

/// Runs a command with the place's dataset on this server.
fn rtp(place: &Place, server: &Server, args: &[&str], input: &[u8]) -> Ran {
    let mut all = args.to_vec();
    all.extend(["--dataset", "users.toml"]);
    if ["init", "stream", "verify", "explain", "heartbeat"].contains(&args[0]) {
        all.extend(["--realtime-store", server.address("RTP_REALTIME_STORE")]);
    }
    place.rtp(&all, input)
}

/// A session of the driver itself, to check without rtp.
pub async fn session(server: &Server) -> Session {
    let address = server.address("RTP_REALTIME_STORE");
    let node = address.strip_prefix("cassandra://").unwrap();
    SessionBuilder::new()
        .known_node(node)
        .build()
        .await
        .unwrap()
}

async fn count(session: &Session, table: &str) -> i64 {
    // In small pages, because the server reads a tombstone for each null.
    let select = Statement::new(format!("SELECT count(*) FROM {table}")).with_page_size(500);
    let counted = session.query_single_page(select, (), PagingState::start());
    let rows = counted.await.unwrap().0.into_rows_result().unwrap();
    rows.first_row::<(i64,)>().unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_users_are_equal_in_both_stores() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "equal");
    let events = users(20_000);
    for (args, read) in [
        (&["produce"][..], 20_000),
        (&["stream", "--until-end"], 20_000),
        (&["load-batch"], 20_000),
        (&["verify", "--series"], 40_000),
    ] {
        let input = match args[0] {
            "produce" | "load-batch" => events.as_bytes(),
            _ => b"",
        };
        let ran = rtp(&place, cassandra, args, input);
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
        assert_eq!(ran.counts()[..2], [read, read], "{args:?}");
    }
    let session = session(cassandra).await;
    assert_eq!(count(&session, "equal.users").await, 20_000);
    assert_eq!(count(&session, "equal.users_by_hour").await, 20_000);
}

/// The real-time row of a user, and the state that `explain` tells.
fn explained(place: &Place, server: &Server, n: u64) -> (serde_json::Value, String) {
    let key = format!("00000000-0000-4000-8000-{n:012}");
    let ran = rtp(place, server, &["explain", &key, "--format", "json"], b"");
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let version = answer["log"]["versions"].as_array().unwrap().last();
    let (origin, version) = (&answer["realtime"]["origin"], version.unwrap());
    for part in ["partition", "offset"] {
        assert_eq!(origin[part], version[part], "{answer}");
    }
    let state = answer["outcome"]["state"].as_str().unwrap().to_string();
    (answer["realtime"].clone(), state)
}

fn through_both(place: &Place, server: &Server, event: &str) {
    for (args, input) in [
        (&["produce"][..], event),
        (&["stream", "--until-end"], ""),
        (&["load-batch"], event),
    ] {
        let ran = rtp(place, server, args, input.as_bytes());
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_explained_by_its_origin_and_the_timestamps_of_its_columns() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "explained");
    through_both(&place, cassandra, &user(1, 0, "a@example.com"));
    let (row, state) = explained(&place, cassandra, 1);
    assert_eq!((&*state, &row["is_as_written"]), ("equal", &true.into()));
    let written = row["write_timestamps"].as_array().unwrap();
    assert_eq!(written[0], written[1], "{row}");
    let session = session(cassandra).await;
    let key = "00000000-0000-4000-8000-000000000001";
    let change = format!("UPDATE explained.users SET email = 'x' WHERE id = {key}");
    session.query_unpaged(change, ()).await.unwrap();
    let (row, state) = explained(&place, cassandra, 1);
    assert_eq!(
        (&*state, &row["is_as_written"]),
        ("different", &false.into())
    );
    let written = row["write_timestamps"].as_array().unwrap();
    assert!(written[0].as_i64() < written[1].as_i64(), "{row}");
}

/// With a `ttl` as well, which changes nothing about the timestamps.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_an_event_leaves_alone_have_older_timestamps() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "left_alone");
    let dataset = std::fs::read_to_string(place.path("users.toml")).unwrap();
    let dataset = dataset
        .replace("name = \"users\"", "name = \"users\"\nnull = \"unset\"")
        .replace(
            "keyspace = \"left_alone\"",
            "keyspace = \"left_alone_2\"\nttl = \"7d\"",
        );
    place.write("users.toml", dataset);
    let made = rtp(&place, cassandra, &["init"], b"");
    assert_eq!(made.status, 0, "{}", made.stderr);
    through_both(&place, cassandra, &user(1, 0, "a@example.com"));
    let newer = r#"{"id":"00000000-0000-4000-8000-000000000001","first_name":"Zoë","fetched_at":"2026-11-01T00:01:00Z"}"#;
    through_both(&place, cassandra, newer);
    let (row, state) = explained(&place, cassandra, 1);
    assert_eq!(row["values"]["email"], "a@example.com");
    // The batch store has a null there, which counts as equal with this setting.
    assert_eq!(
        (&*state, &row["is_as_written"]),
        ("equal", &serde_json::Value::Null)
    );
    let written = row["write_timestamps"].as_array().unwrap();
    let age = written[1].as_i64().unwrap() / 1_000_000 - written[0].as_i64().unwrap() / 1_000_000;
    assert_eq!(age, 60, "{row}");
}

/// Gives the place's tables a `ttl`, in a keyspace of its own.
fn short_lived(place: &Place, server: &Server, keyspace: &str, ttl: &str) {
    let dataset = std::fs::read_to_string(place.path("users.toml")).unwrap();
    let (own, other) = (
        format!("keyspace = \"{keyspace}\""),
        format!("keyspace = \"{keyspace}_{ttl}\"\nttl = \"{ttl}\""),
    );
    place.write("users.toml", dataset.replace(&own, &other));
    let made = rtp(place, server, &["init"], b"");
    assert_eq!(made.status, 0, "{}", made.stderr);
}

/// What `verify` lists, and the counts of its classes other than 0.
fn listed(place: &Place, server: &Server, status: i32) -> (String, serde_json::Value) {
    let args = ["verify", "--output", "list.ndjson", "--format", "json"];
    let ran = rtp(place, server, &args, b"");
    assert_eq!(ran.status, status, "{}{}", ran.stdout, ran.stderr);
    let mut document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let classes = document["classes"].as_array_mut().unwrap();
    classes.retain(|class| class["count"] != 0);
    let counts: serde_json::Map<_, _> = classes
        .iter()
        .map(|class| {
            (
                class["name"].as_str().unwrap().into(),
                class["count"].clone(),
            )
        })
        .collect();
    let list = std::fs::read_to_string(place.path("list.ndjson")).unwrap();
    (list, counts.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_has_expired_is_told_from_a_lost_one() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let session = session(cassandra).await;
    let place = place(cassandra, "expiry");
    short_lived(&place, cassandra, "expiry", "1s");
    let events = user(1, 0, "a@example.com") + "\n" + &user(2, 0, "b@example.com");
    through_both(&place, cassandra, &events);
    while count(&session, "expiry_1s.users").await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The real-time store is empty, and that is right.
    let (list, classes) = listed(&place, cassandra, 0);
    assert_eq!(classes, serde_json::json!({"expired": 2}), "{list}");
    assert!(
        list.contains("rows expire 1s after they are written"),
        "{list}"
    );
    // One that was never produced has not expired.
    let unknown = user(3, 0, "c@example.com");
    let ran = rtp(&place, cassandra, &["load-batch"], unknown.as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let (list, classes) = listed(&place, cassandra, 1);
    let expected = serde_json::json!({"expired": 2, "unexplained": 1});
    assert_eq!(classes, expected, "{list}");

    // Before its time a row is lost.
    let place = self::place(cassandra, "early");
    short_lived(&place, cassandra, "early", "7d");
    through_both(&place, cassandra, &events);
    let key = "00000000-0000-4000-8000-000000000001";
    let delete = format!("DELETE FROM early_7d.users WHERE id = {key}");
    session.query_unpaged(delete, ()).await.unwrap();
    let (list, classes) = listed(&place, cassandra, 1);
    assert_eq!(classes, serde_json::json!({"lost": 1}), "{list}");
    assert!(list.contains("cannot have expired before"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_does_not_fit_its_table_is_told() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "series");
    // Two versions of each user, in one hour; the table has the second.
    for second in [0, 60] {
        let events: String = (0..3_000)
            .map(|n| user(n, second, "a@example.com") + "\n")
            .collect();
        for args in [
            &["produce"][..],
            &["stream", "--until-end"],
            &["load-batch", "--mode", "upsert"],
        ] {
            let input = if args[0] == "stream" { "" } else { &events };
            let ran = rtp(&place, cassandra, args, input.as_bytes());
            assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
        }
    }
    let ran = rtp(&place, cassandra, &["verify"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let told = "series.users_by_hour was not compared; --series compares it";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    let verify = ["verify", "--series", "--output", "-"];
    let ran = rtp(&place, cassandra, &verify, b"");
    assert_eq!((ran.status, &ran.stdout[..]), (0, ""), "{}", ran.stderr);
    let told = "equal: series.users_by_hour has the newest row of each of the 3000 keys in series.users; 6000 rows";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);

    let session = session(cassandra).await;
    let key = |n: u64| format!("00000000-0000-4000-8000-{n:012}");
    let series = "series.users_by_hour";
    let shard = async |n| {
        let select = format!(
            "SELECT shard FROM {series} WHERE id = {} ALLOW FILTERING",
            key(n)
        );
        let rows = session.query_unpaged(select, ()).await.unwrap();
        let rows = rows.into_rows_result().unwrap();
        rows.first_row::<(i32,)>().unwrap().0
    };
    let (shard, shard_of_eight) = (shard(7).await, shard(8).await);
    let newest = "hour = '2026-11-01T00:00:00Z' AND fetched_at = '2026-11-01T00:01:00Z'";
    let of_seven = format!("{newest} AND shard = {shard} AND id = {}", key(7));
    let insert = |hour: &str, time: &str, id: &str| {
        format!(
            "INSERT INTO {series} (hour, shard, fetched_at, id) VALUES ('2026-11-01T{hour}:00:00Z', {shard}, '2026-11-01T{time}Z', {id})"
        )
    };
    // The newest row of one is removed, then one of a key that the table lacks is added, a newer one, and an older one
    // in an hour that is not its own; and a value of another is changed.
    let changes = [
        format!("DELETE FROM {series} WHERE {of_seven}"),
        insert("00", "00:01:00", &key(9_000_000)),
        insert("02", "02:00:00", &key(7)),
        insert("05", "00:00:01", &key(7)),
        format!(
            "UPDATE {series} SET phone = '1' WHERE {newest} AND shard = {shard_of_eight} AND id = {}",
            key(8)
        ),
    ];
    for change in changes {
        session.query_unpaged(change, ()).await.unwrap();
    }
    let ran = rtp(&place, cassandra, &verify, b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let told = "not equal: 1 missing in series.users_by_hour, 3 extra in series.users_by_hour, 1 changed; 3000 keys in series.users, 6002 rows in series.users_by_hour";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("equal: 3000 rows in series.users and batch_users")
    );
    // The table has the key of both, so neither message may say that it has not.
    for told in [
        format!(
            "missing {}: its newest row is in series.users, not in {series}",
            key(7)
        ),
        format!(
            "extra {}: a row in {series} that does not belong there by series.users",
            key(7)
        ),
    ] {
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }
    let mut lines: Vec<_> = ran.stdout.lines().collect();
    lines.sort_unstable();
    let line = |class, kind, key, column, realtime, batch| {
        format!(
            r#"{{"class":"{class}","kind":"{kind}","key":"{key}","store":"{series}","column":"{column}","realtime":{realtime},"batch":{batch},"evidence":""#
        )
    };
    let null = || "null".to_string();
    let at = |time| format!("\"2026-11-01T{time}.000Z\"");
    let one = at("00:01:00");
    let time = "fetched_at";
    let (outside, unexplained) = ("changed_outside", "unexplained");
    let expected = [
        line(outside, "changed", key(8), "phone", null(), "\"1\"".into()),
        line(outside, "extra", key(7), time, one.clone(), at("00:00:01")),
        // In the bucket of its time, and in the shard of another key.
        line(outside, "extra", key(9_000_000), time, null(), one.clone()),
        line("lost", "missing", key(7), time, one.clone(), null()),
        line(unexplained, "extra", key(7), time, one, at("02:00:00")),
    ];
    let are_expected = |lines: &[&str]| {
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(&expected) {
            let is_told = line.starts_with(expected) && !line.ends_with("\"evidence\":\"\"}");
            assert!(is_told, "{line}\n{expected}");
        }
    };
    are_expected(&lines);
    let changed = lines[0].to_string();

    // What is listed is compared again where it was found, and nothing else.
    place.write("list.ndjson", &ran.stdout);
    let again = ["verify", "--rerun", "list.ndjson", "--output", "-"];
    let ran = rtp(&place, cassandra, &again, b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let mut lines: Vec<_> = ran.stdout.lines().collect();
    lines.sort_unstable();
    are_expected(&lines);
    let repaired = format!(
        "UPDATE {series} SET phone = null WHERE {newest} AND shard = {shard_of_eight} AND id = {}",
        key(8)
    );
    session.query_unpaged(repaired, ()).await.unwrap();
    place.write("list.ndjson", &changed);
    let ran = rtp(&place, cassandra, &again, b"");
    assert_eq!((ran.status, &*ran.stdout), (0, ""), "{}", ran.stderr);
    let told =
        "equal: series.users_by_hour has the newest row of each of the 1 keys in series.users";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cassandra_refuses_is_a_dead_letter() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "refusals");
    let session = session(cassandra).await;
    // What is indexed must be shorter than 65,536 bytes.
    let index = "CREATE INDEX ON refusals.users (email)";
    session.query_unpaged(index, ()).await.unwrap();
    let mut events = users(1_000);
    events.push_str(&user(1_000, 0, &"x".repeat(70_000)));
    let sent = rtp(&place, cassandra, &["produce"], events.as_bytes());
    assert_eq!(sent.status, 0, "{}", sent.stderr);
    let ran = rtp(&place, cassandra, &["stream", "--until-end"], b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert_eq!(ran.counts(), [1_001, 1_000, 1, 0, 0]);
    assert_eq!(count(&session, "refusals.users").await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_row_that_cassandra_takes_wins() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "older");
    let session = session(cassandra).await;
    let index = "CREATE INDEX ON older.users (email)";
    session.query_unpaged(index, ()).await.unwrap();
    let long = "x".repeat(70_000);
    let events = [user(1, 2, "good"), user(1, 3, &long), user(1, 1, "older")].join("\n");
    let sent = rtp(&place, cassandra, &["produce"], events.as_bytes());
    assert_eq!(sent.status, 0, "{}", sent.stderr);
    let ran = rtp(&place, cassandra, &["stream", "--until-end"], b"");
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [3, 1, 1, 1, 0]),
        "{}",
        ran.stderr
    );
    let select = "SELECT email FROM older.users";
    let rows = session.query_unpaged(select, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    assert_eq!(rows.single_row::<(String,)>().unwrap().0, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_fit_are_told_by_every_command() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "misfit");
    let session = session(cassandra).await;
    let told = |why: &str| {
        for args in [&["init"][..], &["stream", "--until-end"]] {
            let ran = rtp(&place, cassandra, args, b"");
            assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
        }
    };
    let drop = "ALTER TABLE misfit.users DROP phone";
    session.query_unpaged(drop, ()).await.unwrap();
    told("table misfit.users in ");
    told("does not fit the dataset: it has no column phone");
    for statement in [
        "ALTER TABLE misfit.users ADD phone text",
        "DROP TABLE misfit.users_by_hour",
        "CREATE TABLE misfit.users_by_hour (hour timestamp, shard int, fetched_at timestamp, id uuid, PRIMARY KEY (hour, shard, id))",
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    told("its key is (hour, shard, id), but the dataset needs ((hour, shard), fetched_at, id)");
    // How long rows live is no reason for the stream to stop, but init must not say that all is as declared.
    for statement in [
        "DROP TABLE misfit.users_by_hour",
        "ALTER TABLE misfit.users WITH default_time_to_live = 60",
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    let ran = rtp(&place, cassandra, &["init"], b"");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let why = "its default_time_to_live is 60 s, but the dataset's ttl is 0 s";
    assert!(ran.stderr.contains(why), "{}", ran.stderr);
}

#[test]
fn tls_and_a_password_are_asked_for_and_checked() {
    let Some(cassandra) = server("cassandra", Access::Guarded) else {
        return;
    };
    let place = Place::new();
    let address = cassandra.address("RTP_REALTIME_STORE");
    let file = cassandra.address("RTP_CASSANDRA_PASSWORD_FILE");
    let init = |password: &str, address: &str| {
        place.bash(&format!(
            "export {password}; rtp init --realtime-store '{address}'"
        ))
    };
    let right = format!("RTP_CASSANDRA_PASSWORD_FILE='{file}'");
    let made = init(&right, address);
    assert_eq!(made.status, 0, "{}", made.stderr);
    let (plain, _) = address.split_once("&ca=").unwrap();
    for (password, address, said) in [
        ("RTP_CASSANDRA_PASSWORD=wrong", address, "refuses the user"),
        (&right, plain, "cannot trust"),
        ("NOTHING=1", address, "no password"),
    ] {
        let refused = init(password, address);
        assert_eq!(refused.status, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}

#[test]
fn a_server_that_is_absent_is_named() {
    let place = Place::ready();
    let absent = "cassandra://127.0.0.1:1";
    let args = ["stream", "--until-end", "--realtime-store", absent];
    let ran = place.rtp(&[&args[..], &["--max-outage", "200ms"]].concat(), b"");
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(absent), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_told_at_the_start() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = Place::ready();
    place.write(
        "users.toml",
        DATASET.replace("keyspace = \"realtime\"", "keyspace = \"nowhere\""),
    );
    for args in [&["stream", "--until-end"][..], &["verify"], &["heartbeat"]] {
        let ran = rtp(&place, cassandra, args, b"");
        let said = format!("{args:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.status, 2, "{said}");
        assert!(said.contains("run `rtp init` first"), "{said}");
    }
}

/// A following stream, and the sum of the offsets it has committed.
fn following(place: &Place, address: &str) -> (Running, impl Fn() -> String) {
    let args = ["stream", "--dataset", "users.toml"];
    let stream = place.start(&[&args[..], &["--realtime-store", address]].concat());
    let sum = "SELECT coalesce(sum(offset), 0) FROM group_offsets";
    (stream, || place.query(".rtp/log.db", sum))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_while_a_stream_runs_ends_it_and_nothing_is_committed() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "goes");
    let session = session(cassandra).await;
    rtp(&place, cassandra, &["produce"], users(10).as_bytes());
    let (stream, committed) = following(&place, cassandra.address("RTP_REALTIME_STORE"));
    eventually("the first events are stored", || committed() == "10");
    let dropped = session.query_unpaged("DROP TABLE goes.users", ());
    dropped.await.unwrap();
    rtp(&place, cassandra, &["produce"], users(20).as_bytes());
    let ran = stream.end();
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("table users"), "{}", ran.stderr);
    assert_eq!(committed(), "10");
    // Recreated, the table gets what is not committed.
    rtp(&place, cassandra, &["init"], b"");
    let ran = rtp(&place, cassandra, &["stream", "--until-end"], b"");
    assert_eq!((ran.status, ran.counts()[1]), (0, 20), "{}", ran.stderr);
}

#[test]
fn one_host_of_several_is_enough() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "several");
    rtp(&place, cassandra, &["produce"], users(10).as_bytes());
    let address = cassandra.address("RTP_REALTIME_STORE");
    let several = address.replace("//", "//127.0.0.1:1,");
    let args = ["--dataset", "users.toml", "--realtime-store", &several];
    let ran = place.rtp(&[&["stream", "--until-end"][..], &args].concat(), b"");
    assert_eq!((ran.status, ran.counts()[1]), (0, 10), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_waited_for() {
    let Some(cassandra) = own_server("cassandra", "stops") else {
        return;
    };
    let place = place(&cassandra, "stops");
    let address = cassandra.address("RTP_REALTIME_STORE");
    let first = rtp(&place, &cassandra, &["produce"], users(10).as_bytes());
    assert_eq!(first.status, 0, "{}", first.stderr);
    let (stream, committed) = following(&place, address);
    eventually("the first events are stored", || committed() == "10");
    cassandra.signal("STOP");
    let more = rtp(&place, &cassandra, &["produce"], users(1_000).as_bytes());
    assert_eq!(more.status, 0, "{}", more.stderr);
    std::thread::sleep(std::time::Duration::from_secs(15)); // longer than a request may take
    assert_eq!(committed(), "10");
    cassandra.signal("CONT");
    eventually("all events are stored", || committed() == "1010");
    stream.signal("TERM");
    let ran = stream.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.summary()["retries"].as_u64() > Some(0),
        "{}",
        ran.stderr
    );
    let session = session(&cassandra).await;
    assert_eq!(count(&session, "stops.users").await, 1_000);
}

#[test]
fn a_server_that_is_stopped_or_killed_is_noticed_by_every_command() {
    let Some(cassandra) = own_durable_server("cassandra", "gone") else {
        return;
    };
    let place = place(&cassandra, "gone");
    let address = cassandra.address("RTP_REALTIME_STORE");
    let start = |args: &[&str]| {
        let store = ["--dataset", "users.toml", "--realtime-store", address];
        place.start(&[args, &store].concat())
    };
    let events = users(10);
    for args in [&["produce"][..], &["load-batch"]] {
        let ran = rtp(&place, &cassandra, args, events.as_bytes());
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
    let everybody_gives_up = || {
        let stream = ["stream", "--until-end", "--group", "late"];
        let short = ["--max-outage", "1s"];
        let commands = [
            &[&stream[..], &short].concat()[..],
            &["verify", "--max-outage", "1s"],
        ]
        .map(&start);
        let watched = start(&["heartbeat", "--timeout", "2s"]).end();
        assert_eq!(watched.status, 4, "{}", watched.stderr);
        assert!(watched.stdout.contains(address), "{}", watched.stdout);
        for ran in commands.map(|command| command.end()) {
            assert_eq!(ran.status, 4, "{}", ran.stderr);
            assert!(ran.stderr.contains(address), "{}", ran.stderr);
            assert!(ran.stderr.contains("--max-outage"), "{}", ran.stderr);
        }
    };
    let stored = |group: &str| {
        let offsets = "SELECT coalesce(sum(offset), 0) FROM group_offsets WHERE consumer_group =";
        place.query(".rtp/log.db", &format!("{offsets} '{group}'"))
    };
    let following = start(&["stream"]);
    eventually("the events are stored", || stored("rtp") == "10");
    {
        let _stopped = cassandra.stopped();
        everybody_gives_up();
    }

    // A killed server comes back, and the waiting commands continue.
    cassandra.signal("KILL");
    everybody_gives_up();
    let late = start(&["stream", "--until-end", "--group", "late"]);
    let verify = start(&["verify"]);
    let more = rtp(&place, &cassandra, &["produce"], events.as_bytes());
    assert_eq!(more.status, 0, "{}", more.stderr);
    cassandra.restart();
    for ran in [late.end(), verify.end()] {
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert!(
            ran.summary()["retries"].as_u64() > Some(0),
            "{}",
            ran.stderr
        );
    }
    eventually("all events are stored", || stored("rtp") == "20");
    following.signal("TERM");
    let following = following.end();
    assert_eq!(following.status, 0, "{}", following.stderr);
}

#[test]
fn heartbeat_says_which_nodes_are_up_and_whether_they_agree() {
    let Some(cassandra) = server("cassandra", Access::Open) else {
        return;
    };
    let place = place(cassandra, "nodes");
    let ran = rtp(&place, cassandra, &["heartbeat"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    let says = "1 of 1 nodes up, they agree on the schema";
    assert!(ran.stdout.contains(says), "{}", ran.stdout);
}
