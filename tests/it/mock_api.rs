//! The practice API as its clients see it: the real binary, over HTTP.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::Mock;

const HEADER: &str = "gender,name.title,name.first,name.last,location.street.number,location.street.name,location.city,location.state,location.country,location.postcode,location.coordinates.latitude,location.coordinates.longitude,location.timezone.offset,location.timezone.description,email,login.uuid,login.username,login.password,login.salt,login.md5,login.sha1,login.sha256,dob.date,dob.age,registered.date,registered.age,phone,cell,id.name,id.value,picture.large,picture.medium,picture.thumbnail,nat";

impl Mock {
    async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("{}{path}", self.url)).await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }
}

fn results(page: &Value) -> &Vec<Value> {
    page["results"].as_array().unwrap()
}

#[tokio::test]
async fn users_depend_on_seed_page_and_nationality_only() {
    let (one, two) = (Mock::start(&[]), Mock::start(&[]));
    for path in [
        "/api/?seed=rtp&results=50",
        "/api/1.4/?seed=rtp&page=3&results=50&nat=de,IR",
    ] {
        assert_eq!(one.text(path).await, two.text(path).await);
    }
    // Pinned: another machine, another version must answer the same.
    let first = &one.json("/api/?seed=rtp").await["results"][0];
    assert_eq!(first["login"]["uuid"], PINNED_UUID);
    let page = |query: &'static str| one.json(query);
    let all = page("/api/?seed=rtp&results=50").await;
    let few = page("/api/?seed=rtp&results=7").await;
    assert_eq!(results(&all)[..7], results(&few)[..]);
    assert_ne!(
        all["results"],
        page("/api/?seed=rtp&results=50&page=2").await["results"]
    );
    assert_ne!(
        all["results"],
        page("/api/?seed=other&results=50").await["results"]
    );
    let info = serde_json::json!({"seed":"rtp","results":7,"page":1,"version":"1.4"});
    assert_eq!(few["info"], info);
    // gender is ignored with a seed, and used without one.
    assert_eq!(all, page("/api/?seed=rtp&results=50&gender=female").await);
    let women = page("/api/?results=50&gender=female").await;
    assert!(results(&women).iter().all(|u| u["gender"] == "female"));
    // A chosen seed is reported and gives the same users again, nationality included.
    let chosen = page("/api/?results=5&nat=NO").await;
    let seed = chosen["info"]["seed"].as_str().unwrap();
    assert_eq!(seed.len(), 18);
    let again = one.json(&format!("/api/?results=5&seed={seed}")).await;
    assert_eq!(chosen["results"], again["results"]);
    assert_ne!(chosen, page("/api/?results=5&nat=NO").await);
}

const PINNED_UUID: &str = "51d70728-59a1-48af-8e3b-12ae9919c1f7";

#[tokio::test]
async fn what_is_out_of_range_becomes_1() {
    let mock = Mock::start(&[]);
    let table = [
        ("results=5000", 5000),
        ("results=5001", 1),
        ("results=0", 1),
        ("results=-1", 1),
        ("results=1.5", 1),
        ("results=abc", 1),
        ("results=", 1),
        ("results=2&results=3", 1),
        ("", 1),
    ];
    for (query, n) in table {
        let page = mock.json(&format!("/api/?{query}&inc=nat")).await;
        assert_eq!(results(&page).len(), n, "{query}");
        assert_eq!(page["info"]["results"], n, "{query}");
    }
    for (query, n) in [
        ("page=10000", 10_000),
        ("page=10001", 1),
        ("page=0", 1),
        ("page=-2", 1),
        ("page=x", 1),
        ("page=2&page=3", 3),
    ] {
        assert_eq!(
            mock.json(&format!("/api/?{query}")).await["info"]["page"],
            n,
            "{query}"
        );
    }
}

#[tokio::test]
async fn routes_and_headers_are_those_of_the_real_api() {
    let mock = Mock::start(&[]);
    for path in ["/api", "/api/", "/api/1.4", "/api/1.4/", "/healthz"] {
        assert_eq!(mock.get(path).await.status(), 200, "{path}");
    }
    for path in ["/api/1.3", "/api/9/", "/nothing"] {
        let response = mock.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.text().await.unwrap(), "Not Found");
    }
    let url = format!("{}/api/?seed=a&results=20", mock.url);
    let client = reqwest::Client::builder().no_gzip().build().unwrap();
    let plain = client.get(&url).send().await.unwrap();
    assert_eq!(plain.headers()["access-control-allow-origin"], "*");
    assert_eq!(plain.headers()["cache-control"], "no-cache");
    assert!(plain.headers().get("content-encoding").is_none());
    let plain = plain.text().await.unwrap();
    let packed = client
        .get(&url)
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed.bytes().await.unwrap()[..])
        .read_to_string(&mut unpacked)
        .unwrap();
    assert_eq!(plain, unpacked);
}

