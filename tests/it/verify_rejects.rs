//! What a load has rejected, as `verify` and `explain` tell it.

use serde_json::Value;

use crate::common::Place;
use crate::verify::{BATCH, THEN, done, edit, item, only_class, verify, with_items};

/// A place where these events were streamed, and these files were loaded, of which some records were rejected.
fn rejected(events: &str, files: &[(&str, &[u8])]) -> Place {
    let place = with_items(events);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    for (name, text) in files {
        place.write(name, text);
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let load = [&["load-batch", "--rejects", "r.ndjson"][..], &names].concat();
    done(&place, &load, 1);
    place
}

fn explain(place: &Place, key: u64, status: i32) -> Value {
    let key = key.to_string();
    let args = [
        "--dataset",
        "items.toml",
        "explain",
        &key,
        "--format",
        "json",
    ];
    let ran = place.rtp(&args, b"");
    assert_eq!(ran.status, status, "{}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_record_in_another_encoding_was_rejected_by_the_load_that_rejected_it() {
    let others = item(1, "a", THEN);
    let events = others.clone() + &item(2, "José", THEN);
    let head = format!("seen,name,id\n{THEN},a,1\n{THEN},");
    let csv = [head.as_bytes(), b"Jos\xe9,2\n"].concat();
    let json = item(2, "Jos", THEN).replacen("Jos", "Jos\u{1}", 1);
    let json = json.into_bytes().into_iter();
    let json: Vec<u8> = json.map(|b| if b == 1 { 0xe9 } else { b }).collect();
    let json = [others.as_bytes(), &json].concat();
    for (name, text, line) in [("bad.csv", csv, 3), ("bad.ndjson", json, 2)] {
        let place = rejected(&events, &[(name, &text)]);
        let (class, why) = only_class(&place, &[], 0);
        assert_eq!(class, "rejected", "{why}");
        let place_told = format!("/{name}, invalid_utf8: invalid UTF-8 at byte ");
        assert!(why.contains(&place_told), "{why}");
        let told = explain(&place, 2, 0);
        let reject = &told["rejects"][0];
        assert_eq!(
            (&reject["line"], &reject["rule"]),
            (&line.into(), &"invalid_utf8".into())
        );
        let landed = &told["landing"][0];
        assert_eq!(landed["line"], line, "{told}");
        let invalid = landed["invalid"].as_str().unwrap();
        assert!(invalid.contains("invalid_utf8"), "{invalid}");
        assert_eq!(explain(&place, 1, 0)["rejects"], Value::Array(Vec::new()));
    }
}

#[test]
fn a_rejected_record_is_that_of_the_key_by_the_header_of_its_own_file() {
    let events = item(1, "a", THEN) + &item(2, "b", THEN) + &item(7, "c", THEN);
    let a = format!("id,price,seen,sold\n1,1.5,{THEN},false\n");
    // By the first header, it would be a record of 7.
    let b = format!("price,id,seen,sold\n7,2,{THEN},maybe\n0.5,1,{THEN},false\n");
    let place = rejected(&events, &[("a.csv", a.as_bytes()), ("b.csv", b.as_bytes())]);
    let list = |place: &Place| {
        let list = verify(place, &["--output", "-"]).stdout;
        let lines = list.lines().map(|line| serde_json::from_str(line).unwrap());
        let told = |line: Value| (line["key"].as_u64().unwrap(), line["class"].to_string());
        let mut told: Vec<(u64, String)> = lines.map(told).filter(|(key, _)| *key != 1).collect();
        told.sort();
        (told, list)
    };
    let (told, all) = list(&place);
    let of = |key: u64, class: &str| (key, format!("\"{class}\""));
    assert_eq!(told, [of(2, "rejected"), of(7, "not_loaded_yet")], "{all}");
    assert!(
        all.contains("line 2 of /") && all.contains("/b.csv, type: "),
        "{all}"
    );
    let reject = &explain(&place, 2, 0)["rejects"][0];
    let input = reject["input"].as_str().unwrap();
    assert!(reject["line"] == 2 && input.ends_with("/b.csv"), "{reject}");
    assert_eq!(explain(&place, 7, 0)["rejects"], Value::Array(Vec::new()));
    // An older version did not keep in which file the record was.
    let lines = std::fs::read_to_string(place.path("r.ndjson")).unwrap();
    place.write("r.ndjson", lines.replace("\"input\"", "\"other\""));
    let (told, all) = list(&place);
    assert_ne!(told[0], of(2, "rejected"), "{all}");
    let perhaps = |line: &&str| line.contains("perhaps rejected, see ");
    let of_others = all.lines().filter(|line| !line.contains("\"key\":1,"));
    assert_eq!(of_others.filter(perhaps).count(), 2, "{all}");
}

#[test]
fn a_large_record_that_was_rejected_is_told_and_hides_no_other() {
    let quotes = "\\\"".repeat(450_000);
    let events = item(1, "a", THEN) + &item(2, "b", THEN) + &item(3, "c", THEN);
    let bad = |id: u64, note: &str| {
        format!("{{\"id\":{id},\"name\":7,\"note\":\"{note}\",\"seen\":{THEN}}}\n")
    };
    let text = item(1, "a", THEN) + &bad(2, &quotes) + &bad(3, "");
    let place = rejected(&events, &[("bad.ndjson", text.as_bytes())]);
    assert!(std::fs::metadata(place.path("r.ndjson")).unwrap().len() > 1 << 20);
    let ran = verify(&place, &["--format", "json"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut classes = found["classes"].as_array().unwrap().iter();
    let rejected = classes.find(|class| class["name"] == "rejected").unwrap();
    assert_eq!(rejected["count"], 2, "{found}");
    for (key, line) in [(2, 2), (3, 3)] {
        assert_eq!(explain(&place, key, 0)["rejects"][0]["line"], line);
    }
    // A line that somebody else wrote: what can be read is told, and that not all could be.
    let lines = std::fs::read_to_string(place.path("r.ndjson")).unwrap();
    let broken = format!("{{ 3\n{lines}");
    place.write("r.ndjson", broken);
    let args = [
        "--dataset",
        "items.toml",
        "explain",
        "3",
        "--format",
        "json",
    ];
    let ran = place.rtp(&args, b"");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["rejects"][0]["line"], 3, "{told}");
    let trouble = told["troubles"][0].to_string();
    assert!(
        trouble.contains("r.ndjson line 1 is not as load-batch writes it"),
        "{trouble}"
    );
    assert_eq!(ran.status, 5, "{told}");
}

/// A record of item 2 that no dataset rule lets in.
fn bad(seen: u64) -> String {
    format!("{{\"id\":2,\"name\":7,\"seen\":{seen}}}\n")
}

/// The state of an answer, and its first line.
fn outcome(place: &Place, key: u64, status: i32) -> (String, String) {
    let told = explain(place, key, status);
    let text = |name: &str| told["outcome"][name].as_str().unwrap().to_string();
    (text("state"), text("text"))
}

#[test]
fn what_a_later_run_has_rejected_was_not_rejected_by_the_load() {
    let good = item(1, "a", THEN) + &item(2, "b", THEN);
    // The tasks of a day all have the same run id.
    for ids in [["a", "b"], ["day", "day"]] {
        let place = with_items(&good);
        done(&place, &["produce", "day.ndjson"], 0);
        done(&place, &["stream", "--until-end"], 0);
        let ninth = bad(THEN).replace("2,", "9,");
        place.write("day.ndjson", good.clone() + &ninth);
        let load = ["load-batch", "--rejects", "r.ndjson", "day.ndjson"];
        done(&place, &[&load[..], &["--run-id", ids[0]]].concat(), 1);
        assert_eq!(explain(&place, 9, 0)["rejects"][0]["run_id"], ids[0]);
        edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 2");
        place.write("day.ndjson", item(1, "a", THEN) + &bad(THEN));
        let again = ["--mode", "insert", "--run-id", ids[1]];
        done(&place, &[&load[..], &again].concat(), 3);
        let (class, why) = only_class(&place, &[], 1);
        assert_eq!(class, "lost", "{why}");
        let told = explain(&place, 2, 0);
        assert_eq!(told["rejects"], Value::Array(Vec::new()), "{told}");
        let (state, text) = outcome(&place, 2, 0);
        assert!(
            state == "realtime_only" && !text.contains("rejected"),
            "{state}: {text}"
        );
    }
}

#[test]
fn a_reject_file_that_does_not_say_whose_it_is_is_judged_by_its_time() {
    let events = item(1, "a", THEN) + &item(2, "b", THEN);
    let text = item(1, "a", THEN) + &bad(THEN);
    let place = rejected(&events, &[("bad.ndjson", text.as_bytes())]);
    let lines = std::fs::read_to_string(place.path("r.ndjson")).unwrap();
    let mut line: Value = serde_json::from_str(&lines).unwrap();
    let fields = line.as_object_mut().unwrap();
    for name in ["run_id", "started_at"] {
        assert!(fields.remove(name).is_some(), "{lines}");
    }
    place.write("r.ndjson", format!("{line}\n"));
    assert_eq!(only_class(&place, &[], 0).0, "rejected");
    assert_eq!(explain(&place, 2, 0)["rejects"][0]["line"], 2);
    let file = std::fs::File::options();
    let file = file.clone().append(true).open(place.path("r.ndjson"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3_600);
    file.unwrap().set_modified(later).unwrap();
    assert_eq!(only_class(&place, &[], 1).0, "lost");
    assert_eq!(explain(&place, 2, 0)["rejects"], Value::Array(Vec::new()));
}
