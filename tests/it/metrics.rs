//! Compares the metrics of the endpoint and of the text file with docs/metrics.md.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Place, user, users};

const DOCS: &str = include_str!("../../docs/metrics.md");

/// A free address whose port the system does not assign in the meantime.
fn endpoint() -> String {
    let ports = std::iter::repeat_with(|| rand::random_range(10_000..30_000));
    let mut addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    addresses
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap()
}

async fn get(address: &str, path: &str) -> (u16, String) {
    match reqwest::get(format!("http://{address}{path}")).await {
        Ok(answer) => (answer.status().into(), answer.text().await.unwrap()),
        Err(_) => (0, String::new()),
    }
}

/// Polls until the answer is right, and returns it.
async fn until(address: &str, path: &str, is_right: impl Fn(&(u16, String)) -> bool) -> String {
    for _ in 0..600 {
        let answer = get(address, path).await;
        if is_right(&answer) {
            return answer.1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("never: {:?}", get(address, path).await)
}

/// The value of the series with this name and these labels.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

/// The names of the series in a text, as written in the document's tables.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap();
        let total = if kind == "counter" { "_total" } else { "" };
        format!("{name}{total}")
    };
    types.map(name).collect()
}

/// The names in the tables between two lines of the document.
fn documented(from: &str, to: &str) -> BTreeSet<String> {
    let (_, part) = DOCS.split_once(from).unwrap();
    let (part, _) = part.split_once(to).unwrap_or((part, ""));
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once('`').unwrap().0.to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_it_did() {
    let place = Place::ready();
    let address = endpoint();
    let stream = place.start(&["stream", "--metrics-listen", &address]);
    until(&address, "/readyz", |(status, _)| *status == 200).await;
    assert_eq!(get(&address, "/healthz").await.0, 200);
    let (_, text) = get(&address, "/metrics").await;
    let all = &documented("## While a command runs", "Of `stream`:")
        | &documented("Of `stream`:", "Of `heartbeat`");
    assert_eq!(names(&text), all);
    let of = |name: &str| format!("{name}{{command=\"stream\",dataset=\"users\"}}");
    let zero = |name: &str| assert_eq!(value(&text, &of(name)), Some(0.0), "{name}: {text}");
    all.iter()
        .filter(|name| name.starts_with("rtp_") && name.ends_with("_total"))
        .for_each(|name| zero(name));
    zero("rtp_micro_batch_duration_seconds_count");
    zero("rtp_last_commit_timestamp_seconds");

    // One event breaks a rule that its producer did not have.
    let users_toml = include_str!("../../schema/users.toml");
    let (strict, loose) = (
        "name = \"dob\"\ntype = \"timestamp\"",
        "name = \"dob\"\ntype = \"text\"",
    );
    assert!(users_toml.contains(strict));
    let by_age = "by = \"band\"\nwidth = 10 ";
    assert!(users_toml.contains(by_age));
    let loose = users_toml.replace(strict, loose).replace(by_age, "");
    place.write("loose.toml", loose);
    let bad = user(99, 0, "a@example.com").replacen('{', "{\"dob\":\"no day\",", 1);
    let events = users(99) + &bad + "\n";
    let ran = place.rtp(&["produce", "--dataset", "loose.toml"], events.as_bytes());
    assert_eq!(ran.counts()[1], 100, "{}", ran.stderr);
    let text = until(&address, "/metrics", |(_, text)| {
        value(text, &of("rtp_records_read_total")) == Some(100.0)
    })
    .await;
    let told = |name| value(&text, &of(name)).unwrap();
    for (name, count) in [
        ("rtp_records_written_total", 99.0),
        ("rtp_records_rejected_total", 1.0),
        ("rtp_dead_letters_total", 1.0),
    ] {
        assert_eq!(told(name), count, "{name}");
    }
    assert!(told("rtp_read_bytes_total") > 1_000.0);
    assert!(told("process_resident_memory_bytes") > 1e6);
    // CPU time is counted in ticks of 10 ms: answering the requests uses up the first one at the latest.
    until(&address, "/metrics", |(_, text)| {
        value(text, &of("process_cpu_seconds_total")) > Some(0.0)
    })
    .await;
    let text = until(&address, "/metrics", |(_, text)| {
        value(text, &of("rtp_last_commit_timestamp_seconds")) > Some(1e9)
    })
    .await;
    let count = of("rtp_micro_batch_duration_seconds_count");
    assert!(value(&text, &count) > Some(0.0), "{text}");
    assert_eq!(value(&text, &of("rtp_in_flight_records")), Some(0.0));
    stream.signal("TERM");
    assert_eq!(stream.end().status, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_tells_lag_and_age() {
    let place = Place::ready();
    place.rtp(&["produce"], users(100).as_bytes());
    let address = endpoint();
    let every = ["--interval", "100ms", "--metrics-listen", &address];
    let heartbeat = place.start(&[&["heartbeat"], &every[..]].concat());
    let labels = "command=\"heartbeat\",dataset=\"users\"";
    let lag = |text: &str, name: &str| {
        let series = format!("{name}{{{labels},");
        let lines = text.lines().filter(|line| line.starts_with(&series));
        let values = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        values.collect::<Vec<_>>()
    };
    let text = until(&address, "/metrics", |(_, text)| {
        text.contains("rtp_heartbeat_up{")
    })
    .await;
    for name in ["rtp_consumer_lag_records", "kafka_consumergroup_lag"] {
        let behind = lag(&text, name);
        assert_eq!((behind.len(), behind.iter().sum::<f64>()), (3, 100.0));
    }
    let exported = "kafka_consumergroup_lag{command=\"heartbeat\",dataset=\"users\",consumergroup=\"rtp\",topic=\"user_events\",partition=\"0\"}";
    assert!(value(&text, exported).is_some(), "{text}");
    assert_eq!(get(&address, "/readyz").await.0, 200);
    assert_eq!(lag(&text, "rtp_store_age_seconds"), Vec::<f64>::new());

    place.rtp(&["stream", "--until-end"], b"");
    place.rtp(&["load-batch"], users(100).as_bytes());
    let text = until(&address, "/metrics", |(_, text)| {
        lag(text, "rtp_consumer_lag_records") == [0.0; 3]
            && lag(text, "rtp_store_age_seconds").len() == 2
    })
    .await;
    assert_eq!(lag(&text, "rtp_heartbeat_ok"), [1.0; 3]);
    let all = &documented("## While a command runs", "Of `stream`:")
        | &documented("Of `heartbeat`", "## After a run");
    assert_eq!(names(&text), all);

    // What is gone is no longer reported.
    std::fs::remove_file(place.path(".rtp/log.db")).unwrap();
    let text = until(&address, "/metrics", |(_, text)| {
        lag(text, "rtp_heartbeat_up").contains(&0.0)
    })
    .await;
    assert_eq!(lag(&text, "rtp_consumer_lag_records"), Vec::<f64>::new());
    heartbeat.signal("TERM");
    assert_eq!(heartbeat.end().status, 0);
}

#[test]
fn a_run_that_ends_leaves_a_file() {
    let place = Place::ready();
    let file = ["--metrics-file", "run.prom"];
    let run = |args: &[&str], input: &[u8]| {
        let ran = place.rtp(&[args, &file].concat(), input);
        let text = std::fs::read_to_string(place.path("run.prom")).unwrap();
        (ran.status, text)
    };
    let (status, text) = run(
        &["load-batch", "--rejects", "r"],
        (users(9) + "no JSON\n").as_bytes(),
    );
    assert_eq!(status, 1);
    let of = |name: &str| format!("{name}{{command=\"load-batch\",dataset=\"users\"}}");
    assert_eq!(value(&text, &of("rtp_run_exit_status")), Some(1.0));
    for (result, count) in [("read", 10.0), ("written", 9.0), ("rejected", 1.0)] {
        let series = of("rtp_run_records").replace('}', &format!(",result=\"{result}\"}}"));
        assert_eq!(value(&text, &series), Some(count), "{text}");
    }
    let seconds = |name| value(&text, &of(name)).unwrap();
    let start = seconds("rtp_run_start_timestamp_seconds");
    assert!(start > 1e9 && seconds("rtp_run_end_timestamp_seconds") >= start);
    assert_eq!(
        names(&text),
        documented("## After a run", "They are gauges")
    );
    let mode = std::fs::metadata(place.path("run.prom"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o644);

    // A run that fails before it has done anything also leaves a file, without a dataset.
    let (status, text) = run(&["verify", "--dataset", "nowhere.toml"], b"");
    assert_eq!(status, 2);
    let failed = "rtp_run_exit_status{command=\"verify\"}";
    assert_eq!(value(&text, failed), Some(2.0), "{text}");

    let nowhere = ["verify", "--metrics-file", "/no/such/folder/run.prom"];
    let ran = place.rtp(&nowhere, b"");
    assert!(
        ran.stderr.contains("/no/such/folder/run.prom"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_address_that_cannot_be_had_ends_2() {
    let place = Place::ready();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for address in [&*address, "9464"] {
        let ran = place.rtp(&["verify", "--metrics-listen", address], b"");
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("--metrics-listen"), "{}", ran.stderr);
    }
}
