//! `rtp transform` as users see it.

use crate::common::{Place, Ran, complete, pages, user, users};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// The objects on standard output.
fn answers(ran: &Ran) -> Vec<serde_json::Value> {
    let lines = ran.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A stream of Arrow with one batch of events, and their timestamps in the log.
fn timed(timestamps: ArrayRef, events: &[&str]) -> Vec<u8> {
    let values = events.iter().map(|event| event.as_bytes()).collect();
    let values: ArrayRef = Arc::new(BinaryArray::from_vec(values));
    let columns = [("timestamp", timestamps), ("value", values)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

/// A stream of Arrow with these batches of events.
fn stream(batches: &[&[Option<&[u8]>]]) -> Vec<u8> {
    let field = Field::new("value", DataType::Binary, true);
    let schema = Arc::new(Schema::new(vec![field]));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in batches {
        let values = Arc::new(BinaryArray::from_iter(batch.iter().copied()));
        let batch = RecordBatch::try_new(schema.clone(), vec![values]).unwrap();
        writer.write(&batch).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn each_line_is_answered_by_its_row_or_its_fault() {
    let place = Place::new();
    let good = user(1, 0, "a@x.org");
    let newer = user(1, 1, "b@x.org");
    let input = format!("{good}\n\n{newer}\n{{\"id\":3}}\nno JSON\n");
    let ran = place.rtp(&["transform"], input.as_bytes());
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert_eq!(ran.counts(), [5, 2, 2, 0, 1]);
    let answers = answers(&ran);
    let lines: Vec<u64> = answers
        .iter()
        .map(|a| a["rtp_line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [1, 3, 4, 5]);
    assert_eq!(
        answers[0],
        serde_json::json!({
            "id": "00000000-0000-4000-8000-000000000001", "first_name": "Zoë", "last_name": null,
            "gender": null, "address": null, "post_code": "12345", "email": "a@x.org",
            "username": null, "dob": null, "registered_date": null, "phone": null, "picture": null,
            "nationality": null, "fetched_at": "2026-11-01T00:00:00.000Z",
            "users_by_hour.hour": "2026-11-01T00:00:00.000Z",
            "users_by_hour.shard": answers[1]["users_by_hour.shard"],
            "rtp_write_timestamp": answers[0]["rtp_write_timestamp"],
            "rtp_newest": false, "rtp_line": 1,
        })
    );
    let ms = answers[0]["rtp_write_timestamp"].as_i64().unwrap() / 1_000;
    assert_eq!(ms, 1_793_491_200_000);
    assert_eq!(answers[1]["rtp_newest"], true);
    assert_eq!(
        answers[2],
        serde_json::json!({
            "rtp_rule": "type", "rtp_field": "id",
            "rtp_message": "field id: type: expected uuid, got a number", "rtp_line": 4,
        })
    );
    assert_eq!(answers[3]["rtp_rule"], "json_syntax");
    assert_eq!(answers[3]["rtp_field"], serde_json::Value::Null);
}

#[test]
fn the_words_are_those_of_the_dead_letters() {
    let place = Place::ready();
    let bad = "{\"a\":\n[1]\n{} {}\n{\"id\":\"x\"}\n";
    let ran = place.rtp(&["transform"], bad.as_bytes());
    assert_eq!(place.rtp(&["produce"], bad.as_bytes()).status, 1);
    let db = rusqlite::Connection::open(place.path(".rtp/log.db")).unwrap();
    let mut select = db
        .prepare("SELECT headers FROM events_2_0 ORDER BY offset")
        .unwrap();
    let headers: Vec<Vec<u8>> = select
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(headers.len(), 4);
    for (answer, headers) in answers(&ran).iter().zip(&headers) {
        let said = |wanted| {
            let mut all = rtp::record::event::Headers::read(headers);
            all.find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let of = |member: &str| answer[member].as_str().map(str::as_bytes);
        assert_eq!(
            of("rtp_message"),
            said("__connect.errors.exception.message")
        );
        assert_eq!(of("rtp_rule"), said("rtp.rule"));
        assert_eq!(of("rtp_field"), said("rtp.field"));
    }
}

#[test]
fn the_time_that_events_are_judged_by_can_be_given() {
    let place = Place::new();
    let event = user(1, 0, "a@x.org");
    for (now, status) in [("2026-10-31T23:00:00Z", 0), ("2026-10-31T22:59:59Z", 1)] {
        let ran = place.rtp(&["transform", "--now", now], event.as_bytes());
        assert_eq!(ran.status, status, "{now}: {}", ran.stderr);
    }
}

#[test]
fn arrow_batches_are_answered_by_batches_of_as_many_rows() {
    let place = Place::new();
    let [a, b] = ["a@x.org", "b@x.org"].map(|email| user(1, 0, email));
    let first: &[Option<&[u8]>] = &[Some(a.as_bytes()), None, Some(b"\xff")];
    let events = stream(&[first, &[], &[Some(b.as_bytes())]]);
    place.write("events.arrows", &events);
    let ran = place.rtp(&["transform", "--from", "arrow", "events.arrows"], b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert_eq!(ran.counts(), [4, 2, 2, 0, 0]);
    let answers = answers(&ran);
    let rules: Vec<Option<&str>> = answers.iter().map(|a| a["rtp_rule"].as_str()).collect();
    assert_eq!(rules, [None, Some("tombstone"), Some("invalid_utf8"), None]);
    let lines: Vec<u64> = answers
        .iter()
        .map(|a| a["rtp_line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [1, 2, 3, 4]);

    let script =
        "rtp -q transform --from arrow --to arrow events.arrows > answers.arrows || test $? = 1";
    assert_eq!(place.bash(script).status, 0);
    let file = std::fs::File::open(place.path("answers.arrows")).unwrap();
    let reader = StreamReader::try_new(file, None).unwrap();
    let declared: serde_json::Value =
        serde_json::from_str(&reader.schema().metadata()["rtp.dataset"]).unwrap();
    assert_eq!(
        declared,
        serde_json::json!({
            "name": "users", "topic": "user_events", "keyspace": "realtime", "table": "users", "null": "write",
        })
    );
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(rows, [3, 0, 1]);
    let column = |name| batches[0].column_by_name(name).unwrap();
    assert_eq!(
        column("email")
            .as_string::<i32>()
            .iter()
            .collect::<Vec<_>>(),
        [Some("a@x.org"), None, None]
    );
    let times = column("fetched_at").as_primitive::<TimestampMillisecondType>();
    assert_eq!(times.value(0), 1_793_491_200_000);
    let written = column("rtp_write_timestamp").as_primitive::<Int64Type>();
    assert_eq!(
        Some(written.value(0)),
        answers[0]["rtp_write_timestamp"].as_i64()
    );
    let shard = column("users_by_hour.shard").as_primitive::<Int32Type>();
    assert_eq!(
        Some(i64::from(shard.value(0))),
        answers[0]["users_by_hour.shard"].as_i64()
    );
    let rules = column("rtp_rule").as_string::<i32>();
    assert_eq!(
        rules.iter().collect::<Vec<_>>(),
        [None, Some("tombstone"), Some("invalid_utf8")]
    );
}

#[test]
fn a_batch_is_answered_before_the_next_one_is_sent() {
    let place = Place::new();
    let mut running = place.start(&["transform"]);
    for n in 1..=3 {
        running.write((user(n, 0, "a@x.org") + "\n").as_bytes());
        let line = running.read_line();
        assert!(line.contains(&format!("{n:012}")), "{line}");
    }
    running.close_input();
    assert_eq!(running.end().status, 0);
}

#[test]
fn an_input_that_is_cut_short_ends_5_and_is_named() {
    let place = Place::new();
    let good = user(1, 0, "a@x.org");
    let cut = format!("{good}\n{}", &good[..20]);
    let ran = place.rtp(&["transform"], cut.as_bytes());
    assert_eq!(ran.status, 5);
    assert_eq!(ran.counts()[..3], [2, 1, 1]);
    assert!(
        ran.stderr
            .contains("standard input line 2 ends in the middle of a record"),
        "{}",
        ran.stderr
    );

    let trailed = pages(&[(&users(2), r#"{"next":2}"#)]);
    for (input, status) in [(users(2), 5), (trailed, 5), (String::new(), 5)] {
        let ran = place.rtp(&["transform", "--require-complete"], input.as_bytes());
        assert_eq!(ran.status, status, "{}", ran.stderr);
    }

    // Wherever an Arrow stream is cut, the end mark is missing.
    let event: &[Option<&[u8]>] = &[Some(good.as_bytes())];
    let whole = stream(&[event, event]);
    let arrow = [
        "transform",
        "--from",
        "arrow",
        "--to",
        "arrow",
        "cut.arrows",
    ];
    for length in (0..whole.len()).step_by(12) {
        place.write("cut.arrows", &whole[..length]);
        let script = format!("rtp {} > answers.arrows", arrow.join(" "));
        let ran = place.bash(&script);
        assert_eq!(ran.status, 5, "{length}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("cut.arrows ends after event "),
            "{}",
            ran.stderr
        );
        let answers = std::fs::read(place.path("answers.arrows")).unwrap();
        assert!(
            !answers.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            "{length}"
        );
    }
}

#[test]
fn a_timestamp_in_the_log_takes_the_place_of_a_clock_that_is_behind() {
    let place = Place::new();
    let event = user(1, 0, "a@x.org"); // of 2026-11-01
    let hour = 3_600_000;
    let time = 1_793_491_200_000;
    let logged = [Some(time), Some(time - 2 * hour), None, Some(-1)];
    let events = [&*event; 4];
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(logged));
    let times = TimestampMillisecondArray::from_iter(logged);
    let zoned: ArrayRef = Arc::new(times.clone().with_timezone("UTC"));
    // Other programs have microseconds by default.
    let scaled = |by: i64| logged.map(|ms| ms.map(|ms| ms * by));
    let micros: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter(scaled(1_000)));
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter(scaled(1_000_000)));
    let seconds = logged.map(|ms| ms.map(|ms| ms.div_euclid(1_000)));
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from_iter(seconds));
    for timestamps in [numbers, Arc::new(times), zoned, micros, nanos, seconds] {
        let input = timed(timestamps, &events);
        for (now, good, warnings) in [
            ("2026-10-01", [true, false, false, false], 1),
            ("2026-11-02", [true; 4], 0),
        ] {
            let ran = place.rtp(&["transform", "--from", "arrow", "--now", now], &input);
            let is_good: Vec<bool> = answers(&ran)
                .iter()
                .map(|answer| answer["rtp_rule"].is_null())
                .collect();
            assert_eq!(is_good, good, "{now}: {}", ran.stdout);
            let warned = ran.stderr.matches("--now is ").count();
            assert_eq!(warned, warnings, "{}", ran.stderr);
        }
    }
}

#[test]
fn what_is_no_input_ends_2() {
    let place = Place::new();
    let other = Schema::new(vec![Field::new("value", DataType::Int32, true)]);
    let mut numbers = StreamWriter::try_new(Vec::new(), &other).unwrap();
    numbers.finish().unwrap();
    let mut broken = stream(&[&[Some(b"{}")]]);
    let length = broken.len();
    broken[length / 2..].fill(0x55);
    for (args, input, said) in [
        (
            &["--from", "arrow"][..],
            b"{\"id\":1}\n".to_vec(),
            "standard input is not an Arrow stream",
        ),
        (
            &["--from", "arrow"],
            numbers.into_inner().unwrap(),
            "has no column `value` of type binary or utf8",
        ),
        (
            &["--from", "arrow"],
            timed(Arc::new(StringArray::from(vec!["now"])), &["{}"]),
            "has a column `timestamp` of type Utf8, expected int64 in milliseconds, or timestamp",
        ),
        (&["--from", "arrow"], broken, "is invalid after event 0"),
        (
            &["--from", "arrow", "--require-complete"],
            Vec::new(),
            "--require-complete works only with NDJSON",
        ),
        (&["none.ndjson"], Vec::new(), "cannot read none.ndjson"),
    ] {
        let ran = place.rtp(&[&["transform"], args].concat(), &input);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn nothing_to_do_is_said_and_a_closed_pipe_is_no_error() {
    let place = Place::new();
    let ran = place.rtp(&["transform"], b"");
    assert_eq!(ran.status, 0);
    assert!(ran.stderr.contains("there are no events in the input"));
    assert_eq!(
        place.rtp(&["transform", "--require-records"], b"").status,
        1
    );
    place.write("users.ndjson", users(20_000));
    let ran = place.bash("rtp transform users.ndjson | head -1 > /dev/null");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn every_file_must_be_complete_if_the_input_must_be() {
    let place = Place::new();
    place.write("whole", users(2));
    place.write("ended", complete(&users(2)));
    place.write("empty", "");
    for (files, status) in [
        (["whole", "ended"], 5),
        (["empty", "ended"], 5),
        (["ended", "empty"], 5),
        (["ended", "ended"], 0),
    ] {
        let ran = place.rtp(
            &["transform", "--require-complete", files[0], files[1]],
            b"",
        );
        assert_eq!(ran.status, status, "{files:?}: {}", ran.stderr);
        let says = ran.stderr.contains("does not end with a trailer");
        assert_eq!(says, status == 5, "{files:?}: {}", ran.stderr);
    }
}

#[test]
fn a_missing_file_is_told_before_anything_is_answered() {
    let place = Place::new();
    let good = user(1, 0, "a@x.org");
    place.write("a.arrows", stream(&[&[Some(good.as_bytes())]]));
    place.write("a.ndjson", good);
    std::fs::create_dir(place.path("folder")).unwrap();
    for (format, first) in [("arrow", "a.arrows"), ("ndjson", "a.ndjson")] {
        for second in ["none", "folder"] {
            let ran = place.rtp(&["transform", "--from", format, first, second], b"");
            assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
            let says = format!("cannot read {second}");
            assert!(ran.stderr.contains(&says), "{}", ran.stderr);
        }
    }
}
