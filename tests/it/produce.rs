//! `rtp produce` on the embedded log.

use crate::common::{Place, complete, eventually, hold_state, pages, user, users};

#[test]
fn every_line_is_acknowledged_and_kept_byte_for_byte() {
    let place = Place::ready();
    let input = users(5_000);
    let ran = place.rtp(&["produce"], input.as_bytes());
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [5_000, 5_000, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.is_empty());
    assert_eq!(
        place.query(".rtp/log.db", "SELECT count(DISTINCT key) FROM user_events"),
        "5000"
    );
    assert_eq!(
        place.query(
            ".rtp/log.db",
            "SELECT count(DISTINCT partition) FROM user_events"
        ),
        "3"
    );
    assert_eq!(
        place.query(
            ".rtp/log.db",
            "SELECT sum(length(value)) + 5000 FROM user_events"
        ),
        { input.chars().count().to_string() }
    );
    let gaps = "SELECT sum(n - top - 1) FROM (SELECT count(*) n, max(offset) top FROM user_events GROUP BY partition)";
    assert_eq!(place.query(".rtp/log.db", gaps), "0");
}

#[test]
fn bad_lines_become_dead_letters_with_their_reason() {
    let place = Place::ready();
    let input = format!(
        "{}\n{{\"id\":1}}\n\nnull\n{}",
        user(1, 0, "a"),
        user(2, 0, "b")
    );
    let ran = place.rtp(&["produce"], input.as_bytes());
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [5, 2, 2, 0, 1]),
        "{}",
        ran.stderr
    );
    let dlq = |what: &str| {
        place.query(
            ".rtp/log.db",
            &format!("SELECT {what} FROM events_2_0 ORDER BY offset LIMIT 1"),
        )
    };
    assert_eq!(dlq("value"), "{\"id\":1}");
    let headers = dlq("headers");
    for text in [
        "rtp.rule",
        "type",
        "rtp.field",
        "id",
        "rtp.line",
        "__connect.errors.stage",
        "produce",
    ] {
        assert!(headers.contains(text), "{text} in {headers}");
    }
}

#[test]
fn rejects_go_to_a_file_and_a_budget_stops() {
    let place = Place::ready();
    let input = b"{\"id\":1}\n{\"x\":\"\xff\"}\n";
    let ran = place.rtp(&["produce", "--rejects", "bad.ndjson"], input);
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [2, 0, 2, 0, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(
        place.query(".rtp/log.db", "SELECT count(*) FROM events_2_0"),
        "0"
    );
    let file = std::fs::read_to_string(place.path("bad.ndjson")).unwrap();
    let lines: Vec<serde_json::Value> = file
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0]["raw"], "{\"id\":1}");
    assert_eq!(
        (&lines[0]["line"], &lines[0]["field"]),
        (&1.into(), &"id".into())
    );
    assert_eq!(lines[1]["raw_base64"], "eyJ4Ijoi/yJ9");
    assert_eq!(
        (&lines[1]["offset"], &lines[1]["rule"]),
        (&9.into(), &"invalid_utf8".into())
    );
    let ran = place.rtp(&["produce", "--max-rejects", "1"], input);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
}

#[test]
fn a_short_or_empty_input_never_passes_for_a_complete_one() {
    let place = Place::ready();
    let ran = place.rtp(&["produce", "--require-complete"], users(3).as_bytes());
    assert_eq!(ran.status, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("does not end with a trailer"));
    let ran = place.rtp(&["produce"], b"\n");
    assert_eq!((ran.status, ran.counts()), (0, [1, 0, 0, 0, 1]));
    assert!(ran.stderr.contains("there are no records"));
    assert_eq!(place.rtp(&["produce", "--require-records"], b"").status, 1);
}

