//! `rtp produce` on the embedded log.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, user, users};

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
    assert!(ran.stderr.contains("there was no record"));
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
