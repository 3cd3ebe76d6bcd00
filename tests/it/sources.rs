//! What real APIs send, each from a public bug report of a tool that does this job: `fetch` from a small server that
//! answers exactly so.

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
fn no_secret_of_a_query_is_shown_and_what_the_address_supplies_is_not_kept() {
    let query = "api_key=hunter2a&X-Signature=hunter2b&accessToken=hunter2c&n=1";
    let dataset = Dataset {
        pagination: "style = \"next-url\"\nnext = \"/next\"",
        ..ITEMS
    };
    // Errors, warnings, help: the address comes from the option, the environment, or the dataset.
    let nobody = format!("http://127.0.0.1:1/x?{query}");
    let outage = ["--max-outage", "1s"];
    let by_option = [&outage[..], &["--api", &nobody]].concat();
    let by_variable = [("RTP_API_URL", nobody.as_str())];
    for (more, env) in [
        (&by_option[..], &[][..]),
        (&outage, &by_variable),
        (&outage, &[]),
        (&["--help"], &by_variable),
    ] {
        let (_, ran) = fetch(&dataset, &nobody, more, env);
        let said = ran.stdout + &ran.stderr;
        assert!(!said.contains("hunter2"), "{more:?}: {said}");
        if ran.status != 0 {
            let masked = "http://127.0.0.1:1/x?api_key=***&X-Signature=***&accessToken=***&n=1: ";
            assert!(ran.status == 4 && said.contains(masked), "{more:?}: {said}");
        }
    }
    // The source repeats the address in that of the next page, which has a secret of its own.
    let api = Api::start(
        move |request, number| match (request.param("page"), number) {
            (None, _) => {
                let next = format!("/x?{query}&page=2&sig=hunter2d");
                Reply::ok(format!(
                    "{{\"items\":{},\"next\":\"{next}\"}}",
                    records(0..2)
                ))
            }
            (_, 1) => Reply::ok("{\"items\":[],\"next\":null}"),
            _ => Reply::with("404 Not Found", b"", ""),
        },
    );
    let place = Place::new();
    let url = format!("{}/x?{query}", api.url);
    let (status, fetched, said) = fetch_new(&place, &dataset, &url, &[]);
    assert_eq!((status, fetched), (0, numbers(0..2)), "{said}");
    let state = std::fs::read_to_string(place.path("state.json")).unwrap();
    assert!(
        state.contains("api_key=***") && state.contains("sig=hunter2d"),
        "{state}"
    );
    for supplied in ["hunter2a", "hunter2b", "hunter2c"] {
        assert!(!state.contains(supplied), "{state}");
    }
    let (status, _, said) = fetch_new(&place, &dataset, &url, &[]);
    assert!(status == 4 && !said.contains("hunter2"), "{said}");
    let (first, second) = (
        format!("/x?{query}"),
        format!("/x?{query}&page=2&sig=hunter2d"),
    );
    let both = [first, second];
    assert_eq!(api.targets(), [both.clone(), both].concat());
    // Without the secret the page could not be requested.
    let (status, _, said) = fetch_new(&place, &dataset, &api.x(), &[]);
    assert!(
        status == 2 && said.contains("needs the parameter `api_key`"),
        "{said}"
    );
}

#[test]
fn an_answer_that_cannot_be_read_and_comes_for_ever_ends_the_run() {
    let with_error = Dataset {
        records: "/items\"\nerror = \"/error",
        ..ITEMS
    };
    let replies: [(&Dataset, &[u8], &[u8], &str); 5] = [
        (
            &ITEMS,
            b"",
            b"<!DOCTYPE html><title>Sign in</title>",
            "begins with `<!DOCTYPE html><title>Sign in",
        ),
        (&ITEMS, b"", b"", "the response is empty"),
        (
            &ITEMS,
            b"",
            b"{\"items\":[{\"id\":\"caf\xe9\"}]}",
            "not valid UTF-8 at byte 20",
        ),
        (
            &ITEMS,
            b"Content-Encoding: gzip\r\n",
            b"{\"items\":[]}",
            "invalid gzip",
        ),
        (
            &with_error,
            b"",
            b"{\"error\":\"no such plan\"}",
            "no such plan",
        ),
    ];
    for (dataset, fields, body, says) in replies {
        let api = Api::start(move |_, _| Reply::with("200 OK", fields, body));
        let forever = ["--max-outage", "24h"];
        let (_, ran) = fetch(dataset, &api.x(), &forever, &[]);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (4, ""),
            "{says}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
        assert!(ran.stderr.contains("8 times in a row"), "{}", ran.stderr);
        assert!(
            ran.stderr
                .contains("expected JSON with the records at `/items`"),
            "{}",
            ran.stderr
        );
        assert_eq!(api.targets().len(), 8);
    }
}

