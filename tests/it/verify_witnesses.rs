//! What explains a difference, and what only seems to.

use crate::verify::{
    BATCH, REALTIME, THEN, done, edit, in_both, item, items, messages, only_class, verify,
    with_items,
};

#[test]
fn a_group_that_has_stopped_explains_nothing_that_another_one_has_read() {
    let place = in_both(4);
    place.write(
        "b.ndjson",
        item(10, "a", THEN + 1) + &item(11, "b", THEN + 1),
    );
    for args in [
        &["produce", "b.ndjson"][..],
        &["stream", "--until-end", "--group", "rtp2"],
        &["load-batch", "b.ndjson"],
        &["verify"],
    ] {
        done(&place, args, 0);
    }
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 10");
    for more in [&[][..], &["--group", "rtp2"]] {
        let (class, why) = only_class(&place, more, 1);
        assert!(
            class == "lost" && why.contains("was read by"),
            "{class}: {why}"
        );
    }
    let history = verify(&place, &["--history", "--format", "json"]).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let options = |n: usize| history["verdicts"][n]["options"].to_string();
    assert_eq!(options(0), "[\"--group rtp2\"]");
    assert_eq!(options(1), "[]");
}

#[test]
fn a_dead_letter_explains_no_event_that_was_read_later() {
    let place = with_items(&item(7, "a", THEN));
    let refuses = "CREATE TRIGGER refuses BEFORE INSERT ON items_rows
         BEGIN SELECT RAISE(ABORT, 'refused'); END";
    edit(&place, REALTIME, refuses);
    done(&place, &["load-batch", "day.ndjson"], 0);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 1);
    assert_eq!(only_class(&place, &[], 1).0, "dead_letter"); // the store is empty
    edit(&place, REALTIME, "DROP TRIGGER refuses");
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    done(&place, &["verify"], 0);
    edit(&place, REALTIME, "DELETE FROM items_rows");
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "lost" && why.contains("offset 1 was read"),
        "{class}: {why}"
    );
}

/// A place whose batch store lacks item 1, of which a load has rejected this record.
fn rejected(bad: &str) -> crate::common::Place {
    let place = with_items(&items(3));
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    let others = item_lines(&[0, 2]);
    place.write("bad.ndjson", others + bad);
    let load = ["load-batch", "--rejects", "r.ndjson", "bad.ndjson"];
    done(&place, &load, 1);
    place
}

fn item_lines(which: &[usize]) -> String {
    let all = items(3);
    let lines: Vec<&str> = all.lines().collect();
    which.iter().map(|n| format!("{}\n", lines[*n])).collect()
}

#[test]
fn a_reject_explains_only_its_version_and_only_from_the_file_of_its_load() {
    let bad = format!("{{\"id\":1,\"name\":7,\"seen\":{THEN}}}\n");
    let place = rejected(&bad);
    assert_eq!(only_class(&place, &[], 0).0, "rejected");
    let lines = std::fs::read_to_string(place.path("r.ndjson")).unwrap();
    let id = lines.find("\"run_id\":\"").unwrap() + 10;
    place.write(
        "r.ndjson",
        format!("{}another {}", &lines[..id], &lines[id..]),
    );
    // The record in the landing file was rejected or loaded, and nothing tells which.
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "lost" && why.contains("line 3, has its key, but is not a valid record now"),
        "{class}: {why}"
    );
    // A record without a time may be another version.
    let place = rejected("{\"id\":1,\"name\":\"x\",\"seen\":\"soon\"}\n");
    let (class, why) = only_class(&place, &[], 0);
    assert!(
        class != "rejected" && why.contains("perhaps rejected"),
        "{class}: {why}"
    );
}

#[test]
fn versions_in_many_files_are_all_in_flight() {
    let place = with_items("");
    let names: Vec<String> = (0..8).map(|n| format!("{n}.ndjson")).collect();
    for (name, at) in names.iter().zip(THEN..) {
        place.write(name, (0..3).map(|id| item(id, "v", at)).collect::<String>());
        done(&place, &["produce", name], 0);
        done(&place, &["load-batch", name], 0);
    }
    // The group has committed that it is at the beginning.
    edit(
        &place,
        ".rtp/log.db",
        "INSERT INTO group_offsets SELECT 'rtp', id, 0, 0, 0 FROM topics WHERE name = 'item_events'
         ON CONFLICT DO NOTHING",
    );
    let against: Vec<&str> = names.iter().flat_map(|name| ["--against", name]).collect();
    let ran = verify(&place, &against);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("24 in flight"), "{}", ran.stderr);
}

