//! The batch store on a real PostgreSQL.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::error::{Error, Result};
use rtp::ports::aggregates::Aggregates;
use rtp::ports::batch_store::{BatchStore, Mode};
use rtp::ports::conformance::monitor::store;
use rtp::ports::conformance::{self, Abilities, Ability, load_of};
use rtp::ports::ledger::Ledger;
use rtp::ports::monitor::StoreMonitor;
use rtp::ports::table_reader::TableReader;
use rtp::record::row::Rows;
use rtp::servers::address::Address;
use rtp::servers::postgres::aggregates::PostgresAggregates;
use rtp::servers::postgres::batch_store::{PostgresBatchStore, create};
use rtp::servers::postgres::ledger::PostgresLedger;
use rtp::servers::postgres::monitor::PostgresStoreMonitor;
use rtp::servers::postgres::table_reader::PostgresTable;

use crate::common::figures::figures_are_right;
use crate::common::{Mock, Place, Ran, complete, eventually, user, users};
use crate::keeps;
use crate::stack::{Access, Server, own_server, server};

/// A separate database.
pub struct Database {
    pub url: String,
}

impl Database {
    /// One on the shared server.
    pub fn new(name: &str) -> Option<Database> {
        server("postgres", Access::Open).map(|server| Database::on(server, name))
    }

    fn on(server: &Server, name: &str) -> Database {
        let maintenance = Database {
            url: server.address("RTP_BATCH_STORE").into(),
        };
        maintenance
            .psql(&format!("CREATE DATABASE {name}"))
            .unwrap();
        let (server, _) = maintenance.url.rsplit_once('/').unwrap();
        Database {
            url: format!("{server}/{name}"),
        }
    }

    fn address(&self) -> Address {
        let rest = self.url.strip_prefix("postgres://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        let (host, port) = host.split_once(':').unwrap();
        Address {
            user: Some(user.into()),
            hosts: vec![(host.into(), port.parse().unwrap())],
            path: Some(database.into()),
            ..Address::default()
        }
    }

    /// What psql prints, one line per row.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let out = self.psql_command(sql).output().unwrap();
        match out.status.success() {
            true => Ok(String::from_utf8(out.stdout).unwrap().trim_end().into()),
            false => Err(Error::refused(String::from_utf8_lossy(&out.stderr))),
        }
    }

    fn psql_command(&self, sql: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.url, "-c", sql]);
        psql
    }

    /// A folder in whose stores `rtp init` has run.
    fn place(&self) -> Place {
        let place = Place::new();
        let ran = self.rtp(&place, &["init"], b"");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        place
    }

    pub fn rtp(&self, place: &Place, args: &[&str], stdin: &[u8]) -> Ran {
        place.rtp(&[args, &["--batch-store", &self.url]].concat(), stdin)
    }

    fn is(&self, what: &str, sql: &str) {
        eventually(what, || self.psql(sql).unwrap() == "t");
    }

    /// A session that locks everyone else out of the table until it is killed.
    fn lock(&self, table: &str) -> Child {
        let lock = format!("BEGIN; LOCK TABLE {table}; SELECT pg_sleep(600)");
        let holder = self.psql_command(&lock).spawn().unwrap();
        self.is("the table is locked", &format!(
            "SELECT count(*) > 0 FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' AND relation = to_regclass('{table}')"
        ));
        holder
    }

    fn unlock(&self, mut holder: Child) {
        self.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' AND datname = current_database()").unwrap();
        holder.wait().unwrap();
    }
}

/// Sessions of ours in this database.
const OURS: &str =
    "FROM pg_stat_activity WHERE application_name = 'rtp' AND datname = current_database()";

impl Abilities for Database {
    fn lacks(&self) -> &[Ability] {
        &[Ability::HoldsForeignValues]
    }
}

#[async_trait]
impl conformance::batch_store::Harness for Database {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.address(), dataset).await
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        let store = PostgresBatchStore::open(&self.address(), dataset).await?;
        Ok(Box::new(store))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.batch.table;
        let table = PostgresTable::open(&self.address(), dataset, table).await?;
        Ok(Box::new(table))
    }

    async fn loads(&self, dataset: &Dataset) -> Result<Vec<String>> {
        let table = &dataset.batch.table;
        let select = format!("SELECT run_id FROM rtp_loads WHERE target = '{table}'");
        let loads = self.psql(&select)?;
        Ok(loads.lines().map(String::from).collect())
    }

    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()> {
        let table = quoted(&dataset.batch.table);
        let check = format!("ALTER TABLE {table} ADD CHECK (title <> '{title}')");
        self.psql(&check).map(|_| ())
    }

    async fn make_titles_unique(&self, dataset: &Dataset) -> Result<()> {
        let table = quoted(&dataset.batch.table);
        let unique = format!("ALTER TABLE {table} ADD UNIQUE (title)");
        self.psql(&unique).map(|_| ())
    }
}

