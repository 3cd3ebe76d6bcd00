//! What the dashboard shows, as it changes.

use serde_json::{Value, json};

use super::{Dashboard, lines, load, stream};
use crate::common::Place;
use crate::common::merge_patch::apply;

#[test]
fn it_shows_what_is_in_the_log_and_in_both_stores() {
    let place = Place::ready();
    load(&place, &lines(0..5, 10, "a@x"));
    stream(&place, &(lines(0..5, 10, "a@x") + &lines(5..8, 20, "b@x")));
    let bad = place.rtp(&["produce"], b"{\"id\":\"7\"}\n");
    assert_eq!(bad.status, 1);
    assert!(place.rtp(&["verify"], b"").status < 2);
    let produced = place.rtp(&["produce"], lines(8..10, 20, "c@x").as_bytes());
    assert_eq!(produced.status, 0);
    let dashboard = Dashboard::start(&place, &[]);
    let state = dashboard.until("looked at", |state| {
        let is_up = |server: &str| state["servers"][server]["up"] == true;
        is_up("event_log") && is_up("realtime_store") && is_up("batch_store")
    });
    assert_eq!(
        (&state["version"], &state["dataset"]),
        (&1.into(), &"users".into())
    );
    let headline = &state["headline"];
    assert_eq!(
        headline["rows"]["realtime"],
        json!({"count": 8, "exact": true})
    );
    assert_eq!(
        headline["rows"]["batch"],
        json!({"count": 5, "exact": true})
    );
    assert_eq!(
        (&headline["lag_records"], &headline["dead_letters"]),
        (&2.into(), &1.into())
    );
    assert!(
        headline["lag_seconds"].as_f64().unwrap() > 0.0,
        "{headline}"
    );
    let letter = &state["ingestion"]["dead_letters"][0];
    assert_eq!(
        (&letter["rule"], &letter["field"]),
        (&"bad_uuid".into(), &"id".into()),
        "{letter}"
    );
    let counts = state["event_time"]["histogram"]["counts"]
        .as_array()
        .unwrap();
    assert_eq!(counts.iter().filter_map(Value::as_u64).sum::<u64>(), 10);
    let batch = &state["layers"]["batch"];
    assert_eq!(
        batch["boundary"],
        rtp::time::parse_time("2026-11-01T00:00:10Z")
            .unwrap()
            .as_millisecond()
    );
    assert_eq!(batch["last_load"]["written"], 5);
    assert_eq!(state["layers"]["verdict"]["rows"], json!([8, 5]));
    let classes = state["layers"]["classes"].as_array().unwrap();
    assert!(
        classes
            .iter()
            .any(|class| class["name"] == "lost" && class["fails"] == true)
    );
    let page = dashboard.get("/api/v1/users").json();
    assert_eq!(page["verdict"], state["layers"]["verdict"]);
    let stages = state["pipeline"]["stages"].as_array().unwrap();
    let status = |name: &str| {
        let stage = stages.iter().find(|stage| stage["name"] == name).unwrap();
        stage["status"].as_str().unwrap().to_string()
    };
    assert_eq!(
        (status("load-batch"), status("aggregate")),
        ("done".into(), "never".into())
    );
    assert_eq!(state["pipeline"]["heartbeat"].as_array().unwrap().len(), 3);
    let commands: Vec<&Value> = state["next"]
        .as_array()
        .unwrap()
        .iter()
        .map(|next| &next["command"])
        .collect();
    assert!(
        commands.contains(&&"rtp aggregate --date today".into()),
        "{commands:?}"
    );
    let metrics = dashboard.get("/metrics");
    for part in ["rtp_build_info{", "command=\"dashboard\""] {
        assert!(metrics.body.contains(part), "{metrics:?}");
    }
    let series = dashboard.get("/api/v1/series?range=15m").json();
    let steps = series["t"].as_array().unwrap().len();
    assert_eq!(
        (series["step_s"].clone(), &series["range"]),
        (5.into(), &"15m".into())
    );
    for name in ["produce", "stream", "load"] {
        assert_eq!(
            series["rates"][name].as_array().unwrap().len(),
            steps,
            "{name}"
        );
    }
    let loaded = series["rates"]["load"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64);
    assert_eq!(loaded.sum::<f64>() * 5.0, 5.0);
    assert_eq!(series["dead_letters"].as_array().unwrap().len(), 1);
    dashboard.stop();
}

