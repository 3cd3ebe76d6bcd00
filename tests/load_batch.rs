//! `rtp load-batch` into the embedded store.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, Ran, user, users};

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
