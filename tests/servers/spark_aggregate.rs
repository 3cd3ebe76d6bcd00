//! The Spark batch job computes the figures that `rtp aggregate` computes: both count the same rows, of a dataset with
//! every kind of dimension.

use std::process::Stdio;

use crate::common::figures::figures_are_right;
use crate::common::{Place, Ran, users_without_history};
use crate::postgres::Database;
use crate::spark::{ALONE, run, spark};
use crate::stack::does_not_run;

/// A field of each type that can be counted by, and each kind of dimension.
const DATASET: &str = r#"
name = "NAME"
[source]
url = "http://127.0.0.1/"
records = ""
[event]
topic = "kinds"
key = "id"
time = "at"
[realtime]
keyspace = "kinds"
table = "kinds"
[batch]
table = "kinds"
[[aggregate]]
name = "texts"
field = "text"
[[aggregate]]
name = "domains"
field = "text"
by = "domain"
[[aggregate]]
name = "ints"
field = "int"
[[aggregate]]
name = "bigints"
field = "bigint"
[[aggregate]]
name = "booleans"
field = "boolean"
[[aggregate]]
name = "dates"
field = "date"
[[aggregate]]
name = "ages"
field = "time"
by = "band"
width = 10
[[aggregate]]
name = "years"
field = "date"
by = "band"
width = 1
[[aggregate]]
name = "months"
field = "time"
by = "month"
[[aggregate]]
name = "months_of_dates"
field = "date"
by = "month"
[[aggregate]]
name = "hours"
field = "time"
by = "hour"
[[aggregate]]
name = "late"
field = "time"
by = "lateness"
[[field]]
name = "id"
type = "int"
from = "/id"
required = true
[[field]]
name = "text"
type = "text"
from = "/text"
[[field]]
name = "int"
type = "int"
from = "/int"
[[field]]
name = "bigint"
type = "bigint"
from = "/bigint"
[[field]]
name = "boolean"
type = "boolean"
from = "/boolean"
[[field]]
name = "date"
type = "date"
from = "/date"
[[field]]
name = "time"
type = "timestamp"
from = "/time"
[[field]]
name = "at"
type = "timestamp"
from = "as-of"
required = true
"#;

const DAY: &str = "2026-03-01";

/// Values at the edges of their groups, absent ones, and rows of the days before and after; then many more rows, which
/// several tasks share.
fn events() -> String {
    let mut events = vec![
        r#"{"id":-1,"at":"2026-02-28T23:59:59.999Z","text":"before"}"#.to_string(),
        r#"{"id":-2,"at":"2026-03-02T00:00:00Z","text":"after"}"#.into(),
        r#"{"id":-3,"at":"2026-03-01T00:00:00Z"}"#.into(),
        r#"{"id":-4,"at":"2026-03-01T23:59:59.999Z","text":"","int":-2147483648,"bigint":-9223372036854775808,"boolean":true,"date":"0001-01-01","time":"0001-01-01T00:00:00Z"}"#.into(),
        r#"{"id":-5,"at":"2026-03-01T01:00:00Z","text":"Zoë@A.Example@É.EXAMPLE","int":2147483647,"bigint":9223372036854775807,"boolean":false,"date":"9999-12-31","time":"9999-12-31T23:59:59.999Z"}"#.into(),
        r#"{"id":-6,"at":"2026-03-01T01:00:00Z","text":"x@","date":"2000-02-29","time":"1582-10-10T12:00:00Z"}"#.into(),
        r#"{"id":-7,"at":"2026-03-01T01:00:00Z","text":"x","date":"2026-03-01","time":"1969-12-31T23:59:59.999Z"}"#.into(),
        r#"{"id":-8,"at":"2026-03-01T01:00:00Z","text":"\\'\"\n","date":"2026-03-02","time":"2026-03-01T01:00:00.999Z"}"#.into(),
        r#"{"id":-9,"at":"2026-03-01T01:00:00Z","time":"2026-03-02T01:00:00Z"}"#.into(),
    ];
    for n in 0_u32..20_000 {
        events.push(format!(
            r#"{{"id":{n},"at":"2026-03-01T{:02}:00:00Z","text":"user{n}@{}.example","int":{},"date":"{}-0{}-2{}","time":"2026-03-01T{:02}:{:02}:00Z"}}"#,
            n % 24,
            n % 90,
            n % 7,
            1900 + n % 126,
            1 + n % 9,
            n % 9,
            n % 23,
            n % 60
        ));
    }
    events.join("\n")
}