#[test]
fn what_both_stores_have_lost_is_not_repaired() {
    let place = in_both(3);
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 1");
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    let list = ["verify", "--against", "day.ndjson", "--output", "l.ndjson"];
    done(&place, &list, 1);
    let ran = verify(&place, &["--rerun", "l.ndjson"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let told = messages(&ran).join("\n");
    assert!(
        told.contains("not repaired: neither store has a row of 1 listed key"),
        "{told}"
    );
    // A row that somebody else had inserted is as it should be once it is gone; with nothing else, nothing was compared.
    let outside = "{\"key\":1,\"class\":\"changed_outside\"}\n";
    place.write("outside.ndjson", outside);
    done(&place, &["verify", "--rerun", "outside.ndjson"], 0);
    let required = ["verify", "--rerun", "outside.ndjson", "--require-records"];
    done(&place, &required, 1);
}

#[test]
fn a_grace_without_end_and_a_list_that_is_none_are_refused() {
    let place = with_items("");
    let ran = verify(&place, &["--grace", "9223372036854775807s"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("at most 365d"), "{}", ran.stderr);
    std::fs::write(place.path("l.ndjson"), b"\x1f\x8b\x08\x00\xff\xff").unwrap();
    let ran = verify(&place, &["--rerun", "l.ndjson"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("gunzip"), "{}", ran.stderr);
}

#[test]
fn what_a_load_was_told_to_do_is_in_the_evidence_and_not_repaired() {
    for mode in ["ignore", "replace"] {
        let place = with_items(&item(1, "old", THEN));
        let newer = item(1, "new", THEN + 1) + &item(2, "b", THEN);
        place.write("newer.ndjson", newer);
        place.write("other.ndjson", item(3, "c", THEN));
        for args in [
            &["load-batch", "day.ndjson"][..],
            &["produce", "newer.ndjson"],
            &["produce", "other.ndjson"],
            &["stream", "--until-end"],
        ] {
            done(&place, args, 0);
        }
        let (first, second) = match mode {
            "ignore" => ("ignore", "ignore"),
            _ => ("update-if-newer", "replace"),
        };
        done(&place, &["load-batch", "--mode", first, "newer.ndjson"], 0);
        done(&place, &["load-batch", "--mode", second, "other.ndjson"], 0);
        let repair = ["--repair", "repair.ndjson"];
        let (class, why) = only_class(&place, &repair, 1);
        let told = format!("with --mode {mode}");
        assert!(class == "lost" && why.contains(&told), "{class}: {why}");
        let repair = std::fs::read_to_string(place.path("repair.ndjson")).unwrap();
        assert_eq!(repair, "", "{mode}");
    }
}

/// Streams an item, and loads it in these ways, or deletes it, its older version is put back, or a file goes; the evidence
/// of its class, `lost`, and what is repaired.
fn loaded(loads: &[(&str, &str)]) -> (String, String) {
    let place = with_items(&item(1, "old", THEN));
    place.write("old.ndjson", item(1, "old", THEN));
    place.write("new.ndjson", item(1, "new", THEN + 1));
    place.write("other.ndjson", item(3, "c", THEN));
    place.write(
        "copy.ndjson",
        item(1, "new", THEN + 1) + &item(3, "c", THEN),
    );
    place.write("older.ndjson", item(1, "older", THEN - 1));
    for file in ["old.ndjson", "new.ndjson", "other.ndjson"] {
        done(&place, &["produce", file], 0);
    }
    done(&place, &["stream", "--until-end"], 0);
    for (mode, file) in loads {
        match *mode {
            "delete" => edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1"),
            "remove" => std::fs::remove_file(place.path(file)).unwrap(),
            "pipe" => {
                let input = std::fs::read(place.path(file)).unwrap();
                let ran = place.rtp(&["--dataset", "items.toml", "load-batch"], &input);
                assert_eq!(ran.status, 0, "{}", ran.stderr);
            }
            mode => done(&place, &["load-batch", "--mode", mode, file], 0),
        }
    }
    let (class, why) = only_class(&place, &["--repair", "repair.ndjson"], 1);
    assert_eq!(class, "lost", "{loads:?}: {why}");
    let repair = std::fs::read_to_string(place.path("repair.ndjson")).unwrap();
    (why, repair)
}

#[test]
fn an_older_row_that_a_load_was_told_to_put_in_place_of_a_newer_one_is_not_repaired() {
    let other = ("upsert", "other.ndjson");
    let new = ("update-if-newer", "new.ndjson");
    let (why, repair) = loaded(&[other, new, ("upsert", "old.ndjson")]);
    assert!(
        why.contains("--mode upsert has since put the older row in its place"),
        "{why}"
    );
    assert_eq!(repair, "");
}

#[test]
fn a_load_that_leaves_rows_excuses_no_row_that_another_load_had_brought() {
    let other = ("update-if-newer", "other.ndjson");
    let [old, new] = [("insert", "old.ndjson"), ("ignore", "new.ndjson")];
    let (why, repair) = loaded(&[other, old, new]);
    assert!(why.contains("left the stored row as it was"), "{why}");
    assert_eq!(repair, "");
    let (why, repair) = loaded(&[other, ("upsert", "new.ndjson"), ("delete", ""), old, new]);
    assert!(!why.contains("--mode ignore"), "{why}");
    assert!(repair.contains("\"new\""), "{repair}");
    let removed = ("replace", "old.ndjson");
    let (why, repair) = loaded(&[other, ("upsert", "new.ndjson"), removed, new]);
    assert!(why.contains("left the stored row as it was"), "{why}");
    assert_eq!(repair, "");
}

#[test]
fn a_load_is_no_excuse_if_another_one_may_have_brought_the_row() {
    let other = ("update-if-newer", "other.ndjson");
    let [old, new] = [("update-if-newer", "old.ndjson"), ("ignore", "new.ndjson")];
    let put_back = [("delete", ""), ("insert", "old.ndjson")];
    let ignored = [&[other, old, ("pipe", "new.ndjson"), new][..], &put_back].concat();
    let replaced = [
        ("update-if-newer", "new.ndjson"),
        ("replace", "copy.ndjson"),
        ("remove", "copy.ndjson"),
        ("delete", ""),
    ];
    for loads in [&ignored[..], &replaced] {
        let (why, repair) = loaded(loads);
        assert!(why.contains("; perhaps load "), "{why}");
        assert!(repair.contains("\"new\""), "{loads:?}: {repair}");
    }
}

#[test]
fn an_upsert_explains_only_the_row_that_it_brought() {
    let new = ("update-if-newer", "new.ndjson");
    let old = ("upsert", "old.ndjson");
    let put_back = [("delete", ""), ("insert", "older.ndjson")];
    let other = ("upsert", "other.ndjson");
    let (why, repair) = loaded(&[&[other, new, old][..], &put_back].concat());
    assert!(!why.contains("--mode upsert"), "{why}");
    assert!(repair.contains("\"new\""), "{repair}");
    let (why, repair) = loaded(&[other, new, old, ("ignore", "new.ndjson")]);
    assert!(why.contains("--mode upsert has since put"), "{why}");
    assert_eq!(repair, "");
}

#[test]
fn a_load_is_no_excuse_for_what_the_real_time_store_lacks() {
    let place = with_items(&(item(1, "a", THEN) + &item(2, "b", THEN)));
    place.write("two.ndjson", item(2, "b", THEN));
    for args in [
        &["produce", "day.ndjson"][..],
        &["stream", "--until-end"],
        &["load-batch", "day.ndjson"],
        &["load-batch", "--mode", "replace", "two.ndjson"],
    ] {
        done(&place, args, 0);
    }
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 1");
    let args = ["--against", "day.ndjson", "--repair", "repair.ndjson"];
    let ran = verify(&place, &[&args[..], &["--output", "-"]].concat());
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let of = |side: &str| {
        let mut lines = ran.stdout.lines();
        lines.find(|line| line.contains(side)).unwrap().to_string()
    };
    assert!(of("was read by").contains("\"lost\""), "{}", ran.stdout);
    assert!(!of("was read by").contains("--mode"), "{}", ran.stdout);
    assert!(of("--mode replace").contains("\"lost\""), "{}", ran.stdout);
    let repair = std::fs::read_to_string(place.path("repair.ndjson")).unwrap();
    assert_eq!(repair.lines().count(), 1, "{repair}");
}

#[test]
fn what_a_restored_store_lacks_is_waited_for_because_the_stream_reads_it_again() {
    let place = in_both(1);
    std::fs::copy(place.path(REALTIME), place.path("backup.db")).unwrap();
    place.write(
        "more.ndjson",
        (1..4).map(|n| item(n, "more", THEN)).collect::<String>(),
    );
    for args in [
        &["produce", "more.ndjson"][..],
        &["stream", "--until-end"],
        &["load-batch", "more.ndjson"],
        &["verify"],
    ] {
        done(&place, args, 0);
    }
    for rest in ["", "-wal", "-shm"] {
        let file = place.path(&format!("{REALTIME}{rest}"));
        if file.exists() {
            std::fs::remove_file(file).unwrap();
        }
    }
    std::fs::copy(place.path("backup.db"), place.path(REALTIME)).unwrap();
    assert_eq!(only_class(&place, &[], 0).0, "in_flight");
    let told = place.rtp(&["--dataset", "items.toml", "explain", "2"], b"");
    assert!(
        told.stdout.contains("is waiting in the log"),
        "{}",
        told.stdout
    );
    done(&place, &["stream", "--until-end"], 0);
    done(&place, &["verify"], 0);
}
