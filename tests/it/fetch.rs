//! `rtp fetch` against the practice API and against servers that misbehave.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Mock, Place, Ran, eventually};

const AS_OF: &str = "2026-11-01";

fn fetch(place: &Place, api: &str, more: &[&str]) -> Ran {
    let common = ["fetch", "--api", api, "--as-of", AS_OF];
    place.rtp(&[&common[..], more].concat(), b"")
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn ids(ran: &Ran) -> Vec<String> {
    lines(ran)
        .iter()
        .map(|l| l["id"].as_str().unwrap().to_string())
        .collect()
}

/// The UUIDs that the API itself gives for these pages of 500.
async fn served(mock: &Mock, seed: &str, pages: std::ops::RangeInclusive<u64>) -> Vec<String> {
    let mut ids = Vec::new();
    for page in pages {
        let url = format!("{}?results=500&seed={seed}&page={page}", mock.users());
        let body = reqwest::get(url).await.unwrap().text().await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let users = body["results"].as_array().unwrap();
        ids.extend(
            users
                .iter()
                .map(|u| u["login"]["uuid"].as_str().unwrap().to_string()),
        );
    }
    ids
}

/// Starts a server that answers every connection with these bytes; returns its address.
fn server(answer: impl Fn(&str, u16) -> Vec<u8> + Send + 'static) -> (String, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            stream.write_all(&answer(&request, port)).ok();
        }
    });
    (format!("http://127.0.0.1:{port}/api"), port)
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_come_whole_and_in_order() {
    let (mock, place) = (Mock::start(&[]), Place::new());
    let ran = fetch(&place, &mock.users(), &["--count", "3200", "--seed", "s"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.counts(), [3200, 3200, 0, 0, 0]);
    let expected = served(&mock, "s", 1..=7).await;
    assert_eq!(ids(&ran), expected[..3200]);
    let first = &lines(&ran)[0];
    assert_eq!(first["fetched_at"], "2026-11-01T00:00:00.000Z");
    assert_eq!(first.as_object().unwrap().len(), 14);
    let later = fetch(&place, &mock.users(), &["--page", "3", "--seed", "s"]);
    assert_eq!(ids(&later), expected[1000..1500]);
    // Without a seed, the run's id is used, so that pages fit together and a repeated request gets the same answer.
    let unnamed = fetch(&place, &mock.users(), &["--run-id", "s", "--count", "500"]);
    assert_eq!(ids(&unnamed), expected[..500]);
}

#[test]
fn misbehaviour_of_every_kind_loses_nothing() {
    let place = Place::new();
    let args = ["--count", "10000", "--seed", "s", "--limit", "none"];
    let clean = fetch(&place, &Mock::start(&[]).users(), &args);
    assert_eq!(clean.counts()[1], 10_000);
    for fault in [
        "429",
        "429-after",
        "429-date",
        "503",
        "error-body",
        "html",
        "slow",
        "stall",
        "cut",
        "reset",
        "wrong-length",
        "redirect",
        "empty",
        "no-records",
        "few",
    ] {
        let mock = Mock::start(&["--fault", &format!("{fault}=0.2"), "--fault-seed", "7"]);
        let is_no_error = ["slow", "redirect"].contains(&fault);
        // On a busy machine, any answer may take longer than a short limit for stalled ones.
        let idle = if is_no_error { "30s" } else { "700ms" };
        let more = ["--idle-timeout", idle, "--concurrency", "8"];
        let ran = fetch(&place, &mock.users(), &[&args[..], &more].concat());
        assert_eq!(ran.status, 0, "{fault}: {}", ran.stderr);
        assert!(ran.stdout == clean.stdout, "{fault}: other records");
        let retries = ran.summary()["retries"].as_u64().unwrap();
        assert_eq!(retries == 0, is_no_error, "{fault}: {retries} retries");
    }
}

#[test]
fn a_source_that_is_down_is_waited_for_no_longer_than_said() {
    let place = Place::new();
    // Where nobody listens: a port that was free may be in use a moment later.
    let address = "http://127.0.0.1:1/".to_string();
    let ran = fetch(&place, &address, &["--max-outage", "0"]);
    assert_eq!((ran.status, ran.counts()), (4, [0; 5]), "{}", ran.stderr);
    assert!(ran.stderr.contains(&address), "{}", ran.stderr);
    let ran = fetch(&place, &address, &["--max-elapsed", "300ms"]);
    assert_eq!(ran.status, 4);
    assert!(ran.stderr.contains("--max-elapsed"), "{}", ran.stderr);
    let broken = Mock::start(&["--fault", "html=1"]);
    let ran = fetch(&place, &broken.users(), &["--max-outage", "200ms"]);
    assert_eq!(ran.status, 4);
    assert!(
        ran.stderr.contains("a web page, not JSON"),
        "{}",
        ran.stderr
    );
}

#[test]
fn answers_that_no_retry_mends_end_at_once() {
    let place = Place::new();
    let elsewhere = |location: &str| {
        let location = location.to_string();
        server(move |_, port| {
            let location = location.replace("PORT", &port.to_string());
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
        })
        .0
    };
    let table = [
        (
            elsewhere("http://127.0.0.1:PORT/api"),
            "which is not followed",
        ),
        (elsewhere("http://localhost:PORT/"), "which is not followed"),
        (
            elsewhere("http://169.254.169.254/latest"),
            "which is not followed",
        ),
        (elsewhere("file:///etc/passwd"), "which is not followed"),
        (
            server(|_, _| b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()).0,
            "404",
        ),
        (
            server(|_, _| b"HTTP/1.1 401 Nope\r\nContent-Length: 0\r\n\r\n".to_vec()).0,
            "source.auth",
        ),
        (
            server(|_, _| {
                b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nxx".to_vec()
            })
            .0,
            "was not requested",
        ),
    ];
    for (api, message) in table {
        let ran = fetch(&place, &api, &[]);
        assert_eq!(ran.status, 4, "{message}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
        assert_eq!(ran.summary()["retries"], 0, "{message}");
        assert_eq!(ran.stdout, "", "{message}");
    }
}

#[test]
fn one_user_where_500_were_asked_for_is_no_page() {
    let place = Place::new();
    let (api, _) = server(|_, _| ok(r#"{"results":[{"gender":"male"}]}"#));
    let ran = fetch(&place, &api, &["--max-outage", "100ms"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (4, ""));
    assert!(
        ran.stderr.contains("requested 500 records, got 1"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_reader_that_leaves_is_no_error_and_gets_whole_lines() {
    let (mock, place) = (Mock::start(&[]), Place::new());
    let script = format!(
        "rtp fetch --quiet --count 1000000 --limit none --api {} | head -1",
        mock.users()
    );
    let out = place.bash(&script);
    assert_eq!(out.status, 0, "{}", out.stderr);
    assert!(out.stderr.ends_with("exit 0\n"), "{}", out.stderr);
    assert!(serde_json::from_str::<Value>(out.stdout.trim_end()).is_ok());
}

#[test]
fn a_killed_fetch_leaves_whole_lines_and_no_file() {
    let (mock, place) = (Mock::start(&["--latency", "20ms"]), Place::new());
    let start = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_rtp"))
            .args(["fetch", "--api", &mock.users(), "--limit", "none"])
            .args(["--count", "1000000", "--log-format", "json"])
            .args(more)
            .current_dir(place.root())
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut piped = start(&["--trailer"]);
    let mut first = [0; 100_000];
    piped
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    kill(&piped, "TERM");
    let rest = piped.wait_with_output().unwrap();
    assert_eq!(rest.status.code(), Some(143));
    let all = [&first[..], &rest.stdout].concat();
    assert!(all.ends_with(b"}\n") && !String::from_utf8_lossy(&all).contains("_rtp"));
    let records = all.iter().filter(|b| **b == b'\n').count();
    assert_eq!(records % 500, 0, "pages are whole");

    let to_file = start(&["--out", "users.ndjson", "--state", "state.json"]);
    let begun = || {
        let there = std::fs::read_dir(place.root()).unwrap();
        there
            .map(|f| f.unwrap())
            .any(|f| f.metadata().unwrap().len() > 200_000)
    };
    eventually("a page is written", begun);
    kill(&to_file, "INT");
    let out = to_file.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(place.root())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .filter(|name| *name != "state.json.lock")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn kill(child: &std::process::Child, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_bookmark_goes_on_where_the_last_run_ended() {
    let (mock, place) = (Mock::start(&[]), Place::new());
    let state = ["--state", "s.json", "--count", "700"];
    let first = fetch(
        &place,
        &mock.users(),
        &[&state[..], &["--out", "a.ndjson", "--seed", "s"]].concat(),
    );
    assert_eq!(first.status, 0, "{}", first.stderr);
    let saved = std::fs::read_to_string(place.path("s.json")).unwrap();
    let start = "{\"version\":1,\"dataset\":\"users\",\"seed\":\"s\",\"next\":{\"page\":2},\"done\":200,\"last\":\"";
    assert!(saved.starts_with(start), "{saved}");
    let second = fetch(
        &place,
        &mock.users(),
        &[&state[..], &["--out", "b.ndjson"]].concat(),
    );
    assert_eq!(second.status, 0, "{}", second.stderr);
    let whole = fetch(&place, &mock.users(), &["--seed", "s", "--count", "1400"]);
    let a = std::fs::read_to_string(place.path("a.ndjson")).unwrap();
    let b = std::fs::read_to_string(place.path("b.ndjson")).unwrap();
    let lines: Vec<&str> = whole.stdout.lines().collect();
    assert_eq!(a.lines().collect::<Vec<_>>(), lines[..700]);
    assert_eq!(b.lines().collect::<Vec<_>>(), lines[700..1400]);

    let other = fetch(
        &place,
        &mock.users(),
        &[&state[..], &["--seed", "t"]].concat(),
    );
    assert_eq!(other.status, 2);
    assert!(
        other.stderr.contains("made with seed s"),
        "{}",
        other.stderr
    );
    place.write("s.json", "{}");
    assert_eq!(fetch(&place, &mock.users(), &state).status, 2);
}

#[test]
fn a_pipe_carries_trailer_and_bookmark() {
    let (mock, place) = (Mock::start(&[]), Place::new());
    let args = [
        "--state",
        "s.json",
        "--trailer",
        "--count",
        "1000",
        "--seed",
        "s",
    ];
    let ran = fetch(&place, &mock.users(), &args);
    assert_eq!(ran.counts(), [1000, 1000, 0, 0, 0]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 1003);
    assert!(
        lines[500].starts_with("{\"_rtp\":\"page\",\"records\":500,"),
        "{}",
        lines[500]
    );
    assert!(
        lines[500].ends_with("\"next\":{\"page\":2}}}"),
        "{}",
        lines[500]
    );
    assert!(lines[1002].starts_with("{\"_rtp\":\"end\",\"records\":1000,"));
    assert!(!place.path("s.json").exists(), "only the reader moves it");
    // What one command writes, the next one checks.
    place.rtp(&["init"], b"");
    let produced = place.rtp(&["produce", "--require-complete"], ran.stdout.as_bytes());
    assert_eq!(
        (produced.status, produced.counts()),
        (0, [1003, 1000, 0, 0, 3]),
        "{}",
        produced.stderr
    );
    let cut = &ran.stdout[..ran.stdout.len() - 100];
    let cut = place.rtp(&["produce", "--require-complete"], cut.as_bytes());
    assert_eq!(cut.status, 5, "{}", cut.stderr);
}

#[test]
fn the_pace_is_the_sources_limit() {
    let (mock, place) = (Mock::start(&["--rate-limit", "1000/2s"]), Place::new());
    let args = ["--count", "3000", "--seed", "s"];
    let paced = fetch(
        &place,
        &mock.users(),
        &[&args[..], &["--limit", "1000/3s"]].concat(),
    );
    assert_eq!(
        (paced.status, paced.counts()[1]),
        (0, 3000),
        "{}",
        paced.stderr
    );
    assert_eq!(paced.summary()["retries"], 0);
    let mock = Mock::start(&["--rate-limit", "1000/2s"]);
    let hasty = fetch(
        &place,
        &mock.users(),
        &[&args[..], &["--limit", "none"]].concat(),
    );
    assert_eq!(
        (hasty.status, hasty.counts()[1]),
        (0, 3000),
        "{}",
        hasty.stderr
    );
    assert_ne!(hasty.summary()["retries"], 0);
    assert_eq!(hasty.stdout, paced.stdout);
}

#[test]
fn every_way_to_authenticate_works_and_shows_no_secret() {
    let place = Place::new();
    place.write("secret", "p@ss w0rd\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(place.path("secret"), mode).unwrap();
    let secret = "p@ss w0rd";
    let table = [
        (format!("bearer:{secret}"), "style = \"bearer\""),
        (
            format!("basic:me:{secret}"),
            "style = \"basic\"\nusername = \"me\"",
        ),
        (
            format!("header:X-Api-Key:{secret}"),
            "style = \"api-key\"\nheader = \"X-Api-Key\"",
        ),
        (
            format!("query:key:{secret}"),
            "style = \"api-key\"\nparam = \"key\"",
        ),
        (
            format!("oauth2:me:{secret}"),
            "style = \"oauth2\"\nclient_id = \"me\"\ntoken_url = \"URL/oauth/token\"",
        ),
    ];
    for (required, declared) in table {
        let mock = Mock::start(&["--require-auth", &required]);
        let auth = format!("[source.auth]\nfile = \"secret\"\n{declared}\n\n[event]")
            .replace("URL", &mock.url);
        let users = include_str!("../../schema/users.toml");
        place.write("d.toml", users.replacen("[event]", &auth, 1));
        let args = [
            "--dataset",
            "d.toml",
            "--count",
            "1000",
            "--state",
            "s.json",
        ];
        let ran = fetch(&place, &mock.users(), &args);
        assert_eq!(
            (ran.status, ran.counts()[1]),
            (0, 1000),
            "{declared}: {}",
            ran.stderr
        );
        let wrong = Mock::start(&["--require-auth", &required.replace(secret, "other")]);
        let refused = fetch(&place, &wrong.users(), &args);
        assert_eq!(refused.status, 4, "{declared}: {}", refused.stderr);
        for text in [&ran.stdout, &ran.stderr, &refused.stderr] {
            assert!(
                !text.contains(secret) && !text.contains("w0rd"),
                "{declared}"
            );
        }
        let none = fetch(&place, &mock.users(), &["--max-outage", "0"]);
        assert_eq!(none.status, 4, "{declared}: {}", none.stderr);
    }
    let mock = Mock::start(&[]);
    let with_password = mock.users().replace("http://", "http://me:hunter2@");
    let ran = fetch(&place, &with_password, &[]);
    assert_eq!(ran.status, 2);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn saved_bodies_are_a_source() {
    let place = Place::new();
    std::fs::create_dir(place.path("saved")).unwrap();
    for (name, first) in [("page-01.json", "Zoë"), ("page-02.json", "Ann")] {
        let body = format!(
            "{{\"results\":[{{\"name\":{{\"first\":\"{first}\"}},\"login\":{{\"uuid\":\"x\",\"password\":\"hunter2\"}}}}]}}"
        );
        place.write(&format!("saved/{name}"), body);
    }
    let folder = format!("file://{}", place.path("saved").display());
    let ran = fetch(&place, &folder, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let names: Vec<Value> = lines(&ran)
        .iter()
        .map(|l| l["first_name"].clone())
        .collect();
    assert_eq!(names, ["Zoë", "Ann"]);
    let one = fetch(&place, &format!("{folder}/page-02.json"), &["--raw"]);
    assert_eq!(
        one.stdout,
        "{\"name\":{\"first\":\"Ann\"},\"login\":{\"uuid\":\"x\"}}\n"
    );
    place.write("saved/page-03.json", "{\"error\":\"Uh oh\"}");
    let broken = fetch(&place, &folder, &["--out", "o.ndjson"]);
    assert_eq!(
        (broken.status, &broken.summary()["retries"]),
        (4, &0.into())
    );
    assert!(broken.stderr.contains("page-03.json"), "{}", broken.stderr);
    assert!(!place.path("o.ndjson").exists());
    assert_eq!(fetch(&place, "file:///no/such/folder", &[]).status, 2);
}

#[test]
fn wrong_usage_is_explained() {
    let place = Place::new();
    for (args, message) in [
        (vec!["--as-of", "2999-01-01"], "is in the future"),
        (vec!["--as-of", "yesterday"], "invalid time"),
        (vec!["--count", "0"], "0 is not in 1.."),
        (vec!["--rps", "0"], "a number above 0"),
        (vec!["--limit", "5"], "invalid limit"),
        (vec!["--out", "/no/such/folder/f"], "/no/such/folder/f"),
        (vec!["--api", "ftp://x"], "unknown scheme"),
        (vec!["--api", "x"], "--api is not an address"),
    ] {
        let ran = place.rtp(&[&["fetch"], &args[..]].concat(), b"");
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_file_that_is_complete_is_not_fetched_again() {
    let mock = Mock::start(&["--latency", "300ms"]);
    let place = Place::new();
    let api = mock.users();
    let once = |api: &str, count: &str| {
        let out = ["--out", "day.ndjson", "--trailer", "--unless-complete"];
        let args = [
            "fetch",
            "--api",
            api,
            "--max-outage",
            "10s",
            "--count",
            count,
        ];
        place.start(&[&args[..], &out].concat())
    };
    // The second one waits for the first.
    let both = [once(&api, "100"), once(&api, "100")].map(|run| run.end());
    let mut counts = both.map(|ran| {
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.counts()
    });
    counts.sort_unstable();
    assert_eq!(counts, [[100, 0, 0, 0, 100], [100, 100, 0, 0, 0]]);

    let read = || std::fs::read_to_string(place.path("day.ndjson")).unwrap();
    let first = read();
    let nowhere = "http://127.0.0.1:9/api/";
    let kept = once(nowhere, "100").end();
    assert_eq!((kept.status, kept.counts()[4]), (0, 100), "{}", kept.stderr);
    assert_eq!(read(), first);

    let more = once(&api, "150").end();
    assert_eq!(more.counts(), [150, 150, 0, 0, 0], "{}", more.stderr);
    place.write("day.ndjson", read().replacen("email", "mail", 1));
    let wrong = once(nowhere, "150").end();
    assert_eq!(wrong.status, 5, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("day.ndjson line"), "{}", wrong.stderr);
}

#[test]
fn an_empty_source_replaces_no_file_of_records() {
    let place = Place::new();
    let source = |name: &str, results: &str| {
        place.write(name, format!("{{\"results\":[{results}]}}"));
        format!("file://{}", place.path(name).display())
    };
    let record = "{\"login\":{\"uuid\":\"x\"}}";
    let (full, empty) = (source("full.json", record), source("empty.json", ""));
    let out = ["--out", "o.ndjson", "--trailer"];
    let read = || std::fs::read_to_string(place.path("o.ndjson")).unwrap();

    // If nothing is replaced, an empty file is what was requested, also the second time.
    for _ in 0..2 {
        let ran = fetch(&place, &empty, &out);
        assert_eq!(
            (ran.status, read().lines().count()),
            (0, 1),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(fetch(&place, &full, &out).status, 0);
    let records = read();
    assert_eq!(records.lines().count(), 2);
    let ran = fetch(&place, &empty, &out);
    assert_eq!((ran.status, read()), (5, records.clone()), "{}", ran.stderr);
    assert!(ran.stderr.contains("o.ndjson"), "{}", ran.stderr);
    let again = [&out[..], &["--unless-complete", "--count", "5"]].concat();
    let ran = fetch(&place, &empty, &again);
    assert_eq!((ran.status, read()), (5, records.clone()), "{}", ran.stderr);
    let ran = fetch(&place, &empty, &[&out[..], &["--require-records"]].concat());
    assert_eq!((ran.status, read()), (1, records), "{}", ran.stderr);

    // A file with unknown contents is not replaced, either.
    place.write("o.ndjson", b"\x1f\x8b\x08 what is this");
    assert_eq!(fetch(&place, &empty, &["--out", "o.ndjson"]).status, 5);
    // The way out; and a run from a bookmark, where nothing new is a valid result.
    place.write("o.ndjson", "{}\n");
    let state = [&out[..], &["--state", "state.json"]].concat();
    let ran = fetch(&place, &empty, &state);
    assert_eq!(
        (ran.status, read().lines().count()),
        (0, 1),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_empty_source_leaves_file_and_bookmark_if_there_must_be_records() {
    let place = Place::new();
    place.write("empty.json", "{\"results\":[]}");
    let empty = format!("file://{}", place.path("empty.json").display());
    let out = ["--out", "o.ndjson", "--state", "state.json"];
    let ran = fetch(&place, &empty, &[&out[..], &["--require-records"]].concat());
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("no record"), "{}", ran.stderr);
    for name in ["o.ndjson", "state.json"] {
        assert!(!place.path(name).exists(), "{name}");
    }
    // A landing file without records is complete, but not what was requested.
    let landing = ["--out", "l.ndjson", "--trailer", "--unless-complete"];
    assert_eq!(fetch(&place, &empty, &landing).status, 0);
    let ran = fetch(&place, &empty, &landing);
    assert!(ran.stderr.contains("already"), "{}", ran.stderr);
    let ran = fetch(
        &place,
        &empty,
        &[&landing[..], &["--require-records"]].concat(),
    );
    assert_eq!(ran.status, 1, "{}", ran.stderr);
}