#[test]
fn nothing_is_written_by_looking() {
    let place = Place::ready();
    stream(&place, &lines(0..3, 10, "a@x"));
    let tables = [
        (
            ".rtp/log.db",
            "SELECT count(*) || ',' || (SELECT count(*) FROM group_offsets) FROM topics",
        ),
        (".rtp/realtime.db", "SELECT count(*) FROM rtp_heartbeat"),
        (".rtp/batch.db", "SELECT count(*) FROM rtp_heartbeat"),
    ];
    let before = tables.map(|(file, sql)| place.query(file, sql));
    let dashboard = Dashboard::start(&place, &[]);
    dashboard.until("looked at", |state| state["headline"]["lag_records"] == 0);
    dashboard.stop();
    assert_eq!(tables.map(|(file, sql)| place.query(file, sql)), before);
}

#[test]
fn an_event_stream_begins_with_the_state_and_goes_on_with_its_changes() {
    let place = Place::ready();
    let dashboard = Dashboard::start(&place, &[]);
    dashboard.until("looked at", |state| state["sentence"]["level"] == "empty");
    let mut events = dashboard.events();
    let (name, mut id, mut state) = events.next();
    assert_eq!(name, "state");
    assert_eq!(state["sentence"]["level"], "empty");
    let produced = place.rtp(&["produce"], lines(0..3, 10, "a@x").as_bytes());
    assert_eq!(produced.status, 0);
    while state["headline"]["lag_records"] != 3 {
        let (name, next, patch) = events.next();
        assert_eq!((name.as_str(), next), ("patch", id + 1));
        assert!(patch["now"].is_i64(), "{patch}");
        apply(&mut state, &patch);
        id = next;
    }
    // Somebody who comes later gets the same state.
    let (name, later, whole) = dashboard.events().next();
    assert_eq!(name, "state");
    assert!(later >= id);
    assert_eq!(whole["headline"]["lag_records"], 3);
    // A stop ends the streams, and does not wait for the readers.
    dashboard.stop();
}

#[test]
fn a_store_goes_away_and_comes_back_and_the_last_numbers_stay() {
    let place = Place::ready();
    stream(&place, &lines(0..4, 10, "a@x"));
    let dashboard = Dashboard::start(&place, &[]);
    let rows = |state: &Value| state["headline"]["rows"]["realtime"]["count"].clone();
    dashboard.until("there", |state| rows(state) == 4);
    let (file, aside) = (place.path(".rtp/realtime.db"), place.path("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    let away = dashboard.until("away", |state| {
        state["servers"]["realtime_store"]["up"] == false
    });
    assert_eq!(rows(&away), 4);
    assert_eq!(away["sentence"]["level"], "away");
    let text = away["sentence"]["text"].as_str().unwrap();
    assert!(
        text.starts_with("The real-time store has not answered since "),
        "{text}"
    );
    let server = &away["servers"]["realtime_store"];
    assert!(
        server["message"]
            .as_str()
            .unwrap()
            .contains("does not exist"),
        "{server}"
    );
    assert!(server["since"].as_i64().unwrap() > away["started"].as_i64().unwrap());
    assert_eq!(away["servers"]["event_log"]["up"], true);
    std::fs::rename(&aside, &file).unwrap();
    let back = dashboard.until("back", |state| {
        state["servers"]["realtime_store"]["up"] == true
    });
    assert_eq!(
        (rows(&back), &back["servers"]["realtime_store"]["message"]),
        (4.into(), &Value::Null)
    );
    dashboard.stop();
}

