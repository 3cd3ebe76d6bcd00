//! The stages together: real records of the API, and pipes that are killed.

use std::path::Path;
use std::process::Command;

use crate::common::{Mock, Place, eventually};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/randomuser");
const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_users.py");

/// The independent check of both stores against the sample: its verdict and its output.
fn check_users(place: &Place) -> (bool, String) {
    let out = Command::new("python3")
        .args([CHECK, SAMPLE, ".rtp/realtime.db", ".rtp/batch.db"])
        .args(["2026-11-01T00:00:00.000Z", "."])
        .current_dir(place.root())
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn recorded_users_arrive_in_both_stores_with_every_field_right() {
    let place = Place::ready();
    let folder = format!("file://{SAMPLE}");
    let args = ["--as-of", "2026-11-01", "--trailer", "--out", "u.ndjson"];
    let fetched = place.rtp(&[&["fetch", "--api", &folder][..], &args].concat(), b"");
    assert_eq!(fetched.status, 0, "{}", fetched.stderr);
    for stage in [
        &["produce", "--require-complete", "u.ndjson"][..],
        &["stream", "--until-end"],
        &["load-batch", "--require-complete", "u.ndjson"],
        &["verify"],
    ] {
        let ran = place.rtp(stage, b"");
        assert_eq!(ran.status, 0, "{stage:?}: {}", ran.stderr);
    }
    let (right, said) = check_users(&place);
    assert!(right, "{said}");
    // The check itself must be able to fail: for a value, and for a secret.
    let store = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
    let spoil = "UPDATE batch_users_rows SET post_code = post_code || ' ' WHERE rowid = 1";
    assert_eq!(store.execute(spoil, []).unwrap(), 1);
    let (right, said) = check_users(&place);
    assert!(!right && said.contains(" post_code: expected "), "{said}");
    let page = std::fs::read_dir(SAMPLE)
        .unwrap()
        .map(|f| f.unwrap().path());
    let page = page
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "json"));
    std::fs::copy(page.unwrap(), place.path("leak.json")).unwrap();
    assert!(check_users(&place).1.contains("holds the hash"));
}

/// Repeatedly kills one side of `fetch --state | produce --commit-state`; the bookmark advances, and no
/// record is left out.
#[test]
fn pipes_that_are_killed_lose_nothing() {
    let (mock, place) = (Mock::start(&[]), Place::ready());
    let bookmark = place.path("next.json");
    let next_page = |path: &Path| -> u64 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        state["next"]["page"].as_u64().unwrap_or(1)
    };
    for (round, victim) in ["produce", "fetch", "produce", "fetch"].iter().enumerate() {
        let before = next_page(&bookmark);
        let script = format!(
            "rtp fetch --api {} --seed s --count 1000000 --limit none --state next.json --as-of 2026-11-01 | \
             rtp produce --commit-state next.json & wait",
            mock.users()
        );
        let mut pipe = place.spawn_bash(&script);
        eventually("the bookmark moves", || next_page(&bookmark) > before + 1);
        place.kill_9(victim);
        pipe.wait().unwrap();
        let moved = next_page(&bookmark);
        assert!(moved > before, "round {round}: {before} to {moved}");
    }
    let pages = next_page(&bookmark) - 1;
    let ran = place.rtp(&["stream", "--until-end"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // All records of the pages before the bookmark are there, and the pages after it are complete, too.
    let count = (pages * 500).to_string();
    let args = [
        "--seed",
        "s",
        "--limit",
        "none",
        "--as-of",
        "2026-11-01",
        "--count",
        &count,
    ];
    let api = mock.users();
    let expected = place.rtp(&[&["fetch", "--api", &api][..], &args].concat(), b"");
    place.write("expected.ndjson", &expected.stdout);
    assert_eq!(place.rtp(&["load-batch", "expected.ndjson"], b"").status, 0);
    let verified = place.rtp(&["verify", "--output", "d.ndjson"], b"");
    let differences = std::fs::read_to_string(place.path("d.ndjson")).unwrap();
    let lost: Vec<&str> = differences
        .lines()
        .filter(|line| !line.contains("\"kind\":\"missing\""))
        .collect();
    assert!(lost.is_empty(), "{} differ: {:?}", lost.len(), lost.first());
    assert!([0, 1].contains(&verified.status), "{}", verified.stderr);
}