/// Runs the job.
fn job(place: &Place, database: &Database, dataset: &str, more: &[&str]) -> Ran {
    let out = run()
        .current_dir(place.root())
        .env("RTP_SPARK_JOB", "aggregate")
        .env("RTP_BATCH_STORE", &database.url)
        .args(["--log-format", "json", "--dataset", dataset])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran::of(out)
}

/// A database of its own, unless something must be installed first.
fn ready(name: &str) -> Option<Database> {
    let database = Database::new(name)?;
    match spark() {
        Ok(()) => Some(database),
        Err(why) => {
            does_not_run(why);
            None
        }
    }
}

#[test]
fn the_figures_of_the_spark_job_are_those_of_rtp() {
    let Some(database) = ready("spark_aggregate") else {
        return;
    };
    let _alone = ALONE.blocking_lock();
    let place = Place::new();
    for name in ["by_rtp", "by_spark"] {
        place.write(&format!("{name}.toml"), DATASET.replace("NAME", name));
    }
    let rtp = |args: &[&str], input: &str| database.rtp(&place, args, input.as_bytes());
    let made = rtp(&["init", "--dataset", "by_rtp.toml"], "");
    assert_eq!(made.status, 0, "{}", made.stderr);
    let loaded = rtp(&["load-batch", "--dataset", "by_rtp.toml"], &events());
    assert_eq!(loaded.status, 0, "{}", loaded.stderr);
    // A time that no value of the dataset's types can be.
    database
        .psql(
            "UPDATE kinds SET time = 'infinity', date = '-infinity' WHERE id = -9;
             UPDATE kinds SET time = '0044-03-15 00:00:00+00 BC', date = '10000-01-01' WHERE id = -8",
        )
        .unwrap();
    let all = ["--date", "2026-02-28", "--to", "2026-03-03"];
    // 20,000 texts are too many values to count by.
    let refused = job(&place, &database, "by_spark.toml", &["--date", DAY]);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    let told = "the aggregate texts has more than 10000 values on 2026-03-01";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    let shorter = "UPDATE kinds SET text = right(text, 12) WHERE id >= 0";
    database.psql(shorter).unwrap();

    // Each in its own dataset, the job in several tasks.
    let by_rtp = rtp(
        &[&["aggregate", "--dataset", "by_rtp.toml"][..], &all].concat(),
        "",
    );
    assert_eq!(by_rtp.status, 0, "{}", by_rtp.stderr);
    let tasks = ["--task-pages", "30"];
    let by_spark = job(
        &place,
        &database,
        "by_spark.toml",
        &[&all[..], &tasks].concat(),
    );
    assert_eq!(by_spark.status, 0, "{}", by_spark.stderr);
    assert_eq!(by_rtp.counts(), by_spark.counts());
    let figures = |name: &str| {
        let select =
            "SELECT day, aggregate, coalesce('=' || value, 'null'), count FROM rtp_aggregates";
        let figures = format!(
            "{select} WHERE dataset = '{name}' ORDER BY day, aggregate, value COLLATE \"C\""
        );
        database.psql(&figures).unwrap()
    };
    let [ours, theirs] = ["by_rtp", "by_spark"].map(figures);
    for (a, b) in ours.lines().zip(theirs.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(ours, theirs);
    assert!(ours.contains("|=(invalid)|"), "{ours}");
    let kinds = "SELECT count(DISTINCT aggregate) FROM rtp_aggregates WHERE day = '2026-03-01' AND dataset = 'by_spark'";
    assert_eq!(database.psql(kinds).unwrap(), "12");

    // What one has computed, the other leaves as it is.
    let [figures, ..] = by_rtp.counts();
    let unchanged = [figures, 0, 0, 0, figures];
    let again = job(&place, &database, "by_rtp.toml", &all);
    assert_eq!(
        (again.status, again.counts()),
        (0, unchanged),
        "{}",
        again.stderr
    );
    let again = rtp(
        &[&["aggregate", "--dataset", "by_spark.toml"][..], &all].concat(),
        "",
    );
    assert_eq!(
        (again.status, again.counts()),
        (0, unchanged),
        "{}",
        again.stderr
    );

    // Both prefer the history, if the dataset declares one: not a table that is only there.
    let with_history = |name: &str| {
        let keeps = "[batch]\nhistory = true";
        place.write(
            &format!("{name}.toml"),
            DATASET.replace("NAME", name).replace("[batch]", keeps),
        );
    };
    with_history("history");
    let missing = job(&place, &database, "history.toml", &["--date", DAY]);
    assert_eq!(missing.status, 2, "{}", missing.stderr);
    let told = "there is no table kinds_history";
    assert!(missing.stderr.contains(told), "{}", missing.stderr);
    let made = rtp(&["init", "--dataset", "history.toml"], "");
    assert_eq!(made.status, 0, "{}", made.stderr);
    let columns = "id, text, int, bigint, boolean, date, time, at, rtp_digest";
    database
        .psql(&format!(
            "INSERT INTO kinds_history ({columns}, as_of) SELECT {columns}, '2026-03-01' FROM kinds WHERE id < 0;
             DELETE FROM kinds WHERE id >= 0"
        ))
        .unwrap();
    database.psql("DELETE FROM kinds WHERE id = -3").unwrap();
    let day = ["--date", DAY, "--replace"];
    let undeclared = job(&place, &database, "by_spark.toml", &day);
    assert!(
        undeclared.stderr.contains("6 rows of kinds,"),
        "{}",
        undeclared.stderr
    );
    let by_rtp = rtp(
        &[&["aggregate", "--dataset", "by_spark.toml"][..], &day].concat(),
        "",
    );
    let [figures, ..] = undeclared.counts();
    assert_eq!(by_rtp.counts(), [figures, 0, 0, 0, figures]);
    with_history("by_rtp");
    let fewer = rtp(
        &[&["aggregate", "--dataset", "by_rtp.toml"][..], &day].concat(),
        "",
    );
    assert!(
        fewer.stderr.contains("7 rows of kinds_history"),
        "{}",
        fewer.stderr
    );
    let [figures, ..] = fewer.counts();
    let again = job(&place, &database, "by_rtp.toml", &day);
    assert_eq!(
        (again.status, again.counts()),
        (0, [figures, 0, 0, 0, figures]),
        "{}",
        again.stderr
    );
}

#[test]
fn the_users_figures_and_the_messages_of_the_spark_job_are_those_of_rtp() {
    let Some(database) = ready("spark_aggregate_says") else {
        return;
    };
    let _alone = ALONE.blocking_lock();
    let place = Place::new();
    place.write("users.toml", users_without_history());
    let missing = job(&place, &database, "users.toml", &["--date", DAY]);
    assert_eq!(missing.status, 2, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("there is no table rtp_aggregates"),
        "{}",
        missing.stderr
    );
    for (args, told) in [
        (&["--date", "2026-02-30"][..], "invalid day `2026-02-30`"),
        (
            &["--date", DAY, "--to", "2026-02-28"],
            "--to 2026-02-28 is before --date 2026-03-01",
        ),
        (
            &["--date", "9999-12-31"],
            "--date 9999-12-31 is in the future",
        ),
    ] {
        let ran = job(&place, &database, "users.toml", args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
    }
    // The users' figures, computed by rtp, by an independent count and by the job, each from nothing; then a row leaves the
    // day.
    let store = ["--batch-store", &database.url];
    figures_are_right(&place, &users_without_history(), &store);
    let ours = std::fs::read_to_string(place.path("users.toml")).unwrap();
    let theirs = ours.replacen("name = \"users\"", "name = \"by_spark\"", 1);
    place.write("by_spark.toml", theirs);
    let counted = job(&place, &database, "by_spark.toml", &["--date", DAY]);
    assert_eq!(counted.status, 0, "{}", counted.stderr);
    let figures = |name: &str| {
        let figures = "SELECT aggregate, coalesce('=' || value, 'null'), count FROM rtp_aggregates WHERE dataset = ";
        let figures = database.psql(&format!("{figures}'{name}' ORDER BY 1, 2"));
        figures.unwrap()
    };
    assert_eq!(figures("by_spark"), figures("users"));
    eprintln!("{} figures by Spark are rtp's", counted.counts()[0]);
    let moved = "UPDATE batch_users SET fetched_at = fetched_at + interval '1 day'
        WHERE id = (SELECT id FROM batch_users LIMIT 1)";
    database.psql(moved).unwrap();
    let days = ["--date", "2026-02-28", "--to", DAY];
    let kept = job(
        &place,
        &database,
        "users.toml",
        &[&days[..], &["--require-records"]].concat(),
    );
    assert_eq!((kept.status, kept.counts()), (1, [0; 5]), "{}", kept.stderr);
    for told in [
        "2026-02-28: batch_users has no rows of this day",
        "so they are kept",
    ] {
        assert!(kept.stderr.contains(told), "{}", kept.stderr);
    }
    let replaced = job(
        &place,
        &database,
        "users.toml",
        &["--date", DAY, "--replace"],
    );
    assert_eq!(replaced.status, 0, "{}", replaced.stderr);
    let by_rtp = database.rtp(
        &place,
        &["aggregate", "--date", DAY, "--dataset", "users.toml"],
        b"",
    );
    let [figures, ..] = replaced.counts();
    assert_eq!(
        by_rtp.counts(),
        [figures, 0, 0, 0, figures],
        "{}",
        by_rtp.stderr
    );
}
