//! The HTTP source: one request at a time, with time-outs, size caps and credentials.

use std::fmt;
use std::io::Read;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::{Response, Source};
use crate::dataset::{self, Auth};
use crate::error::{Context, Error, Result};
use crate::secret::Secret;

/// Largest body in bytes as it travels, compressed or not.
const MAX_WIRE: usize = 32 << 20;

/// Largest body in bytes once decompressed.
pub(super) const MAX_BODY: u64 = 100 << 20;

/// Longest pause that a source may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Most redirects that one request follows.
const MAX_REDIRECTS: usize = 10;

/// A token is asked for anew this long before it ends.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub idle: Duration,
    /// For one request altogether.
    pub total: Duration,
}

/// How a request is authenticated, its secrets read.
enum Credentials {
    None,
    Header(HeaderName, HeaderValue),
    Query(String, Secret),
    OAuth2 {
        token_url: Url,
        client_id: String,
        client_secret: Secret,
        scope: Option<String>,
        token: Mutex<Option<Token>>,
    },
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

/// Requests pages over HTTP.
pub struct HttpSource {
    client: Client,
    credentials: Credentials,
    timeouts: Timeouts,
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSource")
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl HttpSource {
    /// A client for a dataset's source. Reads the secrets that it names.
    pub fn new(source: &dataset::Source, timeouts: Timeouts) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/json, */*;q=0.5"),
        );
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        for (name, value) in &source.headers {
            let wrong = || Error::invalid(format!("the source's header `{name}` is no header"));
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            headers.insert(name, value.parse().map_err(|_| wrong())?);
        }
        let client = Client::builder()
            .user_agent(concat!("rtp/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(timeouts.connect)
            // Bodies are decompressed here, where both sizes can be capped.
            .no_gzip()
            // Across origins a redirect would carry keys in headers along.
            .redirect(reqwest::redirect::Policy::custom(|attempt| {
                let came_from = attempt.previous().last().map(Url::origin);
                match came_from == Some(attempt.url().origin())
                    && attempt.previous().len() <= MAX_REDIRECTS
                {
                    true => attempt.follow(),
                    false => attempt.stop(),
                }
            }))
            .build()
            .map_err(|e| Error::refused(format!("cannot start the HTTP client: {e}")))?;
        Ok(HttpSource {
            client,
            credentials: Credentials::read(&source.auth)?,
            timeouts,
        })
    }

    async fn exchange(&self, address: &Url) -> Result<Response> {
        let mut response = self.request(address).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.forget_token().await {
            response = self.request(address).await?; // the token may have been revoked
        }
        check_status(&response)?;
        let next_link = next_link(response.headers());
        let body = self.body(response).await?;
        Ok(Response { body, next_link })
    }

    async fn request(&self, address: &Url) -> Result<reqwest::Response> {
        let mut url = address.clone();
        if let Credentials::Query(param, key) = &self.credentials {
            url.query_pairs_mut().append_pair(param, key.expose());
        }
        let request = self.client.get(url);
        let request = match &self.credentials {
            Credentials::None | Credentials::Query(..) => request,
            Credentials::Header(name, value) => request.header(name.clone(), value.clone()),
            Credentials::OAuth2 { .. } => {
                request.header(header::AUTHORIZATION, self.token().await?)
            }
        };
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let idle = self.timeouts.connect + self.timeouts.idle;
        match tokio::time::timeout(idle, request.send()).await {
            Ok(sent) => sent.map_err(|e| transport(&e)),
            Err(_) => Err(Error::unavailable(format!("no answer within {idle:?}"))),
        }
    }

    /// Reads a body to its end, piece by piece, within all limits.
    async fn body(&self, mut response: reqwest::Response) -> Result<String> {
        let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
        let mut wire = Vec::new();
        loop {
            let idle = self.timeouts.idle;
            let piece = tokio::time::timeout(idle, response.chunk()).await;
            let piece = piece
                .map_err(|_| {
                    Error::unavailable(format!(
                        "the answer stalled for {idle:?} after {} bytes",
                        wire.len()
                    ))
                })?
                .map_err(|e| transport(&e))?;
            let Some(piece) = piece else { break };
            if wire.len() + piece.len() > MAX_WIRE {
                return Err(Error::refused(format!(
                    "the answer has more than {MAX_WIRE} bytes"
                )));
            }
            wire.extend_from_slice(&piece);
        }
        let bytes = match encoding.as_ref().map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => wire,
            Some(b"gzip" | b"x-gzip") => gunzip(&wire)?,
            Some(other) => {
                return Err(Error::refused(format!(
                    "the answer is compressed with {}, which was not asked for",
                    String::from_utf8_lossy(other)
                )));
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(match text.strip_prefix('\u{feff}') {
                Some(rest) => rest.to_string(),
                None => text,
            }),
            Err(_) => Err(Error::unavailable("the answer is no UTF-8")),
        }
    }

    /// The OAuth 2 token, asked for where there is none or it ends soon (RFC 6749, section 4.4).
    async fn token(&self) -> Result<HeaderValue> {
        let Credentials::OAuth2 {
            token_url,
            client_id,
            client_secret,
            scope,
            token,
        } = &self.credentials
        else {
            return Err(Error::refused("no OAuth 2 credentials"));
        };
        let mut token = token.lock().await;
        if let Some(known) = token.as_ref().filter(|t| t.until > Instant::now()) {
            return Ok(known.header.clone());
        }
        let mut form = vec![("grant_type", "client_credentials")];
        if let Some(scope) = scope {
            form.push(("scope", scope));
        }
        let request = self
            .client
            .post(token_url.clone())
            .basic_auth(
                form_encoded(client_id),
                Some(form_encoded(client_secret.expose())),
            )
            .form(&form);
        let ask = async {
            let response = self.send(request).await?;
            check_status(&response)?;
            let body = self.body(response).await?;
            let answer: TokenAnswer = serde_json::from_str(&body)
                .map_err(|_| Error::refused("the answer holds no access_token"))?;
            Ok::<_, Error>(answer)
        };
        let answer = ask
            .await
            .context(format_args!("cannot get a token from {token_url}"))?;
        let life = Duration::from_secs(answer.expires_in.unwrap_or(300));
        let fresh = Token {
            header: bearer(&answer.access_token)?,
            until: Instant::now() + life.saturating_sub(TOKEN_MARGIN),
        };
        let value = fresh.header.clone();
        *token = Some(fresh);
        Ok(value)
    }

    /// Forgets the OAuth 2 token, and says whether there was one.
    async fn forget_token(&self) -> bool {
        match &self.credentials {
            Credentials::OAuth2 { token, .. } => token.lock().await.take().is_some(),
            _ => false,
        }
    }
}

#[async_trait]
impl Source for HttpSource {
    async fn get(&self, address: &Url) -> Result<Response> {
        let total = self.timeouts.total;
        match tokio::time::timeout(total, self.exchange(address)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::unavailable(format!(
                "the request took longer than {total:?}"
            ))),
        }
        .context(address)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<u64>,
}

impl Credentials {
    fn read(auth: &Auth) -> Result<Credentials> {
        Ok(match auth {
            Auth::None => Credentials::None,
            Auth::Bearer { token } => Credentials::Header(
                header::AUTHORIZATION,
                bearer(Secret::read(token)?.expose())?,
            ),
            Auth::Basic { username, password } => {
                let password = Secret::read(password)?;
                let pair = format!("{username}:{}", password.expose());
                use base64::Engine;
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                Credentials::Header(header::AUTHORIZATION, sensitive(&format!("Basic {pair}"))?)
            }
            Auth::ApiKeyHeader { header, key } => {
                let name = header
                    .parse()
                    .map_err(|_| Error::invalid(format!("`{header}` is no name of a header")))?;
                Credentials::Header(name, sensitive(Secret::read(key)?.expose())?)
            }
            Auth::ApiKeyQuery { param, key } => {
                Credentials::Query(param.clone(), Secret::read(key)?)
            }
            Auth::OAuth2 {
                token_url,
                client_id,
                client_secret,
                scope,
            } => Credentials::OAuth2 {
                token_url: Url::parse(token_url)
                    .map_err(|e| Error::invalid(format!("token_url `{token_url}`: {e}")))?,
                client_id: client_id.clone(),
                client_secret: Secret::read(client_secret)?,
                scope: scope.clone(),
                token: Mutex::new(None),
            },
        })
    }
}

fn bearer(token: &str) -> Result<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

/// A header value that no debug output shows.
fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::invalid("the source's secret has characters that no header may have")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn form_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What a status asks of the caller.
fn check_status(response: &reqwest::Response) -> Result<()> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let message = format!("HTTP status {status}");
    Err(match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Error::unavailable(message).retry_after(retry_after(response.headers()))
        }
        s if s.is_server_error() => {
            Error::unavailable(message).retry_after(retry_after(response.headers()))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::refused(message)
            .hint("the dataset's [source.auth] says how to authenticate and where the secret is"),
        s if s.is_redirection() => {
            let to = response.headers().get(header::LOCATION);
            let to = to.map_or("nowhere".into(), |to| {
                String::from_utf8_lossy(to.as_bytes()).into_owned()
            });
            Error::refused(format!("{message} to {to}, which is not followed"))
                .hint("only redirects within the same origin are followed, and ten at most; if it is right, give the new address with --api")
        }
        _ => Error::refused(message),
    })
}

/// `Retry-After` in seconds or as a date; none if it is neither, negative or past, a minute at most.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .ok()?,
    };
    (!pause.is_zero()).then_some(pause.min(MAX_RETRY_AFTER))
}

/// The target with `rel="next"` of the `Link` headers (RFC 8288).
fn next_link(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(links)
        .find(|(_, parameters)| {
            parameters.split(';').any(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        })
        .map(|(target, _)| target.to_string())
}

/// Targets and parameters of one header: `<a>; rel="next", <b>; rel="last"`. A target may hold commas.
fn links(value: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some((_, from)) = rest.split_once('<') {
        let Some((target, after)) = from.split_once('>') else {
            break;
        };
        let end = after.find(",<").or_else(|| after.find(", <"));
        let (parameters, next) = after.split_at(end.unwrap_or(after.len()));
        found.push((target, parameters));
        rest = next;
    }
    found
}

/// A failed connection may heal, a certificate that does not fit will not.
fn transport(error: &reqwest::Error) -> Error {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = inner.source();
    }
    if let Some(url) = error.url() {
        // The address may hold a key, and the caller names it anyway.
        message = message.replace(&format!(" for url ({url})"), "");
    }
    match message.contains("certificate") {
        true => Error::refused(message),
        false => Error::unavailable(message),
    }
}

fn gunzip(wire: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(wire.len() * 4);
    flate2::read::MultiGzDecoder::new(wire)
        .take(MAX_BODY + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::unavailable(format!("the answer is broken gzip: {e}")))?;
    match bytes.len() as u64 > MAX_BODY {
        true => Err(Error::refused(format!(
            "the answer has more than {MAX_BODY} bytes once decompressed"
        ))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_capped() {
        let read = |value: &str| retry_after(&headers(header::RETRY_AFTER, value));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("1000000000"), Some(MAX_RETRY_AFTER));
        for ignored in ["0", "-1", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(read(ignored), None, "{ignored}");
        }
        let soon = SystemTime::now() + Duration::from_secs(20);
        let pause = read(&httpdate::fmt_http_date(soon)).unwrap();
        assert!(pause > Duration::from_secs(10) && pause <= Duration::from_secs(20));
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        let read = |value: &str| next_link(&headers(header::LINK, value));
        let both = "<https://a/p?page=1,2>; rel=\"prev\", <https://a/p?page=3,4>; title=x; rel=\"last next\"";
        assert_eq!(read(both).as_deref(), Some("https://a/p?page=3,4"));
        assert_eq!(read("</p?page=2>;rel=next").as_deref(), Some("/p?page=2"));
        for none in ["<https://a>; rel=\"last\"", "<https://a", "", "next"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![0; 1 << 20];
        for _ in 0..=(MAX_BODY >> 20) {
            encoder.write_all(&zeros).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < MAX_WIRE);
        let error = gunzip(&bomb).unwrap_err();
        assert!(error.to_string().contains("once decompressed"), "{error}");
        assert!(gunzip(b"plain").unwrap_err().is_retriable());
    }
}
