//! `rtp explain`: what became of one record, on embedded stores.

use serde_json::Value;

use crate::common::{Place, Ran, user, users};

const LOG: &str = ".rtp/log.db";

fn id(n: u64) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn explain(place: &Place, n: u64, more: &[&str]) -> Ran {
    let id = id(n);
    place.rtp(&[&["explain", &id][..], more].concat(), b"")
}

/// The answer as JSON, which has this status and state.
fn answer(place: &Place, n: u64, status: i32, state: &str) -> Value {
    let ran = explain(place, n, &["--format", "json"]);
    assert_eq!(ran.status, status, "{}{}", ran.stdout, ran.stderr);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["outcome"]["state"], state, "{answer}");
    ran.counts();
    answer
}

/// The first line of the answer, and the others.
fn lines(ran: &Ran) -> (&str, &str) {
    ran.stdout.split_once('\n').unwrap()
}

fn ok(place: &Place, args: &[&str], stdin: &str) {
    let ran = place.rtp(args, stdin.as_bytes());
    assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
}

fn stream(place: &Place) {
    ok(place, &["stream", "--until-end"], "");
}

/// A place where twenty users went through both branches.
fn filled() -> Place {
    let place = Place::ready();
    place.write("users.ndjson", users(20));
    ok(&place, &["produce", "users.ndjson"], "");
    stream(&place);
    ok(&place, &["load-batch", "users.ndjson"], "");
    place
}

/// How many events of the key's partition are before it in the log.
fn before(place: &Place, n: u64) -> String {
    let key = id(n);
    let version = |what: &str| {
        format!("SELECT {what} FROM user_events WHERE key = '{key}' ORDER BY offset DESC LIMIT 1")
    };
    let (partition, offset) = (version("partition"), version("offset"));
    let count = format!(
        "SELECT count(*) FROM user_events WHERE partition = ({partition}) AND offset < ({offset})"
    );
    place.query(LOG, &count)
}

#[test]
fn a_record_in_both_stores_is_told_with_its_whole_life() {
    let place = filled();
    let answer = answer(&place, 7, 0, "equal");
    assert_eq!(answer["key"], id(7));
    let log = &answer["log"];
    assert_eq!(log["count"], 1);
    let version = &log["versions"][0];
    assert_eq!(version["offset"].to_string(), before(&place, 7));
    assert_eq!(version["event_time"], "2026-11-01T00:00:00.000Z");
    assert_eq!(version["is_waiting"], false);
    assert!(version["run_id"].is_string());
    let (realtime, batch) = (&answer["realtime"], &answer["batch"]);
    assert_eq!(realtime["origin"]["offset"], version["offset"]);
    assert_eq!(realtime["origin"]["partition"], version["partition"]);
    for row in [realtime, batch] {
        assert_eq!(row["is_as_written"], true);
        assert_eq!(row["values"]["first_name"], "Zoë");
        assert_eq!(row["event_time"], "2026-11-01T00:00:00.000Z");
    }
    let days = answer["history"].as_array().unwrap();
    let dates: Vec<&Value> = days.iter().map(|day| &day["as_of"]).collect();
    assert_eq!(dates, ["2026-11-01"]);
    assert_eq!(days[0]["values"], batch["values"]);
    let landed = &answer["landing"][0];
    assert_eq!(landed["line"], 8);
    let run_id = place.query(".rtp/batch.db", "SELECT run_id FROM rtp_loads");
    assert_eq!(landed["loads"][0], run_id);
    assert_eq!(answer["loads"][0]["run_id"], run_id);
    let evidence = answer["loads"][0]["evidence"].as_str().unwrap();
    assert!(
        evidence.ends_with("users.ndjson line 8 has this version"),
        "{evidence}"
    );
    assert_eq!(answer["troubles"], Value::Array(Vec::new()));

    let ran = explain(&place, 7, &[]);
    let (first, rest) = lines(&ran);
    assert_eq!(first, "in both stores, with the same values");
    for part in ["real-time", "batch", "history", "load", "log", "landing"] {
        let is_there = rest.lines().any(|line| line.starts_with(part));
        assert!(is_there, "no {part}: {rest}");
    }
    // Without the file, the load is only that whose times fit.
    std::fs::remove_file(place.path("users.ndjson")).unwrap();
    let ran = explain(&place, 7, &["--format", "json"]);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["landing"], Value::Array(Vec::new()));
    let evidence = answer["loads"][0]["evidence"].as_str().unwrap();
    assert!(evidence.contains("first known load"), "{evidence}");
}