#[test]
fn a_missing_topic_or_file_ends_2_with_a_hint() {
    let place = Place::new();
    let ran = place.rtp(&["produce"], b"");
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("run `rtp init` first"),
        "{}",
        ran.stderr
    );
    let place = Place::ready();
    let ran = place.rtp(&["produce", "none.ndjson"], b"");
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("cannot read none.ndjson"),
        "{}",
        ran.stderr
    );
}

#[test]
fn several_processes_append_to_one_file() {
    let place = Place::ready();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(place.rtp(&["produce"], users(2_000).as_bytes()).status, 0));
        }
    });
    assert_eq!(
        place.query(".rtp/log.db", "SELECT count(*) FROM user_events"),
        "8000"
    );
}

#[test]
fn a_bookmark_is_saved_once_the_records_before_it_are_durable() {
    let place = Place::ready();
    let state = || std::fs::read_to_string(place.path("state.json")).ok();
    let produce = |more: &[&str], input: &str| {
        let args = [&["produce", "--commit-state", "state.json"], more].concat();
        place.rtp(&args, input.as_bytes())
    };
    let ran = produce(&[], &users(2));
    assert_eq!((ran.status, state()), (0, None));
    assert!(ran.stderr.contains("no bookmark came"), "{}", ran.stderr);
    let (one, two) = (r#"{"next":2}"#, r#"{"next":3}"#);
    let input = pages(&[(&users(3), one), (&users(2), two)]) + &users(1);
    let ran = produce(&[], &input);
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [8, 6, 0, 0, 2]),
        "{}",
        ran.stderr
    );
    assert_eq!(state(), Some(format!("{two}\n")));
    let bad = pages(&[("{}\n", one)]);
    assert_eq!(produce(&["--max-rejects", "0"], &bad).status, 3);
    assert_eq!(state(), Some(format!("{two}\n")));
    assert_eq!(produce(&["--rejects", "bad"], &bad).status, 1);
    assert_eq!(state(), Some(format!("{one}\n")));
    let held = hold_state(&place);
    let ran = produce(&[], &users(1));
    assert_eq!((ran.status, ran.counts()), (4, [0; 5]));
    assert!(
        ran.stderr.contains("state.json is in use"),
        "{}",
        ran.stderr
    );
    drop(held);
}

#[test]
fn a_last_record_cut_short_is_a_dead_letter_and_missing_data() {
    let place = Place::ready();
    place.write("cut.ndjson", users(2) + "{\"id\":\"0000");
    let ran = place.rtp(&["produce", "cut.ndjson"], b"");
    assert_eq!(
        (ran.status, ran.counts()),
        (5, [3, 2, 1, 0, 0]),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("cut short: cut.ndjson line 3"),
        "{}",
        ran.stderr
    );
    let letter = place.query(".rtp/log.db", "SELECT value FROM events_2_0");
    assert_eq!(letter, "{\"id\":\"0000");
    let ran = place.rtp(&["produce"], user(1, 0, "whole").as_bytes());
    assert_eq!((ran.status, ran.counts()), (0, [1, 1, 0, 0, 0]));
}

