//! `rtp heartbeat` on the embedded log and stores.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::common::{Place, Ran, users};

const LOG: &str = ".rtp/log.db";
const REALTIME: &str = ".rtp/realtime.db";
const BATCH: &str = ".rtp/batch.db";

/// One round as JSON, and how the command ended.
fn heartbeat(place: &Place, more: &[&str]) -> (Ran, Value) {
    let ran = place.rtp(&[&["heartbeat", "--format", "json"], more].concat(), b"");
    let round = serde_json::from_str(&ran.stdout).unwrap_or(Value::Null);
    (ran, round)
}

fn statuses(round: &Value) -> Vec<&str> {
    let checks = round["checks"].as_array().unwrap();
    checks
        .iter()
        .map(|c| c["status"].as_str().unwrap())
        .collect()
}

/// Makes the heartbeat stale until the stream has run.
fn fall_behind(place: &Place) {
    place.rtp(&["produce"], users(20).as_bytes());
}

#[test]
fn all_is_well_and_only_the_probes_are_written() {
    let place = Place::ready();
    place.rtp(&["produce"], users(50).as_bytes());
    place.rtp(&["stream", "--until-end"], b"");
    place.rtp(&["load-batch"], users(50).as_bytes());
    for _ in 0..3 {
        let (ran, round) = heartbeat(
            &place,
            &[
                "--max-lag",
                "0",
                "--max-age-realtime",
                "1h",
                "--max-age-batch",
                "1h",
            ],
        );
        assert_eq!(
            (ran.status, ran.counts()),
            (0, [3, 3, 0, 0, 0]),
            "{}",
            ran.stderr
        );
        assert_eq!(round["status"], "ok");
        assert_eq!(statuses(&round), ["ok", "ok", "ok"]);
        let [log, realtime, batch] = [0, 1, 2].map(|i| &round["checks"][i]);
        assert_eq!(log["check"], "event-log");
        assert_eq!(log["address"], "sqlite:.rtp/log.db");
        assert_eq!(
            (&log["lag_records"], &log["lag_seconds"]),
            (&0.into(), &0.0.into())
        );
        assert_eq!(log["group_started"], true);
        for check in [log, realtime, batch] {
            assert!(check["latency_ms"].as_f64().unwrap() > 0.0, "{check}");
        }
        for store in [realtime, batch] {
            let age = store["age_seconds"].as_f64().unwrap();
            assert!((0.0..600.0).contains(&age), "{store}");
        }
    }
    for file in [REALTIME, BATCH] {
        assert_eq!(place.query(file, "SELECT count(*) FROM rtp_heartbeat"), "1");
    }
    assert_eq!(
        place.query(LOG, "SELECT count(*) FROM \"user_events.heartbeat\""),
        "3"
    );
    assert_eq!(place.query(LOG, "SELECT count(*) FROM user_events"), "50");
    assert_eq!(
        place.query(
            LOG,
            "SELECT count(DISTINCT consumer_group) FROM group_offsets"
        ),
        "1"
    );
    assert_eq!(place.query(REALTIME, "SELECT count(*) FROM users"), "50");
    let table = place.rtp(&["heartbeat"], b"");
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!((table.status, lines.len()), (0, 5), "{}", table.stdout);
    assert!(
        lines[2].starts_with("event-log       ok "),
        "{}",
        table.stdout
    );
    assert!(
        lines[2].ends_with("group rtp is at the end"),
        "{}",
        table.stdout
    );
}

#[test]
fn old_probes_do_not_pile_up_in_the_log() {
    let place = Place::ready();
    let log = Connection::open(place.path(LOG)).unwrap();
    log.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 499)
         INSERT INTO events_3_0 SELECT i, 0, NULL, 'old', NULL FROM n;
         UPDATE partitions SET next_offset = 500 WHERE topic = 3;",
    )
    .unwrap();
    assert_eq!(heartbeat(&place, &[]).0.status, 0);
    let kept: u32 = place
        .query(LOG, "SELECT count(*) FROM events_3_0")
        .parse()
        .unwrap();
    assert!(kept <= 100, "{kept}");
}