#[tokio::test]
async fn fields_and_nationalities_are_chosen() {
    let mock = Mock::start(&[]);
    let keys = |user: &Value| {
        user.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(",")
    };
    let page = mock.json("/api/?seed=a&inc=name,nat,email&exc=email").await;
    assert_eq!(keys(&page["results"][0]), "name,nat");
    let page = mock.json("/api/?seed=a&exc=login,picture&noinfo").await;
    assert_eq!(keys(&page), "results");
    assert_eq!(results(&page)[0].as_object().unwrap().len(), 10);

    for (nat, text_postcode, has_id) in [
        ("CA", true, true),
        ("GB", true, true),
        ("NO", true, true),
        ("NL", false, true),
        ("DE", false, true),
        ("IR", false, false),
        ("NZ", false, false),
        ("TR", false, false),
        ("UA", false, false),
    ] {
        let page = mock
            .json(&format!("/api/?seed=a&results=30&nat={nat}"))
            .await;
        for user in results(&page) {
            assert_eq!(user["nat"], nat);
            let postcode = &user["location"]["postcode"];
            assert_eq!(postcode.is_string(), text_postcode, "{nat} {postcode}");
            assert_eq!(postcode.is_i64(), !text_postcode, "{nat} {postcode}");
            assert_eq!(user["id"]["value"].is_null(), !has_id, "{nat}");
            assert_eq!(user["id"]["name"] == "", !has_id, "{nat}");
            let email = user["email"].as_str().unwrap();
            assert!(
                email.is_ascii() && !email.starts_with('.') && !email.contains(".@"),
                "{email}"
            );
        }
    }
    let nats = |page: &Value| {
        results(page)
            .iter()
            .map(|u| u["nat"].to_string())
            .collect::<HashSet<_>>()
            .len()
    };
    assert_eq!(
        nats(&mock.json("/api/?seed=a&results=200&nat=de,Fr").await),
        2
    );
    assert_eq!(
        nats(&mock.json("/api/?seed=a&results=900&nat=de,XX").await),
        21
    );
}

/// JSON with `s` for each string that is not a key, and `n` for each number.
fn shape(json: &str) -> String {
    let mut out = String::new();
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => {
                let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                texts.next().unwrap().unwrap();
                texts.byte_offset()
            }
            '-' | '0'..='9' => rest.find([',', '}', ']']).unwrap(),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match c {
            '"' if !after.starts_with(':') => out.push('s'),
            '-' | '0'..='9' => out.push('n'),
            _ => out.push_str(token),
        }
        rest = after;
    }
    out
}

#[tokio::test]
async fn users_have_the_shape_of_recorded_ones() {
    let recorded = include_str!("../data/randomuser/users.json");
    let mock = Mock::start(&[]);
    let mut lines = recorded.lines();
    for (nat, line) in ["DE", "CA", "IR", "DK"].into_iter().zip(&mut lines) {
        let user = line.trim_start_matches("{\"results\":[");
        let user = user.trim_end_matches([',', ']']);
        assert!(user.ends_with(&format!("\"nat\":\"{nat}\"}}")), "{user}");
        let page = mock
            .text(&format!("/api/?seed=rtp&results=50&nat={nat}"))
            .await;
        let users = vec![shape(user); 50].join(",");
        let expected = format!(
            "{{\"results\":[{users}],{}",
            shape("\"info\":{\"seed\":\"rtp\",\"results\":4,\"page\":1,\"version\":\"1.4\"}}")
        );
        assert_eq!(shape(&page), expected, "{nat}");
    }
    let info = lines.next().unwrap();
    assert_eq!(
        shape(info),
        "\"info\":{\"seed\":s,\"results\":n,\"page\":n,\"version\":s}}"
    );
}

