//! What a load has rejected, as `verify` and `explain` tell it.

use serde_json::Value;

use crate::common::Place;
use crate::verify::{BATCH, REALTIME, THEN, done, edit, item, only_class, verify, with_items};

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

#[test]
fn a_reject_is_no_reason_for_the_loss_of_another_version() {
    let later = THEN + 1_000;
    let place = with_items("");
    place.write("d1.ndjson", item(1, "a", THEN) + &bad(THEN));
    place.write("d2.ndjson", item(1, "a", later) + &item(2, "b", later));
    done(
        &place,
        &["load-batch", "--rejects", "r.ndjson", "d1.ndjson"],
        1,
    );
    done(&place, &["produce", "d2.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    let only = "in the real-time store, but not in the batch store".to_string();
    let expected = ("realtime_only".to_string(), only.clone());
    let new = format!("{only}: no load has had records as new as this one");
    assert_eq!(outcome(&place, 2, 0), (expected.0.clone(), new));
    done(&place, &["load-batch", "d2.ndjson"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 2");
    assert_eq!(only_class(&place, &[], 1).0, "lost");
    assert_eq!(outcome(&place, 2, 0), expected);
    // Nor of the same version, if another load has brought it.
    let place = rejected(
        &(item(1, "a", THEN) + &item(2, "b", THEN)),
        &[("bad.ndjson", (item(1, "a", THEN) + &bad(THEN)).as_bytes())],
    );
    let (_, text) = outcome(&place, 2, 0);
    assert!(
        text.contains(": rejected by load-batch at line 2: "),
        "{text}"
    );
    done(&place, &["load-batch", "day.ndjson"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 2");
    assert_eq!(only_class(&place, &[], 1).0, "lost");
    assert_eq!(outcome(&place, 2, 0), expected);
    // Both stores have lost what the stream has read.
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 2");
    let (state, text) = outcome(&place, 2, 0);
    assert_eq!(state, "read", "{text}");
}

#[test]
fn a_dead_letter_is_no_reason_for_the_loss_of_another_version() {
    let only = "in the batch store, but not in the real-time store";
    let place = with_items(&item(2, "b", THEN + 1_000));
    done(&place, &["load-batch", "day.ndjson"], 0);
    place.write("bad.ndjson", bad(THEN));
    done(&place, &["produce", "bad.ndjson"], 1);
    assert_eq!(outcome(&place, 2, 0), ("batch_only".into(), only.into()));
    place.write("bad.ndjson", bad(THEN + 1_000));
    done(&place, &["produce", "bad.ndjson"], 1);
    let (_, text) = outcome(&place, 2, 0);
    assert!(text.contains(": in the dead letters since "), "{text}");
    // An event of the version was read before that.
    let place = with_items(&item(2, "b", THEN));
    done(&place, &["load-batch", "day.ndjson"], 0);
    done(&place, &["produce", "day.ndjson"], 0);
    done(&place, &["stream", "--until-end"], 0);
    place.write("bad.ndjson", bad(THEN));
    done(&place, &["produce", "bad.ndjson"], 1);
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 2");
    assert_eq!(outcome(&place, 2, 0), ("batch_only".into(), only.into()));
}

#[test]
fn a_rejected_record_whose_key_cannot_be_read_decides_nothing() {
    let keyless =
        |n: u64| format!("{{\"id\":\"x{n}\",\"name\":\"7\",\"price\":42,\"seen\":{THEN}}}\n");
    let place = rejected(
        "",
        &[("bad.ndjson", (item(1, "a", THEN) + &keyless(0)).as_bytes())],
    );
    let told = explain(&place, 42, 1);
    assert_eq!(told["outcome"]["state"], "unknown", "{told}");
    let reject = &told["rejects"][0];
    assert_eq!(
        (&reject["line"], &reject["is_of_key"]),
        (&2.into(), &false.into())
    );
    let unsure = &explain(&place, 42, 1)["rejects"];
    assert_eq!(unsure.as_array().unwrap().len(), 1);
    // However many there are, the one of the key is told, and first.
    let many: String = (0..120).map(keyless).collect();
    let text = item(1, "a", THEN) + &many + &bad(THEN).replace("2,", "42,");
    let place = rejected("", &[("bad.ndjson", text.as_bytes())]);
    let told = explain(&place, 42, 0);
    assert_eq!(told["outcome"]["state"], "rejected", "{told}");
    let reject = &told["rejects"][0];
    assert_eq!(
        (&reject["line"], &reject["is_of_key"]),
        (&122.into(), &true.into())
    );
    let listed = told["rejects"].as_array().unwrap().len() as u64;
    assert_eq!(told["left_out"]["rejects"], 121 - listed, "{told}");
    assert!(listed > 1 && listed < 121, "{listed}");
    let shown = place
        .rtp(&["--dataset", "items.toml", "explain", "42"], b"")
        .stdout;
    let cut = format!(
        "reject        {} more lines, which are not shown",
        121 - listed
    );
    assert!(shown.contains(&cut), "{shown}");
}

#[test]
fn a_list_that_is_cut_says_so() {
    let place = with_items("");
    let many: String = (0..120).map(|n| bad(THEN + n)).collect();
    place.write("many.ndjson", many);
    done(&place, &["produce", "many.ndjson"], 1);
    let args = [
        "--dataset",
        "items.toml",
        "explain",
        "2",
        "--landing",
        "many.ndjson",
    ];
    let ran = place.rtp(&[&args[..], &["--format", "json"]].concat(), b"");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let expected = serde_json::json!({"dead_letters": 20, "landing": 20, "rejects": 0});
    assert_eq!(told["left_out"], expected, "{told}");
    for list in ["dead_letters", "landing"] {
        let listed = told[list].as_array().unwrap();
        assert_eq!(listed.len(), 100);
        let last = listed[99]["line"].as_u64();
        assert_eq!(last, Some(120), "{told}");
    }
    let shown = place.rtp(&args, b"").stdout;
    for cut in [
        "dead letter   20 earlier ones",
        "landing       20 more lines",
    ] {
        assert!(
            shown.contains(&format!("{cut}, which are not shown")),
            "{shown}"
        );
    }
}

/// File, line and number of loads of what `explain` tells of item 2 in landing files.
fn landed(place: &Place, more: &[&str]) -> Vec<(String, u64, usize)> {
    let args = [
        "--dataset",
        "items.toml",
        "explain",
        "2",
        "--format",
        "json",
    ];
    let ran = place.rtp(&[&args, more].concat(), b"");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let lines = told["landing"].as_array().unwrap().iter();
    let line = |line: &Value| {
        let file = line["file"].as_str().unwrap().rsplit_once('/');
        let file = file.map_or(line["file"].as_str().unwrap(), |(_, name)| name);
        let loads = line["loads"].as_array().unwrap().len();
        (file.to_string(), line["line"].as_u64().unwrap(), loads)
    };
    lines.map(line).collect()
}

#[test]
fn a_line_of_a_landing_file_is_told_once_however_often_and_by_whatever_path_it_was_loaded() {
    let place = with_items("");
    place.write("a.csv", format!("id,name,seen\n2,b,{THEN}\n"));
    for null in ["", "none"] {
        done(&place, &["load-batch", "--null", null, "a.csv"], 0);
    }
    assert_eq!(landed(&place, &[]), [("a.csv".into(), 2, 2)]);
    // One load has read null there, and the other one a text: these are two records.
    place.write("a.csv", format!("id,price,seen\n2,none,{THEN}\n"));
    done(&place, &["load-batch", "--null", "none", "a.csv"], 0);
    let args = [
        "load-batch",
        "--rejects",
        "r.ndjson",
        "--max-rejects",
        "9",
        "a.csv",
        "day.ndjson",
    ];
    place.write("day.ndjson", item(1, "a", THEN));
    done(&place, &args, 1);
    let each = ("a.csv".to_string(), 2, 1);
    assert_eq!(landed(&place, &[]), [each.clone(), each]);

    let place = with_items("");
    std::fs::create_dir(place.path("real")).unwrap();
    std::os::unix::fs::symlink(place.path("real"), place.path("link")).unwrap();
    place.write("real/b.ndjson", item(2, "b", THEN));
    done(&place, &["load-batch", "link/b.ndjson"], 0);
    let once = |loads| [("b.ndjson".to_string(), 1, loads)];
    assert_eq!(landed(&place, &[]), once(1));
    for named in ["real/b.ndjson", "link/b.ndjson"] {
        assert_eq!(landed(&place, &["--landing", named]), once(1));
    }
    done(&place, &["load-batch", "real/b.ndjson"], 0);
    assert_eq!(landed(&place, &[]), once(2));
    let both = ["--landing", "real/b.ndjson", "--landing", "link/b.ndjson"];
    assert_eq!(landed(&place, &both), once(2));
}

#[test]
fn a_file_of_an_older_rtp_is_that_loads_only_if_it_is_older_than_the_load() {
    let place = with_items(&item(2, "b", THEN));
    done(&place, &["load-batch", "day.ndjson"], 0);
    let path = place.path("day.ndjson").display().to_string();
    let forget = format!("UPDATE rtp_loads SET inputs = '[\"{path}\"]'");
    edit(&place, BATCH, &forget);
    assert_eq!(landed(&place, &[]), [("day.ndjson".into(), 1, 1)]);
    let file = std::fs::File::options()
        .append(true)
        .open(place.path("day.ndjson"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3_600);
    file.unwrap().set_modified(later).unwrap();
    assert_eq!(landed(&place, &[]), []);
}

#[test]
fn an_empty_load_leaves_what_an_earlier_one_has_rejected() {
    let bad = format!("{{\"id\":1,\"name\":7,\"seen\":{THEN}}}\n");
    let text = item(2, "b", THEN) + &bad;
    let events = item(1, "a", THEN) + &item(2, "b", THEN);
    let place = rejected(&events, &[("bad.ndjson", text.as_bytes())]);
    place.write("empty.ndjson", "");
    let load = ["load-batch", "--rejects", "r.ndjson", "empty.ndjson"];
    done(&place, &load, 0);
    let (class, why) = only_class(&place, &[], 0);
    assert_eq!(class, "rejected", "{why}");
    assert_eq!(explain(&place, 1, 0)["rejects"][0]["line"], 2);
}

#[test]
fn another_input_of_the_load_that_is_gone_may_have_had_what_was_rejected() {
    let bad = format!("{{\"id\":1,\"name\":7,\"seen\":{THEN}}}\n");
    let good = item(1, "a", THEN) + &item(2, "b", THEN);
    let files = [
        ("bad.ndjson", bad.as_bytes()),
        ("good.ndjson", good.as_bytes()),
    ];
    let place = rejected(&good, &files);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    assert_eq!(only_class(&place, &[], 1).0, "lost");
    std::fs::remove_file(place.path("good.ndjson")).unwrap();
    let (class, why) = only_class(&place, &[], 1);
    assert!(
        class == "lost" && why.contains("perhaps rejected"),
        "{class}: {why}"
    );
}

#[test]
fn a_reject_is_only_perhaps_the_reason_while_another_load_is_not_known() {
    let bad = format!("{{\"id\":1,\"name\":7,\"seen\":{THEN}}}\n");
    let events = item(1, "a", THEN) + &item(2, "b", THEN);
    let text = item(2, "b", THEN) + &bad;
    let place = rejected(&events, &[("bad.ndjson", text.as_bytes())]);
    let told = |place: &Place| explain(place, 1, 0)["outcome"]["text"].to_string();
    assert!(
        told(&place).contains(": rejected by load-batch"),
        "{}",
        told(&place)
    );
    let piped = item(1, "a", THEN);
    let load = ["--dataset", "items.toml", "load-batch"];
    assert_eq!(place.rtp(&load, piped.as_bytes()).status, 0);
    done(&place, &["verify"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    assert!(
        told(&place).contains(": perhaps rejected by load-batch"),
        "{}",
        told(&place)
    );
}

#[test]
fn what_was_refused_is_no_answer_once_the_record_was_loaded_or_read() {
    let bad = format!("{{\"id\":1,\"name\":7,\"seen\":{THEN}}}\n");
    let other = item(2, "b", THEN);
    // It is among the dead letters; a newer one was loaded, and is lost.
    let place = with_items(&(other.clone() + &bad));
    place.write("new.ndjson", item(1, "a", THEN + 5_000));
    done(&place, &["produce", "day.ndjson"], 1);
    assert_eq!(explain(&place, 1, 0)["outcome"]["state"], "dead_letter");
    done(&place, &["load-batch", "new.ndjson"], 0);
    edit(&place, BATCH, "DELETE FROM batch_items_rows WHERE id = 1");
    assert_eq!(explain(&place, 1, 0)["outcome"]["state"], "landed");
    // A load has rejected it; the stream has read it, and it is lost.
    let events = item(1, "a", THEN) + &other;
    let text = other + &bad;
    let place = rejected(&events, &[("bad.ndjson", text.as_bytes())]);
    edit(&place, REALTIME, "DELETE FROM items_rows WHERE id = 1");
    assert_eq!(explain(&place, 1, 0)["outcome"]["state"], "read");
}