#[test]
fn a_signal_ends_it_while_it_waits_for_input() {
    let place = Place::ready();
    let mut running = place.start(&["produce"]);
    running.write(users(10).as_bytes());
    let count = "SELECT count(*) FROM user_events";
    eventually("ten events", || place.query(".rtp/log.db", count) == "10");
    running.signal("TERM");
    let ran = running.end();
    assert_eq!(
        (ran.status, ran.counts()),
        (143, [10, 10, 0, 0, 0]),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_kill_leaves_whole_chunks_and_the_log_goes_on() {
    let place = Place::ready();
    let mut running = place.start(&["produce"]);
    let lines = users(20_000);
    running.write(lines.as_bytes());
    let count = "SELECT count(*) FROM user_events";
    eventually("an event", || place.query(".rtp/log.db", count) != "0");
    running.signal("KILL");
    assert_eq!(running.end().status, -1);
    let kept: u64 = place.query(".rtp/log.db", count).parse().unwrap();
    // What is kept is the start of the input, without gaps.
    let highest = format!(
        "SELECT max(key) = '00000000-0000-4000-8000-{:012}' FROM user_events",
        kept - 1
    );
    assert_eq!(place.query(".rtp/log.db", &highest), "1");
    assert_eq!(
        place.rtp(&["produce"], lines.as_bytes()).counts(),
        [20_000, 20_000, 0, 0, 0]
    );
    assert_eq!(
        place.query(".rtp/log.db", count),
        (kept + 20_000).to_string()
    );
    let gaps = "SELECT sum(n - top - 1) FROM (SELECT count(*) n, max(offset) top FROM user_events GROUP BY partition)";
    assert_eq!(place.query(".rtp/log.db", gaps), "0");
    assert_eq!(place.query(".rtp/log.db", "PRAGMA integrity_check"), "ok");
}

#[test]
fn a_budget_keeps_the_chunks_before_it_is_exceeded() {
    let place = Place::ready();
    let input = users(50_000) + &"{}\n".repeat(20_000) + &users(50_000);
    let ran = place.rtp(
        &["produce", "--max-rejects", "100", "--rejects", "bad"],
        input.as_bytes(),
    );
    let [read, written, rejected, ..] = ran.counts();
    assert_eq!((ran.status, written), (3, 50_000), "{}", ran.stderr);
    assert!(rejected > 100 && read < 120_000, "{}", ran.stderr);
    let lines = std::fs::read_to_string(place.path("bad"))
        .unwrap()
        .lines()
        .count();
    assert_eq!(lines as u64, rejected);
    assert_eq!(
        place.query(".rtp/log.db", "SELECT count(*) FROM user_events"),
        "50000"
    );
}

#[test]
fn a_bookmark_without_records_is_not_saved_if_there_must_be_some() {
    let place = Place::ready();
    let state = || std::fs::read_to_string(place.path("state.json")).ok();
    let produce = |more: &[&str], input: &str| {
        let args = ["produce", "--commit-state", "state.json"];
        place.rtp(&[&args, more].concat(), input.as_bytes())
    };
    let none = pages(&[("", "{\"next\":2}")]);
    let ran = produce(&["--require-records"], &none);
    assert_eq!((ran.status, state()), (1, None), "{}", ran.stderr);
    assert!(!ran.stderr.contains("no bookmark"), "{}", ran.stderr);
    // A page without records before one with some.
    let some = pages(&[("", "{\"next\":2}"), (&users(2), "{\"next\":3}")]);
    let ran = produce(&["--require-records"], &some);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(state().as_deref(), Some("{\"next\":3}\n"));
    let ran = produce(&[], &none);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(state().as_deref(), Some("{\"next\":2}\n"));
}

#[test]
fn a_trailer_speaks_for_its_own_file() {
    let place = Place::ready();
    place.write("whole", users(3));
    place.write("ended", complete(&users(2)));
    place.write("empty", "");
    for (files, status) in [
        (&["whole", "ended"][..], 0),
        (&["--require-complete", "whole", "ended"], 5),
        (&["--require-complete", "ended", "empty"], 5),
        (&["--require-complete", "empty", "ended"], 5),
        (&["--require-complete", "ended", "ended"], 0),
    ] {
        let ran = place.rtp(&[&["produce"], files].concat(), b"");
        assert_eq!(ran.status, status, "{files:?}: {}", ran.stderr);
    }
}

#[test]
fn an_older_reject_file_stays_until_something_was_read() {
    let place = Place::ready();
    place.rtp(&["produce", "--rejects", "bad"], b"not json\n");
    let before = std::fs::read_to_string(place.path("bad")).unwrap();
    assert!(before.contains("not json"));
    let nobody = ["--event-log", "kafka://127.0.0.1:1", "--max-outage", "0"];
    let produce = ["produce", "--rejects", "bad"];
    for (more, status) in [(&nobody[..], 4), (&["nothere.ndjson"], 2)] {
        let ran = place.rtp(&[&produce, more].concat(), b"");
        assert_eq!(ran.status, status, "{more:?}: {}", ran.stderr);
        let after = std::fs::read_to_string(place.path("bad")).unwrap();
        assert_eq!(after, before, "{more:?}");
    }
    assert_eq!(place.rtp(&produce, users(1).as_bytes()).status, 0);
    assert_eq!(std::fs::read_to_string(place.path("bad")).unwrap(), "");
}

#[test]
fn two_runs_do_not_write_one_reject_file() {
    let place = Place::ready();
    let count = "SELECT count(*) FROM user_events";
    let produce = ["produce", "--rejects", "bad"];
    let in_use = || {
        let ran = place.rtp(&produce, b"{\"id\":2}\n");
        assert_eq!((ran.status, ran.counts()), (4, [0; 5]), "{}", ran.stderr);
        assert!(ran.stderr.contains("bad is in use"), "{}", ran.stderr);
    };
    // The file is new, and then it is an older one that the first bad record replaces.
    for already in 0..2 {
        let mut first = place.start(&produce);
        first.write(user(already, 0, "a").as_bytes());
        first.write(b"\n");
        let arrived = (already + 1).to_string();
        eventually("an event", || place.query(".rtp/log.db", count) == arrived);
        in_use();
        first.write(format!("{{\"id\":\"of run {already}\"}}\n").as_bytes());
        let written = || std::fs::read_to_string(place.path("bad")).unwrap();
        first.close_input();
        assert_eq!(first.end().status, 1);
        assert!(
            written().contains(&format!("of run {already}")),
            "{}",
            written()
        );
        assert_eq!(written().lines().count(), 1);
    }
}

#[test]
fn an_input_in_another_format_is_refused_before_anything_is_sent() {
    let place = Place::ready();
    place.write("good", users(2));
    place.write(
        "array.json",
        format!("[{},{}]", user(1, 0, "a"), user(2, 0, "b")),
    );
    place.write("pretty.json", "{\n \"id\": \"1\",\n \"email\": \"a\"\n}");
    place.write(
        "passwd",
        "root:x:0:0::/root:/bin/sh\nbin:x:1:1::/:/bin/false\n",
    );
    place.write("a.xz", b"\xfd7zXZ\0\0\x04\xe6");
    place.write("a.bz2", b"BZh91AY&SY");
    place.write("a.zip", b"PK\x03\x04\x14\0\0\0");
    std::fs::create_dir(place.path("folder")).unwrap();
    for (name, says) in [
        ("array.json", "jq -c '.[]'"),
        ("pretty.json", "jq -c"),
        ("passwd", "none of its first lines is a JSON object"),
        ("a.xz", "xzcat"),
        ("a.bz2", "bzcat"),
        ("a.zip", "unzip"),
        ("folder", "it is a folder"),
        ("none", "cannot read none"),
    ] {
        for command in ["produce", "load-batch", "transform"] {
            let ran = place.rtp(&[command, "good", name], b"");
            let what = format!("{command} {name}: {}", ran.stderr);
            assert_eq!((ran.status, ran.counts()), (2, [0; 5]), "{what}");
            assert!(ran.stderr.contains(says), "{what}");
            assert!(ran.stdout.is_empty(), "{what}");
        }
        let script = format!("rtp produce < {name}");
        // What is no file at all, the shell cannot open.
        let status = if name == "none" { 1 } else { 2 };
        assert_eq!(place.bash(&script).status, status, "{script}");
    }
    let ran = place.bash("rtp produce < folder");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let ran = place.bash("cat array.json | rtp produce");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    for table in ["user_events", "events_2_0"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(place.query(".rtp/log.db", &count), "0", "{table}");
    }
    // One bad record is no other format.
    place.write("bad", "not json");
    let ran = place.rtp(&["produce", "bad"], b"");
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [1, 0, 1, 0, 0]),
        "{}",
        ran.stderr
    );
}

