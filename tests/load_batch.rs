//! `rtp load-batch` into the embedded store.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, Ran, eventually, pages, user, users};

const STORE: &str = ".rtp/batch.db";

fn load(place: &Place, more: &[&str], input: &str) -> Ran {
    place.rtp(&[&["load-batch"], more].concat(), input.as_bytes())
}

fn stored(place: &Place) -> String {
    place.query(
        STORE,
        "SELECT group_concat(email) FROM (SELECT email FROM batch_users ORDER BY id)",
    )
}

#[test]
fn rows_are_loaded_once_and_again_changes_nothing() {
    let place = Place::ready();
    let input = users(20_000);
    let ran = load(&place, &[], &input);
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [20_000, 20_000, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    let again = load(&place, &[], &input);
    assert_eq!(
        (again.status, again.counts()),
        (0, [20_000, 0, 0, 0, 20_000]),
        "{}",
        again.stderr
    );
    assert_eq!(
        place.query(
            STORE,
            "SELECT count(*) FROM batch_users WHERE post_code = '12345'"
        ),
        "20000"
    );
}

#[test]
fn modes_differ_in_what_they_do_with_a_known_key() {
    let old = user(1, 10, "stored");
    let input = [user(1, 5, "older"), user(1, 7, "old"), user(2, 0, "other")].join("\n");
    let table = [
        ("insert", 1, "stored", [3, 0, 0, 0, 3]),
        ("upsert", 0, "old,other", [3, 2, 0, 1, 0]),
        ("ignore", 0, "stored,other", [3, 1, 0, 1, 1]),
        ("update-if-newer", 0, "stored,other", [3, 1, 0, 1, 1]),
        ("replace", 0, "old,other", [3, 2, 0, 1, 0]),
    ];
    for (mode, status, rows, counts) in table {
        let place = Place::ready();
        load(&place, &[], &old);
        let ran = load(&place, &["--mode", mode], &input);
        assert_eq!(
            (ran.status, ran.counts()),
            (status, counts),
            "{mode}: {}",
            ran.stderr
        );
        assert_eq!(stored(&place), rows, "{mode}");
    }
}

#[test]
fn bad_lines_are_kept_aside_or_nothing_is_kept() {
    let place = Place::ready();
    let input = format!("{}\nnot json\n{}\n", user(1, 0, "a"), user(2, 0, "b"));
    let ran = load(&place, &[], &input);
    assert_eq!(
        (ran.status, ran.counts()),
        (3, [3, 0, 1, 0, 2]),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("line 2: json_syntax"), "{}", ran.stderr);
    let ran = load(&place, &["--rejects", "bad", "--max-rejects", "0"], &input);
    assert_eq!(
        (ran.status, ran.counts()),
        (3, [3, 0, 1, 0, 2]),
        "{}",
        ran.stderr
    );
    assert_eq!(stored(&place), "NULL");
    let ran = load(
        &place,
        &["--rejects", "bad", "--max-rejects", "40%"],
        &input,
    );
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [3, 2, 1, 0, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(stored(&place), "a,b");
    let file = std::fs::read_to_string(place.path("bad")).unwrap();
    let bad: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!((&bad["line"], &bad["raw"]), (&2.into(), &"not json".into()));
    assert_eq!(bad["offset"], user(1, 0, "a").len() + 1);
}

#[test]
fn a_row_that_the_table_refuses_fails_the_whole_load() {
    let place = Place::ready();
    rusqlite::Connection::open(place.path(STORE))
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON batch_users_rows WHEN NEW.email = 'b'
             BEGIN SELECT RAISE(ABORT, 'no b'); END",
        )
        .unwrap();
    let ran = load(&place, &[], &[user(1, 0, "a"), user(2, 0, "b")].join("\n"));
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [2, 0, 0, 0, 2]),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("record 2 is refused by batch_users"),
        "{}",
        ran.stderr
    );
    assert_eq!(stored(&place), "NULL");
}

#[test]
fn an_input_without_its_trailer_keeps_nothing_if_it_must_be_complete() {
    let place = Place::ready();
    let ran = load(&place, &["--require-complete"], &users(3));
    assert_eq!(
        (ran.status, ran.counts()),
        (5, [3, 0, 0, 0, 3]),
        "{}",
        ran.stderr
    );
    assert_eq!(stored(&place), "NULL");
}