#[async_trait]
impl conformance::table_reader::Harness for Database {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.address(), dataset).await
    }

    async fn write(&self, dataset: &Dataset, rows: &Rows) -> Result<()> {
        let mut store = PostgresBatchStore::open(&self.address(), dataset).await?;
        store.stage(rows).await?;
        store
            .merge(Mode::Upsert, &load_of("write"))
            .await
            .map(|_| ())
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        conformance::batch_store::Harness::table(self, dataset).await
    }

    fn keeps(&self) -> conformance::table_reader::Kept {
        conformance::table_reader::Kept {
            origin: false,
            digest: true,
            write_timestamps: false,
        }
    }

    async fn plant_text(&self, _: &Dataset, _: &str, _: &str) -> Result<()> {
        Err(Error::refused("its columns have strict types"))
    }
}

#[async_trait]
impl store::Harness for Database {
    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        let monitor = PostgresStoreMonitor::open(&self.address(), dataset).await?;
        Ok(Box::new(monitor))
    }
}

#[async_trait]
impl conformance::ledger::Harness for Database {
    async fn ledger(&self, dataset: &Dataset) -> Result<Box<dyn Ledger>> {
        let ledger = PostgresLedger::open(&self.address(), dataset).await?;
        Ok(Box::new(ledger))
    }
}

