//! What the log still tells, as `verify` takes it, after something was deleted from it or from the real-time store.

use crate::common::Place;
use crate::verify::{
    ITEMS, REALTIME, THEN, done, edit, in_both, item, items, only_class, verify, with_items,
};

const LOG: &str = ".rtp/log.db";

/// The tables with the events of the topic.
fn partitions(place: &Place) -> Vec<String> {
    let named = "SELECT group_concat(name) FROM sqlite_master WHERE type = 'table' AND name GLOB 'events_1_[0-9]*'";
    let names = place.query(LOG, named);
    names.split(',').map(String::from).collect()
}

/// Deletes the oldest events of each partition, all but the last one.
fn expire(place: &Place) {
    for name in partitions(place) {
        edit(
            place,
            LOG,
            &format!("DELETE FROM {name} WHERE offset < (SELECT max(offset) FROM {name})"),
        );
    }
}

/// Empties the real-time store, with the offsets that it keeps.
fn forget_realtime(place: &Place) {
    for rest in ["", "-wal", "-shm"] {
        let file = place.path(&format!("{REALTIME}{rest}"));
        if file.exists() {
            std::fs::remove_file(file).unwrap();
        }
    }
    done(place, &["init"], 0);
}

#[test]
fn events_that_the_stream_never_gets_to_are_not_in_flight() {
    let place = in_both(1);
    let more: String = (1..9).map(|n| item(n, "more", THEN + 1)).collect();
    place.write("more.ndjson", more);
    for args in [
        &["produce", "more.ndjson"][..],
        &["produce", "more.ndjson"],
        &["load-batch", "more.ndjson"],
    ] {
        done(&place, args, 0);
    }
    let (class, why) = only_class(&place, &[], 0);
    assert_eq!(class, "in_flight", "{why}");
    expire(&place);
    done(&place, &["stream", "--until-end"], 5);
    assert_eq!(only_class(&place, &[], 1).0, "unexplained");
    let list = std::fs::read_to_string(place.path("only.ndjson")).unwrap();
    let gap = "were deleted from the log, so the stream cannot go on";
    assert!(list.contains(gap), "{list}");
    let told = (1..9).map(|n: u64| {
        let explain = ["--dataset", "items.toml", "explain", &n.to_string()];
        place.rtp(&explain, b"").stdout
    });
    let told: String = told.collect();
    assert!(
        told.contains("where the stream cannot go on: it continues at"),
        "{told}"
    );
}

#[test]
fn an_emptied_store_is_filled_again_by_the_stream() {
    let place = in_both(6);
    forget_realtime(&place);
    let (class, why) = only_class(&place, &[], 1); // because one store is empty
    assert_eq!(class, "in_flight", "{why}");
    done(&place, &["stream", "--until-end"], 0);
    done(&place, &["verify"], 0);
}

#[test]
fn what_only_the_store_keeps_of_a_group_counts() {
    let place = in_both(6);
    edit(&place, LOG, "DELETE FROM group_offsets");
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 2");
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "lost" && why.contains("was read by the group"),
        "{class}: {why}"
    );
}

#[test]
fn a_letter_about_an_expired_event_says_that_another_one_may_have_been_read() {
    let bad = format!("{{\"id\":2,\"name\":7,\"seen\":{THEN}}}\n");
    let place = with_items(&(item(1, "a", THEN) + &bad + &item(2, "b", THEN)));
    let load = ["load-batch", "--rejects", "r.ndjson", "day.ndjson"];
    done(&place, &load, 1);
    done(&place, &["produce", "day.ndjson"], 1);
    done(&place, &["stream", "--until-end"], 0);
    done(&place, &["verify"], 0);
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 2");
    assert_eq!(only_class(&place, &[], 1).0, "lost");
    for table in partitions(&place) {
        edit(&place, LOG, &format!("DELETE FROM {table}"));
    }
    let (class, why) = only_class(&place, &[], 0);
    assert_eq!(class, "dead_letter", "{why}");
    assert!(why.contains("perhaps one that was read"), "{why}");
}

#[test]
fn an_event_time_by_another_name_tells_the_version() {
    let renamed = ITEMS.replace("name = \"seen\"\n", "name = \"seen\"\naliases = [\"ts\"]\n");
    assert_ne!(renamed, ITEMS);
    let bad = format!("{{\"id\":2,\"name\":7,\"ts\":{THEN}}}\n");
    let place = with_items(&items(4));
    place.write("items.toml", renamed);
    let day = item(1, "a", THEN) + &bad + &item(3, "c", THEN);
    place.write("bad.ndjson", day);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    let load = ["load-batch", "--rejects", "r.ndjson", "bad.ndjson"];
    done(&place, &load, 1);
    let list = verify(&place, &["--output", "-"]).stdout;
    let of_two: Vec<&str> = list
        .lines()
        .filter(|line| line.contains("\"key\":2,"))
        .collect();
    assert!(
        of_two.len() == 1 && of_two[0].contains("\"class\":\"rejected\""),
        "{list}"
    );
}
