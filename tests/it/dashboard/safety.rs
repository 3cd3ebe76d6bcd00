//! Who may read the dashboard, and what a browser may do with it.

use std::os::unix::fs::PermissionsExt;

use super::{Dashboard, lines};
use crate::common::Place;

const TOKEN: &str = "correct-horse-battery-staple";

fn place_with_token(mode: u32) -> Place {
    let place = Place::ready();
    place.write("token", TOKEN);
    std::fs::set_permissions(place.path("token"), std::fs::Permissions::from_mode(mode)).unwrap();
    place
}

#[test]
fn only_reading_is_possible_and_only_by_the_servers_own_name() {
    let place = Place::ready();
    let dashboard = Dashboard::start(&place, &[]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let refused = dashboard.ask(method, "/api/v1/users", "");
        refused.is_problem(405, "read-only", "GET or HEAD");
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    }
    let body = dashboard.ask("GET", "/", "Content-Length: 3\r\n");
    body.is_problem(413, "has a body", "without a body");
    let long = format!("/?x={}", "x".repeat(12_285));
    dashboard.get(&long).is_problem(414, "12289 bytes", "12288");
    // A long key, each of its bytes as %XX.
    let key = "%C3%A4".repeat(1_300);
    let long = dashboard.get(&format!("/api/v1/users?first_name={key}&limit=2"));
    assert_eq!(long.status, 200, "{long:?}");
    // The rest of what is too long is not read, so the answer may be lost with the connection.
    let huge = "x".repeat(40_000);
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {huge}\r\n\r\n");
    if let Ok(answer) = dashboard.try_send(&huge) {
        assert_eq!(answer.status, 431);
    }
    let named = |host: &str| {
        dashboard.send(&format!(
            "GET /api/v1/state HTTP/1.1\r\nConnection: close\r\n{host}\r\n"
        ))
    };
    named("Host: rebound.example.org\r\n").is_problem(
        421,
        "not called `rebound.example.org`",
        "localhost",
    );
    named("Host: localhost\r\nHost: example.org\r\n").is_problem(421, "not called", "one Host");
    named("").is_problem(400, "names no host", "Host");
    for host in ["localhost", "127.0.0.1:1", "[::1]:8501"] {
        assert_eq!(named(&format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    dashboard.stop();
}

#[test]
fn every_answer_tells_browsers_to_do_nothing_else_with_it() {
    let place = Place::ready();
    let dashboard = Dashboard::start(&place, &[]);
    for path in [
        "/",
        "/api/v1/state",
        "/api/v1/users",
        "/metrics",
        "/nowhere",
        "/assets/style.css",
    ] {
        let answer = dashboard.get(path);
        let csp = answer.header("content-security-policy").unwrap();
        for directive in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'none'",
        ] {
            assert!(csp.contains(directive), "{path}: {csp}");
        }
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(
            answer.header("referrer-policy"),
            Some("no-referrer"),
            "{path}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        let is_file = path == "/" || path.starts_with("/assets");
        let cached = if is_file { "no-cache" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), Some(cached), "{path}");
    }
    let page = dashboard.get("/");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let known = format!("If-None-Match: {}\r\n", page.header("etag").unwrap());
    assert_eq!(dashboard.ask("GET", "/", &known).status, 304);
    dashboard.stop();
}

#[test]
fn with_a_token_each_request_needs_it() {
    let place = place_with_token(0o600);
    let dashboard = Dashboard::start(&place, &["--token-file", "token", "--host", "0.0.0.0"]);
    let dashboard = Dashboard {
        address: dashboard.address.replace("0.0.0.0", "127.0.0.1"),
        ..dashboard
    };
    for headers in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Cookie: rtp_session=x\r\n",
    ] {
        for path in [
            "/api/v1/state",
            "/api/v1/events",
            "/metrics",
            "/nowhere",
            "/assets/nothing.js",
            "/?token=wrong",
        ] {
            let refused = dashboard.ask("GET", path, headers);
            refused.is_problem(401, "needs its token", "/?token=TOKEN");
            assert!(
                refused
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
        }
    }
    assert_eq!(dashboard.get("/healthz").body, "ok\n");
    // The page is the same for everybody, and says what to do.
    for path in ["/", "/?range=24h", "/assets/main.js"] {
        let known = std::fs::read_to_string(asset(path)).unwrap();
        let file = dashboard.get(path);
        assert_eq!((file.status, file.body), (200, known), "{path}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(dashboard.ask("GET", "/api/v1/state", &bearer).status, 200);
    // Other paths take no token from the address, which ends up in logs.
    assert_eq!(
        dashboard
            .get(&format!("/api/v1/state?token={TOKEN}"))
            .status,
        401
    );
    let login = dashboard.get(&format!("/?range=24h&token={TOKEN}"));
    assert_eq!(
        (login.status, login.header("location")),
        (303, Some("/?range=24h"))
    );
    let cookie = login.header("set-cookie").unwrap();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"),
        "{cookie}"
    );
    assert!(!login.head.contains(TOKEN) && !login.body.contains(TOKEN));
    let cookie = format!("Cookie: a=b; {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(dashboard.ask("GET", "/api/v1/state", &cookie).status, 200);
    // An old token in the address is told, whoever has the cookie, because the token must not stay there.
    dashboard.ask("GET", "/?token=wrong", &cookie).is_problem(
        401,
        "is another one",
        "/?token=TOKEN",
    );
    let said = dashboard.stop();
    assert!(!said.contains(TOKEN), "{said}");

    // The browser of before is known to the next dashboard with this token, and to no other one.
    for (token, status) in [(TOKEN, 200), ("another token is not it", 401)] {
        place.write("token", token.replace(' ', "-"));
        let dashboard = Dashboard::start(&place, &["--token-file", "token"]);
        let answer = dashboard.ask("GET", "/api/v1/state", &cookie);
        assert_eq!(answer.status, status, "{token}");
        dashboard.stop();
    }
}

fn asset(path: &str) -> std::path::PathBuf {
    let name = path.strip_prefix("/assets/").unwrap_or("index.html");
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/serve/assets")
        .join(name)
}

#[test]
fn what_is_not_safe_is_refused_at_the_start() {
    let place = place_with_token(0o644);
    place.write("short", "x");
    std::fs::set_permissions(place.path("short"), std::fs::Permissions::from_mode(0o600)).unwrap();
    for (args, message) in [
        (
            &["--token-file", "token"][..],
            "--token-file: the secret in token is readable by every user",
        ),
        (
            &["--token-file", "short"],
            "short has no token; expected at least 16",
        ),
        (
            &["--token-file", "none"],
            "--token-file: cannot read the secret in none",
        ),
        (
            &["--history", ".rtp/batch.db"],
            "is the event log or a store",
        ),
        (&["--host", "0.0.0.0"], "can be reached from other machines"),
        (&["--host", "localhost"], "invalid value"),
    ] {
        let ran = place.rtp(&[&["dashboard", "--port", "0"], args].concat(), b"");
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (2, ""),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains(TOKEN), "{}", ran.stderr);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = place.rtp(&["dashboard", "--port", &port], b"");
    assert_eq!(ran.status, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("--port 0 picks a free port"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_process_with_few_files_keeps_some_for_the_stores() {
    let place = Place::ready();
    let mut process = place.start_with_files(120, &["dashboard", "--port", "0"]);
    process.until(
        "at most 60 connections at a time, because this process may have only 120 open files",
    );
    let dashboard = Dashboard::of(process);
    dashboard.until("looked at", |state| state["headline"]["lag_records"] == 0);
    let mut readers = Vec::new();
    // The connections of the requests before may not have been closed yet.
    crate::common::eventually("a place", || dashboard.get("/healthz").status == 200);
    while readers.len() < 60 {
        readers.push(dashboard.events());
    }
    let refused = dashboard.get("/api/v1/state");
    refused.is_problem(503, "too many connections", "another request");
    assert_eq!(refused.header("retry-after"), Some("5"));
    // The stores are still looked at, which takes files.
    let produced = place.rtp(&["produce"], lines(0..3, 10, "a@x").as_bytes());
    assert_eq!(produced.status, 0);
    let reader = &mut readers[0];
    while reader.next().2["headline"]["lag_records"] != 3 {}
    readers.truncate(30);
    crate::common::eventually("a place", || dashboard.get("/healthz").status == 200);
    dashboard.stop();
}

#[test]
fn a_history_is_not_written_into_somebody_elses_database() {
    let place = Place::ready();
    let made = place.bash(
        "sqlite3 lab.db \"CREATE TABLE samples (blood TEXT); INSERT INTO samples VALUES ('A')\"",
    );
    assert_eq!(made.status, 0, "{}", made.stderr);
    let before = std::fs::read(place.path("lab.db")).unwrap();
    let ran = place.rtp(&["dashboard", "--port", "0", "--history", "lab.db"], b"");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let told = "lab.db is not a history of the dashboard: it has the table samples";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    assert_eq!(std::fs::read(place.path("lab.db")).unwrap(), before);
}
