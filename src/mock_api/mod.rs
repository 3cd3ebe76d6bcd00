//! The practice API of `rtp mock-api`: routes, and what all of them share.

pub(crate) mod auth;
pub(crate) mod connection;
pub(crate) mod faults;
mod names;
mod products;
mod users;

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::url::form_urlencoded;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::value::RawValue;

use self::auth::Auth;
use self::connection::Peer;
use self::faults::{Fault, Faults};
use self::products::Walk;

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// The query key that marks an address one was redirected to: a request for it meets no fault.
const REDIRECTED: &str = "rtp-redirected";
/// Bodies below this are not worth compressing.
const GZIP_FROM: usize = 256;

/// What the command line decided.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) products: u64,
    pub(crate) auth: Option<Auth>,
    pub(crate) serve: Option<PathBuf>,
    pub(crate) faults: Faults,
    pub(crate) latency: Duration,
}

/// So many users in so much time, for each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    users: u64,
    window: Duration,
}

impl RateLimit {
    /// Parses `USERS/DURATION`.
    pub(crate) fn parse(text: &str) -> Result<RateLimit, String> {
        let wrong =
            || format!("`{text}` is no limit; write USERS/DURATION, for example 20000/300s");
        let (users, window) = text.split_once('/').ok_or_else(wrong)?;
        let users = users.trim().parse().map_err(|_| wrong())?;
        let window = crate::time::parse_duration(window)?;
        if window.is_zero() {
            return Err(wrong());
        }
        Ok(RateLimit { users, window })
    }
}

/// The users each client was given in the current window.
#[derive(Debug)]
struct Given {
    since: Instant,
    users: HashMap<IpAddr, u64>,
}

#[derive(Debug)]
struct Server {
    config: Config,
    given: Mutex<Given>,
    tokens: auth::Tokens,
}

/// Which data a route serves.
#[derive(Clone, Copy, Debug)]
enum Route {
    Users,
    Products(Walk),
}

/// How many of the records due a reply holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    All,
    Half,
    None,
}

impl Amount {
    fn of(self, due: u64) -> u64 {
        match self {
            Amount::All => due,
            Amount::Half => due / 2,
            Amount::None => 0,
        }
    }
}

/// A reply before faults and compression.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
    headers: Vec<(HeaderName, String)>,
}

impl Reply {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Reply {
            status,
            content_type,
            body: body.into(),
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn not_found() -> Self {
        Reply::new(StatusCode::NOT_FOUND, TEXT, "Not Found")
    }

    fn json_error(status: StatusCode, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        Reply::new(status, JSON, body)
    }

    /// The response, whose body is as `body` makes it of the bytes.
    fn respond(self, body: impl FnOnce(Bytes) -> (Body, Option<u64>)) -> Response {
        let (body, length) = body(self.body.into());
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.content_type),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn plain(self) -> Response {
        self.respond(|bytes| (bytes.into(), None))
    }

    fn gzip(mut self) -> Self {
        self = self.with(header::VARY, "Accept-Encoding");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        // Writing to memory cannot fail; if it did, the plain body is right as well.
        match encoder
            .write_all(&self.body)
            .and_then(|()| encoder.finish())
        {
            Ok(body) => Reply { body, ..self }.with(header::CONTENT_ENCODING, "gzip"),
            Err(_) => self,
        }
    }
}

/// The keys of a query; of a repeated key the last value.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, (String, usize)>);

impl Query {
    fn parse(text: &str) -> Self {
        let mut map: HashMap<String, (String, usize)> = HashMap::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            let entry = map.entry(key.into_owned()).or_default();
            *entry = (value.into_owned(), entry.1 + 1);
        }
        Query(map)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(value, _)| value.as_str())
    }

    fn is_repeated(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|(_, times)| *times > 1)
    }
}

/// xoshiro256**, the same on every machine.
#[derive(Debug)]
pub(crate) struct Rng([u64; 4]);