#[test]
fn a_record_that_the_group_has_not_read_is_waiting() {
    let place = Place::ready();
    ok(&place, &["produce"], &users(40));
    let n = 39;
    let ahead = before(&place, n);
    let expected = match &*ahead {
        "0" => "waiting in the log: it is the next one to be read".to_string(),
        "1" => "waiting in the log: 1 event ahead of it".to_string(),
        n => format!("waiting in the log: {n} events ahead of it"),
    };
    let ran = explain(&place, n, &[]);
    assert_eq!((ran.status, lines(&ran).0), (0, &*expected));
    stream(&place);
    let ran = explain(&place, n, &[]);
    let first = "in the real-time store, but not in the batch store";
    assert_eq!((ran.status, lines(&ran).0), (0, first));
    // A newer version waits, while both stores have the older one.
    ok(&place, &["load-batch"], &users(40));
    ok(&place, &["produce"], &user(n, 5, "b@example.com"));
    let ran = explain(&place, n, &[]);
    let first = "in both stores, with the same values; a version is waiting in the log: it is the next one to be read";
    assert_eq!((ran.status, lines(&ran).0), (0, first));
    let answer = answer(&place, n, 0, "equal");
    let waiting: Vec<bool> = answer["log"]["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["is_waiting"].as_bool().unwrap())
        .collect();
    assert_eq!(waiting, [false, true]);
    // Another group has read nothing.
    let ran = explain(&place, n, &["--group", "other"]);
    assert!(
        lines(&ran).0.contains("events ahead of it"),
        "{}",
        ran.stdout
    );
}

#[test]
fn dead_letters_of_both_stages_are_told_with_their_reason() {
    let place = Place::ready();
    let bad = user(1, 0, "a").replace("\"Zoë\"", "7");
    let ran = place.rtp(&["produce"], format!("{}{bad}\n", users(1)).as_bytes());
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let found = answer(&place, 1, 0, "dead_letter");
    let letter = &found["dead_letters"][0];
    assert_eq!(
        (
            &letter["rule"],
            &letter["field"],
            &letter["line"],
            &letter["stage"]
        ),
        (
            &"type".into(),
            &"first_name".into(),
            &2.into(),
            &"produce".into()
        )
    );
    let text = found["outcome"]["text"].as_str().unwrap();
    assert!(text.starts_with("in the dead letters since "), "{text}");
    assert!(text.contains("first_name"), "{text}");

    // An event that another program has written.
    let key = id(0);
    let partition = place.query(
        LOG,
        &format!("SELECT partition FROM user_events WHERE key = '{key}'"),
    );
    let script = format!(
        "sqlite3 .rtp/log.db \"
           INSERT INTO events_1_{partition} SELECT next_offset, 1795500000000, '{key}', '{{', NULL FROM partitions WHERE topic = 1 AND partition = {partition};
           UPDATE partitions SET next_offset = next_offset + 1 WHERE topic = 1 AND partition = {partition}\""
    );
    let ran = place.bash(&script);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = place.rtp(&["stream", "--until-end"], b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let found = answer(&place, 0, 0, "realtime_only");
    let (versions, letters) = (&found["log"]["versions"], &found["dead_letters"]);
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert!(
        versions[1]["invalid"]
            .as_str()
            .unwrap()
            .contains("json_syntax")
    );
    assert_eq!(letters[0]["origin"]["offset"], versions[1]["offset"]);
    assert_eq!(letters[0]["stage"], "stream");
    assert_eq!(letters[0]["line"], Value::Null);
}

#[test]
fn what_a_load_has_rejected_is_told_with_its_line() {
    let place = Place::ready();
    let bad = user(3, 0, "a").replace("2026-11-01", "yesterday");
    place.write("users.ndjson", format!("{}{bad}\n", users(3)));
    let args = ["load-batch", "users.ndjson", "--rejects", "bad.ndjson"];
    let ran = place.rtp(&args, b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let found = answer(&place, 3, 0, "rejected");
    let text = found["outcome"]["text"].as_str().unwrap();
    let start = "rejected by load-batch at line 4: field fetched_at: bad_time: ";
    assert!(text.starts_with(start), "{text}");
    let reject = &found["rejects"][0];
    assert_eq!(
        (&reject["line"], &reject["rule"]),
        (&4.into(), &"bad_time".into())
    );
    let landed = &found["landing"][0];
    assert_eq!(landed["line"], 4);
    assert!(landed["invalid"].as_str().unwrap().contains("bad_time"));
}

#[test]
fn values_that_somebody_else_has_changed_are_told() {
    let place = filled();
    let change = "sqlite3 .rtp/batch.db \"UPDATE batch_users_rows SET email = 'x' WHERE email = 'a@example.com' AND rowid = 1\"";
    assert_eq!(place.bash(change).status, 0);
    let key = place.query(
        ".rtp/batch.db",
        "SELECT id FROM batch_users WHERE email = 'x'",
    );
    let n: u64 = key[24..].parse().unwrap();
    let found = answer(&place, n, 0, "different");
    assert_eq!(
        found["differences"],
        serde_json::json!([{"column": "email", "realtime": "a@example.com", "batch": "x"}])
    );
    assert_eq!(found["realtime"]["is_as_written"], true);
    assert_eq!(found["batch"]["is_as_written"], false);
    let ran = explain(&place, n, &[]);
    for told in [
        "in both stores, with different values in email; both rows have the same event time",
        "differs       email: real-time \"a@example.com\", batch \"x\"",
        "its values are not those that rtp wrote",
    ] {
        assert!(ran.stdout.contains(told), "no {told:?}: {}", ran.stdout);
    }
}

#[test]
fn a_landing_file_that_is_named_is_searched() {
    let place = Place::ready();
    let csv = format!(
        "id,email,fetched_at\n{},a,2026-11-01T00:00:00Z\n{},b,yesterday\n",
        id(1),
        id(2)
    );
    place.write("land.csv", csv);
    let land = &["--landing", "land.csv"];
    let ran = explain(&place, 1, land);
    let first = "in land.csv line 2 only; neither store has it";
    assert_eq!((ran.status, lines(&ran).0), (0, first));
    let ran = explain(&place, 2, land);
    let told = "land.csv line 3, invalid: field fetched_at: bad_time";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
    let ran = explain(&place, 3, land);
    let first = "unknown: neither store, log, dead letters nor landing files have it";
    assert_eq!((ran.status, lines(&ran).0), (1, first));
    let ran = explain(&place, 1, &["--landing", "missing"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
}

#[test]
fn a_file_that_was_written_to_after_its_load_is_no_longer_that_loads() {
    let place = filled();
    let landed = |more: &[&str]| {
        let ran = explain(&place, 7, &[&["--format", "json"], more].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let found: Value = serde_json::from_str(&ran.stdout).unwrap();
        let landed = found["landing"].as_array().unwrap().iter();
        let landed = landed.map(|line| {
            (
                line["line"].as_u64(),
                line["loads"].as_array().map(Vec::len),
            )
        });
        landed.collect::<Vec<_>>()
    };
    assert_eq!(landed(&[]), [(Some(8), Some(1))]);
    let same_length = users(20).replace("a@example.com", "b@example.com");
    for other in [same_length, users(21), "\0\0".into()] {
        place.write("users.ndjson", other);
        assert_eq!(landed(&[]), []);
    }
    place.write("users.ndjson", users(21));
    assert_eq!(landed(&["--landing", "users.ndjson"]), [(Some(8), Some(0))]);
}

#[test]
fn a_file_is_read_again_as_its_load_has_read_it() {
    let place = Place::ready();
    // By its name it would not be CSV, and its cell means null.
    let csv = format!(
        "id,email,fetched_at,dob\n{},a,2026-11-01T00:00:00Z,none\n",
        id(1)
    );
    place.write("users.txt", csv);
    ok(
        &place,
        &[
            "load-batch",
            "--format",
            "csv",
            "--null",
            "none",
            "users.txt",
        ],
        "",
    );
    let found = answer(&place, 1, 0, "batch_only");
    let landed = &found["landing"][0];
    assert_eq!(
        (&landed["line"], &landed["invalid"]),
        (&2.into(), &Value::Null),
        "{found}"
    );
}

#[test]
fn a_version_that_another_program_wrote_with_another_key_is_found_in_whatever_partition() {
    let place = Place::ready();
    ok(&place, &["produce"], &users(20));
    // The version goes to the partition of the key that the other program gave it, wherever that is.
    let count = "SELECT count(*) FROM partitions WHERE topic = 1";
    let count: u64 = place.query(LOG, count).parse().unwrap();
    assert!(count > 1, "{count}");
    let value = user(99, 0, "z@example.com");
    for partition in 0..count {
        let db = rusqlite::Connection::open(place.path(LOG)).unwrap();
        let write = format!(
            "INSERT INTO events_1_{partition} SELECT next_offset, 1795500000000, CAST('another' AS BLOB), CAST('{value}' AS BLOB), NULL FROM partitions
               WHERE topic = 1 AND partition = {partition};
             UPDATE partitions SET next_offset = next_offset + 1 WHERE topic = 1 AND partition = {partition};"
        );
        db.execute_batch(&write).unwrap();
        let found = answer(&place, 99, 0, "waiting");
        assert_eq!(found["log"]["versions"][0]["partition"], partition);
        assert_eq!(found["log"]["count"], 1);
        let undo = format!(
            "DELETE FROM events_1_{partition} WHERE key = CAST('another' AS BLOB);
             UPDATE partitions SET next_offset = next_offset - 1 WHERE topic = 1 AND partition = {partition};"
        );
        db.execute_batch(&undo).unwrap();
    }
    // Nothing has it: that was looked for in all of them.
    let found = answer(&place, 98, 1, "unknown");
    let read = found["log"]["partitions"].as_array().unwrap();
    assert_eq!(read.len() as u64, count);
}

#[test]
fn an_unknown_record_is_not_unknown_if_earlier_loads_were_not_looked_at() {
    let place = filled();
    let more = |count: u32| {
        let db = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
        let columns: Vec<String> = db
            .prepare("SELECT name FROM pragma_table_info('rtp_loads') WHERE name NOT IN ('id', 'run_id')")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let columns = columns.join(", ");
        let copy = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO rtp_loads (run_id, {columns})
               SELECT 'copy-{count}-' || i, {columns} FROM n, (SELECT * FROM rtp_loads LIMIT 1)"
        );
        db.execute(&copy, []).unwrap();
    };
    more(4_095);
    answer(&place, 99, 1, "unknown");
    more(1);
    let found = answer(&place, 99, 5, "incomplete");
    let told = found["troubles"][0]["message"].as_str().unwrap();
    assert!(
        told.contains("only the files of the last 4096 loads"),
        "{told}"
    );
    // What was found stays an answer.
    answer(&place, 7, 0, "equal");
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_all_the_same() {
    let place = filled();
    let log = ["--event-log", "kafka://127.0.0.1:1"];
    let ran = explain(&place, 7, &log);
    assert_eq!(ran.status, 4, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(lines(&ran).0, "in both stores, with the same values");
    let told = "not read      the log: ";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
    let ran = explain(&place, 99, &log);
    let first = "not found, but not everything could be read: the log, the dead letters";
    assert_eq!((ran.status, lines(&ran).0), (4, first));
    // A store that was not created is a mistake of the command line.
    let ran = explain(&place, 7, &["--batch-store", "sqlite:other.db"]);
    let first = "in the real-time store; the batch store could not be read";
    assert_eq!((ran.status, lines(&ran).0), (2, first));
}

#[test]
fn a_key_must_be_of_the_key_fields_type() {
    let place = Place::ready();
    let ran = place.rtp(&["explain", "Zoë"], b"");
    assert_eq!((ran.status, &*ran.stdout), (2, ""));
    for told in ["invalid key `Zoë`", "of type uuid"] {
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

#[test]
fn the_last_verdict_is_told() {
    let place = filled();
    assert_eq!(answer(&place, 7, 0, "equal")["verdict"], Value::Null);
    let db = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
    let samples = serde_json::json!({"lost": [id(8), id(7)], "older_version": [id(9)]});
    let insert = "INSERT INTO rtp_verdicts
        (run_id, dataset, started_at, ended_at, agrees, realtime_rows, batch_rows, classes, columns, samples)
        VALUES ('r', 'users', 0, 1000, 0, 20, 20, '{}', '{}', ?1)";
    db.execute(insert, [samples.to_string()]).unwrap();
    let verdict = &answer(&place, 7, 0, "equal")["verdict"];
    assert_eq!(verdict["classes"], serde_json::json!(["lost"]));
    for (n, told) in [
        (7, "it names this key as lost"),
        (1, "it does not name this key"),
    ] {
        let ran = explain(&place, n, &[]);
        let line = "verdict       1970-01-01T00:00:01.000Z: the stores do not agree";
        assert!(ran.stdout.contains(line), "{}", ran.stdout);
        assert!(ran.stdout.contains(told), "{}", ran.stdout);
    }
    let options = "UPDATE rtp_verdicts SET options = '[\"--tolerance phone=ignore\"]'";
    db.execute(options, []).unwrap();
    let told = "do not agree, compared with --tolerance phone=ignore; it names";
    let shown = explain(&place, 7, &[]).stdout;
    assert!(shown.contains(told), "{shown}");
}

#[test]
fn an_older_dead_letter_is_no_reason_for_a_row_that_was_lost() {
    let place = Place::ready();
    let bad = user(3, 0, "a").replace("\"a\"", "7");
    place.write("bad.ndjson", format!("{bad}\n"));
    let ran = place.rtp(&["produce", "bad.ndjson"], b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    place.write("users.ndjson", users(4));
    ok(&place, &["load-batch", "users.ndjson"], "");
    let ran = explain(&place, 3, &[]);
    assert!(
        lines(&ran).0.contains("in the dead letters since"),
        "{}",
        ran.stdout
    );
    ok(&place, &["produce", "users.ndjson"], "");
    stream(&place);
    let gone = "sqlite3 .rtp/realtime.db \"DELETE FROM users_rows\"";
    assert_eq!(place.bash(gone).status, 0);
    let ran = explain(&place, 3, &[]);
    assert_eq!(
        lines(&ran).0,
        "in the batch store, but not in the real-time store"
    );
}
