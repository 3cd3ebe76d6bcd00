//! `rtp verify` on the embedded stores.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::common::{Place, Ran, users};

pub(crate) const REALTIME: &str = ".rtp/realtime.db";
pub(crate) const BATCH: &str = ".rtp/batch.db";

pub(crate) const ITEMS: &str = r#"
name = "items"
[source]
url = "http://127.0.0.1/items"
records = ""
[source.pagination]
style = "none"
[event]
topic = "item_events"
key = "id"
time = "seen"
[realtime]
keyspace = "shop"
table = "items"
[batch]
table = "batch_items"
[[field]]
name = "id"
type = "bigint"
from = "/id"
required = true
[[field]]
name = "name"
type = "text"
from = "/name"
[[field]]
name = "note"
type = "text"
from = "/note"
[[field]]
name = "price"
type = "decimal"
from = "/price"
[[field]]
name = "weight"
type = "double"
from = "/weight"
[[field]]
name = "sold"
type = "boolean"
from = "/sold"
[[field]]
name = "day"
type = "date"
from = "/day"
[[field]]
name = "seen"
type = "timestamp"
from = "/seen"
format = "epoch-ms"
required = true
"#;

pub(crate) fn items(count: u64) -> String {
    (0..count)
        .map(|n| {
            format!(
                "{{\"id\":{n},\"name\":\"item {n}\",\"price\":{n}.5,\"weight\":0.25,\"sold\":false,\"day\":\"2026-11-01\",\"seen\":1764000000000}}\n"
            )
        })
        .collect()
}

/// A place with the same `count` items in both stores.
pub(crate) fn filled(count: u64) -> Place {
    let place = Place::new();
    place.write("items.toml", ITEMS);
    let events = items(count);
    for (args, input) in [
        (vec!["init"], ""),
        (vec!["produce"], events.as_str()),
        (vec!["stream", "--until-end"], ""),
        (vec!["load-batch"], events.as_str()),
    ] {
        let ran = place.rtp(
            &[vec!["--dataset", "items.toml"], args].concat(),
            input.as_bytes(),
        );
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
    place
}

pub(crate) fn verify(place: &Place, more: &[&str]) -> Ran {
    place.rtp(
        &[&["--dataset", "items.toml", "verify"], more].concat(),
        b"",
    )
}

pub(crate) fn edit(place: &Place, file: &str, sql: &str) {
    Connection::open(place.path(file))
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

/// A line of the output without what explains it.
fn what_differs(line: &str) -> String {
    let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
    let fields = line.as_object_mut().unwrap();
    fields.remove("class");
    fields.remove("evidence");
    line.to_string()
}

/// Every message but the summary.
pub(crate) fn messages(ran: &Ran) -> Vec<String> {
    let lines = ran.stderr.lines();
    lines
        .filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["message"].as_str().map(str::to_string)
        })
        .collect()
}