#[test]
fn the_history_outlives_the_run_and_is_in_memory_where_nothing_can_be_written() {
    let place = Place::ready();
    stream(&place, &lines(0..4, 10, "a@x"));
    let lag = |dashboard: &Dashboard| -> Vec<u64> {
        let series = dashboard.get("/api/v1/series?range=1h").json();
        let lag = series["lag_records"].as_array().unwrap().iter();
        lag.filter_map(Value::as_u64).collect()
    };
    let dashboard = Dashboard::start(&place, &["--history", "h/history.db"]);
    crate::common::eventually("a sample", || !lag(&dashboard).is_empty());
    dashboard.stop();
    let dashboard = Dashboard::start(&place, &["--history", "h/history.db"]);
    assert!(!lag(&dashboard).is_empty());
    dashboard.stop();
    place.write("file", "");
    let dashboard = Dashboard::start(&place, &["--history", "file/history.db"]);
    crate::common::eventually("a sample", || !lag(&dashboard).is_empty());
    let said = dashboard.stop();
    assert!(said.contains("the history is kept in memory"), "{said}");
}

#[test]
fn many_readers_get_the_same_changes() {
    let place = Place::ready();
    let dashboard = Dashboard::start(&place, &[]);
    dashboard.until("looked at", |state| state["headline"]["lag_records"] == 0);
    let mut readers: Vec<_> = (0..200).map(|_| dashboard.events()).collect();
    let produced = place.rtp(&["produce"], lines(0..3, 10, "a@x").as_bytes());
    assert_eq!(produced.status, 0);
    let mut seen = Vec::new();
    for reader in &mut readers {
        let (_, _, mut state) = reader.next();
        while state["headline"]["lag_records"] != 3 {
            let (_, id, patch) = reader.next();
            apply(&mut state, &patch);
            if state["headline"]["lag_records"] == 3 {
                seen.push((id, state["now"].clone()));
            }
        }
    }
    assert_eq!(seen.len(), 200);
    assert!(seen.iter().all(|one| *one == seen[0]));
    dashboard.stop();
}

#[test]
fn events_that_were_deleted_before_the_stream_read_them_are_told() {
    let place = Place::ready();
    stream(&place, &lines(0..9, 10, "a@x"));
    let produced = place.rtp(&["produce"], lines(9..60, 10, "a@x").as_bytes());
    assert_eq!(produced.status, 0);
    let log = ".rtp/log.db";
    let topic = place.query(log, "SELECT id FROM topics WHERE name = 'user_events'");
    let committed =
        format!("SELECT offset FROM group_offsets WHERE topic = {topic} AND partition = 0");
    let committed: i64 = place.query(log, &committed).parse().unwrap();
    // The first two of those that wait in a partition expire.
    let expire = format!(
        "DELETE FROM events_{topic}_0 WHERE offset < {} RETURNING 1",
        committed + 2
    );
    place.query(log, &expire);
    let dashboard = Dashboard::start(&place, &[]);
    let bad = dashboard.until("bad", |state| state["sentence"]["level"] == "bad");
    let text = bad["sentence"]["text"].as_str().unwrap();
    let last = committed + 1;
    let says = format!(
        "Data is missing: 2 events were deleted from the log before the stream had read them (partition 0, offsets {committed} to {last})."
    );
    assert_eq!(text, says);
    let missing = &bad["ingestion"]["lag"]["missing"][0];
    assert_eq!(
        (
            &missing["partition"],
            &missing["offset"],
            &missing["events"]
        ),
        (&0.into(), &committed.into(), &2.into())
    );
    assert_eq!(bad["headline"]["lag_records"], 49);
    assert_eq!(bad["pipeline"]["heartbeat"][0]["ok"], false);
    dashboard.stop();
}

