//! What is written to stderr, and what is not.

use crate::common::{Place, user};

#[test]
fn no_log_holds_a_value_of_a_record_unless_asked() {
    let place = Place::ready();
    let good = user(1, 0, "private@example.com");
    let other = good.replace("private", "private2");
    let bad = user(2, 0, "private@example.com").replacen('{', "{\"dob\":\"private\",", 1);
    let torn = "{\"email\":\"private\n".to_string();
    let lines = [good.clone(), bad, torn].join("\n");
    let mut said = String::new();
    for (args, input, status) in [
        (&["produce"][..], &lines, 1),
        (&["load-batch"], &lines, 3),
        (&["stream", "--until-end"], &lines, 0),
        (&["load-batch", "--rejects", "r"], &other, 0),
        (&["verify"], &lines, 1),
        (&["heartbeat"], &lines, 0),
    ] {
        let ran = place.rtp(args, input.as_bytes());
        assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
        said += &ran.stderr;
    }
    assert!(!said.contains("private"), "{said}");
    assert!(said.contains("email differs"), "{said}");
    let asked = place.rtp(&["verify", "--sample", "1"], b"");
    assert!(asked.stderr.contains("private2"), "{}", asked.stderr);
}

#[test]
fn every_line_of_a_log_names_the_run() {
    let place = Place::ready();
    for args in [&["verify"][..], &["stream", "--until-end"], &["load-batch"]] {
        let ran = place.rtp(&[args, &["--run-id", "night-7"]].concat(), b"");
        assert!(ran.stderr.lines().count() > 1, "{}", ran.stderr);
        for line in ran.stderr.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["run_id"], "night-7");
        }
    }
}