#[test]
fn both_stores_hold_the_same_values() {
    let place = Place::ready();
    let input = users(500);
    load(&place, &[], &input);
    place.rtp(&["produce"], input.as_bytes());
    place.rtp(&["stream", "--until-end"], b"");
    let db = rusqlite::Connection::open(place.path(STORE)).unwrap();
    db.execute(
        "ATTACH ?1 AS rt",
        [place.path(".rtp/realtime.db").to_str().unwrap()],
    )
    .unwrap();
    let differences: i64 = db
        .query_row(
            "SELECT (SELECT count(*) FROM (SELECT * FROM batch_users EXCEPT SELECT * FROM rt.users))
                  + (SELECT count(*) FROM (SELECT * FROM rt.users EXCEPT SELECT * FROM batch_users))",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(differences, 0);
    assert_eq!(
        place.query(STORE, "SELECT count(*) FROM batch_users"),
        "500"
    );
}

/// The users dataset's required columns and some more.
const HEADER: &str = "id,email,fetched_at,last_name,post_code,registered";

fn record(n: u64, more: &str) -> String {
    format!("00000000-0000-4000-8000-{n:012},e{n},2026-11-01T00:00:00Z,{more}")
}

#[test]
fn csv_is_loaded_as_the_same_records_are_from_ndjson() {
    let place = Place::ready();
    place.write(
        "a.csv",
        format!(
            "\u{feff}{HEADER},extra\r\n{}\r\n\r\n{}",
            record(
                1,
                "\"Müller, \"\"Zoë\"\"\r\nno. 2\",01067,2020-01-01T00:00:00Z,x"
            ),
            record(2, ",\"\",,x"),
        ),
    );
    let ran = load(&place, &["a.csv"], "");
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [3, 2, 0, 0, 1]),
        "{}",
        ran.stderr
    );
    assert_eq!(
        ran.stderr.matches("passed over: extra").count(),
        1,
        "{}",
        ran.stderr
    );
    let row = |n: u8| {
        let sql = format!(
            "SELECT json_array(last_name, post_code, registered_date) FROM batch_users WHERE email = 'e{n}'"
        );
        place.query(STORE, &sql)
    };
    assert_eq!(
        row(1),
        r#"["Müller, \"Zoë\"\r\nno. 2","01067","2020-01-01T00:00:00.000Z"]"#
    );
    assert_eq!(row(2), r#"[null,"",null]"#);
    let same = r#"{"id":"00000000-0000-4000-8000-000000000002","email":"e2","fetched_at":"2026-11-01T00:00:00Z","post_code":""}"#;
    assert_eq!(load(&place, &[], same).counts(), [1, 0, 0, 0, 1]);
    let input = format!("{HEADER}\n{}\n", record(3, "NA,\"NA\","));
    let ran = load(&place, &["--format", "csv", "--null", "NA"], &input);
    assert_eq!(
        ran.status, 3,
        "an empty time is no null then: {}",
        ran.stderr
    );
    let input = format!("{HEADER}\n{}\n", record(3, "NA,\"NA\",NA"));
    load(&place, &["--format", "csv", "--null", "NA"], &input);
    assert_eq!(row(3), r#"[null,"NA",null]"#);
}

#[test]
fn bad_csv_records_are_kept_aside_with_their_place() {
    let place = Place::ready();
    let lines = [
        HEADER.to_string(),
        record(1, "\"two\nlines\",,"),
        record(2, ","),
        record(3, "\"open,,"),
        record(4, ",,"),
        record(5, ",,,"),
        "no-uuid,e,2026-11-01T00:00:00Z,,,".to_string(),
    ];
    let input = lines.join("\n") + "\n";
    let ran = load(&place, &["--format", "csv", "--rejects", "bad"], &input);
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [6, 2, 4, 0, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(stored(&place), "e1,e4");
    let file = std::fs::read_to_string(place.path("bad")).unwrap();
    let bad: Vec<serde_json::Value> = file
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let expected = [
        (4, 2, "columns"),
        (5, 3, "quote"),
        (7, 5, "columns"),
        (8, 6, "bad_uuid"),
    ];
    for ((line, index, rule), bad) in expected.into_iter().zip(&bad) {
        let offset = lines[..index].iter().map(|l| l.len() + 1).sum::<usize>();
        assert_eq!(
            (&bad["line"], &bad["offset"], &bad["rule"], &bad["raw"]),
            (
                &line.into(),
                &offset.into(),
                &rule.into(),
                &lines[index].clone().into()
            )
        );
    }
}

#[test]
fn csv_that_cannot_be_meant_is_refused() {
    let place = Place::ready();
    let table: [(&[u8], &str); 4] = [
        (
            b"id;email;fetched_at\n",
            "the header has: id;email;fetched_at",
        ),
        (b"id,email\n", "no column for the required field fetched_at"),
        (b"\x1f\x8b\x08\x00", "pipe it through gunzip"),
        (b"\xff\xfei\x00d\x00", "UTF-16"),
    ];
    for (bytes, message) in table {
        place.write("a.csv", bytes);
        let ran = load(&place, &["a.csv"], "");
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
    let ran = load(&place, &["a.csv", "--require-complete"], "");
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("does not go with CSV"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_last_record_cut_short_keeps_nothing() {
    let place = Place::ready();
    let ndjson = users(2) + "{\"id\":\"0000";
    let csv = format!("{HEADER}\n{}\n{}", record(1, ",,"), &record(2, "")[..20]);
    for (format, input) in [("ndjson", &ndjson), ("csv", &csv)] {
        for rejects in [&[][..], &["--rejects", "bad"]] {
            let ran = load(&place, &[&["--format", format], rejects].concat(), input);
            assert_eq!((ran.status, ran.counts()[1]), (5, 0), "{}", ran.stderr);
            assert!(
                ran.stderr.contains("cut short: standard input line 3"),
                "{}",
                ran.stderr
            );
        }
    }
    assert_eq!(stored(&place), "NULL");
    assert_eq!(load(&place, &[], users(2).trim_end()).counts()[1], 2);
}

#[test]
fn a_bookmark_is_saved_only_after_the_merge() {
    let place = Place::ready();
    let state = || std::fs::read_to_string(place.path("state.json")).ok();
    let load = |more: &[&str], input: &str| {
        load(
            &place,
            &[&["--commit-state", "state.json"], more].concat(),
            input,
        )
    };
    let input = pages(&[(&users(3), "{\"next\":2}"), (&users(2), "{\"next\":3}")]);
    for (more, input, status) in [
        (&["--require-complete"][..], input.clone(), 5),
        (&[], format!("{input}not json\n"), 3),
        (&[], format!("{input}{{\"id"), 5),
        (
            &["--rejects", "bad", "--max-rejects", "0"],
            format!("{input}not json\n"),
            3,
        ),
    ] {
        let ran = load(more, &input);
        assert_eq!((ran.status, state()), (status, None), "{}", ran.stderr);
    }
    assert_eq!(load(&[], &input).status, 0);
    assert_eq!(state().as_deref(), Some("{\"next\":3}\n"));
    let held = common::hold_state(&place);
    assert_eq!(load(&[], &input).status, 4);
    drop(held);
}

#[test]
fn a_signal_while_it_waits_for_input_keeps_nothing() {
    let place = Place::ready();
    let mut running = place.start(&["load-batch", "--rejects", "bad"]);
    running.write(users(10).as_bytes());
    eventually("the reject file", || place.path("bad").exists());
    running.signal("TERM");
    let ran = running.end();
    assert_eq!((ran.status, ran.counts()[1]), (143, 0), "{}", ran.stderr);
    assert_eq!(stored(&place), "NULL");
}

#[test]
fn a_kill_leaves_the_table_as_it_was() {
    let place = Place::ready();
    load(&place, &[], &user(1, 0, "before"));
    let mut running = place.start(&["load-batch"]);
    running.write(users(20_000).as_bytes());
    running.signal("KILL");
    running.end();
    assert_eq!(stored(&place), "before");
    assert_eq!(place.query(STORE, "PRAGMA integrity_check"), "ok");
    assert_eq!(
        load(&place, &["--mode", "upsert"], &users(20_000)).counts()[1],
        20_000
    );
}
