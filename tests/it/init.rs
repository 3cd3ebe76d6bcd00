//! `rtp init` on what is there already.

use crate::common::{Place, Ran, users};

/// A dataset of three fields, in which `v` has this type, with more lines for its tables and fields.
fn dataset(kind: &str, event: &str, realtime: &str, fields: &str) -> String {
    format!(
        "name = \"t\"\n\
         [source]\nurl = \"http://127.0.0.1:9/\"\nrecords = \"\"\n\
         [event]\ntopic = \"t\"\nkey = \"id\"\ntime = \"at\"\n{event}\n\
         [realtime]\nkeyspace = \"t\"\ntable = \"t\"\n{realtime}\n\
         [batch]\ntable = \"b\"\n\
         [[field]]\nname = \"id\"\ntype = \"text\"\nfrom = \"/id\"\nrequired = true\n\
         [[field]]\nname = \"at\"\ntype = \"timestamp\"\nfrom = \"as-of\"\nrequired = true\n\
         [[field]]\nname = \"v\"\ntype = \"{kind}\"\nfrom = \"/v\"\n{fields}"
    )
}

const EVENT: &str = r#"{"id":"a","at":"2026-05-01T00:00:00Z","v":"5"}"#;

fn rtp(place: &Place, args: &[&str], input: &str) -> Ran {
    place.rtp(&[args, &["--dataset", "t.toml"]].concat(), input.as_bytes())
}

/// A place with the tables of the dataset, which then declares `v` as this type.
fn changed(kind: &str, fields: &str) -> Place {
    let place = Place::new();
    place.write("t.toml", dataset("text", "partitions = 1", "", ""));
    let made = rtp(&place, &["init"], "");
    assert_eq!(made.status, 0, "{}", made.stderr);
    place.write("t.toml", dataset(kind, "partitions = 1", "", fields));
    place
}

#[test]
fn tables_that_do_not_fit_are_refused_in_the_same_words_everywhere() {
    let more = "[[field]]\nname = \"w\"\ntype = \"text\"\nfrom = \"/w\"\n";
    for (kind, fields, why) in [
        ("text", more, "it has no column w"),
        (
            "bigint",
            "",
            "its column v has type TEXT, but the dataset needs INTEGER",
        ),
    ] {
        let place = changed(kind, fields);
        let said = format!("does not fit the dataset: {why}");
        let load = ["load-batch"];
        for args in [&["init"][..], &["stream", "--until-end"], &load] {
            let ran = rtp(&place, args, EVENT);
            assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(&said), "{args:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains("tables ready"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_table_that_was_altered_by_hand_fits_again_and_its_views_show_it() {
    let place = changed(
        "text",
        "[[field]]\nname = \"w\"\ntype = \"text\"\nfrom = \"/w\"\n",
    );
    for (file, table) in [("realtime.db", "t"), ("batch.db", "b")] {
        let db = rusqlite::Connection::open(place.path(&format!(".rtp/{file}"))).unwrap();
        let alter = format!("ALTER TABLE {table}_rows ADD COLUMN w TEXT");
        db.execute_batch(&alter).unwrap();
    }
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let event = EVENT.replace("\"v\"", "\"w\"");
    for args in [
        &["produce"][..],
        &["load-batch"],
        &["stream", "--until-end"],
        &["verify"],
    ] {
        let ran = rtp(&place, args, &event);
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
    }
    for (file, table) in [("realtime.db", "t"), ("batch.db", "b")] {
        let shown = place.query(&format!(".rtp/{file}"), &format!("SELECT w FROM {table}"));
        assert_eq!(shown, "5", "{file}");
    }
}

#[test]
fn a_key_that_nothing_keeps_unique_any_more_is_created_again_or_told() {
    let place = changed("text", "");
    let db = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
    db.execute_batch("DROP INDEX b_key").unwrap();
    let ran = rtp(&place, &["load-batch"], EVENT);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("nothing keeps its (id) unique"),
        "{}",
        ran.stderr
    );
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = rtp(&place, &["load-batch"], EVENT);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    db.execute_batch("DROP INDEX b_key; INSERT INTO b_rows SELECT * FROM b_rows")
        .unwrap();
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("b_rows.id"), "{}", ran.stderr);
}

#[test]
fn a_view_of_somebody_else_is_not_replaced() {
    let place = changed("text", "");
    let db = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
    db.execute_batch("DROP VIEW b; CREATE VIEW b AS SELECT 1 AS one")
        .unwrap();
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("already has a view named b"),
        "{}",
        ran.stderr
    );
    assert_eq!(place.query(".rtp/batch.db", "SELECT one FROM b"), "1");
}

