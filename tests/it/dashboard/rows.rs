//! The merged view over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use serde_json::Value;

use super::{Dashboard, lines, load, stream};
use crate::common::{Mock, Place};

fn numbers(page: &Value) -> Vec<u64> {
    let rows = page["rows"].as_array().unwrap().iter();
    let number = |row: &Value| {
        let id = row["row"]["id"].as_str().unwrap();
        id.rsplit('-').next().unwrap().parse().unwrap()
    };
    rows.map(number).collect()
}

#[test]
fn rows_are_answered_with_layer_boundary_and_verdict() {
    let place = Place::ready();
    load(&place, &lines(0..6, 10, "a@x"));
    stream(&place, &(lines(0..4, 10, "a@x") + &lines(4..8, 20, "b@x")));
    let dashboard = Dashboard::start(&place, &[]);
    let id = "00000000-0000-4000-8000-000000000004";
    let one = dashboard.get(&format!("/api/v1/users/{id}"));
    assert_eq!(one.status, 200, "{one:?}");
    assert_eq!(one.header("content-type"), Some("application/json"));
    assert_eq!(one.header("cache-control"), Some("no-store"));
    let json = one.json();
    assert_eq!(
        (&json["row"]["layer"], &json["row"]["row"]["email"]),
        (&"realtime".into(), &"b@x".into())
    );
    assert_eq!(json["boundary"], "2026-11-01T00:00:10.000Z");
    assert_eq!(
        (&json["dataset"], &json["verdict"]),
        (&"users".into(), &Value::Null)
    );
    // A later load of older records does not move it backwards.
    load(&place, &lines(9..10, 5, "a@x"));
    let later = dashboard.get(&format!("/api/v1/users/{id}")).json();
    assert_eq!(later["boundary"], json["boundary"]);
    // The same by the command.
    let ran = place.rtp(&["view", id], b"");
    let printed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(printed["row"], json["row"]["row"]);

    let page = dashboard.get("/api/v1/users?limit=5").json();
    assert_eq!(numbers(&page), [0, 1, 2, 3, 4]);
    let next = page["next"].as_str().unwrap();
    let page = dashboard
        .get(&format!("/api/v1/users?limit=5&after={next}"))
        .json();
    assert_eq!(
        (numbers(&page), &page["next"]),
        (vec![5, 6, 7, 9], &Value::Null)
    );
    assert_eq!(page["boundary"], "2026-11-01T00:00:10.000Z");
    assert_eq!(page["left_out"], serde_json::json!([]));
    let page = dashboard.get("/api/v1/users?email=b%40x").json();
    assert_eq!(numbers(&page), [4, 5, 6, 7]);
    let page = dashboard.get("/api/v1/users?boundary=none&limit=8").json();
    assert_eq!(numbers(&page), [0, 1, 2, 3, 4, 5, 6, 7]);
    // The keys of the batch store are listed, whichever row of them is shown; of the others it says what it leaves out.
    let page = dashboard
        .get("/api/v1/users?email=b%40x&boundary=2026-11-02")
        .json();
    assert_eq!(numbers(&page), [4, 5]);
    let left_out = page["left_out"].as_array().unwrap();
    let said = left_out[0].as_str().unwrap();
    assert_eq!(left_out.len(), 1);
    assert!(
        said.contains("not after 2026-11-02T00:00:00.000Z"),
        "{said}"
    );
    let head = dashboard.ask("HEAD", "/api/v1/users", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    dashboard.stop();
}

#[test]
fn an_answer_that_the_client_has_is_not_sent_again() {
    let place = Place::ready();
    load(&place, &lines(0..3, 10, "a@x"));
    let dashboard = Dashboard::start(&place, &[]);
    let first = dashboard.get("/api/v1/users");
    let tag = first.header("etag").unwrap();
    let known =
        |tag: &str| dashboard.ask("GET", "/api/v1/users", &format!("If-None-Match: {tag}\r\n"));
    let again = known(tag);
    assert_eq!(
        (again.status, again.body.as_str(), again.header("etag")),
        (304, "", Some(tag))
    );
    assert_eq!(known("\"other\"").status, 200);
    load(&place, &lines(1..2, 20, "b@x"));
    let changed = known(tag);
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(tag));
    dashboard.stop();
}

