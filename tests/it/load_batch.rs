//! `rtp load-batch` into the embedded store.

use crate::common::{Place, Ran, complete, eventually, hold_state, pages, user, users};

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
        ("insert", 3, "stored", [3, 0, 0, 0, 3]),
        ("upsert", 0, "old,other", [3, 2, 0, 1, 0]),
        ("ignore", 0, "stored,other", [3, 1, 0, 1, 1]),
        ("update-if-newer", 0, "stored,other", [3, 1, 0, 1, 1]),
        ("replace", 0, "old,other", [3, 2, 0, 1, 0]),
    ];
    for (mode, status, rows, counts) in table {
        let place = Place::ready();
        load(&place, &[], &old);
        place.write("input.ndjson", &input);
        let ran = load(&place, &["--mode", mode, "input.ndjson"], "");
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
        (3, [2, 0, 0, 0, 2]),
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
fn records_that_exclude_each_other_are_both_named() {
    let place = Place::ready();
    rusqlite::Connection::open(place.path(STORE))
        .unwrap()
        .execute_batch("CREATE UNIQUE INDEX emails ON batch_users_rows (email)")
        .unwrap();
    let emails = ["a", "twin", "c", "d", "e", "f", "twin", "h"];
    let lines: Vec<String> = (1..).zip(emails).map(|(n, e)| user(n, 0, e)).collect();
    let ran = load(&place, &[], &lines.join("\n"));
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    let said = "records 2 and 7 exclude each other in batch_users, nothing was kept";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert_eq!(stored(&place), "NULL");
}

/// Status 1 would let the other stages of a DAG go on, as if the day had been loaded.
#[test]
fn a_load_whose_records_are_all_bad_ends_with_3_in_every_mode() {
    for mode in ["insert", "upsert", "ignore", "update-if-newer", "replace"] {
        let place = Place::ready();
        place.write("bad.ndjson", "not json\n{}\n");
        let args = ["--mode", mode, "--rejects", "rejects", "bad.ndjson"];
        let ran = load(&place, &args, "");
        assert_eq!(
            (ran.status, ran.counts()),
            (3, [2, 0, 2, 0, 0]),
            "{mode}: {}",
            ran.stderr
        );
        let rejects = std::fs::read_to_string(place.path("rejects")).unwrap();
        assert_eq!(rejects.lines().count(), 2, "{mode}");
    }
}

#[test]
fn a_key_is_no_longer_than_every_store_can_index() {
    let place = Place::ready();
    place.write(
        "t.toml",
        "name = \"t\"\n[source]\nurl = \"http://127.0.0.1:9/\"\nrecords = \"\"\n\
         [event]\ntopic = \"t\"\nkey = \"id\"\ntime = \"at\"\n\
         [realtime]\nkeyspace = \"t\"\ntable = \"t\"\n[batch]\ntable = \"b\"\n\
         [[field]]\nname = \"id\"\ntype = \"text\"\nfrom = \"/id\"\nrequired = true\n\
         [[field]]\nname = \"at\"\ntype = \"timestamp\"\nfrom = \"as-of\"\nrequired = true\n",
    );
    place.rtp(&["init", "--dataset", "t.toml"], b"");
    let line = |length: usize| {
        let key = "k".repeat(length);
        format!("{{\"id\":\"{key}\",\"at\":\"2026-05-01T00:00:00Z\"}}\n")
    };
    let input = line(2_600) + &line(2_601) + &line(3_000);
    let ran = load(&place, &["--dataset", "t.toml", "--rejects", "bad"], &input);
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [3, 1, 2, 0, 0]),
        "{}",
        ran.stderr
    );
    let rejects = std::fs::read_to_string(place.path("bad")).unwrap();
    assert_eq!(rejects.matches("key_too_long").count(), 2, "{rejects}");
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
        ran.stderr
            .matches("ignoring columns that the dataset users does not have: extra")
            .count(),
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
    let held = hold_state(&place);
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

