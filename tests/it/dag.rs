//! The justfile's workflow, as a newcomer runs it.

use std::process::Command;

use crate::common::{Mock, Place, Ran, tools};

const STORES: [(&str, &str); 2] = [("realtime.db", "users"), ("batch.db", "batch_users")];

/// Runs `./justw` with the stores and the landing file in the place.
fn justw(place: &Place, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let url = |file: &str| format!("sqlite:{}", place.path(file).display());
    let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/justw"))
        .args(args)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", std::env::var("HOME").unwrap_or_default())
        .env("RTP_TOOLS_DIR", tools())
        .env("RTP_BIN", env!("CARGO_BIN_EXE_rtp"))
        .env("RTP_EVENT_LOG", url("log.db"))
        .env("RTP_REALTIME_STORE", url("realtime.db"))
        .env("RTP_BATCH_STORE", url("batch.db"))
        .env("RTP_LANDING", place.path("landing"))
        .env("RTP_DAY", "2026-11-01")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    Ran::of(out)
}

/// Number of rows of each store, and the sum of their digests' first bytes.
fn content(place: &Place) -> Vec<String> {
    let of = |(file, table): &(&str, &str)| {
        let sql = format!(
            "SELECT count(*) || ' ' || group_concat(hex(rtp_digest)) FROM (SELECT rtp_digest FROM {table}_rows ORDER BY id)"
        );
        place.query(file, &sql)
    };
    STORES.iter().map(of).collect()
}

#[test]
fn run_dag_ends_with_equal_stores_and_again_changes_nothing() {
    let place = Place::new();
    let first = justw(&place, &["run-dag"], &[]);
    assert_eq!(first.status, 0, "{}", first.stderr);
    assert!(
        first.stderr.contains("equal: 1000 rows"),
        "{}",
        first.stderr
    );
    let after_first = content(&place);
    assert!(after_first[0].starts_with("1000 ") && after_first[0] == after_first[1]);

    let again = justw(&place, &["run-dag"], &[]);
    assert_eq!(again.status, 0, "{}", again.stderr);
    assert!(
        again.stderr.contains("holds the 1000 records"),
        "{}",
        again.stderr
    );
    assert_eq!(content(&place), after_first);

    let more = justw(&place, &["run-dag"], &[("RTP_COUNT", "1500")]);
    assert_eq!(more.status, 0, "{}", more.stderr);
    let old = "SELECT count(*) FROM users_rows WHERE rowid <= 1000";
    assert_eq!(place.query("realtime.db", old), "1000");
    for (store, digests) in content(&place).iter().zip(&after_first) {
        let all: Vec<&str> = store.strip_prefix("1500 ").unwrap().split(',').collect();
        let before: Vec<&str> = digests.strip_prefix("1000 ").unwrap().split(',').collect();
        assert!(before.iter().all(|digest| all.contains(digest)));
    }
}

#[test]
fn a_no_does_not_stop_the_workflow_and_a_failure_does() {
    let place = Place::new();
    let mock = Mock::start(&[]);
    assert_eq!(
        justw(&place, &["landing"], &[("RTP_API_URL", &mock.users())]).status,
        0
    );
    // One bad record in the landing file, with a matching trailer.
    let file = place.path("landing/2026-11-01.ndjson");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut records = lines[..1000].join("\n") + "\n";
    records = records.replacen("\"fetched_at\":\"2026", "\"fetched_at\":\"2999", 1);
    let hash = xxhash_rust::xxh3::xxh3_64(records.as_bytes());
    let trailer = format!("{{\"_rtp\":\"end\",\"records\":1000,\"xxh3\":\"{hash:016x}\"}}\n");
    std::fs::write(&file, records + &trailer).unwrap();
    let ran = justw(&place, &["run-dag"], &[]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("equal: 999 rows"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("== cassandra_monitor"),
        "{}",
        ran.stderr
    );
    let rejects = std::fs::read_to_string(place.path("landing/2026-11-01.rejects.ndjson")).unwrap();
    assert!(rejects.contains("\"rule\":\"future\""), "{rejects}");

    std::fs::write(&file, text.replacen("\"email\"", "\"mail\"", 1)).unwrap();
    let ran = justw(&place, &["run-dag"], &[]);
    assert_eq!(
        ran.status, 5,
        "a landing file that does not fit its trailer: {}",
        ran.stderr
    );
    assert!(
        !ran.stderr.contains("== spark_kafka_to_cassandra"),
        "{}",
        ran.stderr
    );
}

#[test]
fn every_stage_is_listed_with_what_it_does() {
    let place = Place::new();
    let list = justw(&place, &["--list"], &[]).stdout;
    for stage in [
        "api_to_kafka",
        "spark_kafka_to_cassandra",
        "batch_to_postgres",
        "verify",
        "nightly_aggregates",
        "cassandra_monitor",
        "run-dag",
    ] {
        let line = list
            .lines()
            .find(|l| l.trim_start().starts_with(stage))
            .unwrap();
        assert!(line.contains("# "), "{line}");
    }
}
