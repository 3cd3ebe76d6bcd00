//! Members of one group that come, go and die.

use std::time::Duration;

use super::{Kafka, STORE};
use crate::common::{eventually, user};
use crate::stack::{Access, server};

#[test]
fn a_group_loses_nothing_while_its_members_come_and_go() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    let kafka = Kafka::ready(kafka, 6);
    let lines: String = (0..60_000)
        .map(|n| user(n, 0, &format!("{n}@example.com")) + "\n")
        .collect();
    let ran = kafka.rtp(&["produce"], lines.as_bytes());
    assert_eq!(ran.counts(), [60_000, 60_000, 0, 0, 0], "{}", ran.stderr);

    let member = |more: &[&str]| {
        kafka.start(&[&["stream", "--max-batch", "50", "--linger", "0"], more].concat())
    };
    let killed = member(&[]);
    eventually("the first member stores rows", || kafka.stored() > 1_000);
    let stopped = member(&[]);
    let last = member(&["--until-end"]);
    std::thread::sleep(Duration::from_secs(2)); // so that they have joined, or are about to
    killed.signal("KILL");
    killed.end();
    stopped.signal("TERM");
    let asked = std::time::Instant::now();
    let ran = stopped.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "drained in {:?}",
        asked.elapsed()
    );
    let ran = last.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);

    let right = "SELECT count(*) FROM users
        WHERE email = CAST(substr(id, -12) AS INTEGER) || '@example.com'";
    assert_eq!(kafka.place.query(STORE, right), "60000");
    let rest = kafka.rtp(&["stream", "--until-end"], b"");
    assert_eq!((rest.status, rest.counts()), (0, [0; 5]), "{}", rest.stderr);
}