#[test]
fn lag_is_exact_in_records_and_in_seconds() {
    let place = Place::ready();
    let (_, round) = heartbeat(&place, &[]);
    let log = &round["checks"][0];
    assert_eq!(
        (&log["group_started"], &log["lag_records"]),
        (&false.into(), &0.into())
    );
    fall_behind(&place);
    let (ran, round) = heartbeat(&place, &["--max-lag", "20", "--max-lag-age", "1h"]);
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    let log = &round["checks"][0];
    assert_eq!(
        (&log["group_started"], &log["lag_records"]),
        (&false.into(), &20.into())
    );
    assert_eq!(
        log["detail"],
        "group rtp has never committed, and 20 events are waiting"
    );
    place.rtp(&["stream", "--until-end"], b"");
    place.rtp(&["produce"], users(7).as_bytes());
    let db = Connection::open(place.path(LOG)).unwrap();
    for (partition, age) in [(0, 90_000), (1, 7_200_000), (2, 60_000)] {
        let sql = format!(
            "UPDATE events_1_{partition} SET timestamp = ?1 WHERE offset >=
               (SELECT offset FROM group_offsets WHERE topic = 1 AND partition = {partition})"
        );
        db.execute(&sql, [rtp::time::now_ms() - age]).unwrap();
    }
    let (ran, round) = heartbeat(&place, &["--max-lag", "7"]);
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    let log = &round["checks"][0];
    assert_eq!(
        (&log["group_started"], &log["lag_records"]),
        (&true.into(), &7.into())
    );
    let behind = log["lag_seconds"].as_f64().unwrap();
    assert!((7_200.0..7_800.0).contains(&behind), "{behind}");
    for limit in [["--max-lag", "6"], ["--max-lag-age", "7200s"]] {
        let (ran, round) = heartbeat(&place, &limit);
        assert_eq!((ran.status, ran.counts()), (1, [3, 2, 1, 0, 0]));
        assert_eq!(statuses(&round), ["stale", "ok", "ok"]);
    }
    let (_, round) = heartbeat(&place, &["--group", "other", "--max-lag", "26"]);
    assert_eq!(
        (
            &round["checks"][0]["group_started"],
            &round["checks"][0]["lag_records"]
        ),
        (&false.into(), &27.into())
    );
}

#[test]
fn a_group_that_never_committed_is_stale_once_events_wait() {
    let place = Place::ready();
    assert_eq!(heartbeat(&place, &[]).0.status, 0, "nothing waits");
    fall_behind(&place);
    let (ran, round) = heartbeat(&place, &[]);
    assert_eq!((ran.status, ran.counts()), (1, [3, 2, 1, 0, 0]));
    assert_eq!(statuses(&round), ["stale", "ok", "ok"]);
    let detail = round["checks"][0]["detail"].as_str().unwrap();
    let told = "group rtp has never committed, and 20 events are waiting";
    assert!(detail.contains(told), "{detail}");
    place.rtp(&["stream", "--until-end", "--group", "another"], b"");
    assert_eq!(
        heartbeat(&place, &[]).0.status,
        1,
        "another group read them"
    );
    place.rtp(&["stream", "--until-end"], b"");
    fall_behind(&place);
    assert_eq!(
        heartbeat(&place, &[]).0.status,
        0,
        "it lags, without a limit"
    );
}

#[test]
fn a_group_beyond_the_end_of_its_topic_has_failed() {
    let place = Place::ready();
    fall_behind(&place);
    place.rtp(&["stream", "--until-end"], b"");
    let db = Connection::open(place.path(LOG)).unwrap();
    db.execute_batch("UPDATE group_offsets SET offset = 100 WHERE topic = 1 AND partition = 1")
        .unwrap();
    let end = place.query(
        LOG,
        "SELECT next_offset FROM partitions WHERE topic = 1 AND partition = 1",
    );
    for limits in [&[][..], &["--max-lag", "1000"]] {
        let (ran, round) = heartbeat(&place, limits);
        assert_eq!(ran.status, 5, "{}", ran.stdout);
        let log = &round["checks"][0];
        assert_eq!(log["status"], "failed");
        let told = format!(
            "group rtp cannot continue: its offset in partition 1 is 100, but the topic ends at {end}; "
        );
        let detail = log["detail"].as_str().unwrap();
        assert!(detail.starts_with(&told), "{detail}");
        assert!(log["latency_ms"].as_f64().is_some(), "the log itself is up");
    }
}

