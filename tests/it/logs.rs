//! What is written to stderr, and what is not.

use std::process::{Command, Stdio};

use crate::common::{Place, user, users};

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

/// What is written to stderr in this format.
fn said(place: &Place, format: &str, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args(["--log-format", format])
        .args(args)
        .current_dir(place.root())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_ne!(out.status.code(), Some(0));
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn the_text_of_a_stores_error_forges_no_line_and_controls_no_terminal() {
    let place = Place::ready();
    place.write("u.ndjson", users(2));
    let db = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
    db.execute_batch(
        "CREATE TRIGGER hostile BEFORE INSERT ON batch_users_rows BEGIN
           SELECT RAISE(FAIL, 'no
rtp load-batch: 9 read, 9 written
{\"command\":\"load-batch\",\"exit\":0}\u{1b}[2J\u{9b}2J\u{202e}');
         END",
    )
    .unwrap();
    for format in ["text", "json"] {
        let told = said(&place, format, &["load-batch", "u.ndjson"]);
        assert!(told.contains("9 written"), "the trigger is told: {told}");
        let is_hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!told.contains(is_hostile), "{told:?}");
        for line in told.lines() {
            let is_ours = match format {
                "text" => line.starts_with("rtp load-batch: ") || line.starts_with("  hint: "),
                _ => line.contains("\"run_id\""),
            };
            assert!(
                is_ours && !line.starts_with("rtp load-batch: 9 read"),
                "{told}"
            );
        }
    }
}
