//! `rtp aggregate` on the embedded store.

use crate::common::figures::figures_are_right;
use crate::common::{Place, Ran, user, users_without_history};

const STORE: &str = ".rtp/batch.db";

/// Runs it on the users dataset without a history.
fn aggregate(place: &Place, args: &[&str]) -> Ran {
    rtp(place, &[&["aggregate"], args].concat(), "")
}

fn rtp(place: &Place, args: &[&str], input: &str) -> Ran {
    place.rtp(&[args, &["--dataset", "u.toml"]].concat(), input.as_bytes())
}

fn place() -> Place {
    let place = Place::new();
    place.write("u.toml", users_without_history());
    place
}

fn ready() -> Place {
    let place = place();
    let ran = rtp(&place, &["init"], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    place
}

/// A place with these users, of 2026-11-01.
fn loaded(users: &[String]) -> Place {
    let place = ready();
    let ran = rtp(&place, &["load-batch"], &users.join("\n"));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    place
}

fn today() -> String {
    let now = rtp::time::format_ms(rtp::time::now_ms());
    now[..10].into()
}

#[test]
fn figures_equal_an_independent_count_and_a_day_computed_again_is_unchanged() {
    figures_are_right(&Place::new(), rtp::dataset::BUILT_IN, &[]);
}

#[test]
fn figures_are_told_stored_and_written_out() {
    let place = loaded(&[
        user(1, 0, "a@Example.com"),
        user(2, 0, "b@example.com").replace("T00:", "T01:"),
    ]);
    let ran = aggregate(
        &place,
        &["--date", "2026-11-01", "--output", "-", "--run-id", "r1"],
    );
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [7, 7, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    let told = "2026-11-01: 2 rows of batch_users, 7 figures, 7 of them new or changed, 0 removed";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    let lines: Vec<serde_json::Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 7);
    let figure = |name: &str, value: &str| {
        let found = lines
            .iter()
            .find(|f| f["aggregate"] == name && f["value"] == value);
        found.unwrap_or_else(|| panic!("{name} {value}: {}", ran.stdout))
    };
    let domain = figure("email_domain", "example.com");
    assert_eq!(domain["count"], 2);
    assert_eq!(
        (&domain["dataset"], &domain["day"], &domain["run_id"]),
        (&"users".into(), &"2026-11-01".into(), &"r1".into())
    );
    assert!(
        domain["computed_at"]
            .as_str()
            .unwrap()
            .starts_with(&today()[..8])
    );
    figure("events_by_hour", "01");
    // Without --output, standard output is empty.
    let quiet = aggregate(&place, &["--date", "2026-11-01"]);
    assert_eq!(
        (quiet.stdout.as_str(), quiet.counts()),
        ("", [7, 0, 0, 0, 7])
    );
    let runs = "SELECT group_concat(DISTINCT run_id) FROM rtp_aggregates";
    assert_eq!(place.query(STORE, runs), "r1");
}

#[test]
fn days_without_rows_and_days_in_progress_are_told() {
    let place = loaded(&[user(1, 0, "a@example.com")]);
    let nothing = "2026-10-31: batch_users has no rows of this day";
    let range = ["--date", "2026-10-31", "--to", "2026-11-01"];
    let ran = aggregate(&place, &range);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(nothing), "{}", ran.stderr);
    let required = aggregate(&place, &[&range[..], &["--require-records"]].concat());
    assert_eq!(required.status, 1, "{}", required.stderr);
    assert!(required.stderr.contains(nothing), "{}", required.stderr);
    let fine = aggregate(&place, &["--date", "2026-11-01", "--require-records"]);
    assert_eq!(fine.status, 0, "{}", fine.stderr);
    assert!(!fine.stderr.contains("not over yet"), "{}", fine.stderr);
    let now = user(2, 0, "b@example.com")
        .replace("2026-11-01T00:00:00Z", &format!("{}T00:00:00Z", today()));
    assert_eq!(rtp(&place, &["load-batch"], &now).status, 0);
    let ran = aggregate(&place, &["--date", "yesterday", "--to", "today"]);
    // Unless the day has ended since.
    assert!(
        ran.stderr.contains("is not over yet in UTC") || ran.stderr.contains("has no rows"),
        "{}",
        ran.stderr
    );
}