/// A stream does not continue in the real-time store, and the heartbeat says why.
fn why_the_store_has_failed(place: &Place) -> String {
    let streamed = place.rtp(&["stream", "--until-end"], b"");
    assert_eq!(streamed.status, 5, "{}", streamed.stderr);
    let (ran, round) = heartbeat(place, &[]);
    assert_eq!(ran.status, 5, "{}", ran.stdout);
    assert_eq!(statuses(&round), ["ok", "failed", "ok"]);
    round["checks"][1]["detail"].as_str().unwrap().to_string()
}

#[test]
fn a_store_that_continues_another_log_has_failed() {
    let place = Place::ready();
    fall_behind(&place);
    place.rtp(&["stream", "--until-end"], b"");
    for file in [LOG, ".rtp/log.db-wal", ".rtp/log.db-shm"] {
        std::fs::remove_file(place.path(file)).ok();
    }
    place.rtp(&["init"], b"");
    let detail = why_the_store_has_failed(&place);
    let told = "but this log's topic is `sqlite topic ";
    assert!(
        detail.contains(told) && detail.contains("use a new --group"),
        "{detail}"
    );
}

/// Streams before and after a backup of the log, and then restores it, and with it the group's committed offsets.
fn restore(place: &Place) {
    fall_behind(place);
    place.rtp(&["stream", "--until-end"], b"");
    place.bash("sqlite3 .rtp/log.db 'VACUUM INTO \"backup.db\"'");
    fall_behind(place);
    place.rtp(&["stream", "--until-end"], b"");
    assert_eq!(heartbeat(place, &[]).0.status, 0);
    let restored = place.bash("rm .rtp/log.db*; cp backup.db .rtp/log.db");
    assert_eq!(restored.status, 0, "{}", restored.stderr);
}

#[test]
fn a_store_that_is_ahead_of_a_restored_log_has_failed() {
    for (events, why) in [
        (0, ", but the topic ends at "),
        (
            200,
            ", but the event before that is not the one that was read",
        ),
    ] {
        let place = Place::ready();
        restore(&place);
        if events > 0 {
            place.rtp(&["produce"], users(events).as_bytes());
        }
        let detail = why_the_store_has_failed(&place);
        let told = "group rtp cannot continue in this store: its offset in partition ";
        assert!(detail.starts_with(told), "{detail}");
        assert!(detail.contains(why), "{detail}");
        assert!(detail.ends_with("use a new --group"), "{detail}");
        // The way out that it names.
        let new = ["--group", "new"];
        let streamed = place.rtp(&[&["stream", "--until-end"], &new[..]].concat(), b"");
        assert_eq!(streamed.status, 0, "{}", streamed.stderr);
        assert_eq!(heartbeat(&place, &new).0.status, 0);
    }
}

#[test]
fn what_init_has_not_made_is_a_setting_and_no_outage() {
    let place = Place::new();
    let (ran, round) = heartbeat(&place, &[]);
    assert_eq!(ran.status, 2, "{}", ran.stdout);
    assert_eq!(statuses(&round), ["failed"; 3]);
    for check in round["checks"].as_array().unwrap() {
        let detail = check["detail"].as_str().unwrap();
        assert!(detail.contains("run `rtp init` first"), "{detail}");
    }
}