/// Its digest has null in its place, whatever it is.
#[test]
fn a_value_that_does_not_fit_changes_the_tag_and_so_does_a_key() {
    let place = Place::ready();
    load(&place, &lines(0..3, 10, "a@x"));
    let dashboard = Dashboard::start(&place, &[]);
    let id = "00000000-0000-4000-8000-000000000001";
    let paths = ["/api/v1/users".to_string(), format!("/api/v1/users/{id}")];
    let tags = || -> Vec<String> {
        let tag = |path: &String| dashboard.get(path).header("etag").unwrap().to_string();
        paths.iter().map(tag).collect()
    };
    let change = |change: &str| {
        let db = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
        let changed = format!("UPDATE batch_users_rows SET {change}");
        assert_eq!(db.execute(&changed, []).unwrap(), 1);
    };
    let of_1 = "WHERE hex(id) = '00000000000040008000000000000001'";
    change(&format!("phone = x'01' {of_1}"));
    let first = tags();
    assert_eq!(tags(), first);
    change(&format!("phone = x'0102' {of_1}"));
    let second = tags();
    assert!(first[0] != second[0] && first[1] != second[1], "{first:?}");
    change("id = 'abc' WHERE hex(id) = '00000000000040008000000000000002'");
    let page = dashboard.get("/api/v1/users").json();
    assert_eq!(numbers(&page), [0, 1]);
    let said = page["left_out"][0].as_str().unwrap();
    assert!(
        said.contains("the key is not of the type uuid: text \"abc\""),
        "{said}"
    );
    let third = tags();
    assert!(second[0] != third[0] && second[1] == third[1], "{second:?}");
    dashboard.stop();
}

/// The users of the data set, page by page, while a load changes them and adds some.
#[test]
fn a_listing_by_pages_is_whole_while_a_load_runs() {
    const LOADED: usize = 250;
    let (mock, place) = (Mock::start(&[]), Place::ready());
    let fetched = |as_of: &str, name: &str| -> Vec<String> {
        let api = mock.users();
        let args = ["fetch", "--api", &api, "--seed", "s", "--count", "5000"];
        let ran = place.rtp(
            &[&args[..], &["--as-of", as_of, "--out", name]].concat(),
            b"",
        );
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let text = std::fs::read_to_string(place.path(name)).unwrap();
        text.lines().map(|line| line.to_string() + "\n").collect()
    };
    let old = fetched("2026-11-01", "old.ndjson");
    let new = fetched("2026-11-02", "new.ndjson");
    let id = |line: &String| -> String {
        let event: Value = serde_json::from_str(line).unwrap();
        event["id"].as_str().unwrap().into()
    };
    // Some are in both stores, some in one of them, and some arrive with the loads.
    stream(&place, &old[..3_000].concat());
    load(&place, &old[2_000..4_000].concat());
    let always: BTreeSet<String> = old[..4_000].iter().map(id).collect();
    assert_eq!((old.len(), new.len(), always.len()), (5_000, 5_000, 4_000));
    let dashboard = Dashboard::start(&place, &[]);
    let (loads, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = Raised(&done);
        let loader = scope.spawn(|| {
            for part in new.chunks(LOADED).cycle() {
                if done.load(SeqCst) {
                    break;
                }
                load(&place, &part.concat());
                loads.fetch_add(1, SeqCst);
            }
        });
        // Until all of them were loaded, and several loads ended in the middle of a listing.
        let mut disturbed = 0;
        while disturbed < 3 || loads.load(SeqCst) < new.len() / LOADED {
            let before = loads.load(SeqCst);
            let rows = listing(&dashboard, 311);
            let keys: Vec<&String> = rows.iter().map(|(key, _)| key).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "a key comes twice");
            let listed: BTreeMap<_, _> = rows.iter().cloned().collect();
            assert!(
                always.iter().all(|key| listed.contains_key(key)),
                "a key is missing"
            );
            // Whatever was loaded before is there, and no older.
            for line in new.iter().take(before * LOADED) {
                assert_eq!(listed[&id(line)], "2026-11-02T00:00:00.000Z");
            }
            disturbed += usize::from(loads.load(SeqCst) > before);
            assert!(!loader.is_finished(), "a load failed");
        }
    });
    assert_eq!(listing(&dashboard, 1_000).len(), 5_000);
    dashboard.stop();
}

