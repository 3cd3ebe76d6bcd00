//! The README's tour is executed as it stands.

#![allow(clippy::unwrap_used)]

mod common;

use common::Place;

/// The commands of the console blocks under a heading: lines after `$ `, and what follows them.
fn commands(text: &str, heading: &str) -> String {
    let section = text
        .split("\n## ")
        .find(|s| s.starts_with(heading))
        .unwrap();
    let blocks = section.split("```console\n").skip(1);
    let lines = blocks.flat_map(|b| b.split("```").next().unwrap().lines());
    lines
        .map(|l| l.strip_prefix("$ ").unwrap_or(l).to_string() + "\n")
        .collect()
}

#[test]
fn the_tour_works_as_written() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let script = commands(&text, "A tour");
    assert!(script.contains("rtp stream --until-end"), "{script}");
    let place = Place::new();
    let out = place.bash(&script);
    assert_eq!(out.status, 0, "{}", out.stderr);
    for (file, table) in [
        (".rtp/realtime.db", "users"),
        (".rtp/batch.db", "batch_users"),
    ] {
        let rows = format!("SELECT group_concat(first_name || ' ' || post_code) FROM {table}");
        assert_eq!(
            place.query(file, &rows),
            "Alfons 11549,Rose D4J 6N4",
            "{table}"
        );
    }
}
