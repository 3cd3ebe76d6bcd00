//! The merged view over HTTP.

use serde_json::Value;

use super::{Dashboard, lines, load, stream};
use crate::common::Place;

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
        (vec![5, 6, 7], &Value::Null)
    );
    assert_eq!(page["boundary"], "2026-11-01T00:00:10.000Z");
    let page = dashboard
        .get("/api/v1/users?email=b%40x&boundary=2026-11-02")
        .json();
    assert_eq!(numbers(&page), Vec::<u64>::new());
    let page = dashboard.get("/api/v1/users?email=b%40x").json();
    assert_eq!(numbers(&page), [4, 5, 6, 7]);
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
    dashboard.get("/api/v1/explain/7").is_problem(400, "", "");
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
    let printed = place.rtp(&["explain", id, "--format", "json"], b"");
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(told["outcome"], printed["outcome"]);
    assert_eq!(told["summary"], printed["outcome"]["text"]);
    dashboard.stop();
}