#[test]
fn no_file_is_named_twice_if_one_of_the_names_overwrites_it() {
    let place = Place::ready();
    let dataset = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/schema/users.toml")).unwrap();
    place.write("d.toml", &dataset);
    place.write("in", users(1) + "bad\n");
    std::fs::hard_link(place.path("in"), place.path("hard")).unwrap();
    std::os::unix::fs::symlink("in", place.path("soft")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("elsewhere")).unwrap();
    let before = std::fs::read(place.path("in")).unwrap();
    for (arguments, says) in [
        (
            "produce --rejects in in",
            "--rejects in is the same file as the input in",
        ),
        ("load-batch --rejects in in", "the input in"),
        ("produce --rejects hard in", "the same file"),
        ("produce --rejects in soft", "the same file"),
        ("produce --rejects ./in < in", "standard input"),
        ("load-batch --commit-state in in", "--commit-state in"),
        (
            "produce --rejects new --commit-state new in",
            "--rejects new",
        ),
        (
            "produce --rejects new --metrics-file ./new in",
            "--metrics-file",
        ),
        ("produce --metrics-file in in", "--metrics-file in"),
        (
            "produce --dataset d.toml --rejects d.toml in",
            "--dataset d.toml",
        ),
        (
            "produce --rejects .rtp/log.db in",
            "the event log .rtp/log.db",
        ),
        (
            "load-batch --rejects .rtp/./batch.db in",
            "the batch store .rtp/batch.db",
        ),
        ("produce --rejects .rtp/batch.db in", "an SQLite database"),
        (
            "produce --event-log sqlite:new --rejects new in",
            "the event log new",
        ),
        (
            "produce --rejects .rtp/log.db-wal in",
            "belongs to the SQLite database .rtp/log.db",
        ),
        (
            "produce --commit-state .rtp in",
            "--commit-state .rtp is a folder",
        ),
        ("produce --rejects .rtp in", "--rejects .rtp is a folder"),
        ("fetch --state .rtp", "--state .rtp is a folder"),
        ("produce --metrics-file .rtp in", "is a folder"),
        (
            "produce --commit-state soft in",
            "--commit-state soft is the same file",
        ),
        ("produce --commit-state elsewhere in", "is a symbolic link"),
        ("fetch --out some --state elsewhere", "is a symbolic link"),
        ("fetch --out new --state new", "--state new"),
        ("fetch --out .rtp/batch.db", "an SQLite database"),
        ("transform in >> in", "standard output"),
    ] {
        let ran = place.bash(&format!("rtp {arguments}"));
        assert_eq!(ran.status, 2, "{arguments}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{arguments}: {}", ran.stderr);
        assert_eq!(
            std::fs::read(place.path("in")).unwrap(),
            before,
            "{arguments}"
        );
        assert_eq!(
            std::fs::read(place.path("d.toml")).unwrap(),
            dataset,
            "{arguments}"
        );
        assert!(!place.path("new").exists(), "{arguments}");
    }
    let count = "SELECT count(*) FROM user_events";
    assert_eq!(place.query(".rtp/log.db", count), "0");
}