#[test]
fn wrong_days_are_refused() {
    let place = ready();
    for (args, told) in [
        (&["--date", "2026-02-30"][..], "invalid day `2026-02-30`"),
        (
            &["--date", "2026-11-02", "--to", "2026-11-01"],
            "--to 2026-11-01 is before --date 2026-11-02",
        ),
        (
            &["--date", "9999-12-31"],
            "--date 9999-12-31 is in the future",
        ),
        (
            &["--date", "today", "--to", "9999-12-31"],
            "--to 9999-12-31 is in the future",
        ),
        (&["--to", "2026-11-01"], "--date"),
    ] {
        let ran = aggregate(&place, args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn what_is_missing_is_told() {
    let place = place();
    let ran = aggregate(&place, &["--date", "2026-11-01"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("rtp init"), "{}", ran.stderr);
    // A store of an older version.
    let place = ready();
    let db = rusqlite::Connection::open(place.path(STORE)).unwrap();
    db.execute_batch("DROP TABLE rtp_aggregates").unwrap();
    let ran = aggregate(&place, &["--date", "2026-11-01"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("there is no table rtp_aggregates"),
        "{}",
        ran.stderr
    );
    // A dataset without dimensions.
    place.write("products.toml", include_str!("../products.toml"));
    assert_eq!(
        place
            .rtp(&["init", "--dataset", "products.toml"], b"")
            .status,
        0
    );
    let ran = place.rtp(
        &[
            "aggregate",
            "--date",
            "2026-11-01",
            "--dataset",
            "products.toml",
        ],
        b"",
    );
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("products declares no [[aggregate]]"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_dimension_by_a_field_that_the_table_lacks_is_told() {
    let place = loaded(&[user(1, 0, "a@example.com")]);
    let more = "\n[[aggregate]]\nname = \"extra\"\nfield = \"extra\"\n[[field]]\nname = \"extra\"\ntype = \"text\"\nfrom = \"/extra\"\n";
    place.write("u.toml", users_without_history() + more);
    let ran = aggregate(&place, &["--date", "2026-11-01"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("it has no column extra"),
        "{}",
        ran.stderr
    );
    let none = "SELECT count(*) FROM rtp_aggregates";
    assert_eq!(place.query(STORE, none), "0");
}

#[test]
fn a_key_loaded_again_takes_no_figure_away() {
    let place = loaded(&[user(1, 0, "a@example.com"), user(2, 0, "b@example.com")]);
    let day = ["--date", "2026-11-01"];
    assert_eq!(aggregate(&place, &day).status, 0);
    let newer = user(1, 0, "a@example.com").replace("2026-11-01", "2026-11-02");
    assert_eq!(rtp(&place, &["load-batch"], &newer).status, 0);
    let kept = aggregate(&place, &day);
    assert_eq!((kept.status, kept.counts()), (0, [0; 5]), "{}", kept.stderr);
    let told = "2026-11-01: batch_users has 1 row of this day, but the stored figures count 2, so they are kept";
    assert!(kept.stderr.contains(told), "{}", kept.stderr);
    let rows = "SELECT sum(count) FROM rtp_aggregates WHERE aggregate = 'gender'";
    assert_eq!(place.query(STORE, rows), "2");
    let replaced = aggregate(&place, &[&day[..], &["--replace"]].concat());
    assert_eq!(replaced.status, 0, "{}", replaced.stderr);
    assert_eq!(place.query(STORE, rows), "1");
}

#[test]
fn with_a_history_a_day_keeps_its_rows() {
    let place = Place::ready();
    let first = [user(1, 0, "a@x.org"), user(2, 0, "b@x.org")].join("\n");
    let second = user(1, 0, "a@y.org").replace("2026-11-01", "2026-11-02");
    for events in [first, second] {
        let ran = place.rtp(&["load-batch"], events.as_bytes());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
    let days = ["--date", "2026-11-01", "--to", "2026-11-02"];
    let ran = place.rtp(&[&["aggregate"], &days[..]].concat(), b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for told in [
        "2026-11-01: 2 rows of batch_users_history",
        "2026-11-02: 1 row of batch_users_history",
    ] {
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
    let domains = "SELECT group_concat(day || ' ' || value || ' ' || count) FROM (SELECT * FROM rtp_aggregates
                   WHERE aggregate = 'email_domain' ORDER BY day)";
    let expected = "2026-11-01 x.org 2,2026-11-02 y.org 1";
    assert_eq!(place.query(STORE, domains), expected);
}

#[test]
fn a_history_that_was_off_is_not_counted_with_what_it_has_missed() {
    let place = place();
    let loaded = |args: &[&str], users: &[String]| {
        let ran = place.rtp(args, users.join("\n").as_bytes());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    };
    loaded(&["init"], &[]);
    let at =
        |hour: &str, user: String| user.replace("2026-11-01T00:", &format!("2026-11-01T{hour}:"));
    loaded(
        &["load-batch"],
        &[user(1, 0, "a@x.org"), user(2, 0, "b@x.org")],
    );
    let later = [
        at("05", user(1, 0, "a@y.org")),
        at("05", user(2, 0, "b@y.org")),
    ];
    loaded(&["load-batch", "--dataset", "u.toml"], &later);
    loaded(&["init"], &[]);
    let day = ["aggregate", "--date", "2026-11-01"];
    let domains = "SELECT group_concat(value || ' ' || count) FROM rtp_aggregates WHERE aggregate = 'email_domain'";
    let ran = place.rtp(&day, b"");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for told in [
        "2026-11-01: the history lacks 2 of the rows that batch_users has of this day, so batch_users is counted",
        "2026-11-01: 2 rows of batch_users,",
    ] {
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
    assert_eq!(place.query(STORE, domains), "y.org 2");
    loaded(&["load-batch"], &later);
    let ran = place.rtp(&day, b"");
    let told = "2026-11-01: 2 rows of batch_users_history,";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    assert!(!ran.stderr.contains("lacks"), "{}", ran.stderr);
}

#[test]
fn a_run_that_ends_early_says_which_days_were_not_computed() {
    let place = loaded(&[user(1, 0, "a@example.com")]);
    let db = rusqlite::Connection::open(place.path(STORE)).unwrap();
    let refuse = "CREATE TRIGGER no BEFORE INSERT ON rtp_aggregates WHEN NEW.day = '2026-11-01'
                  BEGIN SELECT RAISE(ABORT, 'not today'); END";
    db.execute_batch(refuse).unwrap();
    let ends_at = |from: &str, to: &str| {
        let output = ["--output", "figures.ndjson", "--max-outage", "0"];
        let ran = aggregate(
            &place,
            &[&["--date", from, "--to", to], &output[..]].concat(),
        );
        assert_ne!(ran.status, 0, "{}", ran.stderr);
        let told = "--output figures.ndjson was not written";
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
        assert!(!place.path("figures.ndjson").exists());
        ran.stderr
    };
    let said = "the run ends at 2026-11-01, so no later day up to 2026-11-03 was computed";
    let told = ends_at("2026-10-31", "2026-11-03");
    let before = format!("{said}; the days before it are complete");
    assert!(told.contains(&before), "{told}");
    let told = ends_at("2026-11-01", "2026-11-03");
    assert!(told.contains(said) && !told.contains("before it"), "{told}");
    let told = ends_at("2026-10-31", "2026-11-01");
    assert!(!told.contains("the run ends at"), "{told}");
}

#[test]
fn a_value_of_another_type_is_a_group_that_says_so() {
    let place = loaded(&[user(1, 0, "a@example.com")]);
    let db = rusqlite::Connection::open(place.path(STORE)).unwrap();
    let spoil =
        "UPDATE batch_users_rows SET dob = 'x', registered_date = x'00', email = 5, gender = 1.5";
    assert_eq!(db.execute(spoil, []).unwrap(), 1);
    let ran = aggregate(&place, &["--date", "2026-11-01"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let spoiled = "SELECT group_concat(aggregate) FROM (SELECT aggregate FROM rtp_aggregates
                   WHERE value = '(invalid)' ORDER BY aggregate)";
    // SQLite turns a number into text when it is written to a column of text.
    let both = "age_band,registrations_by_month";
    assert_eq!(place.query(STORE, spoiled), both);
    // Times of no year that can be written as a date.
    db.execute_batch("DELETE FROM rtp_aggregates").unwrap();
    let far = "UPDATE batch_users_rows SET dob = 1000000000000000000, registered_date = -1000000000000000000";
    assert_eq!(db.execute(far, []).unwrap(), 1);
    let ran = aggregate(&place, &["--date", "2026-11-01"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(place.query(STORE, spoiled), both);
}

#[test]
fn a_run_waits_for_a_load_and_fails_when_it_may_not() {
    let place = loaded(&[user(1, 0, "a@example.com")]);
    let db = rusqlite::Connection::open(place.path(STORE)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ran = aggregate(&place, &["--date", "2026-11-01", "--max-outage", "0"]);
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("cannot compute the figures of 2026-11-01"),
        "{}",
        ran.stderr
    );
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(
        place.query(STORE, "SELECT count(*) FROM rtp_aggregates"),
        "0"
    );
}