#[tokio::test]
async fn formats_hold_the_same_values() {
    let mock = Mock::start(&[]);
    let json = mock.text("/api/?seed=a&results=300").await;
    let pretty = mock.text("/api/?seed=a&results=300&format=pretty").await;
    assert!(pretty.starts_with("{\n  \"results\": [\n    {\n      \"gender\": \""));
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value, serde_json::from_str::<Value>(&pretty).unwrap());
    assert_eq!(
        json,
        mock.text("/api/?seed=a&results=300&format=nonsense").await
    );

    let csv = mock.text("/api/?seed=a&results=300&fmt=csv").await;
    assert_eq!(csv.lines().next(), Some(HEADER));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().map(|r| r.unwrap()).collect();
    assert_eq!(rows.len(), 300);
    for (row, user) in rows.iter().zip(results(&value)) {
        for (column, cell) in HEADER.split(',').zip(row) {
            let value = &user[column.split('.').next().unwrap()];
            let value = column.split('.').skip(1).fold(value, |v, key| &v[key]);
            let expected = match value {
                Value::String(text) => text.clone(),
                Value::Null => "null".into(), // as the real API
                other => other.to_string(),
            };
            assert_eq!(cell, expected, "{column}");
        }
    }
}

#[tokio::test]
async fn json_has_the_order_of_the_header() {
    let mock = Mock::start(&[]);
    let json = mock.text("/api/?seed=a").await;
    let mut from = 0;
    for column in HEADER.split(',') {
        let key = format!("\"{}\":", column.rsplit('.').next().unwrap());
        from += json[from..]
            .find(&key)
            .unwrap_or_else(|| panic!("{column} in {json}"));
    }
}

#[tokio::test]
async fn uuids_are_distinct() {
    let mock = Mock::start(&[]);
    let mut seen = HashSet::new();
    for page in 1..=10 {
        let page = mock
            .json(&format!("/api/?seed=rtp&results=500&page={page}"))
            .await;
        seen.extend(
            results(&page)
                .iter()
                .map(|u| u["login"]["uuid"].to_string()),
        );
    }
    assert_eq!(seen.len(), 5000);
}

#[tokio::test]
async fn the_rate_limit_counts_users_of_a_client() {
    let mock = Mock::start(&["--rate-limit", "100/2s"]);
    // The limit is checked before serving: the request that exceeds it is still served.
    assert_eq!(mock.get("/api/?results=60").await.status(), 200);
    assert_eq!(mock.get("/api/?results=60").await.status(), 200);
    let refused = mock.get("/api/").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().get("retry-after").is_none());
    assert_eq!(
        refused.text().await.unwrap(),
        "{\"error\":\"Whoa, ease up there cowboy. You've requested 120 users in the last minute. Help us keep this service free and spare some bandwidth for other users please :)\"}"
    );
    let other = reqwest::Client::new()
        .get(format!("{}/api/", mock.url))
        .header("x-forwarded-for", "192.0.2.7")
        .send()
        .await
        .unwrap();
    assert_eq!(other.status(), 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(mock.get("/api/").await.status(), 200);
}

#[tokio::test]
async fn recorded_pages_are_served_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("page-02.json"),
        "{\"results\":[1,2 ,3,4]}\n",
    )
    .unwrap();
    let mock = Mock::start(&["--serve", dir.path().to_str().unwrap()]);
    assert_eq!(
        mock.text("/api/?page=2").await,
        "{\"results\":[1,2 ,3,4]}\n"
    );
    assert_eq!(mock.get("/api/?page=3").await.status(), 404);
    let few = Mock::start(&["--serve", dir.path().to_str().unwrap(), "--fault", "few=1"]);
    assert_eq!(few.text("/api/?page=2").await, "{\"results\":[1,2]}");
}