#[test]
fn a_reject_file_is_private_and_never_behind_a_link() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let place = Place::ready();
    place.write("other", "precious");
    std::os::unix::fs::symlink("other", place.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("dangling")).unwrap();
    for link in ["link", "dangling"] {
        let ran = place.rtp(&["produce", "--rejects", link], b"{}\n");
        assert_eq!((ran.status, ran.counts()), (2, [0; 5]), "{}", ran.stderr);
        assert!(ran.stderr.contains("is a symbolic link"), "{}", ran.stderr);
    }
    assert_eq!(
        std::fs::read_to_string(place.path("other")).unwrap(),
        "precious"
    );
    assert!(!place.path("nowhere").exists());

    place.write("bad", "");
    for (before, after, is_told) in [(0o644, 0o600, true), (0o640, 0o640, false)] {
        let access = std::fs::Permissions::from_mode(before);
        std::fs::set_permissions(place.path("bad"), access).unwrap();
        let ran = place.rtp(&["produce", "--rejects", "bad"], b"{}\n");
        assert_eq!((ran.status, mode(&place.path("bad"))), (1, after));
        let is_said = ran.stderr.contains("bad was open to everybody");
        assert_eq!(is_said, is_told, "{}", ran.stderr);
    }
    let ran = place.bash("umask 022; echo '{}' | rtp produce --rejects fresh");
    assert_eq!((ran.status, mode(&place.path("fresh"))), (1, 0o600));
    // A landing file is replaced by a private one.
    let page = place.path("page.json");
    place.write("page.json", "{\"results\":[]}");
    place.write("all", "");
    std::fs::set_permissions(place.path("all"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let script = format!("rtp fetch --api file://{} --out all", page.display());
    let ran = place.bash(&script);
    assert_eq!(
        (ran.status, mode(&place.path("all"))),
        (0, 0o600),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_store_in_an_existing_folder_is_not_open_to_everybody() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::create_dir(place.path(".rtp")).unwrap();
    let ran = place.bash("umask 022; rtp init");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for file in std::fs::read_dir(place.path(".rtp")).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.path().display());
    }
}