#[test]
fn the_commands_of_an_empty_panel_are_for_its_own_dataset_and_servers() {
    let place = Place::new();
    let file = std::fs::read_to_string("schema/users.toml").unwrap();
    place.write("my users.toml", file);
    let more = [
        "--dataset",
        "my users.toml",
        "--group",
        "g",
        "--event-log",
        "sqlite:l.db",
        "--batch-store",
        "sqlite:b.db",
    ];
    let dashboard = Dashboard::start(&place, &more);
    let commands = |state: &Value, panel: &str| -> Vec<String> {
        let next = state["next"].as_array().unwrap().iter();
        let of_panel = next.filter(|next| next["panel"] == panel);
        of_panel
            .map(|next| next["command"].as_str().unwrap().into())
            .collect()
    };
    let is_away = |state: &Value| {
        let is_down = |server: &str| state["servers"][server]["up"] == false;
        is_down("event_log") && is_down("realtime_store") && is_down("batch_store")
    };
    let bare = dashboard.until("looked at", is_away);
    let dataset = "--dataset 'my users.toml'";
    let init = format!("rtp init {dataset} --event-log sqlite:l.db --batch-store sqlite:b.db");
    let produce =
        format!("rtp fetch {dataset} --count 1000 | rtp produce {dataset} --event-log sqlite:l.db");
    assert_eq!(
        commands(&bare, "ingestion"),
        [&init, &produce].map(String::clone)
    );
    assert_eq!(commands(&bare, "profiles"), std::slice::from_ref(&init));
    let ran = place.bash(&init);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ready = dashboard.until("ready", |state| state["sentence"]["level"] == "empty");
    assert_eq!(commands(&ready, "ingestion"), [produce]);
    let verify =
        format!("rtp verify {dataset} --event-log sqlite:l.db --batch-store sqlite:b.db --group g");
    assert_eq!(commands(&ready, "layers")[1], verify);
    assert_eq!(place.bash(&verify).status, 0, "{verify}");
    dashboard.stop();
}

#[test]
fn a_damaged_entry_of_the_ledger_does_no_harm() {
    let place = Place::ready();
    load(&place, &lines(0..5, 10, "a@x"));
    let damage = "UPDATE rtp_loads SET loaded_at = -9223372036854775808 RETURNING 1";
    place.query(".rtp/batch.db", damage);
    let dashboard = Dashboard::start(&place, &[]);
    let state = dashboard.until("looked at", |state| state["layers"]["batch"]["count"] == 5);
    assert_eq!(state["ingestion"]["rates"]["load"], 0.0);
    assert_eq!(dashboard.get("/api/v1/series?range=all").status, 200);
    dashboard.stop();
}

#[test]
fn the_history_of_another_group_is_not_shown() {
    let place = Place::ready();
    stream(&place, &lines(0..4, 10, "a@x"));
    let known = |dashboard: &Dashboard, lag: u64| {
        let series = dashboard.get("/api/v1/series?range=all").json();
        let lags = series["lag_records"].as_array().unwrap().clone();
        lags.iter().any(|there| *there == lag)
    };
    let dashboard = Dashboard::start(&place, &[]);
    crate::common::eventually("a sample", || known(&dashboard, 0));
    dashboard.stop();
    let dashboard = Dashboard::start(&place, &["--group", "other"]);
    crate::common::eventually("a sample", || known(&dashboard, 4));
    assert!(!known(&dashboard, 0), "of the group rtp");
    dashboard.stop();
}

