//! What the dashboard says where the stream cannot go on as it was: the same as the heartbeat and the stream.

use serde_json::Value;

use super::{Dashboard, lines, stream};
use crate::common::Place;

const LOG: &str = ".rtp/log.db";

/// The state, once all servers were looked at and it is no longer only that.
fn state(dashboard: &Dashboard, level: &str) -> Value {
    dashboard.until(level, |state| state["sentence"]["level"] == level)
}

fn heartbeat(place: &Place) -> (i32, Value) {
    let ran = place.rtp(&["heartbeat", "--format", "json"], b"");
    (ran.status, serde_json::from_str(&ran.stdout).unwrap())
}

/// Something that a shell does to the files.
fn done(place: &Place, script: &str) {
    let ran = place.bash(script);
    assert_eq!(ran.status, 0, "{script}: {}", ran.stderr);
}

#[test]
fn events_that_were_deleted_from_the_middle_of_the_log_are_told() {
    let place = Place::ready();
    stream(&place, &lines(0..20, 10, "a@x"));
    let produced = place.rtp(&["produce"], lines(20..60, 10, "a@x").as_bytes());
    assert_eq!(produced.status, 0);
    let topic = place.query(LOG, "SELECT id FROM topics WHERE name = 'user_events'");
    let committed =
        format!("SELECT offset FROM group_offsets WHERE topic = {topic} AND partition = 1");
    let committed: i64 = place.query(LOG, &committed).parse().unwrap();
    assert!(committed > 0, "an event before the gap is left");
    let last = committed + 4;
    let delete = format!(
        "DELETE FROM events_{topic}_1 WHERE offset BETWEEN {committed} AND {last} RETURNING 1"
    );
    place.query(LOG, &delete);
    let dashboard = Dashboard::start(&place, &[]);
    let bad = state(&dashboard, "bad");
    let says = format!(
        "Data is missing: 5 events were deleted from the log before the stream had read them (partition 1, offsets {committed} to {last})."
    );
    assert_eq!(bad["sentence"]["text"], says);
    assert_eq!(bad["ingestion"]["lag"]["missing"][0]["events"], 5);
    let (status, round) = heartbeat(&place);
    assert_eq!(status, 5, "{round}");
    assert_eq!(
        bad["headline"]["lag_records"],
        round["checks"][0]["lag_records"]
    );
    assert_eq!(place.rtp(&["stream", "--until-end"], b"").status, 5);
    dashboard.stop();
}

#[test]
fn a_log_that_is_not_the_one_that_was_read_is_told() {
    let place = Place::ready();
    stream(&place, &lines(0..60, 10, "a@x"));
    done(&place, "rm .rtp/log.db*");
    assert_eq!(place.rtp(&["init"], b"").status, 0);
    let dashboard = Dashboard::start(&place, &[]);
    let bad = state(&dashboard, "bad");
    let says = "Data is missing: the log was deleted, restored or replaced since the stream read it, so the stream cannot continue.";
    assert_eq!(bad["sentence"]["text"], says);
    let checks = bad["pipeline"]["heartbeat"].as_array().unwrap();
    let ok: Vec<_> = checks.iter().map(|check| check["ok"] == true).collect();
    assert_eq!(ok, [true, false, true]);
    let (status, round) = heartbeat(&place);
    let statuses = [0, 1, 2].map(|i| round["checks"][i]["status"].as_str().unwrap());
    assert_eq!((status, statuses), (5, ["ok", "failed", "ok"]));
    assert_eq!(place.rtp(&["stream", "--until-end"], b"").status, 5);
    dashboard.stop();
}

#[test]
fn a_restored_log_whose_events_are_others_is_told() {
    let place = Place::ready();
    stream(&place, &lines(0..20, 10, "a@x"));
    done(&place, "sqlite3 .rtp/log.db 'VACUUM INTO \"backup.db\"'");
    stream(&place, &lines(20..60, 10, "a@x"));
    done(&place, "rm .rtp/log.db*; cp backup.db .rtp/log.db");
    let dashboard = Dashboard::start(&place, &[]);
    let bad = state(&dashboard, "bad");
    let text = bad["sentence"]["text"].as_str().unwrap();
    assert!(text.contains("but the topic ends at "), "{text}");
    assert_eq!(bad["pipeline"]["heartbeat"][1]["ok"], false);
    assert_eq!(heartbeat(&place).0, 5);
    dashboard.stop();
}

#[test]
fn a_store_that_has_lost_what_was_streamed_is_behind() {
    let place = Place::ready();
    stream(&place, &lines(0..20, 10, "a@x"));
    done(
        &place,
        "sqlite3 .rtp/realtime.db 'VACUUM INTO \"backup.db\"'",
    );
    stream(&place, &lines(20..60, 10, "a@x"));
    let lag = |place: &Place| heartbeat(place).1["checks"][0]["lag_records"].clone();
    assert_eq!(lag(&place), 0);
    let dashboard = Dashboard::start(&place, &[]);
    dashboard.until("looked at", |state| state["headline"]["lag_records"] == 0);
    for (lose, behind) in [
        ("cp backup.db .rtp/realtime.db", 40),
        ("rtp init", 60), // an empty one
    ] {
        done(&place, "rm .rtp/realtime.db*");
        match lose {
            "rtp init" => assert_eq!(place.rtp(&["init"], b"").status, 0),
            script => done(&place, script),
        }
        dashboard.until(lose, |state| state["headline"]["lag_records"] == behind);
        assert_eq!(lag(&place), behind, "{lose}");
    }
    let streamed = place.rtp(&["stream", "--until-end"], b"");
    assert_eq!(streamed.status, 0, "{}", streamed.stderr);
    dashboard.until("read again", |state| {
        state["headline"]["lag_records"] == 0
            && state["headline"]["rows"]["realtime"]["count"] == 60
    });
    assert_eq!(lag(&place), 0);
    dashboard.stop();
}