/// Files of all kinds, and a table that `--mode replace` must not empty because of them.
fn place_to_replace() -> Place {
    let place = Place::ready();
    load(&place, &[], &users(3));
    for (name, content) in [
        ("whole", users(2)),
        ("ended", complete(&users(2))),
        ("empty", String::new()),
        ("blank", "\n  \n\r\n".into()),
        ("none", complete("")),
        ("cut", users(2) + "{\"id\":\"0000"),
        ("bad", "{}\nnot json\n".into()),
        ("header.csv", HEADER.into()),
        ("two.csv", format!("{HEADER}\n{}\n", record(7, ",,"))),
    ] {
        place.write(name, content);
    }
    place
}

const LOADS: &str = "SELECT count(*) FROM rtp_loads";

#[test]
fn no_table_is_replaced_by_an_input_that_is_empty_or_cut() {
    let place = place_to_replace();
    let no_trailer = "standard input is a pipe that does not end with a trailer";
    let bad = ["--rejects", "rejects", "bad"];
    for (args, input, status, says) in [
        (&[][..], String::new(), 5, no_trailer),
        (&[], "\n \n".into(), 5, no_trailer),
        (&[], users(2), 5, no_trailer),
        (&[], complete(&users(2)) + &users(1), 5, no_trailer),
        (&[], pages(&[(&users(2), "{}")]), 5, no_trailer),
        (&[], users(2) + "{\"id", 5, "ends in the middle of a record"),
        (&[], complete(""), 5, "no records in standard input"),
        (&["empty"], String::new(), 5, "no records in empty"),
        (&["blank"], String::new(), 5, "no records in blank"),
        (&["none"], String::new(), 5, "no records in none"),
        (
            &["header.csv"],
            String::new(),
            5,
            "no records in header.csv",
        ),
        (&["whole", "empty"], String::new(), 5, "no records in empty"),
        (&["empty", "ended"], String::new(), 5, "no records in empty"),
        (
            &["two.csv", "header.csv"],
            String::new(),
            5,
            "no records in header.csv",
        ),
        (&["whole", "cut"], String::new(), 5, "cut line 3 ends"),
        (&["cut", "whole"], String::new(), 5, "cut line 3 ends"),
        (&["whole", "-"], users(1), 5, no_trailer),
        (&["-", "ended"], String::new(), 5, no_trailer),
        (
            &bad,
            String::new(),
            3,
            "every record in the input is bad (2 read)",
        ),
        (
            &[&bad[..], &["--allow-empty"]].concat(),
            String::new(),
            3,
            "every record in the input is bad (2 read)",
        ),
        (&["--allow-empty"], String::new(), 5, no_trailer),
        (&["--require-records"], String::new(), 5, no_trailer),
        (&["--require-records"], complete(""), 1, "no record"),
        (
            &["--require-records", "empty"],
            String::new(),
            1,
            "no record",
        ),
        (&["--require-complete", "whole"], String::new(), 5, "whole"),
    ] {
        let ran = load(&place, &[&["--mode", "replace"], args].concat(), &input);
        let what = format!("{args:?} {input:?}: {}", ran.stderr);
        assert_eq!((ran.status, ran.counts()[1]), (status, 0), "{what}");
        assert!(ran.stderr.contains(says), "{what}");
        assert!(
            ran.stderr.contains("batch_users keeps its 3 rows"),
            "{what}"
        );
        assert_eq!(stored(&place).matches('@').count(), 3, "{what}");
        assert_eq!(place.query(STORE, LOADS), "1", "{what}");
    }
    let ran = place
        .bash("rtp fetch --api http://127.0.0.1:9 --max-outage 0 | rtp load-batch --mode replace");
    assert_eq!(ran.status, 5, "{}", ran.stderr);
    assert_eq!(stored(&place).matches('@').count(), 3, "{}", ran.stderr);
}