/// Raises a flag at the end, also that of a test that fails.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Key and event time of each row of a listing, read to its end.
fn listing(dashboard: &Dashboard, limit: usize) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let answer = dashboard.get(&format!("/api/v1/users?limit={limit}{after}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let shown = page["rows"].as_array().unwrap().iter();
        rows.extend(shown.map(|row| (text(&row["row"]["id"]), text(&row["event_time"]))));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return rows,
        }
    }
}

#[test]
fn what_cannot_be_asked_is_a_problem_that_says_what_can() {
    let place = Place::ready();
    let dashboard = Dashboard::start(&place, &[]);
    let id = "00000000-0000-4000-8000-000000000004";
    for (path, status, detail, expected) in [
        (
            "/api/v1/users?sex=f",
            400,
            "unknown field `sex`",
            "limit, after, boundary, where, and the fields id",
        ),
        (
            "/api/v1/users?limit=0",
            400,
            "invalid limit `0`",
            "from 1 to 1000",
        ),
        (
            "/api/v1/users?dob=soon",
            400,
            "`soon` is not a value of dob",
            "timestamp",
        ),
        (
            "/api/v1/users?after=x",
            400,
            "invalid cursor",
            "a cursor continues",
        ),
        ("/api/v1/users/7", 400, "`7` is not a value of id", "uuid"),
        (&format!("/api/v1/users/{id}"), 404, "neither store has", ""),
        (
            &format!("/api/v1/users/{id}?limit=2"),
            400,
            "no parameters",
            "/api/v1/users/KEY",
        ),
        (
            "/api/v1/products",
            404,
            "nothing at /api/v1/products",
            "/api/v1/users",
        ),
        (
            "/api/v1/series?range=2h",
            400,
            "invalid range",
            "15m, 1h, 24h, 7d, all",
        ),
        (
            "/nowhere",
            404,
            "nothing at /nowhere",
            "/api/v1/openapi.json",
        ),
    ] {
        dashboard.get(path).is_problem(status, detail, expected);
    }
    for path in [
        "/api/v1/users/%ff",
        "/api/v1/explain/%ff",
        "/api/v1/users?phone=%ff",
    ] {
        dashboard.get(path).is_problem(400, "UTF-8", "as %XX");
    }
    dashboard.get("/api/v1/explain/7").is_problem(400, "", "");
    for query in ["", "?key", "?id=7", "?key=7", "?key=7&key=8"] {
        let answer = dashboard.get(&format!("/api/v1/explain{query}"));
        answer.is_problem(400, "", "");
    }
    let not_text = dashboard.get("/api/v1/explain?key=%ff");
    not_text.is_problem(400, "not UTF-8", "as %XX");
    std::fs::remove_file(place.path(".rtp/batch.db")).unwrap();
    let gone = dashboard.get(&format!("/api/v1/users/{id}"));
    gone.is_problem(502, "batch.db does not exist", "rtp init");
    dashboard.stop();
}

/// Without the addresses of the page's files.
#[test]
fn the_description_has_every_address() {
    let place = Place::ready();
    let dashboard = Dashboard::start(&place, &[]);
    let document = dashboard.get("/api/v1/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in paths {
        let asked = path.replace("{key}", "00000000-0000-4000-8000-000000000004");
        if asked.ends_with("/events") {
            dashboard.events();
            continue;
        }
        let answer = dashboard.get(&asked);
        let has_answer = answer.status != 404 || answer.body.contains("neither store has");
        assert!(has_answer, "{asked}: {answer:?}");
    }
    let fields = &document["components"]["schemas"]["Values"]["properties"];
    assert_eq!(fields.as_object().unwrap().len(), 14);
    dashboard.stop();
}

#[test]
fn one_records_life_is_told_as_by_the_command() {
    let place = Place::ready();
    stream(&place, &lines(0..2, 10, "a@x"));
    let dashboard = Dashboard::start(&place, &[]);
    let id = "00000000-0000-4000-8000-000000000001";
    let answer = dashboard.get(&format!("/api/v1/explain/{id}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    let named = dashboard.get(&format!("/api/v1/explain?key={id}")).json();
    assert_eq!(named["outcome"], told["outcome"]);
    let printed = place.rtp(&["explain", id, "--format", "json"], b"");
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(told["outcome"], printed["outcome"]);
    assert_eq!(told["summary"], printed["outcome"]["text"]);
    dashboard.stop();
}