#[test]
fn rejects_go_into_a_pipe() {
    let place = Place::ready();
    place.write("in", users(1) + "{}\nbad\n");
    for command in ["produce", "load-batch"] {
        let ran = place.bash(&format!("rtp {command} --rejects /dev/stdout in"));
        assert_eq!(ran.status, 1, "{command}: {}", ran.stderr);
        assert_eq!(ran.stdout.lines().count(), 2, "{command}: {}", ran.stdout);
        let ran = place.bash(&format!("rtp {command} --rejects >(cat) in | cat"));
        assert_eq!(ran.status, 1, "{command}: {}", ran.stderr);
        assert_eq!(ran.stdout.lines().count(), 2, "{command}: {}", ran.stdout);
        let ran = place.bash(&format!("rtp {command} --rejects /dev/null in"));
        assert_eq!(ran.status, 1, "{command}: {}", ran.stderr);
        let ran = place.bash(&format!(
            "mkfifo {command}; rtp {command} --rejects {command} in"
        ));
        assert_eq!(ran.status, 2, "{command}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("nothing reads from this pipe"),
            "{}",
            ran.stderr
        );
    }
    let count = "SELECT count(*) FROM user_events";
    assert_eq!(place.query(".rtp/log.db", count), "3"); // and not a fourth
}

#[test]
fn rejects_that_nobody_takes_are_not_done() {
    let place = Place::ready();
    place.bash("mkfifo pipe");
    let mut options = std::fs::File::options();
    let reader = options
        .read(true)
        .write(true)
        .open(place.path("pipe"))
        .unwrap();
    let mut running = place.start(&["produce", "--rejects", "pipe"]);
    running.write(users(1).as_bytes());
    let count = "SELECT count(*) FROM user_events";
    eventually("an event", || place.query(".rtp/log.db", count) == "1");
    drop(reader);
    running.write(b"{}\n");
    running.close_input();
    let ran = running.end();
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write pipe"), "{}", ran.stderr);
}