#[test]
fn csv_from_a_pipe_replaces_nothing_and_a_file_is_the_way_out() {
    let place = place_to_replace();
    let script = "rtp load-batch --mode replace --format csv";
    for script in [
        format!("{script} < <(cat two.csv)"),
        format!("{script} <(cat two.csv)"),
        format!("{script} --allow-empty < <(cat two.csv)"),
    ] {
        let ran = place.bash(&script);
        assert_eq!(ran.status, 2, "{script}: {}", ran.stderr);
        assert!(ran.stderr.contains("to a file first"), "{}", ran.stderr);
        assert_eq!(stored(&place).matches('@').count(), 3, "{script}");
    }
    assert_eq!(place.bash(&format!("{script} < two.csv")).status, 0);
    assert_eq!(stored(&place), "e7");
}

#[test]
fn a_whole_input_replaces_the_table() {
    let two = "a@example.com,a@example.com";
    for (script, rows) in [
        ("rtp load-batch --mode replace < <(cat ended)", two),
        ("rtp load-batch --mode replace <(cat ended)", two),
        ("rtp load-batch --mode replace < whole", two),
        ("rtp load-batch --mode replace whole", two),
        ("rtp load-batch --mode replace ended none", two),
        ("rtp load-batch --mode replace two.csv", "e7"),
        (
            "rtp load-batch --mode replace --allow-empty whole empty",
            two,
        ),
    ] {
        let place = place_to_replace();
        let ran = place.bash(script);
        assert_eq!(ran.status, 0, "{script}: {}", ran.stderr);
        assert_eq!(stored(&place), rows, "{script}");
    }
    // Some bad records are no reason to keep the old rows: the user asked to skip them.
    let place = place_to_replace();
    let ran = place.bash("rtp load-batch --mode replace --rejects r whole bad");
    assert_eq!((ran.status, stored(&place).as_str()), (1, two));
    // A named pipe is treated as a pipe, because its writer can die.
    let ran = place.bash("rtp load-batch --mode replace <(cat whole)");
    assert_eq!((ran.status, stored(&place).as_str()), (5, two));
}