impl Rng {
    /// A generator whose state is drawn from `seed` by splitmix64.
    pub(crate) fn new(mut seed: u64) -> Self {
        Rng(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number below `n`; 0 for 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` up to and with `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in one of `n` cases.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number from 0 up to, but not with, 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of the names in `list`, which `|` parts.
    pub(crate) fn pick(&mut self, list: &'static str) -> &'static str {
        let bars = memchr::memchr_iter(b'|', list.as_bytes());
        let n = self.below(bars.clone().count() as u64 + 1) as usize;
        let from = match n.checked_sub(1) {
            None => 0,
            Some(before) => bars.clone().nth(before).map_or(0, |bar| bar + 1),
        };
        let rest = &list[from..];
        rest.split_once('|').map_or(rest, |(name, _)| name)
    }

    /// `pattern` with digits for `#`, capital letters for `@`, hexadecimal digits for `%` and letters or digits for `*`.
    pub(crate) fn fill(&mut self, pattern: &str) -> String {
        const ALNUM: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut one = |set: &[u8]| char::from(set[self.below(set.len() as u64) as usize]);
        pattern
            .chars()
            .map(|c| match c {
                '#' => one(&ALNUM[..10]),
                '%' => one(&ALNUM[..16]),
                '@' => one(&ALNUM[36..]),
                '*' => one(ALNUM),
                c => c,
            })
            .collect()
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn push_json(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The lock's content, also after a panic of another holder.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All routes.
pub(crate) fn router(config: Config) -> Router {
    let server = Arc::new(Server {
        config,
        given: Mutex::new(Given {
            since: Instant::now(),
            users: HashMap::new(),
        }),
        tokens: auth::Tokens::default(),
    });
    let data = |route: Route| {
        get(
            move |state: State<Arc<Server>>, peer: ConnectInfo<Peer>, request: Request| {
                serve_data(state, peer, route, request)
            },
        )
    };
    Router::new()
        .route("/api", data(Route::Users))
        .route("/api/", data(Route::Users))
        .route("/api/{version}", data(Route::Users))
        .route("/api/{version}/", data(Route::Users))
        .route("/products", data(Route::Products(Walk::Cursor)))
        .route("/products/linked", data(Route::Products(Walk::Linked)))
        .route("/products/offset", data(Route::Products(Walk::Offset)))
        .route("/products/next", data(Route::Products(Walk::Next)))
        .route("/products/loop", data(Route::Products(Walk::Loop)))
        .route("/oauth/token", post(token))
        .route(
            "/healthz",
            get(|| async { Reply::new(StatusCode::OK, TEXT, "ok").plain() }),
        )
        .fallback(|| async { Reply::not_found().plain() })
        .with_state(server)
}

async fn token(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    let (status, body) = match &server.config.auth {
        Some(auth) => server.tokens.issue(auth, &headers, &body),
        None => (StatusCode::NOT_FOUND, r#"{"error":"no oauth2"}"#.into()),
    };
    Reply::new(status, JSON, body)
        .with(header::CACHE_CONTROL, "no-store")
        .plain()
}

async fn serve_data(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    route: Route,
    request: Request,
) -> Response {
    let config = &server.config;
    tokio::time::sleep(config.latency).await;
    let (parts, _) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    if let Some(auth) = &config.auth
        && !auth.admits(&parts.headers, &query, &server.tokens)
    {
        let mut reply = Reply::json_error(StatusCode::UNAUTHORIZED, "unauthorized");
        if let Some(challenge) = auth.challenge() {
            reply = reply.with(header::WWW_AUTHENTICATE, challenge);
        }
        return reply.plain();
    }

    let fault = match query.get(REDIRECTED) {
        Some(_) => None,
        None => config.faults.draw(),
    };
    if fault == Some(Fault::Redirect) {
        return Reply::new(StatusCode::FOUND, TEXT, "Found")
            .with(header::LOCATION, marked(&parts.uri))
            .plain();
    }
    if let Some(reply) = fault.and_then(faults::instead) {
        return reply.plain();
    }

    let amount = match fault {
        Some(Fault::Few) => Amount::Half,
        Some(Fault::NoRecords) => Amount::None,
        _ => Amount::All,
    };
    let reply = match route {
        Route::Users => {
            let client = client(&parts.headers, &peer);
            server.users(parts.uri.path(), &query, client, amount).await
        }
        Route::Products(walk) => {
            let base = parts
                .headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .map(|host| format!("http://{host}"))
                .unwrap_or_default();
            match products::page(walk, &query, config.products, &base, amount) {
                Ok((body, link)) => {
                    let reply = Reply::new(StatusCode::OK, JSON, body);
                    match link {
                        Some(link) => reply.with(header::LINK, link),
                        None => reply,
                    }
                }
                Err(message) => Reply::json_error(StatusCode::BAD_REQUEST, &message),
            }
        }
    };
    let reply = match accepts_gzip(&parts.headers) && reply.body.len() >= GZIP_FROM {
        true => reply.gzip(),
        false => reply,
    };
    let reply = match fault {
        // What follows on the connection could not be told from the body.
        Some(Fault::WrongLength) => reply.with(header::CONNECTION, "close"),
        _ => reply,
    };
    match fault {
        Some(fault) => reply.respond(|bytes| config.faults.spoil(fault, bytes, &peer)),
        None => reply.plain(),
    }
}

/// The same address with the mark of a redirect.
fn marked(uri: &Uri) -> String {
    let address = uri.path_and_query().map_or("/", |path| path.as_str());
    let separator = match uri.query() {
        Some(_) => '&',
        None => '?',
    };
    format!("{address}{separator}{REDIRECTED}=1")
}

impl Server {
    async fn users(&self, path: &str, query: &Query, client: IpAddr, amount: Amount) -> Reply {
        let version = path.trim_start_matches("/api").trim_matches('/');
        if !matches!(version, "" | "1.4") {
            return Reply::not_found();
        }
        let request = users::Request::new(query);
        if let Err(given) = self.admit(client, request.results) {
            return Reply::json_error(StatusCode::TOO_MANY_REQUESTS, &faults::ease_up(given));
        }
        let Some(dir) = &self.config.serve else {
            let (content_type, body) = request.render(amount);
            return Reply::new(StatusCode::OK, content_type, body);
        };
        file(&dir.join(format!("page-{:02}.json", request.page)), amount).await
    }

    /// Counts the users about to be served, or says how many the client has had when it is too many.
    fn admit(&self, client: IpAddr, users: u64) -> Result<(), u64> {
        let Some(limit) = self.config.rate_limit else {
            return Ok(());
        };
        let mut given = lock(&self.given);
        if given.since.elapsed() >= limit.window {
            given.since = Instant::now();
            given.users.clear();
        }
        let had = given.users.entry(client).or_default();
        if *had >= limit.users {
            return Err(*had);
        }
        *had += users;
        Ok(())
    }
}

/// A recorded page; with fewer records only on demand, else byte for byte.
async fn file(path: &Path, amount: Amount) -> Reply {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Reply::not_found(),
        Err(e) => {
            let message = format!("cannot read {}: {e}", path.display());
            return Reply::new(StatusCode::INTERNAL_SERVER_ERROR, TEXT, message);
        }
    };
    let body = match amount {
        Amount::All => None,
        amount => fewer(&bytes, amount),
    };
    Reply::new(StatusCode::OK, JSON, body.unwrap_or(bytes))
}

/// The page with fewer records; none if it has another shape.
fn fewer(bytes: &[u8], amount: Amount) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        results: Vec<&'a RawValue>,
        #[serde(borrow)]
        info: Option<&'a RawValue>,
    }
    let page: Page = serde_json::from_slice(bytes).ok()?;
    let keep = amount.of(page.results.len() as u64) as usize;
    let results: Vec<&str> = page.results[..keep].iter().map(|r| r.get()).collect();
    let info = page
        .info
        .map_or(String::new(), |i| format!(",\"info\":{}", i.get()));
    Some(format!("{{\"results\":[{}]{info}}}", results.join(",")).into_bytes())
}

/// Who asks: as proxies tell, else the other end of the connection.
fn client(headers: &HeaderMap, peer: &Peer) -> IpAddr {
    ["cf-connecting-ip", "x-real-ip", "x-forwarded-for"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok()?.split(',').next())
        .find_map(|ip| ip.trim().parse().ok())
        .unwrap_or_else(|| peer.address().ip())
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts
                .filter_map(|p| p.strip_prefix("q="))
                .any(|q| q.parse() == Ok(0.0));
            matches!(name, "gzip" | "x-gzip" | "*") && !refused
        })
}