#[test]
fn an_answer_that_cannot_be_read_may_be_an_outage() {
    let dataset = Dataset {
        pagination: "style = \"page\"\nparam = \"page\"\nsize = 2",
        ..ITEMS
    };
    // Seven times the same, and others between: no answer that comes for ever. After a page, no number is too many.
    for glitches in [0..7, 1..9] {
        let api = Api::start(move |request, number| match request.param("page") {
            _ if glitches.contains(&number) => Reply::ok("<html>"),
            Some("1") => Reply::ok(items(0..2)),
            _ => Reply::ok(items(2..2)),
        });
        let url = api.x();
        fetches(&dataset, &url, &["--concurrency", "1"], 0..2);
    }
}

#[test]
fn no_secret_of_an_address_is_shown_or_kept() {
    let dataset = Dataset {
        auth: "style = \"api-key\"\nparam = \"key\"\nenv = \"LAB_KEY\"".into(),
        ..ITEMS
    };
    let api = Api::start(|request, _| {
        let to = format!(
            "Location: https://me:hunter2pass@127.0.0.1{}\r\n",
            request.target
        );
        Reply::with("301 Moved", to.as_bytes(), "")
    });
    let env = [("LAB_KEY", "hunter2key")];
    let (_, ran) = fetch(&dataset, &api.x(), &[], &env);
    assert_eq!(ran.status, 4);
    assert!(
        ran.stderr
            .contains("https://127.0.0.1/x, which is not followed"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);

    let dataset = Dataset {
        pagination: "style = \"next-url\"\nnext = \"/next\"",
        ..ITEMS
    };
    let api = Api::start(|request, _| {
        let host = request
            .head
            .split("host: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_string();
        let next = format!("http://me:hunter2@{host}/x?page=2");
        match request.param("page") {
            None => Reply::ok(format!(
                "{{\"items\":{},\"next\":\"{next}\"}}",
                records(0..2)
            )),
            Some(_) => Reply::ok("{\"items\":[],\"next\":null}"),
        }
    });
    let more = ["--state", "state.json", "--out", "out.ndjson"];
    let (place, ran) = fetch(&dataset, &api.x(), &more, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let state = std::fs::read_to_string(place.path("state.json")).unwrap();
    assert!(
        state.contains("/x?page=2") && !state.contains("hunter2"),
        "{state}"
    );
    let sent = &api.requests.lock().unwrap()[1].1.head;
    assert!(!sent.to_lowercase().contains("authorization"), "{sent}");
}

#[test]
fn a_token_whose_lifetime_is_strange_is_used() {
    for expires_in in [
        "9223372036854775807",
        "18446744073709551615",
        "\"3599\"",
        "3600.0",
        "-1",
    ] {
        let api = Api::start(move |request, _| match request.target.as_str() {
            "/token" => Reply::ok(format!(
                "{{\"access_token\":\"T\",\"expires_in\":{expires_in}}}"
            )),
            _ => Reply::ok(items(0..1)),
        });
        let dataset = Dataset {
            auth: format!(
                "style = \"oauth2\"\ntoken_url = \"{}/token\"\nclient_id = \"me\"\nenv = \"LAB_KEY\"",
                api.url
            ),
            ..ITEMS
        };
        let (_, ran) = fetch(&dataset, &api.x(), &[], &[("LAB_KEY", "s")]);
        assert_eq!(
            (ran.status, ids(&ran)),
            (0, numbers(0..1)),
            "{expires_in}: {}",
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
fn null_in_place_of_records_is_an_empty_page() {
    let dataset = Dataset {
        pagination: "style = \"page\"\nparam = \"page\"\nsize = 2",
        ..ITEMS
    };
    let api = Api::start(|request, _| match request.param("page") {
        Some("1") => Reply::ok(items(0..2)),
        _ => Reply::ok("{\"items\":null}"),
    });
    fetches(&dataset, &api.x(), &[], 0..2);
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
fn byte_order_marks_are_no_content() {
    let place = Place::new();
    place.write("b.json", "\u{feff}{\"items\":[{\"id\":\"1\"}]}");
    let url = format!("file://{}", place.path("b.json").display());
    let ran = fetch_in(&place, &ITEMS, &url, &[], &[]);
    assert_eq!(
        (ran.status, ids(&ran)),
        (0, numbers(1..2)),
        "{}",
        ran.stderr
    );
}

#[test]
fn proxies_of_the_environment_are_used_refused_or_left_out() {
    let api = Api::start(|_, _| Reply::ok(items(0..1)));
    let proxy = Api::start(|_, _| Reply::ok(items(7..8)));
    let url = api.x();
    let fetch = |env: &[(&str, &str)]| fetch(&ITEMS, &url, &[], env).1;
    assert_eq!(ids(&fetch(&[("http_proxy", &proxy.url)])), numbers(7..8));
    let all = [("http_proxy", proxy.url.as_str()), ("no_proxy", "*")];
    assert_eq!(ids(&fetch(&all)), numbers(0..1));
    let socks = "socks5h://127.0.0.1:1";
    let exempt = [("ALL_PROXY", socks), ("NO_PROXY", "localhost, 127.0.0.1")];
    assert_eq!(ids(&fetch(&exempt)), numbers(0..1));
    let unused = [
        ("https_proxy", "garbage"),
        ("http_proxy", proxy.url.as_str()),
    ];
    assert_eq!(ids(&fetch(&unused)), numbers(7..8));
    for broken in ["garbage://x y", "socks5://127.0.0.1:1", "hunter2@"] {
        let ran = fetch(&[("http_proxy", broken)]);
        assert_eq!(ran.status, 2, "{broken}: {}", ran.stderr);
        assert!(ran.stderr.contains("http_proxy") && !ran.stderr.contains("hunter2"));
    }
}

#[test]
fn a_next_page_that_no_response_names_is_told() {
    let cursor = |next: &'static str, size: &'static str| Dataset {
        pagination: match (next, size) {
            ("wrong", "2") => {
                "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/meta/nextCursor\"\nsize_param = \"limit\"\nsize = 2"
            }
            _ => "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/meta/nextCursor\"",
        },
        ..ITEMS
    };
    let api = || {
        Api::start(|request, _| {
            let page: u64 = request.param("cursor").map_or(0, |c| c.parse().unwrap());
            let next = if page < 3 {
                format!("\"{}\"", page + 1)
            } else {
                "null".into()
            };
            let records = records(page * 2..page * 2 + 2);
            Reply::ok(format!(
                "{{\"items\":{records},\"meta\":{{\"next_cursor\":{next}}}}}"
            ))
        })
    };
    // A full page is an error, for more may follow.
    let (_, ran) = fetch(&cursor("wrong", "2"), &api().x(), &[], &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("`/meta` has the keys next_cursor"),
        "{}",
        ran.stderr
    );
    // Where the source decides how long a page is, it is a warning.
    let ran = fetches(&cursor("wrong", ""), &api().x(), &[], 0..2);
    assert!(
        ran.stderr.contains("`/meta` has the keys next_cursor"),
        "{}",
        ran.stderr
    );
    // Nobody asks for a second page if the first one is enough.
    let more = ["--count", "2"];
    fetches(&cursor("wrong", "2"), &api().x(), &more, 0..2);
}

#[test]
fn records_in_another_place_end_the_run_at_once_and_name_what_is_there() {
    let api = Api::start(|_, _| Reply::ok("{\"data\":{\"users\":[]},\"page\":1}"));
    let (_, ran) = fetch(&ITEMS, &api.x(), &["--max-outage", "24h"], &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("has no `/items`: the response has the keys data, page"),
        "{}",
        ran.stderr
    );
    assert!(api.targets().len() <= 4);
}

#[test]
fn a_field_that_no_record_has_is_told_and_can_end_the_run_with_1() {
    let dataset = Dataset {
        fields: "[[field]]\nname = \"mail\"\ntype = \"text\"\nfrom = \"/emial\"",
        ..ITEMS
    };
    let api = Api::start(|_, _| Reply::ok(items(0..3)));
    let url = api.x();
    let ran = fetches(&dataset, &url, &[], 0..3);
    let said = "field mail is empty: none of the 3 records has `/emial`";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let (_, ran) = fetch(&dataset, &url, &["--require-fields"], &[]);
    assert_eq!(
        (ran.status, ids(&ran)),
        (1, numbers(0..3)),
        "{}",
        ran.stderr
    );
    let more = [
        "--require-fields",
        "--out",
        "o",
        "--trailer",
        "--unless-complete",
    ];
    let place = Place::new();
    for _ in 0..2 {
        let ran = fetch_in(&place, &dataset, &url, &more, &[]);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(!place.path("o").exists());
    }
    let (_, ran) = fetch(&ITEMS, &url, &["--require-fields"], &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("is empty"), "{}", ran.stderr);
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

#[test]
fn a_last_page_that_grows_is_fetched_from_where_it_ended() {
    let dataset = Dataset {
        pagination: "style = \"page\"\nparam = \"page\"\nsize_param = \"size\"\nsize = 50",
        ..ITEMS
    };
    let size = Arc::new(Mutex::new(140));
    let total = size.clone();
    let api = Api::start(move |request, _| {
        let page: u64 = request.param("page").unwrap().parse().unwrap();
        let total = *total.lock().unwrap();
        let start = ((page - 1) * 50).min(total);
        Reply::ok(items(start..(start + 50).min(total)))
    });
    let url = api.x();
    let place = Place::new();
    let more = ["--state", "state.json", "--out", "out.ndjson"];
    let mut fetched = Vec::new();
    for (total, status) in [(140, 0), (140, 0), (250, 0), (250, 0), (251, 0), (243, 5)] {
        *size.lock().unwrap() = total;
        std::fs::remove_file(place.path("out.ndjson")).ok();
        let ran = fetch_in(&place, &dataset, &url, &more, &[]);
        assert_eq!(ran.status, status, "{total}: {}", ran.stderr);
        if status == 0 {
            let out = std::fs::read_to_string(place.path("out.ndjson")).unwrap();
            fetched.extend(ids(&Ran { stdout: out, ..ran }));
        } else {
            let said = "an earlier run took 1 from this page";
            assert!(ran.stderr.contains(said), "{}", ran.stderr);
        }
    }
    assert_eq!(fetched, numbers(0..251));
    // A run that needs only part of a page goes on in the middle of it.
    let place = Place::new();
    let more = [
        "--state",
        "state.json",
        "--out",
        "out.ndjson",
        "--count",
        "70",
    ];
    let mut fetched = Vec::new();
    for _ in 0..3 {
        let ran = fetch_in(&place, &dataset, &url, &more, &[]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let out = std::fs::read_to_string(place.path("out.ndjson")).unwrap();
        fetched.extend(ids(&Ran { stdout: out, ..ran }));
    }
    assert_eq!(fetched, numbers(0..210));
}

#[test]
fn a_bookmark_at_a_full_last_page_that_names_no_next_one_is_no_mistake() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"\nsize_param = \"limit\"\nsize = 2",
        ..ITEMS
    };
    let api = Api::start(|request, _| {
        let page: u64 = request.param("cursor").map_or(0, |c| c.parse().unwrap());
        let records = records(page * 2..page * 2 + 2);
        match page {
            0 => Reply::ok(format!("{{\"items\":{records},\"next\":\"1\"}}")),
            _ => Reply::ok(format!("{{\"items\":{records}}}")),
        }
    });
    let place = Place::new();
    let url = api.x();
    let state = ["--state", "s.json", "--out", "o.ndjson"];
    for (more, expected) in [(&["--count", "2"][..], 0..2), (&[], 2..4)] {
        let ran = fetch_in(&place, &dataset, &url, &[&state[..], more].concat(), &[]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let out = std::fs::read_to_string(place.path("o.ndjson")).unwrap();
        assert_eq!(ids(&Ran { stdout: out, ..ran }), numbers(expected));
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

/// A source with numbered pages of 50 records out of a list that changes.
fn numbered(list: Arc<Mutex<Vec<u64>>>, at: fn(u64) -> u64) -> Api {
    Api::start(move |request, _| {
        let list = list.lock().unwrap();
        let number: u64 = request.param("at").unwrap().parse().unwrap();
        let start = usize::try_from(at(number)).unwrap().min(list.len());
        let page = &list[start..(start + 50).min(list.len())];
        let records: Vec<String> = page.iter().map(|n| format!("{{\"id\":\"{n}\"}}")).collect();
        Reply::ok(format!("{{\"items\":[{}]}}", records.join(",")))
    })
}

#[test]
fn a_source_that_puts_new_records_first_cannot_be_resumed_by_number() {
    let pages: fn(u64) -> u64 = |number| (number - 1) * 50;
    let offsets: fn(u64) -> u64 = |number| number;
    for (style, at) in [("page", pages), ("offset", offsets)] {
        let dataset = Dataset {
            pagination: match style {
                "page" => "style = \"page\"\nparam = \"at\"\nsize = 50",
                _ => "style = \"offset\"\nparam = \"at\"\nsize = 50",
            },
            ..ITEMS
        };
        // 140: the last page is short; 150: it is full; 50 more: a whole page is new.
        for (before, new) in [(140, 5), (150, 5), (150, 50), (140, 1)] {
            let list = Arc::new(Mutex::new((0..before).rev().collect::<Vec<u64>>()));
            let url = format!("{}/x", numbered(list.clone(), at).url);
            let place = Place::new();
            let fetch = || fetch_new(&place, &dataset, &url, &[]);
            let (status, fetched, said) = fetch();
            assert_eq!((status, fetched.len() as u64), (0, before), "{said}");
            let (status, fetched, said) = fetch();
            assert_eq!((status, fetched.len()), (0, 0), "{said}");
            assert!(said.contains("no new records"), "{said}");
            let state = std::fs::read(place.path("state.json")).unwrap();

            *list.lock().unwrap() = (0..before + new).rev().collect();
            let what = format!("{style}: {before} and {new} before them");
            let (status, fetched, said) = fetch();
            assert_eq!((status, fetched.len()), (5, 0), "{what}: {said}");
            let moved = "is not the one that an earlier run took last";
            assert!(
                said.contains(moved) && said.contains("move the state file away"),
                "{said}"
            );
            assert_eq!(std::fs::read(place.path("state.json")).unwrap(), state);

            // At the end they are found, and a record whose other fields change is the same one.
            *list.lock().unwrap() = (0..before).rev().chain(1000..1000 + new).collect();
            let (status, fetched, said) = fetch();
            assert_eq!(
                (status, fetched),
                (0, numbers(1000..1000 + new)),
                "{what}: {said}"
            );
        }
    }
}

/// A source of a list that changes, with pages of 5 records that name the next one.
fn named(list: Arc<Mutex<Vec<u64>>>) -> Api {
    Api::start(move |request, _| {
        let list = list.lock().unwrap();
        let start: usize = request.param("cursor").map_or(0, |c| c.parse().unwrap());
        let end = (start + 5).min(list.len());
        let records: Vec<String> = list[start..end]
            .iter()
            .map(|n| format!("{{\"id\":\"{n}\"}}"))
            .collect();
        let next = match end < list.len() {
            true => format!("\"{end}\""),
            false => "null".into(),
        };
        Reply::ok(format!(
            "{{\"items\":[{}],\"next\":{next}}}",
            records.join(",")
        ))
    })
}

#[test]
fn new_records_before_the_first_one_of_a_walk_by_names_are_told() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"",
        ..ITEMS
    };
    let list = Arc::new(Mutex::new((0..12).rev().collect::<Vec<u64>>()));
    let url = named(list.clone()).x();
    let place = Place::new();
    let fetch = |records: Vec<u64>| {
        *list.lock().unwrap() = records;
        fetch_new(&place, &dataset, &url, &[])
    };
    let (status, fetched, said) = fetch((0..12).rev().collect());
    assert_eq!((status, fetched.len()), (0, 12), "{said}");
    let state = std::fs::read(place.path("state.json")).unwrap();
    let (status, fetched, said) = fetch((0..15).rev().collect());
    assert_eq!((status, fetched.len()), (5, 0), "{said}");
    assert!(
        said.contains("3 records come before the one that was the first"),
        "{said}"
    );
    assert_eq!(std::fs::read(place.path("state.json")).unwrap(), state);
    // More than a page of them, or none: it cannot be known.
    let (status, _, said) = fetch((0..20).rev().collect());
    assert_eq!(status, 0, "{said}");
    assert!(
        said.contains("no longer on this page; if the source puts new"),
        "{said}"
    );
    // At the end, without a word.
    let (status, fetched, said) = fetch((0..20).rev().chain(20..22).collect());
    assert_eq!(
        (status, fetched.last().map(String::as_str)),
        (0, Some("21")),
        "{said}"
    );
    assert!(!said.contains("the first"), "{said}");
}

#[test]
fn the_last_page_that_has_a_name_grows_and_parts_of_pages_follow_one_another() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"",
        ..ITEMS
    };
    let list = Arc::new(Mutex::new((0..7).collect::<Vec<u64>>()));
    let url = named(list.clone()).x();
    let place = Place::new();
    let part = ["--count", "3"];
    for (more, records, expected) in [
        (&part[..], 0..7, 0..3),
        (&part, 0..7, 3..6),
        (&[], 0..7, 6..7),
        (&[], 0..9, 7..9),
        (&[], 0..9, 9..9),
        (&[], 0..17, 9..17),
        // Its records moved, perhaps because one was deleted: all of the page once more, because which of them are new cannot be known.
        (&[], 1..18, 16..18),
    ] {
        *list.lock().unwrap() = records.clone().collect();
        let (status, fetched, said) = fetch_new(&place, &dataset, &url, more);
        assert_eq!(
            (status, fetched),
            (0, numbers(expected)),
            "{records:?}: {said}"
        );
    }
}