#[test]
fn an_empty_table_must_be_asked_for_in_words() {
    for script in [
        "rtp load-batch --mode replace --allow-empty empty",
        "rtp load-batch --mode replace --allow-empty blank empty",
        "rtp load-batch --mode replace --allow-empty header.csv",
        "rtp load-batch --mode replace --allow-empty < /dev/null",
        "cat none | rtp load-batch --mode replace --allow-empty",
    ] {
        let place = place_to_replace();
        let ran = place.bash(script);
        assert_eq!(ran.status, 0, "{script}: {}", ran.stderr);
        assert_eq!(stored(&place), "NULL", "{script}");
        let mode = "SELECT mode || written FROM rtp_loads ORDER BY id DESC LIMIT 1";
        assert_eq!(place.query(STORE, mode), "replace0", "{script}");
    }
    let place = place_to_replace();
    for (args, says) in [
        (&["--allow-empty", "empty"][..], "--mode replace"),
        (
            &["--mode", "upsert", "--allow-empty", "empty"],
            "--mode replace",
        ),
        (
            &["--mode", "replace", "--allow-empty", "--require-records"],
            "--require-records",
        ),
    ] {
        let ran = place.rtp(&[&["load-batch"], args].concat(), b"");
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(stored(&place).matches('@').count(), 3);
}

#[test]
fn an_input_without_records_is_told_before_anything_is_kept() {
    let place = Place::ready();
    let input = pages(&[("", "{\"next\":2}")]);
    let state = || std::fs::read_to_string(place.path("state.json")).ok();
    let args = [
        "--require-records",
        "--commit-state",
        "state.json",
        "--mode",
    ];
    for mode in ["insert", "upsert", "ignore", "update-if-newer"] {
        let ran = load(&place, &[&args[..], &[mode]].concat(), &input);
        assert_eq!((ran.status, state()), (1, None), "{mode}: {}", ran.stderr);
        assert!(ran.stderr.contains("no record"), "{mode}: {}", ran.stderr);
        assert!(!ran.stderr.contains("no bookmark"), "{}", ran.stderr);
        assert_eq!(place.query(STORE, LOADS), "0", "{mode}");
    }
    let ran = load(&place, &["--commit-state", "state.json"], &input);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(state().as_deref(), Some("{\"next\":2}\n"));
}

#[test]
fn every_file_must_be_complete_if_the_input_must_be() {
    let place = place_to_replace();
    for (files, status, says) in [
        (["ended", "empty"], 5, "empty does not end with a trailer"),
        (["empty", "ended"], 5, "empty does not end with a trailer"),
        (["ended", "whole"], 5, "whole does not end with a trailer"),
        (["whole", "ended"], 5, "whole does not end with a trailer"),
        (["ended", "none"], 0, ""),
        (["ended", "ended"], 0, ""),
    ] {
        let ran = load(&place, &["--require-complete", files[0], files[1]], "");
        assert_eq!(ran.status, status, "{files:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{files:?}: {}", ran.stderr);
    }
    // A trailer applies only to its own file.
    let ran = load(&place, &["whole", "ended"], "");
    assert_eq!((ran.status, ran.counts()[0]), (0, 5), "{}", ran.stderr);
}

#[test]
fn a_replacement_that_waited_for_a_lock_replaces_with_all_it_has_staged() {
    let place = place_to_replace();
    let db = rusqlite::Connection::open(place.path(STORE)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let replace = ["load-batch", "--mode", "replace", "whole", "--max-outage"];
    let waits = place.start(&[&replace[..], &["1m"]].concat());
    std::thread::sleep(std::time::Duration::from_secs(3)); // so that it has waited longer
    let gives_up = place.start(&[&replace[..], &["0"]].concat());
    let ran = gives_up.end(); // after the 5 s that SQLite itself waits
    assert_eq!((ran.status, ran.counts()[1]), (4, 0), "{}", ran.stderr);
    assert_eq!(stored(&place).matches('@').count(), 3);
    db.execute_batch("ROLLBACK").unwrap();
    let ran = waits.end();
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [2, 2, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    assert!(
        ran.summary()["retries"].as_u64() > Some(0),
        "{}",
        ran.stderr
    );
    assert_eq!(stored(&place).matches('@').count(), 2);
}

#[test]
fn csv_cut_inside_its_last_cell_is_told() {
    let place = Place::ready();
    let whole = format!(
        "{HEADER}\n{}\n{}\n",
        record(1, "one,0123,"),
        record(2, "two,01234,")
    );
    place.write("whole.csv", &whole);
    place.write("cut.csv", whole.trim_end());
    place.write("empty.csv", "");
    let told = "cut.csv does not end with a newline, so its last record may be cut short";
    for (args, status, says) in [
        (&["--require-complete", "cut.csv"][..], 5, told),
        (&["--require-complete", "whole.csv", "cut.csv"], 5, told),
        (&["--require-complete", "cut.csv", "whole.csv"], 5, told),
        (&["--mode", "replace", "cut.csv"], 5, told),
        (
            &["--require-complete", "whole.csv", "empty.csv"],
            5,
            "empty.csv does not end",
        ),
    ] {
        let ran = load(&place, args, "");
        assert_eq!(
            (ran.status, ran.counts()[1]),
            (status, 0),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(stored(&place), "NULL", "{args:?}");
    }
    let ran = place.bash("rtp load-batch --require-complete --format csv < <(cat whole.csv)");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("does not accept CSV from a pipe"),
        "{}",
        ran.stderr
    );
    let ran = load(&place, &["--require-complete", "whole.csv"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("newline"), "{}", ran.stderr);
    let ran = load(&place, &["cut.csv"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}
