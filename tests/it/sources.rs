//! What real APIs send, each from a public bug report of a tool that does this job: `fetch` from a small server that
//! answers exactly so.

mod bookmarks;
mod misfits;
mod secrets;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{Place, Ran};

/// A dataset with a text key, and what differs from case to case.
#[derive(Default)]
struct Dataset {
    records: &'static str,
    pagination: &'static str,
    auth: String,
    fields: &'static str,
}

impl Dataset {
    fn text(&self, url: &str) -> String {
        let table = |name: &str, text: &str| match text.is_empty() {
            true => String::new(),
            false => format!("[source.{name}]\n{text}\n"),
        };
        format!(
            r#"name = "lab"
[source]
url = "{url}"
records = "{}"
{}{}
[event]
topic = "lab_events"
key = "id"
time = "seen_at"
[realtime]
keyspace = "lab"
table = "lab_rows"
[batch]
table = "lab_batch"
[[field]]
name = "id"
type = "text"
from = "/id"
required = true
coerce = true
{}
[[field]]
name = "seen_at"
type = "timestamp"
from = "as-of"
required = true
"#,
            self.records,
            table("pagination", self.pagination),
            table("auth", &self.auth),
            self.fields,
        )
    }
}

/// A request: its target, such as `/x?page=2`, and everything that was sent.
struct Request {
    target: String,
    head: String,
}

impl Request {
    /// The value of a query parameter, as it was sent.
    fn param(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// A status line with header fields, and a body.
struct Reply(Vec<u8>, Vec<u8>);

impl Reply {
    fn ok(body: impl AsRef<[u8]>) -> Reply {
        Reply::with("200 OK", b"", body)
    }

    /// Header fields end with a line break each.
    fn with(status: &str, fields: &[u8], body: impl AsRef<[u8]>) -> Reply {
        let head = [b"HTTP/1.1 ", status.as_bytes(), b"\r\n", fields].concat();
        Reply(head, body.as_ref().to_vec())
    }
}

struct Api {
    url: String,
    requests: Arc<Mutex<Vec<(Instant, Request)>>>,
}

impl Api {
    /// Answers each request by itself and the number of those before it.
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut piece = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(n) if n > 0 => head.extend_from_slice(&piece[..n]),
                        _ => break,
                    }
                }
                if head.is_empty() {
                    continue; // a page requested ahead that nobody wants any more
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap_or_default().to_string();
                let request = Request { target, head };
                let number = seen.lock().unwrap().len();
                let Reply(mut bytes, body) = answer(&request, number);
                seen.lock().unwrap().push((Instant::now(), request));
                let end = format!(
                    "Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                bytes.extend_from_slice(end.as_bytes());
                bytes.extend_from_slice(&body);
                stream.write_all(&bytes).ok();
            }
        });
        Api { url, requests }
    }

    fn x(&self) -> String {
        format!("{}/x", self.url)
    }

    fn targets(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|(_, r)| r.target.clone()).collect()
    }
}

/// Fetches from `/x` (or another target) of the API.
fn fetch(dataset: &Dataset, url: &str, more: &[&str], env: &[(&str, &str)]) -> (Place, Ran) {
    let place = Place::new();
    let ran = fetch_in(&place, dataset, url, more, env);
    (place, ran)
}

/// Fetches, and expects the records with these ids.
fn fetches(dataset: &Dataset, url: &str, more: &[&str], expected: std::ops::Range<u64>) -> Ran {
    let (_, ran) = fetch(dataset, url, more, &[]);
    let got = (ran.status, ids(&ran));
    assert_eq!(got, (0, numbers(expected)), "{more:?}: {}", ran.stderr);
    ran
}

