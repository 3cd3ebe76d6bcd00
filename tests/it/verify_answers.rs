//! What `rtp verify` answers: its status, its sentence and its documents say the same, also if only a part was compared.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::{Place, Ran};
use crate::verify::{
    BATCH, ITEMS, REALTIME, THEN, done, edit, filled, in_both, item, items, messages, only_class,
    verify, with_items,
};

/// The document of a run that ends with this status.
fn document(place: &Place, more: &[&str], status: i32) -> (Value, Ran) {
    let ran = verify(place, &[&["--format", "json"], more].concat());
    assert_eq!(ran.status, status, "{more:?}: {}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["agrees"], status == 0, "{document}");
    (document, ran)
}

fn last_verdict(place: &Place) -> Value {
    let ran = verify(place, &["--history", "--format", "json"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let history: Value = serde_json::from_str(&ran.stdout).unwrap();
    history["verdicts"][0].clone()
}

#[test]
fn a_verdict_keeps_what_was_tolerated() {
    let place = filled(5);
    edit(
        &place,
        BATCH,
        "UPDATE batch_items_rows SET name = 'x' WHERE id = 1",
    );
    let tolerant = ["--tolerance", "price=1", "--tolerance", "name=ignore"];
    let more = [&tolerant[..], &["--series", "--require-records"]].concat();
    let (document, _) = document(&place, &more, 0);
    let options = json!([
        "--tolerance name=ignore",
        "--tolerance price=1",
        "--series",
        "--require-records"
    ]);
    assert_eq!(document["options"], options);
    assert_eq!(
        document["sentence"],
        "equal: 5 rows in shop.items and batch_items, within the tolerances name=ignore, price=1"
    );
    assert_eq!(last_verdict(&place)["options"], options);
    let shown = verify(&place, &["--history"]).stdout;
    assert!(
        shown.contains("--tolerance name=ignore --tolerance price=1"),
        "{shown}"
    );
    verify(&place, &[]);
    assert_eq!(last_verdict(&place)["options"], json!([]));
    for format in ["table", "csv", "markdown", "html", "junit"] {
        let ran = verify(&place, &[&tolerant[..], &["--format", format]].concat());
        for said in [
            "within the tolerances name",
            "--tolerance name=ignore --tolerance price=1",
        ] {
            let text = ran.stdout.replace("\\", "");
            assert!(text.contains(said), "{format}: {text}");
        }
    }
}

#[test]
fn a_verdict_says_that_records_were_required() {
    let place = filled(0);
    let (document, ran) = document(&place, &["--require-records"], 1);
    let why = "--require-records was given, and there is no row to compare";
    assert_eq!(document["problems"], json!([why]));
    assert!(messages(&ran).contains(&why.to_string()), "{}", ran.stderr);
    assert_eq!(last_verdict(&place)["agrees"], false);
    let junit = verify(&place, &["--require-records", "--format", "junit"]).stdout;
    assert!(
        junit.contains("failures=\"1\"") && junit.contains(why),
        "{junit}"
    );
}

#[test]
fn what_the_ledger_does_not_tell_is_said() {
    let place = filled(3);
    edit(&place, BATCH, "DROP TABLE rtp_verdicts");
    let ran = verify(&place, &["--format", "table"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let unknown = "newest loaded record  not known: ";
    assert!(ran.stdout.contains(unknown), "{}", ran.stdout);
    let warned = "the verdict was not kept for --history";
    assert!(ran.stderr.contains(warned), "{}", ran.stderr);
}

#[test]
fn an_empty_store_is_named() {
    let place = with_items("");
    done(&place, &["produce", "day.ndjson"], 0);
    place.write("day.ndjson", items(3));
    done(&place, &["stream", "--until-end"], 0);
    // All of the differences are explained, and the layers do not agree all the same.
    done(&place, &["load-batch", "day.ndjson"], 0);
    done(&place, &["produce", "day.ndjson"], 0);
    edit(
        &place,
        ".rtp/log.db",
        "INSERT INTO group_offsets SELECT 'rtp', id, 0, 0, 0 FROM topics WHERE name = 'item_events'
         ON CONFLICT DO NOTHING",
    );
    let (document, _) = document(&place, &[], 1);
    let sentence = document["sentence"].as_str().unwrap();
    assert!(
        sentence.ends_with(
            "(3 in flight); 0 rows in shop.items, 3 in batch_items; shop.items is empty"
        ),
        "{sentence}"
    );
}

#[test]
fn a_list_without_keys_is_not_called_equal() {
    let place = filled(3);
    let list = place.path("list.ndjson");
    done(&place, &["verify", "--output", "list.ndjson"], 0);
    assert_eq!(std::fs::read_to_string(list).unwrap(), "");
    let (empty, ran) = document(&place, &["--rerun", "list.ndjson"], 0);
    let why = "nothing was compared, because list.ndjson lists no difference";
    assert_eq!(empty["sentence"], why);
    assert_eq!(
        (&empty["scope"], &empty["files"]),
        (&json!("rerun"), &json!(["list.ndjson"]))
    );
    let is_warning = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["level"] == "warn" && line["message"] == why
    };
    assert!(ran.stderr.lines().any(is_warning), "{}", ran.stderr);
    let (document, _) = document(&place, &["--rerun", "list.ndjson", "--require-records"], 1);
    assert_eq!(document["problems"].as_array().unwrap().len(), 1);
}

#[test]
fn a_key_that_is_none_is_listed_and_compared_again() {
    let place = filled(20);
    edit(
        &place,
        BATCH,
        "UPDATE batch_items_rows SET id = 'eight' WHERE id = 8;
         UPDATE batch_items_rows SET id = 'nine' WHERE id = 9",
    );
    let list = ["--output", "list.ndjson", "--repair", "repair.ndjson"];
    let ran = verify(&place, &list);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    // What is lost is repaired; of the keys that are none, nobody knows what they should be.
    let says = "2 differences are not repaired by repair.ndjson";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
    assert_eq!(
        std::fs::read_to_string(place.path("repair.ndjson"))
            .unwrap()
            .lines()
            .count(),
        2
    );
    let (document, ran) = document(
        &place,
        &["--rerun", "list.ndjson", "--output", "again.ndjson"],
        1,
    );
    let lines = |name: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(place.path(name)).unwrap();
        text.lines().map(String::from).collect()
    };
    assert_eq!(lines("again.ndjson"), lines("list.ndjson"));
    assert_eq!(document["classes"][1]["count"], 2, "{document}");
    assert!(
        ran.stderr
            .contains("of 4 keys in list.ndjson, shop.items has 2 and batch_items 2"),
        "{}",
        ran.stderr
    );
    edit(
        &place,
        BATCH,
        "DELETE FROM batch_items_rows WHERE id = 'eight'",
    );
    done(&place, &["load-batch", "repair.ndjson"], 0);
    let again = ["--rerun", "list.ndjson", "--output", "left.ndjson"];
    let ran = verify(&place, &again);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let left = std::fs::read_to_string(place.path("left.ndjson")).unwrap();
    assert!(left.lines().count() == 1 && left.contains("nine"), "{left}");
    edit(
        &place,
        BATCH,
        "DELETE FROM batch_items_rows WHERE id = 'nine'",
    );
    done(&place, &["verify", "--rerun", "list.ndjson"], 0);
}

#[test]
fn a_list_of_another_dataset_is_refused_by_line() {
    let place = filled(3);
    for (line, why) in [
        ("{\"key\":\"a\"}", "line 2: the key does not fit id"),
        (
            "{\"key\":1,\"store\":\"shop.by_hour\"}",
            "line 2: dataset items has no table shop.by_hour",
        ),
        ("id,name", "line 2: expected a JSON object"),
    ] {
        place.write("list.ndjson", format!("{{\"key\":1}}\n{line}\n"));
        let ran = verify(&place, &["--rerun", "list.ndjson"]);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
}

#[test]
fn bad_records_of_a_landing_file_are_in_the_verdict() {
    let place = filled(3);
    place.write("day.ndjson", items(3) + "{\"id\":\"x\"}\n");
    let (bad, ran) = document(&place, &["--against", "day.ndjson"], 1);
    assert_eq!(bad["landing"], json!({"records": 3, "bad_records": 1}));
    assert_eq!(bad["scope"], "against");
    let sentence = bad["sentence"].as_str().unwrap();
    assert!(
        sentence.starts_with("1 bad record, the first: day.ndjson")
            && sentence.ends_with(
                "; equal: shop.items and batch_items have 3 records of day.ndjson, or newer ones"
            ),
        "{sentence}"
    );
    assert!(ran.stderr.contains("1 bad record"), "{}", ran.stderr);
    let junit = verify(&place, &["--against", "day.ndjson", "--format", "junit"]).stdout;
    assert!(
        junit.contains("failures=\"1\"") && junit.contains("1 bad record"),
        "{junit}"
    );
    let args = ["--dataset", "items.toml", "verify", "--against", "-"];
    let ran = place.rtp(&args, items(3).as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("have 3 records of standard input, or"),
        "{}",
        ran.stderr
    );
    place.write("day.ndjson", "");
    let (empty, _) = document(&place, &["--against", "day.ndjson"], 0);
    let why = "nothing was compared, because there is no good record in day.ndjson";
    assert_eq!(empty["sentence"], why);
    document(&place, &["--against", "day.ndjson", "--require-records"], 1);
    place.write("day.ndjson", items(5));
    let output = ["--against", "day.ndjson", "--output", "lacks.ndjson"];
    let ran = verify(&place, &output);
    assert_eq!(ran.counts(), [10, 6, 4, 0, 0], "{}", ran.stderr);
    let text = std::fs::read_to_string(place.path("lacks.ndjson")).unwrap();
    let mut stores: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["store"].clone())
        .collect();
    stores.sort_by_key(Value::to_string);
    assert_eq!(stores, ["batch", "batch", "realtime", "realtime"]);
    let (gone, _) = document(&place, &["--rerun", "lacks.ndjson"], 1);
    let why = "not repaired: neither store has a row of 2 listed keys";
    assert_eq!(gone["problems"], json!([why]));
    assert_eq!(
        gone["sentence"],
        "not repaired: neither store has a row of 2 listed keys; equal: of 2 keys in lacks.ndjson, shop.items has 0 and batch_items 0, and neither has 2"
    );
    let (lacks, _) = document(&place, &["--against", "day.ndjson"], 1);
    let sentence = lacks["sentence"].as_str().unwrap();
    assert!(
        sentence.starts_with(
            "not equal: of 5 records of day.ndjson, 2 missing in shop.items, 2 missing in batch_items, 0 older or changed there"
        ),
        "{sentence}"
    );
}

#[test]
fn a_landing_file_is_compared_within_the_tolerances() {
    let place = in_both(3);
    for (file, table) in [(BATCH, "batch_items_rows"), (REALTIME, "items_rows")] {
        let change = format!("UPDATE {table} SET name = 'x' WHERE id = 1");
        edit(&place, file, &change);
    }
    let against = ["verify", "--against", "day.ndjson"];
    done(&place, &against, 1);
    let tolerant = |what| [&against[..], &["--tolerance", what]].concat();
    done(&place, &tolerant("name=ignore"), 0);
    done(&place, &tolerant("price=1"), 1);
}

#[test]
fn the_newest_loaded_record_is_told_whatever_was_compared() {
    let place = in_both(3);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    let list = ["verify", "--output", "list.ndjson"];
    done(&place, &list, 1);
    for (more, status) in [
        (&[][..], 1),
        (&["--rerun", "list.ndjson"], 1),
        (&["--against", "day.ndjson"], 1),
    ] {
        let (document, _) = document(&place, more, status);
        assert_eq!(document["boundary"], "2025-11-24T16:00:00.000Z", "{more:?}");
    }
}

#[test]
fn an_event_is_found_by_its_record_whatever_its_key_is() {
    let place = with_items(&(item(1, "a", THEN) + &item(2, "b", THEN)));
    for args in [
        &["produce", "day.ndjson"][..],
        &["stream", "--until-end"],
        &["load-batch", "day.ndjson"],
    ] {
        done(&place, args, 0);
    }
    // As another producer may have written them: with the key of another record, with a key of its own, without one.
    let log = place.path(".rtp/log.db");
    let log = rusqlite::Connection::open(log).unwrap();
    let table: String = log
        .query_row(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'events%' ORDER BY 1 LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 1");
    for key in ["CAST('2' AS BLOB)", "CAST('x' AS BLOB)", "NULL"] {
        log.execute_batch(&format!("UPDATE {table} SET key = {key} WHERE offset = 0"))
            .unwrap();
        let (class, why) = only_class(&place, &[], 1);
        assert!(
            class == "lost" && why.contains("offset 0 was read by the group"),
            "{key}: {class}: {why}"
        );
    }
}

#[test]
fn a_ttl_explains_nothing_in_a_store_that_keeps_its_rows() {
    let place = Place::new();
    let ttl = ITEMS.replace("keyspace = \"shop\"", "keyspace = \"shop\"\nttl = \"1s\"");
    place.write("items.toml", ttl);
    place.write("day.ndjson", items(3));
    for args in [
        &["init"][..],
        &["produce", "day.ndjson"],
        &["stream", "--until-end"],
        &["load-batch", "day.ndjson"],
    ] {
        done(&place, args, 0);
    }
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 1");
    edit(&place, ".rtp/log.db", &{
        let log = rusqlite::Connection::open(place.path(".rtp/log.db")).unwrap();
        let mut tables = log
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'events%'")
            .unwrap();
        let names = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let names: Vec<String> = names.map(Result::unwrap).collect();
        let old = names
            .iter()
            .map(|name| format!("UPDATE {name} SET timestamp = 0;"));
        old.collect::<String>()
    });
    assert_eq!(only_class(&place, &[], 1).0, "lost");
}