#[test]
fn freshness_is_the_age_of_the_last_write_of_this_dataset() {
    let place = Place::ready();
    let (ran, round) = heartbeat(
        &place,
        &["--max-age-realtime", "1h", "--max-age-batch", "1h"],
    );
    assert_eq!(ran.status, 1);
    assert_eq!(statuses(&round), ["ok", "stale", "stale"]);
    assert_eq!(round["checks"][1]["age_seconds"], Value::Null);
    fall_behind(&place);
    place.rtp(&["stream", "--until-end"], b"");
    place.rtp(&["load-batch"], users(5).as_bytes());
    for (file, sql) in [
        (
            REALTIME,
            "UPDATE rtp_offsets SET written_at = written_at - 10000000",
        ),
        (
            BATCH,
            "UPDATE rtp_loads SET loaded_at = loaded_at - 20000000",
        ),
    ] {
        Connection::open(place.path(file))
            .unwrap()
            .execute_batch(sql)
            .unwrap();
    }
    let (ran, round) = heartbeat(
        &place,
        &["--max-age-realtime", "3h", "--max-age-batch", "3h"],
    );
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    assert_eq!(statuses(&round), ["ok", "ok", "stale"]);
    let ages = [1, 2].map(|i| round["checks"][i]["age_seconds"].as_f64().unwrap());
    assert!(
        (10_000.0..10_600.0).contains(&ages[0]) && (20_000.0..20_600.0).contains(&ages[1]),
        "{ages:?}"
    );
    let failed = place.rtp(&["load-batch"], b"{}\n");
    assert_eq!(failed.status, 3);
    let (_, round) = heartbeat(&place, &["--max-age-batch", "3h"]);
    assert_eq!(
        statuses(&round)[2],
        "stale",
        "a load that kept nothing is no load"
    );
}

#[test]
fn a_check_that_fails_does_not_hide_the_others() {
    let place = Place::ready();
    let lock = Connection::open(place.path(REALTIME)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (ran, round) = heartbeat(&place, &["--timeout", "3s"]);
    assert_eq!((ran.status, ran.counts()), (4, [3, 2, 1, 0, 0]));
    assert_eq!(statuses(&round), ["ok", "failed", "ok"]);
    let detail = round["checks"][1]["detail"].as_str().unwrap();
    assert!(
        detail.contains("realtime.db: database is locked"),
        "{detail}"
    );
    lock.execute_batch("COMMIT").unwrap();
    drop(lock);
    let lock = Connection::open(place.path(LOG)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (ran, round) = heartbeat(&place, &["--timeout", "3s"]);
    assert_eq!(ran.status, 4);
    assert_eq!(statuses(&round), ["failed", "ok", "ok"]);
    let detail = round["checks"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("user_events.heartbeat in .rtp/log.db: database is locked"),
        "{detail}"
    );
    drop(lock);
    std::fs::remove_file(place.path(BATCH)).unwrap();
    place.write(
        "none.toml",
        rtp::dataset::BUILT_IN.replace("user_events", "other_events"),
    );
    let (ran, round) = heartbeat(&place, &["--dataset", "none.toml"]);
    assert_eq!(ran.status, 2);
    assert_eq!(statuses(&round), ["failed", "ok", "failed"]);
    for (i, text) in [
        (0, "no topic other_events.heartbeat"),
        (2, "batch.db does not exist"),
    ] {
        let detail = round["checks"][i]["detail"].as_str().unwrap();
        assert!(
            detail.contains(text) && detail.contains("rtp init"),
            "{detail}"
        );
    }
    assert!(!place.path(BATCH).exists());
}

/// A webhook that answers with these statuses, one per request; the channel delivers the bodies.
fn webhook(answers: &'static [u16]) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for status in answers {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            sender.send(serde_json::from_slice(&body).unwrap()).unwrap();
        }
    });
    (url, receiver)
}