fn fetch_in(
    place: &Place,
    dataset: &Dataset,
    url: &str,
    more: &[&str],
    env: &[(&str, &str)],
) -> Ran {
    place.write("d.toml", dataset.text(url));
    let outage: &[&str] = match more.contains(&"--max-outage") {
        true => &[],
        false => &["--max-outage", "30s"],
    };
    let out = Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args(["--log-format", "json", "fetch", "--dataset", "d.toml"])
        .args(["--as-of", "2026-11-01"])
        .args(outage)
        .args(more)
        .current_dir(place.root())
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap();
    Ran::of(out)
}

fn ids(ran: &Ran) -> Vec<String> {
    let lines = ran.stdout.lines();
    lines
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["id"].as_str().unwrap().to_string())
        .collect()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// An array of records with these ids.
fn records(range: std::ops::Range<u64>) -> String {
    let records: Vec<String> = range.map(|n| format!("{{\"id\":\"{n}\"}}")).collect();
    format!("[{}]", records.join(","))
}

fn items(range: std::ops::Range<u64>) -> String {
    format!("{{\"items\":{}}}", records(range))
}

const ITEMS: Dataset = Dataset {
    records: "/items",
    pagination: "",
    auth: String::new(),
    fields: "",
};

#[test]
fn the_link_header_is_read_as_its_standard_says() {
    let links: [&[u8]; 7] = [
        b"</x?page=9>; title=\"page;rel=next\"; rel=\"last\", </x?page=2>; rel=\"next\"",
        b"</x?page=9>; rel=\"last\",\t</x?page=2>; rel=\"next\"",
        b"</x?page=9>; rel=\"last\"; title=\"a, <b\", </x?page=2>; rel=\"next\"",
        b"</x?page=2>; rel=\"next\"; title=\"caf\xe9\"",
        b"</x?page=9>; rel=\"last\" </x?page=2>; rel=\"next\"",
        b"</x?page=2>; rel='next'",
        b"</x?page=9>; rel=next; anchor=\"/other\", </x?page=2>; rel=next; anchor=\"/x\"",
    ];
    let dataset = Dataset {
        pagination: "style = \"link\"",
        ..Dataset::default()
    };
    for link in links {
        let api = Api::start(move |request, _| match request.param("page") {
            None => Reply::with(
                "200 OK",
                &[b"Link: ", link, b"\r\n"].concat(),
                records(0..2),
            ),
            Some("2") => Reply::ok(records(2..4)),
            _ => Reply::ok(records(90..92)),
        });
        let (_, ran) = fetch(&dataset, &api.x(), &[], &[]);
        let link = String::from_utf8_lossy(link);
        assert_eq!((ran.status, ids(&ran)), (0, numbers(0..4)), "{link}");
        assert_eq!(api.targets(), ["/x", "/x?page=2"], "{link}");
    }
    for broken in [
        "/2; rel=next",
        "</9>; rel=last next </2>; rel=next",
        "</2>; rel=\"next",
    ] {
        let field = format!("Link: {broken}\r\n");
        let api = Api::start(move |_, _| Reply::with("200 OK", field.as_bytes(), records(0..2)));
        let (_, ran) = fetch(&dataset, &api.x(), &[], &[]);
        assert_eq!(ran.status, 4, "{broken}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("cannot read the Link header"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn codings_have_no_case() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(items(0..1).as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    let api = Api::start(move |_, _| Reply::with("200 OK", b"Content-Encoding: GZip\r\n", &body));
    fetches(&ITEMS, &api.x(), &[], 0..1);
}

#[test]
fn queries_and_cursors_go_out_as_they_stand() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"\nsize_param = \"limit\"\nsize = 2",
        ..ITEMS
    };
    for cursor in ["17293822569102704640", "1512085950.000216", "1e3"] {
        let api = Api::start(move |request, _| match request.param("cursor") {
            None => Reply::ok(format!("{{\"items\":{},\"next\":{cursor}}}", records(0..2))),
            Some(_) => Reply::ok(format!("{{\"items\":{},\"next\":null}}", records(2..3))),
        });
        let url = format!("{}/x?city=Montr%E9al&sig=a%20b", api.url);
        fetches(&dataset, &url, &[], 0..3);
        let first = "/x?city=Montr%E9al&sig=a%20b&limit=2";
        let second = format!("/x?city=Montr%E9al&sig=a%20b&cursor={cursor}&limit=2");
        assert_eq!(api.targets(), [first, &second]);
    }
}