#[async_trait]
impl conformance::aggregates::Harness for Database {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.address(), dataset).await
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        let store = PostgresBatchStore::open(&self.address(), dataset).await?;
        Ok(Box::new(store))
    }

    async fn aggregates(&self, dataset: &Dataset) -> Result<Box<dyn Aggregates>> {
        let figures = PostgresAggregates::open(&self.address(), dataset).await?;
        Ok(Box::new(figures))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_keeps_every_guarantee() {
    if let Some(database) = Database::new("conformance_ledger") {
        keeps(conformance::ledger::CASES, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_keep_every_guarantee() {
    if let Some(database) = Database::new("conformance_aggregates") {
        keeps(conformance::aggregates::CASES, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_keeps_every_guarantee() {
    if let Some(database) = Database::new("conformance_history") {
        keeps(conformance::history::CASES, &database).await;
    }
}

#[test]
fn a_store_of_an_older_version_is_changed_by_init_and_goes_on() {
    let Some(database) = Database::new("upgraded") else {
        return;
    };
    let place = database.place();
    let load = || database.rtp(&place, &["load-batch"], users(3).as_bytes());
    load();
    database
        .psql("ALTER TABLE rtp_loads DROP COLUMN started_at, DROP COLUMN newest, DROP COLUMN inputs, DROP COLUMN rejects; ALTER TABLE rtp_verdicts DROP COLUMN options")
        .unwrap();
    let ran = load();
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    for says in ["an older version of rtp", "rtp init"] {
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    for _ in 0..2 {
        let ran = database.rtp(&place, &["init"], b"");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
    let ran = load();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let counts =
        "SELECT count(*) || ',' || count(started_at) || ',' || count(newest) FROM rtp_loads";
    assert_eq!(database.psql(counts).unwrap(), "2,1,1");
    let options = "SELECT count(options) FROM rtp_verdicts";
    assert_eq!(database.psql(options).unwrap(), "0");
}

#[test]
fn figures_equal_an_independent_count_and_a_day_computed_again_is_unchanged() {
    let Some(database) = Database::new("aggregates") else {
        return;
    };
    // The figures of a day do not depend on the time zone of a session.
    let zone = "ALTER DATABASE aggregates SET timezone = 'Pacific/Kiritimati'";
    database.psql(zone).unwrap();
    let place = Place::new();
    let store = ["--batch-store", &database.url];
    figures_are_right(&place, rtp::dataset::BUILT_IN, &store);
    let dataset = ["--dataset", "users.toml"];
    // A time that is infinite, or of no year that the dataset's types have, has no group among the others.
    database
        .psql(
            "UPDATE batch_users_history SET dob = 'infinity';
             UPDATE batch_users_history SET dob = '0044-03-15 00:00:00+00 BC' WHERE gender = 'male'
               AND nationality IN (SELECT min(nationality) FROM batch_users);
             UPDATE batch_users_history SET dob = '10000-01-01 00:00:00+00' WHERE gender = 'female'
               AND nationality IN (SELECT max(nationality) FROM batch_users)",
        )
        .unwrap();
    let args = ["aggregate", "--date", "2026-03-01"];
    let ran = database.rtp(&place, &[&args[..], &dataset].concat(), b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ages =
        "SELECT string_agg(DISTINCT value, ',') FROM rtp_aggregates WHERE aggregate = 'age_band'";
    assert_eq!(database.psql(ages).unwrap(), "(invalid)");
}

/// Two runs at once wait for each other, and neither stores a figure twice.
#[test]
fn runs_of_one_day_wait_for_each_other() {
    let Some(database) = Database::new("aggregates_at_once") else {
        return;
    };
    let place = database.place();
    assert_eq!(
        database
            .rtp(&place, &["load-batch"], users(2_000).as_bytes())
            .status,
        0
    );
    let holder = database.lock("rtp_aggregates");
    let args = [
        "aggregate",
        "--date",
        "2026-11-01",
        "--batch-store",
        &database.url,
    ];
    std::thread::scope(|scope| {
        let runs = [0, 1].map(|_| scope.spawn(|| place.rtp(&args, b"")));
        database.is("both wait", "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation = to_regclass('rtp_aggregates')");
        database.unlock(holder);
        let counts = runs.map(|run| {
            let ran = run.join().unwrap();
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            ran.counts()
        });
        let [read, ..] = counts[0];
        let written: u64 = counts.iter().map(|c| c[1]).sum();
        assert_eq!(written, read, "{counts:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_store_keeps_every_guarantee() {
    if let Some(database) = Database::new("conformance_batch") {
        keeps(conformance::batch_store::CASES, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_keeps_every_guarantee() {
    if let Some(database) = Database::new("conformance_table") {
        keeps(conformance::table_reader::CASES, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_keeps_every_guarantee() {
    if let Some(database) = Database::new("conformance_monitor") {
        keeps(store::CASES, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_that_was_never_analysed_is_estimated() {
    let Some(database) = Database::new("estimate") else {
        return;
    };
    database.place();
    let fill = "ALTER TABLE batch_users SET (autovacuum_enabled = false);
        INSERT INTO batch_users (id, email, fetched_at, rtp_digest)
            SELECT gen_random_uuid(), 'a@example.com', now(), '' FROM generate_series(1, 400000)";
    database.psql(fill).unwrap();
    let dataset = Dataset::load(None).unwrap();
    let address = database.address();
    let monitor = PostgresStoreMonitor::open(&address, &dataset);
    let rows = monitor.await.unwrap().rows().await.unwrap().unwrap();
    let is_near = (350_000..450_000).contains(&rows.count);
    assert!(!rows.exact && is_near, "{rows:?}");
}

#[test]
fn loads_of_the_same_keys_at_once_all_succeed() {
    let Some(database) = Database::new("at_once") else {
        return;
    };
    let place = database.place();
    std::thread::scope(|scope| {
        for loader in 0..8_u64 {
            let (database, place) = (&database, &place);
            scope.spawn(move || {
                // Each in a different order: steps coprime to the number of keys.
                let step = [1, 3, 7, 9, 11, 13, 17, 19][loader as usize];
                let input: String = (0..2_000)
                    .map(|n| {
                        user(n * step % 2_000, loader, &format!("{loader}@example.com")) + "\n"
                    })
                    .collect();
                let ran = database.rtp(place, &["load-batch"], input.as_bytes());
                assert_eq!(ran.status, 0, "{}", ran.stderr);
                assert_eq!(ran.counts()[0], 2_000);
            });
        }
    });
    let newest = "SELECT count(*), min(email), max(email) FROM batch_users";
    assert_eq!(
        database.psql(newest).unwrap(),
        "2000|7@example.com|7@example.com"
    );
}

#[test]
fn files_are_read_again_when_the_connection_dies_before_the_commit() {
    let Some(database) = Database::new("killed_file") else {
        return;
    };
    let place = database.place();
    place.write("u.ndjson", users(5_000));
    let holder = database.lock("batch_users");
    let load = place.start(&["load-batch", "u.ndjson", "--batch-store", &database.url]);
    let waits = format!("SELECT count(*) > 0 {OURS} AND wait_event_type = 'Lock'");
    database.is("the merge waits", &waits);
    database
        .psql(&format!("SELECT pg_terminate_backend(pid) {OURS}"))
        .unwrap();
    database.unlock(holder);
    let ran = load.end();
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [5_000, 5_000, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("reading the files again"),
        "{}",
        ran.stderr
    );
    let count = "SELECT count(*) FROM batch_users";
    assert_eq!(database.psql(count).unwrap(), "5000");
}

/// What happens to the first commit that a proxy sees.
#[derive(Clone, Copy, PartialEq)]
enum Commit {
    /// The server receives it, but its answer is lost with the connection.
    Arrives,
    /// It is lost with the connection.
    IsLost,
}

/// Listens in front of a server; returns its port, and whether it has seen no commit yet.
fn proxy(server: SocketAddr, commit: Commit) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let waits = Arc::new(AtomicBool::new(true));
    let is_first = waits.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let is_cut = Arc::new(AtomicBool::new(false));
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let cut = is_cut.clone();
            std::thread::spawn(move || pass(from, to, |_| !cut.load(Ordering::SeqCst)));
            let is_first = is_first.clone();
            std::thread::spawn(move || {
                pass(client, server, |sent| {
                    let is_commit = sent.windows(7).any(|part| part == b"COMMIT\0");
                    if is_commit && is_first.swap(false, Ordering::SeqCst) {
                        is_cut.store(true, Ordering::SeqCst);
                    }
                    commit == Commit::Arrives || !is_cut.load(Ordering::SeqCst)
                });
            });
        }
    });
    (port, waits)
}

/// Forwards bytes while `goes_on` says so, then closes both connections.
fn pass(mut from: TcpStream, mut to: TcpStream, mut goes_on: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let sent = &buffer[..read];
        if !goes_on(sent) || to.write_all(sent).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

#[test]
fn a_connection_that_is_lost_in_the_commit_leaves_no_doubt() {
    for (commit, name, says) in [
        (Commit::Arrives, "commit_arrives", ""),
        (Commit::IsLost, "commit_is_lost", "reading the files again"),
    ] {
        let Some(database) = Database::new(name) else {
            return;
        };
        let place = database.place();
        place.write("u.ndjson", users(5_000));
        let (user, rest) = database.url.split_once("127.0.0.1:").unwrap();
        let (port, name) = rest.split_once('/').unwrap();
        let (port, waits) = proxy(([127, 0, 0, 1], port.parse().unwrap()).into(), commit);
        let url = format!("{user}127.0.0.1:{port}/{name}");
        // A second insert of the same keys would be refused.
        let args = [
            "load-batch",
            "--mode",
            "insert",
            "u.ndjson",
            "--batch-store",
            &url,
        ];
        let ran = place.rtp(&args, b"");
        assert_eq!(
            (ran.status, ran.counts()),
            (0, [5_000, 5_000, 0, 0, 0]),
            "{}",
            ran.stderr
        );
        assert!(!waits.load(Ordering::SeqCst), "a commit was cut off");
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        let count = "SELECT (SELECT count(*) FROM batch_users) + (SELECT count(*) FROM rtp_loads)";
        assert_eq!(database.psql(count).unwrap(), "5001");
    }
}

#[test]
fn standard_input_cannot_be_read_again_and_nothing_is_kept() {
    let Some(database) = Database::new("killed_stdin") else {
        return;
    };
    let place = database.place();
    let mut load = place.start(&["load-batch", "--batch-store", &database.url]);
    load.write(users(5_000).as_bytes());
    let staged = format!("SELECT count(*) > 0 {OURS} AND state = 'idle' AND query LIKE 'COPY%'");
    database.is("rows are staged", &staged);
    database
        .psql(&format!("SELECT pg_terminate_backend(pid) {OURS}"))
        .unwrap();
    load.write(users(100).as_bytes());
    let ran = load.end();
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing was kept"), "{}", ran.stderr);
    let count = "SELECT count(*) FROM batch_users";
    assert_eq!(database.psql(count).unwrap(), "0");
}

#[test]
fn a_server_that_is_absent_or_refuses_is_named() {
    let place = Place::new();
    place.write("u.ndjson", users(1));
    let nobody = "postgres://rtp@127.0.0.1:1/db";
    let args = ["load-batch", "u.ndjson", "--max-outage", "1s"];
    let ran = place.rtp(&[&args[..], &["--batch-store", nobody]].concat(), b"");
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(nobody), "{}", ran.stderr);
    let Some(database) = Database::new("refuses") else {
        return;
    };
    for args in [&args[..], &["heartbeat"]] {
        let ran = database.rtp(&place, args, b"");
        let said = format!("{args:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.status, 2, "{said}");
        assert!(said.contains("there is no table"), "{said}");
        assert!(said.contains("run `rtp init` first"), "{said}");
    }
    let missing = database.url.replace("/refuses", "/nothere");
    let ran = place.rtp(&[&args[..], &["--batch-store", &missing]].concat(), b"");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("nothere"), "{}", ran.stderr);
}

#[test]
fn another_sessions_lock_is_waited_for_and_then_ends_it() {
    let Some(database) = Database::new("locked") else {
        return;
    };
    let place = database.place();
    let holder = database.lock("batch_users");
    let args = ["load-batch", "--max-outage", "1s"];
    let ran = database.rtp(&place, &args, users(10).as_bytes());
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("lock timeout"), "{}", ran.stderr);
    let pid = database
        .psql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' AND datname = current_database()")
        .unwrap();
    let heartbeat = ["heartbeat", "--format", "json"];
    let (status, why) = verdict(&database.rtp(&place, &heartbeat, b""));
    let named = format!(
        "process {pid} of the server blocks writers of batch_users (AccessExclusiveLock since 2"
    );
    assert!(status == "ok" && why.contains(&named), "{status}: {why}");
    database.unlock(holder);
    let (status, why) = verdict(&database.rtp(&place, &heartbeat, b""));
    assert!(
        status == "ok" && !why.contains("process"),
        "{status}: {why}"
    );
    let ran = database.rtp(&place, &args, users(10).as_bytes());
    assert_eq!(ran.counts(), [10, 10, 0, 0, 0], "{}", ran.stderr);
}

fn signal(name: &str, pid: &str) {
    let kill = Command::new("kill").args(["-s", name, pid]).status();
    assert!(kill.unwrap().success());
}

#[test]
fn a_process_that_is_stopped_under_a_living_server_is_unavailable() {
    let Some(server) = own_server("postgres", "process") else {
        return;
    };
    let database = Database::on(&server, "process");
    let place = database.place();
    let url = ["--batch-store", &database.url];
    let mut load = place.start(&[&["load-batch", "--max-outage", "1s"], &url[..]].concat());
    load.write(users(100).as_bytes());
    let staged = format!("{OURS} AND state = 'idle' AND query LIKE 'COPY%'");
    database.is("rows are staged", &format!("SELECT count(*) > 0 {staged}"));
    let backend = database.psql(&format!("SELECT pid {staged}")).unwrap();
    signal("STOP", &backend);
    load.write(users(100).as_bytes());
    let ran = load.end();
    signal("CONT", &backend);
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(&database.url), "{}", ran.stderr);
    let named = format!("process {backend} of the server");
    assert!(ran.stderr.contains(&named), "{}", ran.stderr);
}

#[test]
fn a_reader_notices_that_its_process_was_stopped_in_the_middle_of_a_copy() {
    let Some(server) = own_server("postgres", "reader") else {
        return;
    };
    let database = Database::on(&server, "reader");
    let place = database.place();
    database.rtp(&place, &["load-batch"], users(100).as_bytes());
    // Slow enough to be interrupted in the middle.
    let slow = "ALTER TABLE batch_users RENAME TO users;
        CREATE VIEW batch_users AS SELECT users.* FROM users, LATERAL (SELECT pg_sleep(0.2 + 0 * length(id::text))) AS slow";
    database.psql(slow).unwrap();
    let verify = [
        "verify",
        "--max-outage",
        "1s",
        "--batch-store",
        &database.url,
    ];
    let verify = place.start(&verify);
    let copying = "FROM pg_stat_progress_copy WHERE bytes_processed > 0";
    database.is("rows are copied", &format!("SELECT count(*) > 0 {copying}"));
    let backend = database.psql(&format!("SELECT pid {copying}")).unwrap();
    signal("STOP", &backend);
    let ran = verify.end();
    signal("CONT", &backend);
    gave_up(&database, &ran);
    let named = format!("process {backend} of the server has stopped");
    assert!(ran.stderr.contains(&named), "{}", ran.stderr);
}

#[test]
fn a_merge_that_takes_long_is_not_cut_off() {
    let Some(database) = Database::new("long") else {
        return;
    };
    let place = database.place();
    // Longer than the wait for an answer before the server is probed.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(12); RETURN NULL; END';
        CREATE TRIGGER slow AFTER INSERT ON batch_users EXECUTE FUNCTION slow()";
    database.psql(slow).unwrap();
    let args = ["load-batch", "--max-outage", "0s"];
    let ran = database.rtp(&place, &args, users(10).as_bytes());
    assert_eq!(ran.counts(), [10, 10, 0, 0, 0], "{}", ran.stderr);
}

/// A command that ended because its server was down names it.
fn gave_up(database: &Database, ran: &Ran) {
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(&database.url), "{}", ran.stderr);
}

/// What heartbeat reports for the batch store: verdict and reason.
fn verdict(ran: &Ran) -> (String, String) {
    let round: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut checks = round["checks"].as_array().unwrap().iter();
    let batch = checks
        .find(|check| check["check"] == "batch-store")
        .unwrap();
    let status = batch["status"].as_str().unwrap();
    (status.into(), batch["detail"].to_string())
}

#[test]
fn a_server_that_is_stopped_or_killed_is_noticed_by_every_command() {
    let Some(server) = own_server("postgres", "stopped") else {
        return;
    };
    let database = Database::on(&server, "stopped");
    let place = database.place();
    place.write("u.ndjson", users(100));
    let store = ["--batch-store", &*database.url];
    let short = ["--max-outage", "1s"];
    let heartbeat = ["heartbeat", "--timeout", "2s", "--format", "json"];

    // In the middle of their work: a load from a pipe, a merging load, and a reader.
    let mut piped = place.start(&[&["load-batch"], &short[..], &store].concat());
    piped.write(users(100).as_bytes());
    let staged = format!("SELECT count(*) > 0 {OURS} AND state = 'idle' AND query LIKE 'COPY%'");
    database.is("rows are staged", &staged);
    let mut holder = database.lock("batch_users");
    let merging = place.start(&[&["load-batch", "u.ndjson"], &short[..], &store].concat());
    let verifying = place.start(&[&["verify"], &short[..], &store].concat());
    let waiting = format!("SELECT count(*) = 2 {OURS} AND wait_event_type = 'Lock'");
    database.is("a merge and a reader wait", &waiting);
    {
        let _stopped = server.stopped();
        piped.write(users(100).as_bytes());
        let piped = piped.end();
        assert!(
            piped.stderr.contains("nothing was kept"),
            "{}",
            piped.stderr
        );
        for ran in [piped, merging.end(), verifying.end()] {
            gave_up(&database, &ran);
        }

        // At their start.
        for args in [&["load-batch", "u.ndjson"][..], &["verify"], &["init"]] {
            gave_up(&database, &place.rtp(&[args, &short, &store].concat(), b""));
        }
        let ran = place.rtp(&[&heartbeat[..], &store].concat(), b"");
        assert_eq!(ran.status, 4, "{}", ran.stderr);
        let (verdict, why) = verdict(&ran);
        assert_eq!(verdict, "failed");
        assert!(why.contains(&database.url), "{why}");
    }

    // A killed server comes back, and the waiting commands continue.
    server.signal("KILL");
    holder.wait().unwrap();
    let ran = place.rtp(&[&heartbeat[..], &store].concat(), b"");
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(verdict(&ran).1.contains(&database.url), "{}", ran.stdout);
    for args in [&["load-batch", "u.ndjson"][..], &["verify"]] {
        gave_up(&database, &place.rtp(&[args, &short, &store].concat(), b""));
    }
    let load = place.start(&[&["load-batch", "u.ndjson"], &store[..]].concat());
    let verify = place.start(&[&["verify"], &store[..]].concat());
    server.restart();
    let load = load.end();
    assert_eq!(load.counts(), [100, 100, 0, 0, 0], "{}", load.stderr);
    let verify = verify.end();
    assert!(verify.status < 2, "{}", verify.stderr);
    for ran in [load, verify] {
        assert!(
            ran.summary()["retries"].as_u64() > Some(0),
            "{}",
            ran.stderr
        );
    }
    let ran = place.rtp(&[&heartbeat[..], &store].concat(), b"");
    assert_eq!(
        (ran.status, verdict(&ran).0.as_str()),
        (0, "ok"),
        "{}",
        ran.stdout
    );
}

#[test]
fn columns_have_the_types_of_the_fields() {
    let Some(database) = Database::new("types") else {
        return;
    };
    database.place();
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'batch_users'::regclass AND attname IN ('id', 'post_code', 'dob', 'rtp_digest')";
    assert_eq!(
        database.psql(types).unwrap(),
        "uuid,text,timestamp(3) with time zone,bytea"
    );
}

#[test]
fn a_time_with_microseconds_is_shown_and_tolerated() {
    let Some(database) = Database::new("microseconds") else {
        return;
    };
    let place = database.place();
    let events = users(3);
    for args in [&["produce"][..], &["stream", "--until-end"]] {
        let ran = place.rtp(args, events.as_bytes());
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
    let finer = "ALTER TABLE batch_users ALTER COLUMN fetched_at TYPE timestamp(6) with time zone";
    database.psql(finer).unwrap();
    for args in [&["init"][..], &["load-batch"], &["verify"]] {
        let ran = database.rtp(&place, args, events.as_bytes());
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
    let later = "UPDATE batch_users SET fetched_at = fetched_at + interval '1 microsecond'";
    database.psql(later).unwrap();
    let ran = database.rtp(&place, &["verify", "--sample", "5"], b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("000001Z"), "{}", ran.stderr);
    let ran = database.rtp(&place, &["verify", "--tolerance", "fetched_at=1ms"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn a_table_that_does_not_fit_is_told_by_every_command() {
    let Some(database) = Database::new("misfit") else {
        return;
    };
    let place = database.place();
    database
        .psql("ALTER TABLE batch_users DROP COLUMN phone, ADD COLUMN age int NOT NULL")
        .unwrap();
    let why = "does not fit the dataset: it has no column phone; its column age needs a value, but the dataset has no such field";
    for args in [&["init"][..], &["load-batch"]] {
        let ran = database.rtp(&place, args, user(1, 0, "a").as_bytes());
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
}

/// PostgreSQL's indexes take 2.7 kB; what can be compressed takes less, so the text is random.
#[test]
fn a_value_that_is_too_long_for_an_index_is_one_bad_record() {
    let Some(database) = Database::new("too_long") else {
        return;
    };
    let place = database.place();
    database
        .psql("CREATE INDEX ON batch_users (email)")
        .unwrap();
    let mut state = 1_u64;
    let long: String = (0..9_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'0' + (state >> 33) as u8 % 75)
        })
        .map(|c| if c == '\\' { '_' } else { c })
        .collect();
    let lines = [user(1, 0, "a"), user(2, 0, &long), user(3, 0, "b")].join("\n");
    let ran = database.rtp(&place, &["load-batch"], lines.as_bytes());
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    let said = "record 2 is refused by batch_users, nothing was kept";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn both_datasets_arrive_and_equal_the_realtime_store() {
    let Some(database) = Database::new("pipeline") else {
        return;
    };
    let mock = Mock::start(&["--products", "500"]);
    let products = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/products.toml");
    let api = format!("{}/products", mock.url);
    let users = mock.users();
    for (dataset, table, api) in [
        (&[][..], "batch_users", &users),
        (&["--dataset", products], "all_products", &api),
    ] {
        let place = Place::new();
        for args in [
            &["init"][..],
            &["fetch", "--api", api, "--count", "500", "--out", "r.ndjson"],
            &["produce", "r.ndjson"],
            &["stream", "--until-end"],
            &["load-batch", "r.ndjson"],
            &["verify"],
            &["heartbeat", "--once"],
        ] {
            let takes_store = !["fetch", "produce", "stream"].contains(&args[0]);
            let store = ["--batch-store", &*database.url];
            let more = if takes_store { &store[..] } else { &[] };
            let ran = place.rtp(&[args, dataset, more].concat(), b"");
            assert_eq!(ran.status, 0, "{table}: {args:?}: {}", ran.stderr);
        }
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(database.psql(&count).unwrap(), "500");
        // Verify must be able to fail.
        let delete = format!("DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})");
        database.psql(&delete).unwrap();
        let verify = [&["verify", "--batch-store", &database.url], dataset].concat();
        assert_eq!(place.rtp(&verify, b"").status, 1);
    }
}

#[test]
fn tls_is_spoken_as_sslmode_says_and_no_password_is_shown() {
    let Some(server) = server("postgres", Access::Guarded) else {
        return;
    };
    let url = server.address("RTP_BATCH_STORE");
    let file = server.address("RTP_POSTGRES_PASSWORD_FILE");
    let (base, _) = url.split_once('?').unwrap();
    let password = std::fs::read_to_string(file).unwrap();
    let place = Place::new();
    for (url, variable, status, says) in [
        (
            url.to_string(),
            format!("RTP_POSTGRES_PASSWORD_FILE={file}"),
            0,
            "",
        ),
        (
            base.to_string(),
            format!("RTP_POSTGRES_PASSWORD_FILE={file}"),
            0,
            "",
        ),
        (
            format!("{base}?sslmode=require"),
            format!("RTP_POSTGRES_PASSWORD={}", password.trim()),
            0,
            "",
        ),
        (
            url.to_string(),
            format!("PGPASSWORD={}", password.trim()),
            2,
            "RTP_POSTGRES_PASSWORD_FILE or RTP_POSTGRES_PASSWORD; PGPASSWORD",
        ),
        (
            url.to_string(),
            "RTP_POSTGRES_PASSWORD=hunter2".into(),
            2,
            "password authentication failed",
        ),
        (
            format!("{base}?sslmode=verify-full"),
            "NONE=".into(),
            2,
            "sslrootcert",
        ),
        (
            format!("{base}?sslmode=on"),
            "NONE=".into(),
            2,
            "supported:",
        ),
        (
            format!("{base}?sslmode=verify-ca&sslrootcert=none.pem"),
            "NONE=".into(),
            2,
            "cannot read the certificates of sslrootcert",
        ),
    ] {
        let ran = place.bash(&format!("{variable} rtp init --batch-store '{url}'"));
        assert_eq!(ran.status, status, "{url}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{url}: {}", ran.stderr);
        for secret in ["hunter2", password.trim()] {
            assert!(!ran.stderr.contains(secret), "{}", ran.stderr);
        }
    }
}

#[test]
fn no_table_is_replaced_by_an_input_that_is_empty_or_cut() {
    let Some(database) = Database::new("replaced") else {
        return;
    };
    let place = database.place();
    for (name, content) in [("whole", users(2)), ("empty", String::new())] {
        place.write(name, content);
    }
    place.write("bad", "{}\n");
    assert_eq!(
        database
            .rtp(&place, &["load-batch"], users(3).as_bytes())
            .status,
        0
    );
    let rows = "SELECT count(*) || ',' || (SELECT count(*) FROM rtp_loads) FROM batch_users";
    let replace = ["load-batch", "--mode", "replace"];
    for (args, input, status) in [
        (&[][..], String::new(), 5),
        (&[], users(2), 5),
        (&[], users(2) + "{\"id", 5),
        (&[], complete(""), 5),
        (&["empty"], String::new(), 5),
        (&["whole", "empty"], String::new(), 5),
        (&["--require-records", "empty"], String::new(), 1),
        (&["--rejects", "rejects", "bad"], String::new(), 3),
    ] {
        let ran = database.rtp(&place, &[&replace[..], args].concat(), input.as_bytes());
        let what = format!("{args:?}: {}", ran.stderr);
        assert_eq!((ran.status, ran.counts()[1]), (status, 0), "{what}");
        assert!(
            ran.stderr.contains("batch_users keeps its 3 rows"),
            "{what}"
        );
        assert_eq!(database.psql(rows).unwrap(), "3,1", "{what}");
    }
    let ran = database.rtp(&place, &replace, complete(&users(2)).as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(database.psql(rows).unwrap(), "2,2");

    // Rows that a trigger swallows do not count: what was written counts, not what was staged.
    let swallow = "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER swallow BEFORE INSERT ON batch_users FOR EACH ROW EXECUTE FUNCTION swallow()";
    database.psql(swallow).unwrap();
    let ran = database.rtp(&place, &[&replace[..], &["whole"]].concat(), b"");
    assert_eq!(ran.status, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("batch_users"), "{}", ran.stderr);
    assert_eq!(database.psql(rows).unwrap(), "2,2");
    database
        .psql("DROP TRIGGER swallow ON batch_users")
        .unwrap();

    let empty = [&replace[..], &["--allow-empty", "empty"]].concat();
    let ran = database.rtp(&place, &empty, b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(database.psql(rows).unwrap(), "0,3");
}

#[test]
fn a_file_that_was_emptied_before_it_is_read_again_replaces_nothing() {
    let Some(database) = Database::new("emptied") else {
        return;
    };
    let place = database.place();
    place.write("u.ndjson", users(5_000));
    database.rtp(&place, &["load-batch"], users(3).as_bytes());
    let holder = database.lock("batch_users");
    let args = ["load-batch", "--mode", "replace", "u.ndjson"];
    let load = place.start(&[&args[..], &["--batch-store", &database.url]].concat());
    let waits = format!("SELECT count(*) > 0 {OURS} AND wait_event_type = 'Lock'");
    database.is("the merge waits", &waits);
    place.write("u.ndjson", "");
    database
        .psql(&format!("SELECT pg_terminate_backend(pid) {OURS}"))
        .unwrap();
    database.unlock(holder);
    let ran = load.end();
    assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("reading the files again"),
        "{}",
        ran.stderr
    );
    let count = "SELECT count(*) FROM batch_users";
    assert_eq!(database.psql(count).unwrap(), "3");
}
