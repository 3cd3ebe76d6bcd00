//! What `rtp verify` takes from the files that were loaded, and what it does not know once they are others.

use std::fs::File;
use std::time::{Duration, SystemTime};

use crate::common::Place;
use crate::verify::{BATCH, ITEMS, THEN, done, edit, item, items, only_class, verify, with_items};

/// A place whose real-time store has these items, and whose batch store has none yet.
fn produced(items: &str) -> Place {
    let place = with_items(items);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    place
}

/// Puts a file there whose times are older than everything else.
fn put_old(place: &Place, name: &str, text: &str) {
    place.write(name, text);
    let file = File::options().append(true).open(place.path(name)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_modified(old).unwrap();
}

fn assert_class(place: &Place, status: i32, class: &str, evidence: &str) {
    let (told, why) = only_class(place, &[], status);
    assert!(told == class && why.contains(evidence), "{told}: {why}");
}

#[test]
fn a_file_is_evidence_by_its_contents_whatever_its_times() {
    let place = produced(&items(5));
    done(&place, &["load-batch", "day.ndjson"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 3");
    assert_class(&place, 1, "lost", "line 4, was loaded");
    // Of another length, and of the same one: neither is what was loaded.
    put_old(&place, "day.ndjson", &items(3));
    assert_class(&place, 1, "lost", "it is not the file that load");
    let other = items(5).replace("item 3", "item X");
    put_old(&place, "day.ndjson", &other);
    assert_class(&place, 1, "lost", "it is not the file that load");
    // The same contents again, written later.
    place.write("day.ndjson", items(5));
    assert_class(&place, 1, "lost", "line 4, was loaded");
}

#[test]
fn a_record_of_a_file_that_was_never_loaded_is_not_lost() {
    let place = produced(&items(5));
    let loaded = items(3) + &item(9, "new", THEN + 1);
    place.write("part.ndjson", &loaded);
    done(&place, &["load-batch", "part.ndjson"], 0);
    done(&place, &["produce", "part.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    place.write("two.ndjson", items(4));
    done(&place, &["load-batch", "two.ndjson"], 0);
    assert_class(
        &place,
        0,
        "not_loaded_yet",
        "no file that was loaded has it",
    );
    put_old(&place, "part.ndjson", &items(5));
    let (_, why) = only_class(&place, &[], 1);
    assert!(!why.contains("was loaded, and has it"), "{why}");
}

#[test]
fn an_event_that_came_after_the_load_of_a_file_that_is_gone_explains_nothing() {
    let place = with_items(&items(5));
    done(&place, &["load-batch", "day.ndjson"], 0);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 3");
    std::fs::remove_file(place.path("day.ndjson")).unwrap();
    assert_class(&place, 1, "unexplained", "a file may be loaded first");
}

#[test]
fn a_csv_record_reads_as_it_did_when_it_was_loaded() {
    let place = produced(&(item(1, "a", THEN) + &item(2, "b", THEN)));
    let csv = |n: u64, name: &str| format!("{n},{name},{THEN},\\N\n");
    let text = "id,name,seen,price\n".to_string() + &csv(1, "a") + &csv(2, "b");
    // Its name does not tell its format either.
    place.write("day.txt", text);
    let load = ["load-batch", "--format", "csv", "--null", "\\N", "day.txt"];
    done(&place, &load, 0);
    for against in ["day.txt", "copy.txt"] {
        std::fs::copy(place.path("day.txt"), place.path("copy.txt")).unwrap();
        done(&place, &["verify", "--against", against], 0);
    }
    // Of another file, nobody knows.
    place.write(
        "other.csv",
        "id,name,seen,price\n".to_string() + &csv(1, "a"),
    );
    let ran = verify(&place, &["--against", "other.csv"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("other.csv line 2"), "{}", ran.stderr);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 2");
    assert_class(&place, 1, "lost", "day.txt, line 3, was loaded");
}

#[test]
fn a_record_that_cannot_be_read_any_more_may_be_what_was_loaded() {
    let priced = item(1, "a", THEN).replace("\"seen\"", "\"price\":1.5,\"seen\"");
    let place = produced(&(priced + &item(2, "b", THEN)));
    let csv = |n: u64, name: &str, price: &str| format!("{n},{name},{THEN},{price}\n");
    let text = "id,name,seen,price\n".to_string() + &csv(1, "a", "1.5") + &csv(2, "b", "\\N");
    place.write("day.csv", text);
    done(&place, &["load-batch", "--null", "\\N", "day.csv"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 2");
    // An older version of rtp kept the path only.
    let path = place.path("day.csv").canonicalize().unwrap();
    let forget = format!("UPDATE rtp_loads SET inputs = '[\"{}\"]'", path.display());
    edit(&place, BATCH, &forget);
    let invalid = "line 3, has its key, but is not a valid record now";
    assert_class(&place, 1, "lost", invalid);

    done(&place, &["load-batch", "day.ndjson"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 2");
    assert_class(&place, 1, "lost", "day.ndjson, line 2, was loaded");
    let price = "name = \"price\"\n";
    assert!(ITEMS.contains(price));
    let strict = ITEMS.replace(price, &format!("{price}required = true\n"));
    place.write("items.toml", strict);
    assert_class(&place, 1, "lost", "day.ndjson, line 2, was loaded");
    // By the new rule, it is rejected when it is loaded again, which does not explain what became of its row.
    done(&place, &["load-batch", "--rejects", "bad", "day.ndjson"], 1);
    assert_class(&place, 1, "lost", "day.ndjson, line 2, was loaded");
    // A load that has not kept how many records it rejected may have rejected this one.
    let forget = "DELETE FROM rtp_loads WHERE rejects IS NOT NULL;
        UPDATE rtp_loads SET inputs = replace(inputs, ',\"rejected\":0', '')";
    edit(&place, BATCH, forget);
    let invalid = "day.ndjson, line 2, has its key, but is not a valid record now";
    assert_class(&place, 1, "lost", invalid);
}

#[test]
fn a_load_that_did_not_keep_its_newest_record_may_have_had_newer_ones() {
    let place = produced(&(items(2) + &item(7, "next day", THEN + 86_400_000)));
    place.write("first.ndjson", items(2));
    done(&place, &["load-batch", "first.ndjson"], 0);
    done(&place, &["load-batch", "day.ndjson"], 0);
    let forget =
        "UPDATE rtp_loads SET newest = NULL, inputs = NULL, started_at = NULL WHERE id = 2;
         DELETE FROM batch_items_rows WHERE id = 7";
    edit(&place, BATCH, forget);
    assert_class(&place, 1, "lost", "did not read files");
}

#[test]
fn a_load_of_nothing_has_lost_nothing() {
    let place = produced(&items(5));
    place.write("part.ndjson", items(4));
    done(&place, &["load-batch", "part.ndjson"], 0);
    done(&place, &["load-batch"], 0);
    assert_class(
        &place,
        0,
        "not_loaded_yet",
        "no file that was loaded has it",
    );
}

#[test]
fn a_version_of_the_same_time_was_loaded_only_if_its_values_were() {
    let rows = |name: &str| (0..8).map(|n| item(n, name, THEN)).collect::<String>();
    for csv in [true, false] {
        let place = produced(&rows("a"));
        let line = |n: u64| format!("{n},a,{THEN}\n");
        place.write(
            "all.csv",
            "id,name,seen\n".to_string() + &(0..8).map(line).collect::<String>(),
        );
        let loaded = if csv { "all.csv" } else { "day.ndjson" };
        done(&place, &["load-batch", loaded], 0);
        done(&place, &["verify"], 0);
        // Of two versions of one time, the one with the higher digest stays: some of these.
        place.write("others.ndjson", rows("b"));
        done(&place, &["produce", "others.ndjson"], 0);
        done(&place, &["stream", "--until-end"], 0);
        assert_class(&place, 0, "older_version", "");
    }
}

#[test]
fn a_file_without_a_good_record_hides_none_of_another_load() {
    let place = produced(&items(5));
    place.write("part.ndjson", items(4));
    place.write("bad.ndjson", "not json\n");
    let args = [
        "load-batch",
        "--rejects",
        "r.ndjson",
        "part.ndjson",
        "bad.ndjson",
    ];
    done(&place, &args, 1);
    let nowhere = "no file that was loaded has it";
    assert_class(&place, 0, "not_loaded_yet", nowhere);
}