#[test]
fn what_is_in_the_newest_events_is_counted_as_the_store_counts_it() {
    let place = Place::ready();
    let genders = ["null", r#""f""#, r#""m""#];
    let user = |n: u64| {
        format!(
            r#"{{"id":"00000000-0000-4000-8000-{n:012}","fetched_at":"2026-11-01T{:02}:00:00Z","email":"u{n}@d{}.example","dob":"{}-11-0{}T00:00:00Z","gender":{},"nationality":"n{}","registered_date":"2020-{:02}-28T12:00:00Z"}}"#,
            n % 24,
            n % 7,
            1940 + n % 80,
            1 + n % 3, // the day itself, and those after it
            genders[n as usize % 3],
            n % 5,
            1 + n % 12
        ) + "\n"
    };
    let users: String = (0..300).map(user).collect();
    load(&place, &users);
    let ran = place.rtp(&["aggregate", "--date", "2026-11-01"], b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(place.rtp(&["produce"], users.as_bytes()).status, 0);
    let dashboard = Dashboard::start(&place, &[]);
    let state = dashboard.until("both", |state| {
        let profiles = &state["profiles"];
        profiles["day"] == "2026-11-01" && profiles["live"]["events"] == 300
    });
    let (stored, live) = (&state["profiles"], &state["profiles"]["live"]);
    assert_eq!(stored["aggregates"].as_array().unwrap().len(), 6);
    assert_eq!(stored["aggregates"], live["aggregates"]);
    dashboard.stop();
}

#[test]
fn damaged_samples_and_verdicts_of_its_own_do_not_end_it() {
    let place = Place::ready();
    load(&place, &lines(0..5, 10, "a@x"));
    assert!(place.rtp(&["verify"], b"").status < 2);
    let dashboard = Dashboard::start(&place, &["--history", "h.db"]);
    let has_sample = || {
        place
            .bash("sqlite3 h.db 'SELECT 1 FROM scope_samples LIMIT 1'")
            .stdout
    };
    crate::common::eventually("a sample", || has_sample().trim() == "1");
    dashboard.stop();
    let damage = "INSERT INTO scope_samples SELECT 1, tier, at, at, 1, 1, 1, 1 FROM \
        (SELECT 0 AS tier UNION SELECT 1 UNION SELECT 2), \
        (SELECT -9000000000000000000 AS at UNION SELECT 9000000000000000000) RETURNING 1";
    place.query("h.db", damage);
    let classes = r#"{"lost":18446744073709551615,"older":18446744073709551615}"#;
    let damage = format!("UPDATE rtp_verdicts SET classes = '{classes}' RETURNING 1");
    place.query(".rtp/batch.db", &damage);
    let dashboard = Dashboard::start(&place, &["--history", "h.db"]);
    let state = dashboard.until("looked at", |state| state["layers"]["verdict"].is_object());
    assert_eq!(state["layers"]["verdict"]["classes"]["lost"], u64::MAX);
    for range in ["all", "7d", "15m"] {
        let series = dashboard.get(&format!("/api/v1/series?range={range}"));
        assert_eq!(series.status, 200, "{series:?}");
        let steps = series.json()["t"].as_array().unwrap().len();
        assert!((1..=401).contains(&steps), "{range}: {steps}");
    }
    dashboard.stop();
}

#[test]
fn records_that_are_all_in_the_dead_letters_have_arrived() {
    let place = Place::ready();
    let ran = place.rtp(&["produce"], b"{\"id\":\"7\"}\n{\"id\":\"8\"}\n");
    assert_eq!(ran.status, 1);
    let dashboard = Dashboard::start(&place, &[]);
    let state = dashboard.until("busy", |state| state["headline"]["dead_letters"] == 2);
    let state = match state["sentence"]["text"].as_str() {
        Some(text) if text.contains("first time") => dashboard.until("seen", |state| {
            let text = state["sentence"]["text"].as_str().unwrap();
            !text.contains("first time")
        }),
        _ => state,
    };
    let text = "No event has been accepted yet, and 2 records are in the dead letters; the layers were never compared.";
    assert_eq!(state["sentence"]["text"], text);
    assert_eq!(state["sentence"]["level"], "busy");
    let why = &state["next"][0]["why"];
    assert!(why.as_str().unwrap().contains("dead letters"), "{why}");
    dashboard.stop();
}