#[test]
fn single_rounds_fire_and_resolve_once_each_by_their_state() {
    let place = Place::ready();
    let (url, bodies) = webhook(&[500, 200, 302, 200]);
    let check = || {
        heartbeat(
            &place,
            &[
                "--once",
                "--max-lag",
                "5",
                "--alert-url",
                &url,
                "--state",
                "state.json",
            ],
        )
    };
    let state = || -> Value {
        serde_json::from_slice(&std::fs::read(place.path("state.json")).unwrap()).unwrap()
    };
    assert_eq!(check().0.status, 0);
    assert!(bodies.try_recv().is_err(), "all was well from the start");
    fall_behind(&place);
    let refused = check().0;
    assert_eq!(refused.status, 1);
    assert!(
        refused
            .stderr
            .contains("cannot deliver the alert: http://127.0.0.1/... answered 500"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    assert_eq!(state()["firing"], false);
    let first = bodies.recv().unwrap();
    assert_eq!(check().0.status, 1);
    let fired = bodies.recv().unwrap();
    assert_eq!(
        (&fired["status"], &fired["since"]),
        (&"firing".into(), &first["since"])
    );
    assert_eq!(fired["checks"][0]["lag_records"], 20);
    assert_eq!(
        fired["text"],
        "rtp heartbeat of users, firing: event-log stale: group rtp has never committed, and 20 events are waiting, over the limit of 5"
    );
    assert_eq!(state()["firing"], true);
    assert_eq!(check().0.status, 1);
    assert!(bodies.try_recv().is_err(), "told once");
    place.rtp(&["stream", "--until-end"], b"");
    let redirected = check().0;
    assert_eq!(redirected.status, 0);
    assert!(
        redirected.stderr.contains("answered 302"),
        "{}",
        redirected.stderr
    );
    assert_eq!(bodies.recv().unwrap()["status"], "resolved");
    assert_eq!(check().0.status, 0);
    let resolved = bodies.recv().unwrap();
    assert_eq!(
        (&resolved["status"], &resolved["since"]),
        (&"resolved".into(), &first["since"])
    );
    assert_eq!(state(), serde_json::json!({"firing": false, "since": null}));
    assert_eq!(check().0.status, 0);
    assert!(bodies.try_recv().is_err(), "told once");
    fall_behind(&place);
    let gone = check().0; // the webhook has ended
    assert_eq!(gone.status, 1);
    assert!(
        gone.stderr.contains("cannot reach http://127.0.0.1/..."),
        "{}",
        gone.stderr
    );
    place.write("state.json", "{}");
    let ran = check().0;
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr
            .contains("state.json is not a state file of rtp heartbeat"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_loop_goes_on_whatever_fails_and_ends_0_when_told_to_stop() {
    let place = Place::ready();
    let (url, bodies) = webhook(&[200, 200, 200]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args([
            "heartbeat",
            "--interval",
            "50ms",
            "--format",
            "json",
            "--max-lag",
            "5",
        ])
        .args(["--log-format", "json"])
        .current_dir(place.root())
        .env_clear()
        .env("RTP_ALERT_URL", &url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut rounds = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |status: &str| {
        let found = rounds.by_ref().take(200).any(|line| {
            let round: Value = serde_json::from_str(&line.unwrap()).unwrap();
            round["status"] == status
        });
        assert!(found, "no round was {status}");
    };
    let told = || bodies.recv_timeout(Duration::from_secs(30)).unwrap();
    until("ok");
    fall_behind(&place);
    until("stale");
    assert_eq!(told()["status"], "firing");
    place.rtp(&["stream", "--until-end"], b"");
    until("ok");
    assert_eq!(told()["status"], "resolved");
    std::fs::rename(place.path(LOG), place.path(".rtp/away.db")).unwrap();
    until("failed");
    assert_eq!(told()["status"], "firing");
    until("failed");
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    drop(rounds);
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    let summary: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!(summary["exit"], 0);
}

#[test]
fn wrong_usage_is_told() {
    let place = Place::ready();
    for (args, message) in [
        (&["--alert-url", "ftp://x"][..], "unknown scheme `ftp`"),
        (&["--state", "s.json"], "--alert-url"),
        (&["--once", "--interval", "1s"], "cannot be used with"),
        (&["--interval", "5"], "invalid duration"),
    ] {
        let ran = place.rtp(&[&["heartbeat"], args].concat(), b"");
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}