#[test]
fn bad_lines_are_told_by_rule_and_field_with_their_first_place_and_where_they_went() {
    let place = Place::ready();
    let bad = "{\"id\":1}\n{\"id\":2}\nnot json\n{\"id\":true}\n";
    place.write("in", users(2) + bad);
    let ran = place.rtp(&["produce", "in"], b"");
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [6, 2, 4, 0, 0]),
        "{}",
        ran.stderr
    );
    let rejects = &ran.summary()["rejects"];
    let offset = users(2).len();
    assert_eq!(rejects[0]["rule"], "type", "{rejects}");
    assert_eq!(rejects[0]["field"], "id");
    assert_eq!(rejects[0]["count"], 3);
    let first = serde_json::json!({"source": "in", "line": 3, "offset": offset});
    assert_eq!(rejects[0]["first"], first);
    assert_eq!(rejects[0]["reason"], "expected uuid, got a number");
    assert_eq!(rejects[0]["to"], "topic user_events.dlq");
    assert_eq!(
        (&rejects[1]["rule"], &rejects[1]["count"]),
        (&"json_syntax".into(), &1.into())
    );
    assert_eq!(rejects[1]["field"], serde_json::Value::Null);
    let ran = place.bash("rtp load-batch --rejects bad in < /dev/null");
    let line = "rtp load-batch: warn: rejected 3 records: type in field id, first at in line 3: expected uuid, got a number; written to bad\n";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("rejected 1 record: json_syntax, first at in line 5: expected ident at column 2; written to bad"),
        "{}",
        ran.stderr
    );
    // Also if the run ends early, and without any place where they are kept.
    let ran = place.rtp(
        &["produce", "--max-rejects", "0", "--rejects", "bad", "in"],
        b"",
    );
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert_eq!(ran.summary()["rejects"][0]["to"], "bad");
    let ran = place.rtp(&["load-batch", "in"], b"");
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("in line 3: field id: type: expected uuid"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.summary()["rejects"][0]["to"], serde_json::Value::Null);
    assert!(
        !place
            .rtp(&["produce"], users(1).as_bytes())
            .stderr
            .contains("rejects")
    );
}

