//! The command line as users see it: the real binary, in its own folder, with a clean environment.

use std::process::{Command, Output};

fn rtp(folder: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn init_creates_the_tables_and_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let out = rtp(folder.path(), &["init"]);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        assert!(out.stdout.is_empty());
    }
    for (file, view) in [("realtime.db", "users"), ("batch.db", "batch_users")] {
        let db = rusqlite::Connection::open(folder.path().join(".rtp").join(file)).unwrap();
        let columns = db
            .prepare(&format!("SELECT * FROM {view}"))
            .unwrap()
            .column_count();
        assert_eq!(columns, 14, "{view}");
    }
}

#[test]
fn init_dry_run_prints_statements_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = rtp(folder.path(), &["init", "--dry-run"]);
    assert_eq!(
        text(&out.stdout),
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schema/sqlite.sql")).unwrap()
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn init_dry_run_prints_what_the_addresses_take() {
    let folder = tempfile::tempdir().unwrap();
    let servers = [
        "--event-log",
        "kafka://localhost:1",
        "--realtime-store",
        "cassandra://localhost:1",
        "--batch-store",
        "postgres://me@localhost:1/db",
    ];
    let out = rtp(
        folder.path(),
        &[&["init", "--dry-run"], &servers[..]].concat(),
    );
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let script = text(&out.stdout);
    let topics: Vec<&str> = script
        .lines()
        .filter(|line| line.contains("kafka-topics.sh"))
        .collect();
    assert_eq!(topics.len(), 3, "{script}");
    assert!(topics.iter().all(|line| line.starts_with("-- ")));
    assert!(topics[0].contains("--topic user_events --partitions 3 --replication-factor 1"));
    assert!(topics[2].ends_with("--config retention.ms=3600000"));
    for file in ["cassandra.cql", "postgres.sql"] {
        let schema = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
        let derived = std::fs::read_to_string(schema.join(file)).unwrap();
        let (_, statements) = derived.split_once("\n\n").unwrap();
        assert!(script.contains(statements.trim_end()), "{file}: {script}");
    }
    for own in ["rtp_progress", "rtp_loads", "rtp_heartbeat"] {
        assert!(script.contains(own), "{own}: {script}");
    }
    assert!(!script.contains("batch_users_rows"), "{script}");
}

#[test]
fn init_waits_for_a_store_that_is_absent() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, address) in [
        ("--realtime-store", "cassandra://127.0.0.1:1"),
        ("--batch-store", "postgres://me@127.0.0.1:1/db"),
    ] {
        let args = ["init", "--log-format", "json", "--max-outage", "2s"];
        let out = rtp(folder.path(), &[&args[..], &[flag, address]].concat());
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains(address), "{stderr}");
        assert!(stderr.contains("--max-outage"), "{stderr}");
        let last = stderr.lines().last().unwrap();
        let summary: serde_json::Value = serde_json::from_str(last).unwrap();
        assert!(summary["retries"].as_u64() > Some(0), "{summary}");
    }
}

#[test]
fn views_show_readable_values() {
    let folder = tempfile::tempdir().unwrap();
    rtp(folder.path(), &["init"]);
    let db = rusqlite::Connection::open(folder.path().join(".rtp/batch.db")).unwrap();
    db.execute_batch(
        "INSERT INTO batch_users_rows (id, dob, fetched_at, rtp_digest)
         VALUES (x'053a57803703442ca561beda535af12c', -1, 1764000000123, x'00')",
    )
    .unwrap();
    let row: (String, String, String) = db
        .query_row("SELECT id, dob, fetched_at FROM batch_users", [], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?))
        })
        .unwrap();
    let expected = (
        "053a5780-3703-442c-a561-beda535af12c",
        "1969-12-31T23:59:59.999Z",
        "2025-11-24T16:00:00.123Z",
    );
    assert_eq!((row.0.as_str(), row.1.as_str(), row.2.as_str()), expected);
}

#[test]
fn the_summary_is_the_last_line_and_json_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let out = rtp(
        folder.path(),
        &["init", "--log-format", "json", "--run-id", "r1"],
    );
    let last = text(&out.stderr).lines().last().unwrap().to_string();
    let summary: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(summary["command"], "init");
    assert_eq!(summary["run_id"], "r1");
    assert_eq!(summary["exit"], 0);
}

#[test]
fn wrong_usage_ends_2_and_says_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("d.toml"), "name = \"x\"\ncolour = 1\n").unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["inti"], "unrecognized subcommand"),
        (
            &["init", "--batch-store", "mysql://h/d"],
            "supported: sqlite:PATH and postgres://",
        ),
        (
            &["init", "--dataset", "d.toml"],
            "d.toml:2: unknown field `colour`",
        ),
        (
            &["init", "--dataset", "none.toml"],
            "cannot read the dataset none.toml",
        ),
        (&["man", "inti"], "unknown command `inti`; commands: "),
    ];
    for (args, message) in cases {
        let out = rtp(folder.path(), args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(
            text(&out.stderr).contains(message),
            "{args:?}: {}",
            text(&out.stderr)
        );
    }
}

#[test]
fn completions_and_man_pages_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    assert!(text(&rtp(folder.path(), &["completions", "bash"]).stdout).contains("_rtp()"));
    assert!(text(&rtp(folder.path(), &["man"]).stdout).contains(".TH rtp 1"));
    assert!(text(&rtp(folder.path(), &["man", "init"]).stdout).contains("dry\\-run"));
}

#[test]
fn what_cannot_be_printed_is_not_done() {
    use crate::common::Place;
    let place = Place::ready();
    place.write("page.json", "{\"results\":[]}");
    let fetch = format!("fetch --api file://{}", place.path("page.json").display());
    for command in [
        fetch.as_str(),
        "transform",
        "verify --output -",
        "heartbeat",
        "init --dry-run",
        "man",
        "completions bash",
        "mock-api --port 0",
        "--help",
        "--version",
        "produce --help",
    ] {
        let ran = place.bash(&format!("rtp {command} < /dev/null >&-"));
        assert_eq!(ran.status, 2, "{command}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("standard output is closed"),
            "{command}: {}",
            ran.stderr
        );
    }
    for command in ["transform", "man", "--help", "--version"] {
        let ran = place.bash(&format!("rtp {command} < /dev/null > /dev/null"));
        assert_eq!(ran.status, 0, "{command}: {}", ran.stderr);
    }
    // Those that print nothing need no standard output.
    let ran = place.bash("rtp produce < /dev/null >&-");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}
