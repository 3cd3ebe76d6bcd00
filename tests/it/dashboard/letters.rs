//! The dead letters that the dashboard knows, and how far back it knows them all.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Dashboard;
use crate::common::Place;

/// Dead letters of lines that are all refused, within few milliseconds.
fn refuse(place: &Place, letters: usize) {
    let ran = place.rtp(&["produce"], "{\"id\":\"7\"}\n".repeat(letters).as_bytes());
    assert_eq!(ran.status, 1, "{}", ran.stderr);
}

fn letters(of: &Value) -> &Vec<Value> {
    of["dead_letters"].as_array().unwrap()
}

/// A state that has seen so many.
fn state(dashboard: &Dashboard, count: usize) -> Value {
    dashboard.until("seen", |state| state["headline"]["dead_letters"] == count)
}

#[test]
fn each_letter_is_told_from_all_others_and_how_far_back_they_are_known() {
    let place = Place::ready();
    // Of several files, so that the same bytes come again.
    for _ in 0..3 {
        refuse(&place, 67);
    }
    let dashboard = Dashboard::start(&place, &[]);
    let state = state(&dashboard, 201);
    let series = dashboard.get("/api/v1/series?range=15m").json();
    let identity = |letter: &Value| {
        (
            letter["letter_partition"].as_i64(),
            letter["letter_offset"].as_i64(),
        )
    };
    let known: BTreeSet<_> = letters(&series).iter().map(identity).collect();
    assert_eq!(known.len(), 200);
    assert!(
        known
            .iter()
            .all(|(partition, offset)| partition.is_some() && offset.is_some())
    );
    let inputs: BTreeSet<_> = letters(&series)
        .iter()
        .map(|l| l["offset"].as_i64())
        .collect();
    assert_eq!(inputs.len(), 67, "the place in the input is another number");
    // The 201st may be as young as the oldest one that is known.
    let oldest = |letters: &Vec<Value>| letters.last().unwrap()["at"].clone();
    assert_eq!(series["dead_letters_known_after"], oldest(letters(&series)));
    let ingestion = &state["ingestion"];
    assert_eq!(letters(ingestion).len(), 20);
    assert_eq!(
        ingestion["dead_letters_known_after"],
        oldest(letters(ingestion))
    );
    dashboard.stop();
}

#[test]
fn letters_that_are_older_than_the_range_are_known_all_the_same() {
    let place = Place::ready();
    refuse(&place, 42);
    let log = ".rtp/log.db";
    let topic = "SELECT id FROM topics WHERE name = 'user_events.dlq'";
    let topic = place.query(log, topic);
    place.query(
        log,
        &format!("UPDATE events_{topic}_0 SET timestamp = timestamp - 7200000 WHERE offset < 12 RETURNING 1"),
    );
    let dashboard = Dashboard::start(&place, &[]);
    state(&dashboard, 42);
    let series = dashboard.get("/api/v1/series?range=1h").json();
    assert_eq!(letters(&series).len(), 30);
    assert_eq!(series["dead_letters_known_after"], Value::Null);
    dashboard.stop();
}