#[test]
fn equal_stores_are_equal() {
    let place = filled(3_000);
    let ran = verify(&place, &["--output", "-"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert_eq!(ran.counts(), [6_000, 6_000, 0, 0, 0]);
    assert_eq!(
        messages(&ran),
        ["equal: 3000 rows in shop.items and batch_items"]
    );
}

#[test]
fn a_series_that_only_shows_the_table_needs_no_comparison() {
    let place = Place::new();
    for (args, input) in [
        (&["init"][..], ""),
        (&["produce"], &users(100)[..]),
        (&["stream", "--until-end"], ""),
        (&["load-batch"], &users(100)),
    ] {
        let ran = place.rtp(args, input.as_bytes());
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
    let equal = "equal: 100 rows in realtime.users and batch_users";
    let view = "realtime.users_by_hour shows the rows of users, so there is nothing to compare";
    for (args, said) in [
        (&["verify"][..], &[equal][..]),
        (&["verify", "--series"], &[view, equal]),
    ] {
        let ran = place.rtp(args, b"");
        assert_eq!(
            (ran.status, &messages(&ran)[..]),
            (
                0,
                &said.iter().map(ToString::to_string).collect::<Vec<_>>()[..]
            )
        );
    }
}

#[test]
fn planted_differences_are_named_and_nothing_else() {
    let place = filled(2_000);
    edit(
        &place,
        BATCH,
        "DELETE FROM batch_items_rows WHERE id IN (1, 2, 1999);
         UPDATE batch_items_rows SET note = '' WHERE id = 10;
         UPDATE batch_items_rows SET seen = seen + 1 WHERE id = 11;
         UPDATE batch_items_rows SET name = name || ' ' WHERE id = 12;
         UPDATE batch_items_rows SET price = '13.50' WHERE id = 13;
         UPDATE batch_items_rows SET weight = 0.2500000001, sold = 1 WHERE id = 14;
         UPDATE batch_items_rows SET name = CASE id WHEN 20 THEN 'item 21' ELSE 'item 20' END WHERE id IN (20, 21);
         UPDATE batch_items_rows SET rtp_digest = x'00' WHERE id = 22;
         DROP INDEX batch_items_key;
         INSERT INTO batch_items_rows SELECT * FROM batch_items_rows WHERE id = 30;",
    );
    edit(
        &place,
        REALTIME,
        "DELETE FROM items_rows WHERE id IN (3, 4);
         UPDATE items_rows SET day = day - 1 WHERE id = 15;
         UPDATE items_rows SET price = NULL WHERE id = 16;
         UPDATE items_rows SET name = 'Item 17' WHERE id = 17;
         UPDATE items_rows SET sold = NULL WHERE id = 18;
         UPDATE items_rows SET price = '19.51' WHERE id = 19;",
    );
    let expected = BTreeSet::from(
        [
            r#"{"kind":"missing","key":1,"store":"batch","column":null,"realtime":null,"batch":null}"#,
            r#"{"kind":"missing","key":2,"store":"batch","column":null,"realtime":null,"batch":null}"#,
            r#"{"kind":"missing","key":1999,"store":"batch","column":null,"realtime":null,"batch":null}"#,
            r#"{"kind":"extra","key":3,"store":"batch","column":null,"realtime":null,"batch":null}"#,
            r#"{"kind":"extra","key":4,"store":"batch","column":null,"realtime":null,"batch":null}"#,
            r#"{"kind":"changed","key":10,"store":null,"column":"note","realtime":null,"batch":""}"#,
            r#"{"kind":"changed","key":11,"store":null,"column":"seen","realtime":"2025-11-24T16:00:00.000Z","batch":"2025-11-24T16:00:00.001Z"}"#,
            r#"{"kind":"changed","key":12,"store":null,"column":"name","realtime":"item 12","batch":"item 12 "}"#,
            r#"{"kind":"changed","key":14,"store":null,"column":"weight","realtime":0.25,"batch":0.2500000001}"#,
            r#"{"kind":"changed","key":14,"store":null,"column":"sold","realtime":false,"batch":true}"#,
            r#"{"kind":"changed","key":15,"store":null,"column":"day","realtime":"2026-10-31","batch":"2026-11-01"}"#,
            r#"{"kind":"changed","key":16,"store":null,"column":"price","realtime":null,"batch":"16.5"}"#,
            r#"{"kind":"changed","key":17,"store":null,"column":"name","realtime":"Item 17","batch":"item 17"}"#,
            r#"{"kind":"changed","key":18,"store":null,"column":"sold","realtime":null,"batch":false}"#,
            r#"{"kind":"changed","key":19,"store":null,"column":"price","realtime":"19.51","batch":"19.5"}"#,
            r#"{"kind":"changed","key":20,"store":null,"column":"name","realtime":"item 20","batch":"item 21"}"#,
            r#"{"kind":"changed","key":21,"store":null,"column":"name","realtime":"item 21","batch":"item 20"}"#,
            r#"{"kind":"duplicate","key":30,"store":"batch","column":null,"realtime":1,"batch":2}"#,
        ]
        .map(str::to_string),
    );
    let ran = verify(&place, &["--output", "-", "--sample", "3"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let found: BTreeSet<String> = ran.stdout.lines().map(what_differs).collect();
    let expected: BTreeSet<String> = expected.iter().map(|line| what_differs(line)).collect();
    assert_eq!(found, expected);
    assert_eq!(ran.stdout.lines().count(), expected.len());
    assert_eq!(ran.counts(), [3_996, 3_968, 27, 1, 0]);
    let messages = messages(&ran);
    assert_eq!(messages.len(), 5, "{messages:?}");
    assert_eq!(messages[3], "... and 15 more");
    assert_eq!(
        messages[4],
        "not equal: 3 missing in batch_items, 2 extra in batch_items, 11 changed, 1 duplicate (5 lost, 11 changed outside, 1 duplicate); 1998 rows in shop.items, 1998 in batch_items"
    );

    let csv = verify(&place, &["--output", "d.csv"]);
    assert_eq!((csv.status, csv.stdout.as_str()), (1, ""), "{}", csv.stderr);
    let text = std::fs::read_to_string(place.path("d.csv")).unwrap();
    assert_eq!(text.lines().count(), 1 + expected.len());
    for line in [
        "class,kind,key,store,column,realtime,batch,evidence",
        "lost,missing,1,batch,,,,\"",
        "changed_outside,changed,10,,note,,\"\",\"",
        "changed_outside,changed,12,,name,\"item 12\",\"item 12 \",\"",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}\n{text}");
    }

    // Repaired with the pipeline's own commands, they are equal.
    let events = items(2_000);
    edit(
        &place,
        BATCH,
        "DELETE FROM batch_items_rows; CREATE UNIQUE INDEX batch_items_key ON batch_items_rows (id)",
    );
    edit(&place, REALTIME, "DELETE FROM items_rows");
    for args in [
        &["load-batch"][..],
        &["produce"],
        &["stream", "--until-end"],
    ] {
        place.rtp(
            &[&["--dataset", "items.toml"], args].concat(),
            events.as_bytes(),
        );
    }
    let ran = verify(&place, &["--output", "d.csv"]);
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [4_000, 4_000, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(
        std::fs::read_to_string(place.path("d.csv")).unwrap(),
        "class,kind,key,store,column,realtime,batch,evidence\n"
    );
}

#[test]
fn tolerances_are_per_column_and_only_for_what_they_fit() {
    let place = filled(100);
    edit(
        &place,
        BATCH,
        "UPDATE batch_items_rows SET seen = seen + 1000, price = '0.6', weight = 0.26 WHERE id = 0;
         UPDATE batch_items_rows SET name = 'x' WHERE id = 1;",
    );
    let tolerant = [
        "--tolerance",
        "seen=1s",
        "--tolerance",
        "price=0.1",
        "--tolerance",
        "weight=0.011",
        "--tolerance",
        "name=ignore",
    ];
    let ran = verify(&place, &tolerant);
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [200, 200, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    let within = ", within the tolerances name=ignore, price=0.1, weight=0.011, seen=1s";
    assert!(messages(&ran)[0].ends_with(within), "{}", ran.stderr);
    for (tight, column) in [
        ("seen=999ms", "seen"),
        ("price=0.09", "price"),
        ("weight=0.001", "weight"),
    ] {
        let ran = verify(
            &place,
            &[&tolerant[..], &["--output", "-", "--tolerance", tight]].concat(),
        );
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
        assert!(
            ran.stdout.contains(&format!("\"column\":\"{column}\"")),
            "{}",
            ran.stdout
        );
    }
    for (wrong, message) in [
        ("colour=1", "unknown column `colour`; columns: id, name"),
        ("name=1", "for type text, only `ignore` is supported"),
        (
            "price=-1",
            "for type decimal, expected a number not below 0",
        ),
        ("id=1", "`id` is the key"),
    ] {
        let ran = verify(&place, &["--tolerance", wrong]);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}

#[test]
fn values_that_a_column_cannot_hold_are_differences() {
    let place = filled(100);
    edit(
        &place,
        BATCH,
        "UPDATE batch_items_rows SET day = 'soon' WHERE id = 5;
         UPDATE batch_items_rows SET name = x'ff' WHERE id = 6;
         UPDATE batch_items_rows SET sold = 2 WHERE id = 7;
         UPDATE batch_items_rows SET id = 'eight' WHERE id = 8;",
    );
    edit(
        &place,
        REALTIME,
        "UPDATE items_rows SET day = 'soon' WHERE id = 5",
    );
    let ran = verify(&place, &["--output", "-"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let found: BTreeSet<String> = ran.stdout.lines().map(what_differs).collect();
    let expected = [
        r#"{"kind":"changed","key":5,"store":null,"column":"day","realtime":"text \"soon\"","batch":"text \"soon\""}"#,
        r#"{"kind":"changed","key":6,"store":null,"column":"name","realtime":"item 6","batch":"blob of 1 bytes"}"#,
        r#"{"kind":"changed","key":7,"store":null,"column":"sold","realtime":false,"batch":"integer 2"}"#,
        r#"{"kind":"missing","key":8,"store":"batch","column":null,"realtime":null,"batch":null}"#,
        r#"{"kind":"extra","key":"text \"eight\"","store":"batch","column":null,"realtime":null,"batch":null}"#,
    ];
    assert_eq!(found, expected.map(what_differs).into());
    assert_eq!(ran.counts(), [200, 192, 8, 0, 0]);
}

#[test]
fn duplicates_that_are_the_same_in_both_stores_are_found() {
    let place = filled(500);
    for (file, table) in [(BATCH, "batch_items"), (REALTIME, "items")] {
        edit(
            &place,
            file,
            &format!(
                "DROP INDEX {table}_key; INSERT INTO {table}_rows SELECT * FROM {table}_rows WHERE id = 30"
            ),
        );
    }
    let ran = verify(&place, &["--output", "-"]);
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [1_002, 1_000, 0, 2, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(
        ran.stdout,
        "{\"class\":\"duplicate\",\"kind\":\"duplicate\",\"key\":30,\"store\":null,\"column\":null,\"realtime\":2,\"batch\":2,\"evidence\":\"\"}\n"
    );
}

#[test]
fn everything_differs_and_the_output_stays_bounded() {
    let place = filled(20_000);
    edit(&place, REALTIME, "UPDATE items_rows SET note = 'x'");
    let ran = verify(&place, &["--output", "all.ndjson"]);
    assert_eq!((ran.status, ran.counts()), (1, [40_000, 0, 40_000, 0, 0]));
    assert_eq!(messages(&ran).len(), 22);
    let all = std::fs::read_to_string(place.path("all.ndjson")).unwrap();
    assert_eq!(all.lines().count(), 20_000);
    let quiet = verify(&place, &["--quiet"]);
    assert_eq!(messages(&quiet).len(), 1);
    edit(&place, BATCH, "DELETE FROM batch_items_rows");
    let ran = verify(&place, &["--sample", "0"]);
    assert_eq!((ran.status, ran.counts()), (1, [20_000, 0, 20_000, 0, 0]));
    assert!(messages(&ran)[1].starts_with("not equal: 20000 missing in batch_items"));
}

#[test]
fn tables_that_are_not_there_or_empty() {
    let place = filled(0);
    let ran = verify(&place, &[]);
    assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);
    assert_eq!(
        messages(&ran),
        ["shop.items and batch_items are both empty"]
    );
    assert_eq!(verify(&place, &["--require-records"]).status, 1);
    edit(
        &place,
        BATCH,
        "ALTER TABLE batch_items_rows DROP COLUMN rtp_digest",
    );
    assert_eq!(
        verify(&place, &[]).status,
        0,
        "the digest kept in a store is not read"
    );
    edit(
        &place,
        BATCH,
        "DROP VIEW batch_items; ALTER TABLE batch_items_rows DROP COLUMN note",
    );
    let ran = verify(&place, &[]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains(
            "batch_items_rows in .rtp/batch.db does not fit the dataset: it has no column note"
        ),
        "{}",
        ran.stderr
    );
    edit(&place, BATCH, "DROP TABLE batch_items_rows");
    let ran = verify(&place, &[]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("no table batch_items_rows in .rtp/batch.db"),
        "{}",
        ran.stderr
    );
    let ran = verify(&place, &["--batch-store", "sqlite:none.db"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("none.db does not exist"),
        "{}",
        ran.stderr
    );
    assert!(!place.path("none.db").exists());
}

#[test]
fn writers_and_verify_do_not_wait_for_each_other() {
    let place = Place::ready();
    let events = users(20_000);
    place.rtp(&["produce"], events.as_bytes());
    place.rtp(&["load-batch"], events.as_bytes());
    let streaming = Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args(["stream", "--until-end", "--max-batch", "50"])
        .current_dir(place.root())
        .env_clear()
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut streaming = streaming;
    let mut rounds = 0;
    while streaming.try_wait().unwrap().is_none() {
        let ran = place.rtp(&["verify", "--sample", "1", "--max-outage", "0"], b"");
        assert!([0, 1].contains(&ran.status), "{}", ran.stderr);
        if ran.status == 1 {
            let message = messages(&ran).pop().unwrap();
            assert!(
                message.contains(" 0 missing") && message.contains(" 0 changed"),
                "{message}"
            );
        }
        ran.counts();
        rounds += 1;
    }
    assert!(rounds > 0);
    assert!(streaming.wait().unwrap().success());
    let lock = Connection::open(place.path(REALTIME)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ran = place.rtp(&["verify", "--max-outage", "0"], b"");
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [40_000, 40_000, 0, 0, 0]),
        "{}",
        ran.stderr
    );
}

/// One item as an event.
pub(crate) fn item(id: u64, name: &str, seen: u64) -> String {
    format!("{{\"id\":{id},\"name\":\"{name}\",\"seen\":{seen}}}\n")
}

/// A place with a difference of every class; the keys say which.
fn planted() -> Place {
    let place = filled(500);
    let run = |args: &[&str], input: &str, status: i32| {
        let args = [&["--dataset", "items.toml"], args].concat();
        let ran = place.rtp(&args, input.as_bytes());
        assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
    };
    let (then, later) = (1_764_000_000_000, 1_764_000_000_001);
    // 1003 is refused by the real-time store, and 1004 by a load, which has other rules for one line of it.
    edit(
        &place,
        REALTIME,
        "CREATE TRIGGER refuses BEFORE INSERT ON items_rows WHEN NEW.id = 1003
         BEGIN SELECT RAISE(ABORT, 'refused'); END",
    );
    let events = item(1003, "dead", then) + &item(1004, "good", later);
    run(&["produce"], &events, 0);
    run(&["stream", "--until-end"], "", 1);
    let bad = item(1004, "bad", later).replace("\"bad\"", "7");
    place.write(
        "day.ndjson",
        item(1003, "dead", then) + &item(1006, "unknown", then) + &item(1007, "waits", then) + &bad,
    );
    run(
        &["load-batch", "--rejects", "rejects.ndjson", "day.ndjson"],
        "",
        1,
    );
    // After the last load.
    let newer = item(1005, "new", later) + &item(5, "newer", later);
    run(&["produce"], &newer, 0);
    run(&["stream", "--until-end"], "", 0);
    // Not read by the stream yet.
    run(&["produce"], &item(1007, "waits", then), 0);
    edit(
        &place,
        BATCH,
        "DELETE FROM batch_items_rows WHERE id = 1;
         UPDATE batch_items_rows SET name = 'x' WHERE id = 3;",
    );
    edit(
        &place,
        REALTIME,
        "DELETE FROM items_rows WHERE id = 2; UPDATE items_rows SET name = 'y' WHERE id = 4",
    );
    place
}

#[test]
fn every_difference_has_its_class_and_its_evidence() {
    let place = planted();
    let ran = verify(&place, &["--output", "list.ndjson", "--format", "json"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let list = std::fs::read_to_string(place.path("list.ndjson")).unwrap();
    let expected = [
        (1, "lost", "load "),
        (2, "lost", "was read by the group"),
        (3, "changed_outside", "the digest kept in the batch store"),
        (
            4,
            "changed_outside",
            "the digest kept in the realtime store",
        ),
        (5, "older_version", "is after 2025-11-24T16:00:00.000Z"),
        (
            1003,
            "dead_letter",
            "item_events.dlq, partition 0 offset 0: store",
        ),
        (1004, "rejected", "day.ndjson, type: "),
        (1005, "not_loaded_yet", "is after 2025-11-24T16:00:00.000Z"),
        (1006, "unexplained", "it was never produced"),
        (
            1007,
            "in_flight",
            "0 events after where the group continues",
        ),
    ];
    let lines: Vec<serde_json::Value> = list
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let keys: BTreeSet<u64> = lines
        .iter()
        .filter_map(|line| line["key"].as_u64())
        .collect();
    assert_eq!(keys, expected.map(|(key, ..)| key).into(), "{list}");
    for (key, class, evidence) in expected {
        let line = lines.iter().find(|line| line["key"] == key).unwrap();
        assert_eq!(line["class"], class, "{line}");
        let told = line["evidence"].as_str().unwrap();
        assert!(told.contains(evidence), "{line}");
    }
}

/// The class of the only key that differs, and its evidence.
pub(crate) fn only_class(place: &Place, more: &[&str], status: i32) -> (String, String) {
    let args = [&["--output", "only.ndjson"], more].concat();
    let ran = verify(place, &args);
    assert_eq!(ran.status, status, "{}", ran.stderr);
    let list = std::fs::read_to_string(place.path("only.ndjson")).unwrap();
    let lines = list.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let line = &lines[0];
    for other in &lines {
        assert_eq!(other["class"], line["class"], "{list}");
    }
    let text = |name: &str| line[name].as_str().unwrap().to_string();
    (text("class"), text("evidence"))
}

/// A place with stores that `init` has made, and a file with some items.
pub(crate) fn with_items(items: &str) -> Place {
    let place = Place::new();
    place.write("items.toml", ITEMS);
    place.write("day.ndjson", items);
    done(&place, &["init"], 0);
    place
}

/// So many items that were streamed and loaded.
pub(crate) fn in_both(count: u64) -> Place {
    let place = with_items(&items(count));
    for args in [
        &["produce", "day.ndjson"][..],
        &["stream", "--until-end"],
        &["load-batch", "day.ndjson"],
    ] {
        done(&place, args, 0);
    }
    place
}

pub(crate) fn done(place: &Place, args: &[&str], status: i32) {
    let ran = place.rtp(&[&["--dataset", "items.toml"], args].concat(), b"");
    assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
}

pub(crate) const THEN: u64 = 1_764_000_000_000;

#[test]
fn a_row_that_was_loaded_before_its_event_was_produced_is_lost_if_it_goes() {
    let place = with_items(&items(5));
    done(&place, &["load-batch", "day.ndjson"], 0);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 3");
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "lost" && why.contains("line 4, was loaded"),
        "{class}: {why}"
    );
    // What the file was is not known once it is another one.
    place.write("day.ndjson", items(2));
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "unexplained" && why.contains("was written to after"),
        "{class}: {why}"
    );
}

#[test]
fn a_reject_or_dead_letter_of_another_version_explains_nothing() {
    let place = with_items(&(item(1, "a", THEN) + &item(2, "b", THEN)));
    let bad = item(1, "a", THEN).replace("\"a\"", "7");
    place.write("bad.ndjson", bad.clone() + &item(2, "b", THEN));
    done(
        &place,
        &["load-batch", "--rejects", "r.ndjson", "bad.ndjson"],
        1,
    );
    done(&place, &["produce", "bad.ndjson"], 1);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    done(&place, &["load-batch", "day.ndjson"], 0);
    assert_eq!(verify(&place, &[]).status, 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    assert_eq!(only_class(&place, &[], 1).0, "lost");
    done(&place, &["load-batch", "day.ndjson"], 0);
    // A newer version that was never produced.
    place.write("newer.ndjson", item(1, "c", THEN + 1));
    done(&place, &["load-batch", "newer.ndjson"], 0);
    assert_eq!(only_class(&place, &[], 1).0, "unexplained");
}

#[test]
fn a_group_that_has_never_committed_is_not_waited_for() {
    let place = with_items(&items(3));
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end", "--group", "mine"], 0);
    done(&place, &["load-batch", "day.ndjson"], 0);
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 1");
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "unexplained" && why.contains("never committed"),
        "{class}: {why}"
    );
    assert_eq!(only_class(&place, &["--group", "mine"], 1).0, "lost");
}

#[test]
fn a_list_and_a_landing_file_are_compared_and_the_lack_is_repaired() {
    let place = in_both(5);
    done(&place, &["verify", "--against", "day.ndjson"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 2");
    done(&place, &["verify", "--against", "day.ndjson"], 1);
    done(
        &place,
        &[
            "verify",
            "--output",
            "l.ndjson",
            "--repair",
            "repair.ndjson",
        ],
        1,
    );
    let repair = std::fs::read_to_string(place.path("repair.ndjson")).unwrap();
    assert_eq!(repair.lines().count(), 2, "{repair}");
    done(&place, &["verify", "--rerun", "l.ndjson"], 1);
    for args in [
        &["load-batch", "repair.ndjson"][..],
        &["produce", "repair.ndjson"],
        &["stream", "--until-end"],
    ] {
        done(&place, args, 0);
    }
    done(&place, &["verify", "--rerun", "l.ndjson"], 0);
    done(&place, &["verify", "--against", "day.ndjson"], 0);
    done(&place, &["verify"], 0);
    let shown = verify(&place, &["--history", "--format", "json"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("lost"), "{}", shown.stdout);
}

#[test]
fn a_csv_file_that_was_loaded_is_evidence_and_so_is_what_was_rejected_of_it() {
    let place = with_items(&items(5));
    let csv = |n: u64, sold: &str| {
        format!("1764000000000,\"item {n}\",{n},{sold},{n}.5,0.25,2026-11-01\n")
    };
    let header = "seen,name,id,sold,price,weight,day\n".to_string();
    let text = header + &csv(0, "false") + &csv(1, "false") + &csv(2, "maybe");
    place.write("day.csv", text);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    done(
        &place,
        &["load-batch", "--rejects", "r.ndjson", "day.csv"],
        1,
    );
    let list = verify(&place, &["--output", "-"]).stdout;
    let class = |key: u64| {
        let lines = list.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines = lines.filter(|line: &serde_json::Value| line["key"] == key);
        let line = lines.next()?;
        Some((line["class"].clone(), line["evidence"].to_string()))
    };
    assert_eq!(class(3).unwrap().0, "not_loaded_yet", "{list}");
    let (rejected, why) = class(2).unwrap();
    assert!(
        rejected == "rejected"
            && why.contains("r.ndjson: line 4 of /")
            && why.contains("/day.csv, "),
        "{list}"
    );
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    let list = verify(&place, &["--output", "-"]).stdout;
    let lost: Vec<&str> = list
        .lines()
        .filter(|line| line.contains("\"lost\""))
        .collect();
    assert!(
        lost.len() == 1 && lost[0].contains("day.csv, line 3, was loaded"),
        "{list}"
    );
}

#[test]
fn late_rows_by_the_ten_thousand_are_told_from_those_that_were_loaded() {
    let place = with_items(&items(60_000));
    place.write("new.ndjson", item(99_999, "new", THEN + 1));
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    place.write("half.ndjson", items(30_000));
    done(&place, &["load-batch", "half.ndjson", "new.ndjson"], 0);
    done(&place, &["produce", "new.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    edit(
        &place,
        BATCH,
        "DELETE FROM batch_items_rows WHERE id < 29000",
    );
    let ran = verify(&place, &["--sample", "0", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let classes = shown["classes"].as_array().unwrap();
    let count = |name: &str| {
        let class = classes.iter().find(|class| class["name"] == name).unwrap();
        class["count"].as_u64().unwrap()
    };
    assert_eq!(
        (count("lost"), count("not_loaded_yet")),
        (29_000, 30_000),
        "{}",
        ran.stderr
    );
    let passes = "log and files were searched 2 times";
    assert!(ran.stderr.contains(passes), "{}", ran.stderr);
}

#[test]
fn a_key_that_is_lacked_and_there_twice_is_told_once_as_each() {
    let place = with_items(&items(5));
    for args in [
        &["load-batch", "day.ndjson"][..],
        &["produce", "day.ndjson"],
        &["stream", "--until-end"],
    ] {
        done(&place, args, 0);
    }
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 2");
    edit(
        &place,
        BATCH,
        "DROP INDEX batch_items_key;
         INSERT INTO batch_items_rows SELECT * FROM batch_items_rows WHERE id = 2",
    );
    let ran = verify(&place, &["--output", "-"]);
    let mut kinds: Vec<String> = ran
        .stdout
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {} {}", line["key"], line["kind"], line["class"])
        })
        .collect();
    kinds.sort();
    let expected = ["2 \"duplicate\" \"duplicate\"", "2 \"extra\" \"lost\""];
    assert_eq!(kinds, expected, "{}", ran.stderr);
}
