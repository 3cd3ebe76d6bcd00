//! What the batch store keeps about each load, and stores of older versions that do not keep it yet.

use serde_json::{Value, json};

use crate::common::{Place, users};

const STORE: &str = ".rtp/batch.db";

/// The last load: times relative to now, inputs and rejects.
fn last(place: &Place, what: &str) -> String {
    let select = format!("SELECT {what} FROM rtp_loads ORDER BY id DESC LIMIT 1");
    place.query(STORE, &select)
}

#[test]
fn a_load_keeps_its_start_its_newest_event_its_files_and_its_rejects() {
    let place = Place::ready();
    place.write("a.ndjson", users(3));
    place.write("b c.ndjson", users(5) + "bad\n");
    let times = "started_at <= loaded_at AND started_at > loaded_at - 600000";
    let newest = "newest = (SELECT max(fetched_at) FROM batch_users_rows)";
    let ran = place.rtp(
        &["load-batch", "a.ndjson", "b c.ndjson", "--rejects", "bad"],
        b"",
    );
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let folder = place.path("").canonicalize().unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let read = |name: &str, text: String, rejected: u64| {
        let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        json!({
            "path": path(name),
            "bytes": text.len(),
            "xxh3": format!("{hash:032x}"),
            "format": "ndjson",
            "null": "",
            "rejected": rejected,
        })
    };
    let inputs: Value = serde_json::from_str(&last(&place, "inputs")).unwrap();
    let expected = [
        read("a.ndjson", users(3), 0),
        read("b c.ndjson", users(5) + "bad\n", 1),
    ];
    assert_eq!(inputs, json!(expected));
    assert_eq!(last(&place, "rejects"), path("bad"));
    assert_eq!(last(&place, times), "1");
    assert_eq!(last(&place, newest), "1");

    for args in [&["load-batch"][..], &["load-batch", "-"]] {
        let ran = place.rtp(args, users(2).as_bytes());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let what = "inputs || ifnull(rejects, '-') || (newest > 0)";
        assert_eq!(last(&place, what), "[]-1");
    }
    let ran = place.rtp(&["load-batch"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(last(&place, "newest IS NULL"), "1");
}

#[test]
fn a_store_of_an_older_version_is_changed_by_init_and_goes_on() {
    let place = Place::ready();
    place.rtp(&["load-batch"], users(3).as_bytes());
    place.bash(
        "for column in started_at newest inputs rejects; do
           sqlite3 .rtp/batch.db \"ALTER TABLE rtp_loads DROP COLUMN $column\"
         done
         sqlite3 .rtp/batch.db 'DROP TABLE rtp_verdicts'",
    );
    let ran = place.rtp(&["load-batch"], users(5).as_bytes());
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    for says in ["an older version of rtp", "rtp init"] {
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    let ran = place.rtp(&["init"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = place.rtp(&["load-batch"], users(5).as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let counts = "SELECT count(*) || ',' || count(started_at) FROM rtp_loads";
    assert_eq!(place.query(STORE, counts), "2,1");
    assert_eq!(place.query(STORE, "SELECT count(*) FROM rtp_verdicts"), "0");
}

#[test]
fn a_verdict_of_an_older_version_is_shown_after_init() {
    let place = Place::ready();
    for args in [
        &["produce"][..],
        &["stream", "--until-end"],
        &["load-batch"],
    ] {
        let ran = place.rtp(args, users(3).as_bytes());
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
    assert_eq!(place.rtp(&["verify"], b"").status, 0);
    place.bash("sqlite3 .rtp/batch.db 'ALTER TABLE rtp_verdicts DROP COLUMN options'");
    let history = || place.rtp(&["verify", "--history", "--format", "json"], b"");
    let ran = history();
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("rtp init"), "{}", ran.stderr);
    assert_eq!(place.rtp(&["init"], b"").status, 0);
    let ran = history();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(shown["verdicts"][0]["options"], serde_json::json!([]));
}
