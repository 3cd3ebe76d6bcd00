//! The command line as users see it: the real binary, in its own folder, with a clean environment.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{Mock, Place, Running, eventually, users};

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
    for (topic, retention) in topics.iter().zip(["604800000", "-1", "3600000"]) {
        let expected = format!("--config retention.ms={retention}");
        assert!(topic.ends_with(&expected), "{topic}");
    }
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
    let cases: [(&[&str], &str); 7] = [
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
        (
            &["man", "me:hunter2@h"],
            "unknown command `***`; commands: ",
        ),
        (&["man", "hunter2?"], "unknown command `***`; commands: "),
    ];
    for (args, message) in cases {
        let out = rtp(folder.path(), args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(
            text(&out.stderr).contains(message),
            "{args:?}: {}",
            text(&out.stderr)
        );
        assert!(!text(&out.stderr).contains("hunter2"));
    }
}

#[test]
fn an_address_in_place_of_a_path_is_repeated_without_its_password() {
    let place = Place::ready();
    for address in ["kafka://me:hunter2@h:1", "postgres://me:hunter2@x@h/db"] {
        for args in [
            &["produce", address][..],
            &["load-batch", "--rejects", address],
            &["produce", "--commit-state", address],
            &["init", "--dataset", address],
            &["fetch", "--out", address, "--api", "file:///nowhere.json"],
            &["verify", "--output", address],
            &["init", "--metrics-file", address],
        ] {
            let ran = place.rtp(args, b"");
            assert!(!ran.stderr.contains("hunter2"), "{args:?}: {}", ran.stderr);
            let is_done = args.contains(&"--metrics-file"); // which is said, and no more
            assert_eq!(
                ran.status,
                if is_done { 0 } else { 2 },
                "{args:?}: {}",
                ran.stderr
            );
        }
    }
}