#[test]
fn a_share_of_bad_records_is_judged_at_the_end_of_an_interrupted_run_too() {
    for (limit, status) in [("50%", 3), ("90%", 143)] {
        let place = Place::ready();
        let mut running = place.start(&["produce", "--rejects", "bad", "--max-rejects", limit]);
        running.write((user(1, 0, "a") + "\n{}\n{}\n{}\n").as_bytes());
        let count = "SELECT count(*) FROM user_events";
        eventually("an event", || place.query(".rtp/log.db", count) == "1");
        running.signal("TERM");
        let ran = running.end();
        assert_eq!(
            (ran.status, ran.counts()),
            (status, [4, 1, 3, 0, 0]),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_closed_standard_input_is_not_an_empty_one() {
    let place = Place::ready();
    for command in [
        "produce",
        "load-batch",
        "transform",
        "transform --from arrow",
    ] {
        let ran = place.bash(&format!("rtp {command} <&-"));
        assert_eq!(ran.status, 2, "{command}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("standard input is closed"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(place.bash("rtp produce < /dev/null").status, 0);
}

#[test]
fn no_option_that_writes_overwrites_a_secret() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::ready();
    place.write("in", users(1) + "bad\n");
    place.write("key", "hunter2");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(place.path("key"), private).unwrap();
    let auth = "[source.auth]\nstyle = \"bearer\"\nfile = \"key\"\n\n[event]";
    let dataset = rtp::dataset::BUILT_IN.replacen("[event]", auth, 1);
    place.write("d.toml", dataset);
    for (script, says) in [
        (
            "RTP_POSTGRES_PASSWORD_FILE=key rtp produce --rejects ./key in",
            "the same file as RTP_POSTGRES_PASSWORD_FILE key",
        ),
        (
            "RTP_KAFKA_PASSWORD_FILE=key rtp load-batch --commit-state key in",
            "the same file as RTP_KAFKA_PASSWORD_FILE key",
        ),
        (
            "RTP_CASSANDRA_PASSWORD_FILE=key rtp verify --output key",
            "the same file as RTP_CASSANDRA_PASSWORD_FILE key",
        ),
        (
            "rtp produce --dataset d.toml --rejects key in",
            "the same file as the secret of [source.auth] key",
        ),
        (
            "rtp fetch --dataset d.toml --api http://127.0.0.1:1 --out key",
            "the same file as the secret of [source.auth] key",
        ),
    ] {
        let ran = place.bash(script);
        assert_eq!(ran.status, 2, "{script}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{script}: {}", ran.stderr);
        let key = std::fs::read_to_string(place.path("key")).unwrap();
        assert_eq!(key, "hunter2", "{script}");
    }
}

#[test]
fn an_input_that_comes_from_the_reject_file_is_read_to_its_end() {
    const EVENTS: u64 = 5_000;
    for command in ["produce", "load-batch"] {
        let place = Place::ready();
        for input in [users(EVENTS), "bad\n".to_string() + &users(EVENTS)] {
            let bad = u64::from(input.starts_with("bad"));
            place.write("in", &input);
            let ran = place.bash(&format!(
                "cat in | rtp --log-format json {command} --rejects in"
            ));
            let [read, _, rejected, ..] = ran.counts();
            assert_eq!((read, rejected), (EVENTS + bad, bad), "{}", ran.stderr);
            let left = std::fs::read_to_string(place.path("in")).unwrap();
            assert_eq!(left.lines().count() as u64, bad, "{left}");
        }
    }
}

#[test]
fn rejects_go_to_standard_streams_that_are_files_too() {
    let place = Place::ready();
    place.write("in", users(1) + "{}\nbad\n");
    let is_reject = |line: &&str| line.starts_with('{') && line.contains("\"rule\"");
    for command in ["produce", "load-batch"] {
        for (option, redirection) in [
            ("/dev/stdout", "> out"),
            ("-", "> out"),
            ("/dev/fd/1", "> out"),
            ("/dev/stdout", ">> out"),
            ("/dev/stderr", "2> out"),
            ("/dev/stderr", "2>> out"),
        ] {
            place.write("out", "old\n");
            let ran = place.bash(&format!(
                "rtp {command} --rejects {option} in {redirection}"
            ));
            let what = format!("{command} {option} {redirection}: {}", ran.stderr);
            assert_eq!(ran.status, 1, "{what}");
            let out = std::fs::read_to_string(place.path("out")).unwrap();
            assert_eq!(out.lines().filter(is_reject).count(), 2, "{what} {out}");
            let is_appended = redirection.contains(">>");
            assert_eq!(out.starts_with("old\n"), is_appended, "{what} {out}");
        }
        let ran = place.bash(&format!("rtp {command} --rejects - in >&-"));
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("standard output is closed"),
            "{}",
            ran.stderr
        );
        let ran = place.bash(&format!("rtp {command} --rejects /dev/stderr in 2>&-"));
        assert_eq!(ran.status, 2);
        let ran = place.bash(&format!("rtp {command} --rejects /dev/stdout in >> in"));
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("the same file as the input"),
            "{}",
            ran.stderr
        );
    }
    assert!(!place.path("-").exists());
}

#[test]
fn an_older_reject_file_keeps_its_access_but_for_everybodys() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::ready();
    let mode = || {
        let there = place.path("bad").metadata().unwrap();
        there.permissions().mode() & 0o777
    };
    for content in ["", "old\n"] {
        for (before, after) in [
            (0o600, 0o600),
            (0o640, 0o640),
            (0o660, 0o660),
            (0o666, 0o600),
            (0o207, 0o200),
            (0o700, 0o700),
        ] {
            std::fs::remove_file(place.path("bad")).ok();
            place.write("bad", content);
            let access = std::fs::Permissions::from_mode(before);
            std::fs::set_permissions(place.path("bad"), access).unwrap();
            let ran = place.rtp(&["produce", "--rejects", "bad"], b"{}\n");
            assert_eq!(
                (ran.status, mode()),
                (1, after),
                "{before:o}: {}",
                ran.stderr
            );
        }
    }
}