#[test]
fn one_bad_record_does_not_stop_the_others() {
    let with_template = Dataset {
        fields: "[[field]]\nname = \"n\"\ntype = \"text\"\ntemplate = \"{/n}!\"",
        ..ITEMS
    };
    for (dataset, bad) in [
        (with_template, r#"{"id":"1","n":"cut \ud83d"}"#),
        (ITEMS, r#"{"id":"1","k\ud83d":1}"#),
    ] {
        let body = format!(r#"{{"items":[{{"id":"0","n":"a"}},{bad},{{"id":"2","n":"b"}}]}}"#);
        let api = Api::start(move |_, _| Reply::ok(&body));
        let (_, ran) = fetch(&dataset, &api.x(), &[], &[]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert!(
            lines.len() == 3 && lines[2].contains(r#""id":"2""#),
            "{}",
            ran.stdout
        );
    }
}

#[test]
fn a_pause_that_the_source_asks_for_is_kept() {
    for (status, pause, least) in [
        ("429 Slow Down", "1.2", 1.2),
        ("403 Forbidden", "1", 1.0),
        ("403 Forbidden", "0", 0.0),
        ("403 Forbidden", "Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ] {
        let api = Api::start(move |_, number| match number {
            0 => Reply::with(status, format!("Retry-After: {pause}\r\n").as_bytes(), ""),
            _ => Reply::ok(items(0..1)),
        });
        fetches(&ITEMS, &api.x(), &[], 0..1);
        let requests = api.requests.lock().unwrap();
        let waited = requests[1].0 - requests[0].0;
        assert!(waited >= Duration::from_secs_f64(least), "{waited:?}");
    }
    // One that is longer than an outage may last is not waited for at all.
    let api = Api::start(|_, _| Reply::with("429 Slow Down", b"Retry-After: 64\r\n", ""));
    let (_, ran) = fetch(&ITEMS, &api.x(), &[], &[]);
    assert_eq!((ran.status, api.targets().len()), (4, 1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("asks for a pause of 64s"),
        "{}",
        ran.stderr
    );
    let api = Api::start(|_, _| Reply::with("403 Forbidden", b"", ""));
    let (_, ran) = fetch(&ITEMS, &api.x(), &[], &[]);
    assert_eq!((ran.status, api.targets().len()), (4, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("source.auth"), "{}", ran.stderr);
}

#[test]
fn numbers_at_their_limits_do_not_panic() {
    let api = Api::start(|_, _| Reply::ok(items(0..1)));
    let url = api.x();
    for more in [
        &["--rps", "1e-300"][..],
        &[
            "--connect-timeout",
            "213503982334601d",
            "--idle-timeout",
            "213503982334601d",
        ],
        &[
            "--request-timeout",
            "213503982334601d",
            "--limit",
            "1/213503982334601d",
        ],
    ] {
        fetches(&ITEMS, &url, more, 0..1);
    }
}

/// Fetches what is new since the bookmark of this place: the status, the ids, and what was said.
fn fetch_new(
    place: &Place,
    dataset: &Dataset,
    url: &str,
    more: &[&str],
) -> (i32, Vec<String>, String) {
    let state = ["--state", "state.json", "--out", "out.ndjson"];
    std::fs::remove_file(place.path("out.ndjson")).ok();
    let ran = fetch_in(place, dataset, url, &[&state[..], more].concat(), &[]);
    let out = std::fs::read_to_string(place.path("out.ndjson")).unwrap_or_default();
    let (status, said) = (ran.status, ran.stderr.clone());
    (status, ids(&Ran { stdout: out, ..ran }), said)
}