#[test]
fn zero_is_refused_where_it_makes_no_sense() {
    let place = Place::ready();
    let dataset = |line: &str, zero: &str| {
        let built_in = rtp::dataset::BUILT_IN;
        assert!(built_in.contains(line), "{line}");
        place.write("d.toml", built_in.replacen(line, zero, 1));
    };
    for zero in ["0", "0s", "0ms"] {
        for (command, option) in [
            ("fetch", "--request-timeout"),
            ("fetch", "--connect-timeout"),
            ("fetch", "--idle-timeout"),
            ("fetch", "--max-elapsed"),
            ("heartbeat", "--interval"),
            ("heartbeat", "--timeout"),
            ("heartbeat", "--max-age-realtime"),
            ("heartbeat", "--max-age-batch"),
        ] {
            let ran = place.rtp(&[command, option, zero], b"");
            assert_eq!(ran.status, 2, "{option} {zero}: {}", ran.stderr);
            let said = format!("invalid duration `{zero}`; expected one above 0");
            assert!(
                ran.stderr.contains(option) && ran.stderr.contains(&said),
                "{}",
                ran.stderr
            );
        }
        let ran = place.rtp(&["fetch", "--limit", &format!("5/{zero}")], b"");
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        for (line, part) in [
            ("per = \"300s\"", format!("per = \"{zero}\"")),
            ("retention = \"7d\"", format!("retention = \"{zero}\"")),
            (
                "partitions = 3",
                format!("dead_letter_retention = \"{zero}\""),
            ),
            ("[realtime]", format!("[realtime]\nttl = \"{zero}\"")),
        ] {
            dataset(line, &part);
            let ran = place.rtp(&["produce", "--dataset", "d.toml"], b"");
            assert_eq!(ran.status, 2, "{part}: {}", ran.stderr);
            assert!(
                ran.stderr.contains("expected one above 0"),
                "{part}: {}",
                ran.stderr
            );
        }
    }
    // Where it means something, as the help says, it stays.
    for args in [
        &["produce", "--max-outage", "0"][..],
        &["stream", "--until-end", "--linger", "0"],
        &["heartbeat", "--max-lag-age", "0"],
    ] {
        let ran = place.rtp(args, b"");
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn completions_and_man_pages_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    assert!(text(&rtp(folder.path(), &["completions", "bash"]).stdout).contains("_rtp()"));
    assert!(text(&rtp(folder.path(), &["man"]).stdout).contains(".TH rtp 1"));
    assert!(text(&rtp(folder.path(), &["man", "init"]).stdout).contains("dry\\-run"));
}

/// Runs rtp in a folder with these variables set.
fn rtp_with(folder: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn an_error_names_the_variable_that_its_value_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "mysql://me:hunter2@h/d";
    for (variable, command) in [
        ("RTP_EVENT_LOG", "init"),
        ("RTP_REALTIME_STORE", "init"),
        ("RTP_BATCH_STORE", "init"),
        ("RTP_API_URL", "fetch"),
        ("RTP_ALERT_URL", "heartbeat"),
    ] {
        let out = rtp_with(folder.path(), &[(variable, bad)], &[command]);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains(variable), "{said}");
        assert!(
            !said.contains("--event-log") && !said.contains("--api"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
        let help = rtp_with(folder.path(), &[(variable, bad)], &[command, "--help"]);
        assert_eq!(help.status.code(), Some(0));
        let help = text(&help.stdout);
        assert!(
            help.contains(variable) && !help.contains("hunter2"),
            "{help}"
        );
    }
    // The flag wins, and is then the one to name.
    let both = [
        ("RTP_EVENT_LOG", "sqlite:log.db"),
        ("RTP_API_URL", "http://h"),
    ];
    for (args, flag) in [
        (["init", "--event-log", bad], "--event-log"),
        (["fetch", "--api", bad], "--api"),
    ] {
        let said = text(&rtp_with(folder.path(), &both, &args).stderr);
        assert!(said.contains(flag), "{said}");
        assert!(
            !said.contains("RTP_") && !said.contains("hunter2"),
            "{said}"
        );
    }
    let out = rtp_with(folder.path(), &[("RTP_LOG_FORMAT", "xml")], &["init"]);
    let said = text(&out.stderr);
    assert!(said.contains("'xml' for 'RTP_LOG_FORMAT'"), "{said}");
}

#[test]
fn a_password_in_a_mistyped_api_address_is_not_shown() {
    let place = Place::new();
    for api in [
        "https//me:hunter2@h/",
        "https://me:hunter2@h/",
        "https:/me:hunter2@h/",
        "https://me%3Ahunter2@h/",
        "https://h@me:hunter2",
        "htps://me:hunter2@h/",
        "https://me:hunter2@x@h/",
    ] {
        let ran = place.rtp(&["fetch", "--max-outage", "0", "--api", api], b"");
        assert_eq!(ran.status, 2, "{api}: {}", ran.stderr);
        assert!(ran.stderr.contains("--api"), "{api}: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        let built_in = rtp::dataset::BUILT_IN;
        let url = built_in.lines().find(|l| l.starts_with("url = ")).unwrap();
        place.write("d.toml", built_in.replace(url, &format!("url = \"{api}\"")));
        let ran = place.rtp(&["fetch", "--max-outage", "0", "--dataset", "d.toml"], b"");
        assert_eq!(ran.status, 2, "{api}: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
}

#[test]
fn quiet_still_tells_the_port_that_was_picked() {
    let folder = tempfile::tempdir().unwrap();
    let listen = |address: &str, args: &[&str]| {
        let args = [args, &["init", "--metrics-listen", address]].concat();
        text(&rtp(folder.path(), &args).stderr)
    };
    let told = listen("127.0.0.1:0", &["--quiet"]);
    assert!(told.contains("metrics at http://127.0.0.1:"), "{told}");
    assert!(!told.contains("tables ready"), "{told}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let known = port.local_addr().unwrap().to_string();
    drop(port);
    let told = listen(&known, &["--quiet"]);
    assert!(!told.contains("metrics at"), "{told}");
}

/// A command in the background, without input.
fn background(place: &Place, args: &[&str]) -> Running {
    let mut running = place.start(args);
    running.close_input();
    running
}

#[test]
fn what_is_interrupted_while_it_waits_for_a_server_says_so_and_does_not_blame_it() {
    let place = Place::ready();
    place.write("u.ndjson", users(3));
    let kafka = ["--event-log", "kafka://127.0.0.1:1"];
    let cassandra = ["--realtime-store", "cassandra://127.0.0.1:1"];
    let postgres = ["--batch-store", "postgres://me@127.0.0.1:1/db"];
    let cases: [(&[&str], [&str; 2], &str, i32); 9] = [
        (&["init"], kafka, "INT", 130),
        (&["init"], postgres, "TERM", 143),
        (&["produce", "u.ndjson"], kafka, "TERM", 143),
        (&["stream"], kafka, "INT", 130),
        (&["stream", "--until-end"], cassandra, "TERM", 143),
        (&["load-batch", "u.ndjson"], postgres, "INT", 130),
        (&["verify"], cassandra, "TERM", 143),
        (&["verify"], postgres, "INT", 130),
        (&["fetch"], ["--api", "http://127.0.0.1:1/"], "TERM", 143),
    ];
    let started = cases.map(|(args, server, signal, status)| {
        let args = [args, &server, &["--max-outage", "1h"]].concat();
        let watched = background(&place, &args);
        (args, watched, signal, status)
    });
    for (args, mut watched, signal, status) in started {
        watched.until("waiting for it");
        watched.signal(signal);
        let ran = watched.end();
        assert_eq!(
            (ran.status, ran.counts()),
            (status, [0; 5]),
            "{args:?}: {}",
            ran.stderr
        );
        let told = format!("interrupted by SIG{signal}");
        assert!(ran.stderr.contains(&told), "{args:?}: {}", ran.stderr);
        assert!(
            !ran.stderr.contains("\"level\":\"error\""),
            "{args:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn the_summary_of_an_interrupted_wait_balances_and_counts_only_what_is_kept() {
    let place = Place::ready();
    place.write("u.ndjson", users(30));
    place.rtp(&["produce", "u.ndjson"], b"");
    let cases: [(&str, &[&str], [u64; 5]); 3] = [
        (".rtp/log.db", &["produce", "u.ndjson"], [0; 5]),
        (".rtp/realtime.db", &["stream", "--until-end"], [0; 5]),
        (
            ".rtp/batch.db",
            &["load-batch", "u.ndjson"],
            [30, 0, 0, 0, 30],
        ),
    ];
    let started = cases.map(|(file, args, counts)| {
        let lock = rusqlite::Connection::open(place.path(file)).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        (lock, background(&place, args), args, counts)
    });
    for (lock, mut watched, args, counts) in started {
        watched.until("waiting for it");
        watched.signal("TERM");
        let ran = watched.end();
        assert_eq!(
            (ran.status, ran.counts()),
            (143, counts),
            "{args:?}: {}",
            ran.stderr
        );
        let told = "interrupted by SIGTERM while waiting (";
        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
        drop(lock);
    }
    for (_, args, _) in cases {
        let again = place.rtp(args, b"");
        assert_eq!(again.status, 0, "{args:?}: {}", again.stderr);
        assert!(again.counts()[1] >= 30, "{args:?}: {}", again.stderr);
    }
}

#[test]
fn records_of_a_file_that_never_appears_are_not_counted_as_written() {
    let place = Place::new();
    let mock = Mock::start(&[]);
    let api = mock.users();
    let out = ["--count", "1000000", "--rps", "2", "--out", "big.ndjson"];
    let args = [&["fetch", "--limit", "none", "--api", &api][..], &out].concat();
    let watched = background(&place, &args);
    eventually("a page is in the file", || {
        let files = std::fs::read_dir(place.root()).unwrap();
        let mut files = files.map(|file| file.unwrap());
        files.any(|file| file.metadata().is_ok_and(|there| there.len() > 0))
    });
    watched.signal("TERM");
    let ran = watched.end();
    let [read, written, _, _, skipped] = ran.counts();
    assert_eq!((ran.status, written), (143, 0), "{}", ran.stderr);
    assert!(read > 0 && skipped == read, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("the --out file is unchanged"),
        "{}",
        ran.stderr
    );
    assert_eq!(std::fs::read_dir(place.root()).unwrap().count(), 0);
}

/// Its reading thread used to panic while the runtime shut down.
#[test]
fn a_following_stream_that_ends_by_an_error_ends_without_a_panic() {
    let place = Place::ready();
    let bad = users(1).replace("\"email\"", "\"dob\":\"no\",\"email\"");
    for _ in 0..15 {
        let streaming = place.start(&["stream", "--max-dead-letters", "0"]);
        append(&place, &bad);
        let ran = streaming.end();
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        let errors = ran.stderr.matches("\"level\":\"error\"").count();
        assert_eq!(errors, 1, "{}", ran.stderr);
        for line in ran.stderr.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_ne!(line["exit"], 70);
        }
    }
}

/// Appends an event that no producer of ours would.
fn append(place: &Place, event: &str) {
    let db = rusqlite::Connection::open(place.path(".rtp/log.db")).unwrap();
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         INSERT INTO events_1_0 SELECT next_offset, 0, NULL, '{event}', NULL
           FROM partitions WHERE topic = 1 AND partition = 0;
         UPDATE partitions SET next_offset = next_offset + 1 WHERE topic = 1 AND partition = 0;
         COMMIT"
    ))
    .unwrap();
}

#[test]
fn what_cannot_be_printed_is_not_done() {
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
    // Nothing was probed in vain.
    let ran = place.bash("rtp --log-format json heartbeat < /dev/null >&-");
    assert_eq!((ran.status, ran.counts()), (2, [0; 5]), "{}", ran.stderr);
    for command in ["transform", "man", "--help", "--version"] {
        let ran = place.bash(&format!("rtp {command} < /dev/null > /dev/null"));
        assert_eq!(ran.status, 0, "{command}: {}", ran.stderr);
    }
    // Those that print nothing need no standard output.
    let ran = place.bash("rtp produce < /dev/null >&-");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}