#[tokio::test]
async fn faults_that_replace_the_reply() {
    let path = "/api/?seed=a&results=10";
    let ask = async |fault: &str| {
        let mock = Mock::start(&["--fault", &format!("{fault}=1")]);
        let response = mock.get(path).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.text().await.unwrap())
    };
    let (status, headers, body) = ask("429").await;
    assert!(status == 429 && headers.get("retry-after").is_none() && body.contains("cowboy"));
    let (status, headers, _) = ask("429-after").await;
    assert!(status == 429 && headers["retry-after"] == "1");
    let (status, headers, _) = ask("429-date").await;
    let date = httpdate::parse_http_date(headers["retry-after"].to_str().unwrap()).unwrap();
    assert!(status == 429 && date < std::time::SystemTime::now() + Duration::from_secs(3));
    let (status, _, body) = ask("503").await;
    assert!(status == 503 && body.contains("503"));
    let (status, _, body) = ask("error-body").await;
    assert_eq!(
        (status, body.as_str()),
        (200, "{\"error\":\"Uh oh, something has gone wrong.\"}")
    );
    let (status, headers, body) = ask("html").await;
    assert!(status == 200 && headers["content-type"] == "text/html" && body.contains("<html>"));
    let (status, headers, body) = ask("empty").await;
    assert!(status == 200 && headers["content-length"] == "0" && body.is_empty());
    let (_, _, body) = ask("no-records").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert!(results(&page).is_empty() && page["info"]["results"] == 10);
    let (_, _, body) = ask("few").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert!(results(&page).len() == 5 && page["info"]["results"] == 10);

    // Redirects to itself with a mark: whoever follows is served, regardless of other requests.
    let mock = Mock::start(&["--fault", "redirect=1"]);
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = format!("{}{path}", mock.url);
    for (url, location) in [
        (url.clone(), format!("{path}&rtp-redirected=1")),
        (url, format!("{path}&rtp-redirected=1")),
        (
            format!("{}/products", mock.url),
            "/products?rtp-redirected=1".to_string(),
        ),
    ] {
        let response = client.get(&url).send().await.unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers()["location"], location.as_str());
        assert_eq!(mock.get(&location).await.status(), 200);
    }
    assert_eq!(mock.get(path).await.status(), 200);
}