#[test]
fn a_topic_with_fewer_partitions_is_told() {
    let place = changed("text", "");
    place.write("t.toml", dataset("text", "partitions = 2", "", ""));
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let said = "topic t in .rtp/log.db does not fit the dataset: it has 1 partition, but the dataset needs 2";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    // No tool can add partitions to this log.
    assert!(ran.stderr.contains("embedded log"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("Kafka"), "{}", ran.stderr);
}

#[test]
fn keys_of_the_dataset_without_effect_are_named() {
    let place = Place::new();
    let event = "retention = \"1d\"\nreplication = 3";
    let text = dataset("text", event, "ttl = \"1d\"", "");
    place.write("t.toml", format!("null = \"unset\"\n{text}"));
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // A log that keeps more than it must loses nothing.
    for (server, key, level) in [
        ("log.db", "`retention` has no effect", "info"),
        ("log.db", "`replication` has no effect", "info"),
        ("realtime.db", "`ttl` has no effect", "warn"),
        ("realtime.db", "because this store writes null", "warn"),
    ] {
        let all = [server, key, &format!("\"level\":\"{level}\"")];
        let mut lines = ran.stderr.lines();
        let is_said = lines.any(|line| all.iter().all(|part| line.contains(part)));
        assert!(is_said, "{server} {key}: {}", ran.stderr);
    }
    place.write("t.toml", dataset("text", "", "", ""));
    let ran = rtp(&place, &["init"], "");
    assert!(!ran.stderr.contains("no effect"), "{}", ran.stderr);
}

#[test]
fn a_history_has_a_table_whose_column_is_no_field() {
    let place = Place::new();
    let text =
        dataset("text", "", "", "").replace("table = \"b\"", "table = \"b\"\nhistory = true");
    place.write("t.toml", &text);
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let count = "SELECT count(*) FROM b_history";
    assert_eq!(place.query(".rtp/batch.db", count), "0");

    place.write("t.toml", text.replace("name = \"v\"", "name = \"As_Of\""));
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let says = "the history adds a column `as_of`, which is also a field";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
}

/// The dead letter of a bad event would wait for the lock that the rows' transaction of the same process holds.
#[test]
fn one_file_for_the_log_and_the_store_is_refused() {
    let place = Place::new();
    place.write("t.toml", dataset("text", "", "", ""));
    let same = [
        "--event-log",
        "sqlite:one.db",
        "--realtime-store",
        "sqlite:./one.db",
    ];
    for args in [&["init"][..], &["stream", "--until-end"]] {
        let ran = rtp(&place, &[args, &same].concat(), "");
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("are the same file"), "{}", ran.stderr);
    }
    assert!(!place.path("one.db").exists());
}

/// Whoever may not look into a folder cannot know that a file is missing there; a file in place of the folder is
/// another such obstacle, which also stops root.
#[test]
fn a_store_that_cannot_be_looked_for_is_not_said_to_be_missing() {
    let place = Place::new();
    place.write("t.toml", dataset("text", "", "", ""));
    place.write("file", "");
    for args in [
        &["load-batch", "--batch-store", "sqlite:file/b.db"][..],
        &[
            "verify",
            "--batch-store",
            "sqlite:file/b.db",
            "--realtime-store",
            "sqlite:file/r.db",
        ],
        &["produce", "--event-log", "sqlite:file/l.db"],
    ] {
        let ran = rtp(&place, args, EVENT);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        let is_told = ran.stderr.contains("Not a directory");
        assert!(
            is_told && !ran.stderr.contains("does not exist"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("rtp init"), "{}", ran.stderr);
    }
}

/// The signal SIGXFSZ would end the process without a word.
#[test]
fn a_file_that_may_not_grow_ends_a_command_with_a_summary() {
    let place = Place::new();
    place.write("t.toml", dataset("text", "", "", ""));
    rtp(&place, &["init"], "");
    let long = "x".repeat(1_000);
    let lines: String = (0..2_000)
        .map(|i| {
            EVENT
                .replace("\"a\"", &format!("\"{i}\""))
                .replace("\"5\"", &format!("\"{long}\""))
                + "\n"
        })
        .collect();
    place.write("in.ndjson", lines);
    for command in ["produce in.ndjson", "load-batch in.ndjson"] {
        let ran = place.bash(&format!(
            "ulimit -f 600; exec rtp --log-format json {command} --dataset t.toml"
        ));
        assert_eq!(ran.status, 4, "{command}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("614400 bytes"),
            "{command}: {}",
            ran.stderr
        );
        assert_eq!(ran.counts()[1], 0, "{command}: {}", ran.stderr);
    }
}

#[test]
fn what_init_has_not_made_is_said_by_every_command_in_the_same_words() {
    let commands: [(&[&str], &str); 5] = [
        (&["produce"], "log.db"),
        (&["stream", "--until-end"], "log.db"),
        (&["load-batch"], "batch.db"),
        (&["verify"], "realtime.db"),
        (&["heartbeat"], "log.db"),
    ];
    let other = rtp::dataset::BUILT_IN
        .replace("\"user_events\"", "\"other_events\"")
        .replace("\"users\"", "\"others\"")
        .replace("\"batch_users\"", "\"batch_others\"");
    // Nothing at all, empty files, and those of another dataset.
    for (files, said) in [
        ("mkdir .rtp", "does not exist"),
        (
            "mkdir .rtp; touch .rtp/{log,realtime,batch}.db",
            "there is no t",
        ),
        ("rtp -q init", "there is no t"),
    ] {
        let place = Place::new();
        place.write("other.toml", &other);
        let made = place.bash(files);
        assert_eq!(made.status, 0, "{}", made.stderr);
        for (command, file) in commands {
            let ran = place.rtp(
                &[command, &["--dataset", "other.toml"]].concat(),
                users(1).as_bytes(),
            );
            let told = ran.stderr.clone() + &ran.stdout;
            assert_eq!(ran.status, 2, "{files}: {command:?}: {told}");
            for text in [said, file, "run `rtp init` first, with the same dataset"] {
                assert!(told.contains(text), "{files}: {command:?}: {text}: {told}");
            }
        }
    }
}