/// Everything received until the connection ends: head, body, and how it ends.
fn raw(mock: &Mock, path: &str) -> (String, Vec<u8>, std::io::Result<()>) {
    let address = mock.url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(|_| ());
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let body = bytes.split_off(at);
    (String::from_utf8(bytes).unwrap().to_lowercase(), body, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_below_http_are_real_on_the_wire() {
    let path = "/api/?seed=a&results=200";
    let whole = Mock::start(&[]).text(path).await.into_bytes();
    let (half, long) = (whole.len() / 2, whole.len() + 16);

    let mock = Mock::start(&["--fault", "wrong-length=1"]);
    for told in [half, long, half] {
        let (head, body, end) = raw(&mock, path);
        assert!(
            head.contains(&format!("\r\ncontent-length: {told}\r\n")),
            "{head}"
        );
        assert!(body == whole && end.is_ok());
    }
    let (head, body, end) = raw(&Mock::start(&["--fault", "cut=1"]), path);
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", whole.len())));
    assert!(body == whole[..half] && end.is_ok());
    let (head, body, end) = raw(&Mock::start(&["--fault", "reset=1"]), path);
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", whole.len())));
    assert_eq!(body, whole[..half]);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn faults_that_spoil_the_body() {
    let path = "/api/?seed=a&results=200";
    let whole = Mock::start(&[]).text(path).await;
    let client = reqwest::Client::builder().no_gzip().build().unwrap();
    let ask = async |mock: &Mock| {
        let started = Instant::now();
        let response = client
            .get(format!("{}{path}", mock.url))
            .send()
            .await
            .unwrap();
        let told = response.content_length();
        let body = tokio::time::timeout(Duration::from_secs(4), response.text()).await;
        (told.unwrap() as usize, body, started.elapsed())
    };
    let (told, body, took) = ask(&Mock::start(&["--fault", "slow=1"])).await;
    assert_eq!((told, body.unwrap().unwrap()), (whole.len(), whole.clone()));
    assert!(took > Duration::from_millis(1500), "{took:?}");

    let (told, body, _) = ask(&Mock::start(&["--fault", "cut=1"])).await;
    assert!(told == whole.len() && body.unwrap().is_err());

    let mock = Mock::start(&["--fault", "wrong-length=1"]);
    let (told, body, _) = ask(&mock).await;
    assert_eq!(told, whole.len() / 2);
    assert_eq!(
        body.unwrap().unwrap(),
        String::from_utf8_lossy(&whole.as_bytes()[..told])
    );
    let (told, body, _) = ask(&mock).await;
    assert!(told == whole.len() + 16 && body.unwrap().is_err());

    let mut mock = Mock::start(&["--fault", "stall=1"]);
    let mut response = client
        .get(format!("{}{path}", mock.url))
        .send()
        .await
        .unwrap();
    let mut got = 0;
    while got < whole.len() / 2 {
        got += response.chunk().await.unwrap().unwrap().len();
    }
    let more = tokio::time::timeout(Duration::from_millis(300), response.chunk()).await;
    assert!(more.is_err() && got == whole.len() / 2, "{got}: {more:?}");
    // The stalled connection does not delay the shutdown.
    let asked = Instant::now();
    Command::new("kill")
        .arg(mock.child.id().to_string())
        .status()
        .unwrap();
    assert_eq!(mock.child.wait().unwrap().code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn faults_hit_their_share_and_the_same_requests_again() {
    let statuses = async || {
        let mock = Mock::start(&[
            "--fault",
            "503=0.2,429=0.1",
            "--fault",
            "html=0",
            "--fault-seed",
            "7",
        ]);
        let client = reqwest::Client::new(); // only one, because starting it takes most of the time
        let url = format!("{}/api/", mock.url);
        let mut statuses = Vec::new();
        for _ in 0..200 {
            let response = client.get(&url).send().await.unwrap();
            statuses.push(response.status().as_u16());
        }
        statuses
    };
    let one = statuses().await;
    assert_eq!(one, statuses().await);
    let count = |status| one.iter().filter(|s| **s == status).count();
    assert!((20..65).contains(&count(503)), "{}", count(503));
    assert!((6..40).contains(&count(429)), "{}", count(429));
    assert_eq!(count(200) + count(429) + count(503), 200);
}

#[tokio::test]
async fn every_walk_over_the_products_meets_each_once() {
    let mock = Mock::start(&["--products", "1234"]);
    let ids = |items: &Value| -> Vec<i64> {
        items
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["id"].as_i64().unwrap())
            .collect()
    };
    let check = |walk: &str, seen: &[i64]| {
        assert_eq!(seen.len(), 1234, "{walk}");
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 1234, "{walk}");
    };

    let (mut seen, mut query) = (Vec::new(), String::new());
    loop {
        let page = mock.json(&format!("/products?limit=70{query}")).await;
        seen.extend(ids(&page["data"]["items"]));
        assert_eq!(page["meta"]["total"], 1234);
        let Some(cursor) = page["meta"]["next_cursor"].as_str() else {
            break;
        };
        query = format!("&cursor={cursor}");
    }
    check("cursor", &seen);

    let (mut seen, mut path) = (Vec::new(), Some("/products/next".to_string()));
    while let Some(now) = path {
        let page = mock.json(&now).await;
        seen.extend(ids(&page["data"]["items"]));
        path = page["meta"]["next"]
            .as_str()
            .map(|u| u.strip_prefix(&mock.url).unwrap().to_string());
    }
    check("next", &seen);

    let mut seen = Vec::new();
    loop {
        let page = mock
            .json(&format!("/products/offset?limit=250&offset={}", seen.len()))
            .await;
        let more = ids(&page["data"]["items"]);
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    check("offset", &seen);

    let (mut seen, mut path) = (Vec::new(), Some("/products/linked?limit=99999".to_string()));
    while let Some(now) = path {
        let response = mock.get(&now).await;
        let link = response.headers()["link"].to_str().unwrap().to_string();
        assert!(link.contains("rel=\"last\""));
        let page: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert!(ids(&page).len() <= 250);
        seen.extend(ids(&page));
        path = link
            .split(", ")
            .find(|l| l.ends_with("rel=\"next\""))
            .map(|l| {
                let url = l.split(['<', '>']).nth(1).unwrap();
                url.strip_prefix(&mock.url).unwrap().to_string()
            });
    }
    check("linked", &seen);

    let first = mock.json("/products/loop").await;
    let cursor = first["meta"]["next_cursor"].as_str().unwrap();
    let second = mock.json(&format!("/products/loop?cursor={cursor}")).await;
    assert_eq!(second["meta"]["next_cursor"], cursor);
    for path in [
        "/products?cursor=%21",
        "/products/next?cursor=abcd",
        "/products?limit=0",
    ] {
        let response = mock.get(path).await;
        assert_eq!(response.status(), 400, "{path}");
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert!(body["error"].is_string());
    }
    let text = mock.text("/products?limit=250").await;
    assert!(text.contains("12345678901234567890.1234") && text.contains("\"released\":null"));
    assert_eq!(
        text,
        Mock::start(&["--products", "1234"])
            .text("/products?limit=250")
            .await
    );
}

#[tokio::test]
async fn who_shows_no_credential_is_refused() {
    let client = reqwest::Client::new();
    for kind in [
        "bearer:t0k",
        "basic:ann:pa:ss",
        "header:X-Key:k1",
        "query:key:k2",
        "oauth2:me:s3cret",
    ] {
        let mock = Mock::start(&["--require-auth", kind]);
        assert_eq!(mock.get("/healthz").await.status(), 200, "{kind}");
        let token = if kind.starts_with("oauth2") {
            let url = format!("{}/oauth/token", mock.url);
            let grant = ("grant_type", "client_credentials");
            let by_form =
                client
                    .post(&url)
                    .form(&[grant, ("client_id", "me"), ("client_secret", "s3cret")]);
            let by_basic = client
                .post(&url)
                .form(&[grant])
                .basic_auth("me", Some("s3cret"));
            let wrong = client
                .post(&url)
                .form(&[grant])
                .basic_auth("me", Some("no"));
            assert_eq!(wrong.send().await.unwrap().status(), 401);
            let wrong = client.post(&url).form(&[("grant_type", "password")]);
            assert_eq!(wrong.send().await.unwrap().status(), 400);
            assert_eq!(by_form.send().await.unwrap().status(), 200);
            let reply = by_basic.send().await.unwrap().text().await.unwrap();
            let reply: Value = serde_json::from_str(&reply).unwrap();
            assert_eq!(reply["token_type"], "Bearer");
            reply["access_token"].as_str().unwrap().to_string()
        } else {
            "t0k".to_string()
        };
        for path in ["/api/", "/products", "/products/linked"] {
            let url = format!("{}{path}", mock.url);
            let requests = [
                ("none", client.get(&url)),
                ("wrong", client.get(&url).bearer_auth("wrong")),
                ("bearer", client.get(&url).bearer_auth(&token)),
                ("oauth2", client.get(&url).bearer_auth(&token)),
                ("basic", client.get(&url).basic_auth("ann", Some("pa:ss"))),
                ("header", client.get(&url).header("x-key", "k1")),
                ("query", client.get(format!("{url}?key=k2"))),
            ];
            for (shown, request) in requests {
                let bearers = ["bearer", "oauth2"];
                let wanted = kind.split(':').next().unwrap();
                let good =
                    shown == wanted || (bearers.contains(&shown) && bearers.contains(&wanted));
                let response = request.send().await.unwrap();
                assert_eq!(response.status() == 200, good, "{kind} {path} {shown}");
                if !good {
                    assert_eq!(response.status(), 401);
                    let body = response.text().await.unwrap();
                    assert!(serde_json::from_str::<Value>(&body).unwrap()["error"].is_string());
                }
            }
        }
    }
}

#[test]
fn wrong_usage_says_what_is_allowed_and_a_port_in_use_its_address() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_rtp"))
            .arg("mock-api")
            .args(args)
            .env_clear()
            .output()
            .unwrap();
        assert!(out.stdout.is_empty());
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let table: [(&[&str], &str); 8] = [
        (&["--fault", "oops=1"], "supported: 429, 429-after"),
        (&["--fault", "503=2"], "expected 0 to 1"),
        (&["--fault", "503=NaN"], "expected 0 to 1"),
        (&["--fault", "503=0.6,429=0.6"], "the maximum is 1"),
        (&["--require-auth", "magic:x:y"], "expected bearer:TOKEN"),
        (&["--rate-limit", "many"], "expected USERS/DURATION"),
        (&["--latency", "5"], "invalid duration"),
        (&["--serve", "/nowhere/at/all"], "is not a folder"),
    ];
    for (args, message) in table {
        let (code, stderr) = run(args);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    let mock = Mock::start(&[]);
    let address = mock.url.strip_prefix("http://").unwrap();
    let (code, stderr) = run(&["--port", address.split(':').nth(1).unwrap()]);
    assert_eq!(code, Some(4));
    assert!(stderr.contains(address), "{stderr}");
}

#[tokio::test]
async fn latency_delays_every_answer_with_data() {
    let mock = Mock::start(&["--latency", "300ms", "--rate-limit"]);
    let started = Instant::now();
    assert_eq!(mock.get("/api/").await.status(), 200);
    assert!(started.elapsed() >= Duration::from_millis(300));
    // Health checks are answered at once.
    let mock = Mock::start(&["--latency", "1h"]);
    assert_eq!(mock.get("/healthz").await.status(), 200);
}
