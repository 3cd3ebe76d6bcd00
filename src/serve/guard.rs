//! What every request passes: it may only read, must be small, must name this server, and must show the token if there
//! is one. What every answer has: headers that keep browsers from doing more with it than showing it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::{Site, assets};

/// How long an answer may take until it begins.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// The longest path and query that are read: a key of 2,600 bytes, each as %XX, and a cursor. All headers together may
/// have 16 KiB.
const MOST_URI_BYTES: usize = 12 << 10;

/// The pause after a wrong token.
const PAUSE: Duration = Duration::from_millis(250);

/// The page takes everything from this server, sends nothing, and is shown in no other page.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Headers of every answer that has not set them itself.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CSP),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// Passes a request on, unless it is refused.
pub(super) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match admit(&site, &head).await {
        Err(refusal) => refusal,
        Ok(()) => {
            match tokio::time::timeout(ANSWER_TIME, next.run(Request::from_parts(head, body))).await
            {
                Ok(response) => response,
                Err(_) => Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("no answer within {ANSWER_TIME:?}"),
                )
                .into_response(),
            }
        }
    };
    for (name, value) in HEADERS {
        let headers = response.headers_mut();
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn admit(site: &Site, request: &Parts) -> Result<(), Response> {
    check_form(request).map_err(IntoResponse::into_response)?;
    let is_loopback = site.token.is_none();
    check_host(&request.headers, &request.uri, is_loopback).map_err(IntoResponse::into_response)?;
    let Some(token) = &site.token else {
        return Ok(());
    };
    let path = request.uri.path();
    let mut detail = "this server needs its token";
    if path == "/"
        && let Some((given, address)) = without_token(request.uri.query().unwrap_or_default())
    {
        if token.is(&given) {
            // The token goes from the address to a cookie at once, so that it is not passed on by accident.
            let headers = [
                (header::LOCATION, address),
                (header::SET_COOKIE, token.cookie()),
            ];
            return Err((StatusCode::SEE_OTHER, headers).into_response());
        }
        detail = "this server needs its token, and the one in the address is another one";
    } else if path == "/healthz" || assets::has(path) || token.admits(&request.headers) {
        return Ok(());
    }
    tokio::time::sleep(PAUSE).await;
    let refusal = Problem::new(StatusCode::UNAUTHORIZED, detail)
        .expected("`Authorization: Bearer TOKEN`, or in a browser the address /?token=TOKEN, once")
        .header(header::WWW_AUTHENTICATE, "Bearer realm=\"rtp\"");
    Err(refusal.into_response())
}

/// The value of `token` in the query of the page's address, and the address without it.
fn without_token(query: &str) -> Option<(String, String)> {
    let pairs = || url::form_urlencoded::parse(query.as_bytes());
    let (_, token) = pairs().find(|(name, _)| name == "token")?;
    // A plus sign in an address means a blank, which no token has: it was pasted as it is in its file.
    let token = token.replace(' ', "+");
    let mut rest = url::form_urlencoded::Serializer::new(String::new());
    rest.extend_pairs(pairs().filter(|(name, _)| name != "token"));
    let rest = rest.finish();
    let address = match rest.is_empty() {
        true => "/".to_string(),
        false => format!("/?{rest}"),
    };
    Some((token, address))
}

/// Only reading, and nothing in the body.
fn check_form(request: &Parts) -> Result<(), Problem> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let detail = format!(
            "{} is not possible, because this server is read-only",
            request.method
        );
        let problem = Problem::new(status, detail).expected("GET or HEAD");
        return Err(problem.header(header::ALLOW, "GET, HEAD"));
    }
    let headers = &request.headers;
    let length = headers.get(header::CONTENT_LENGTH);
    if length.is_some_and(|length| length != "0") || headers.contains_key(header::TRANSFER_ENCODING)
    {
        let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the request has a body");
        return Err(problem.expected("a request without a body"));
    }
    let length = request
        .uri
        .path_and_query()
        .map_or(0, |text| text.as_str().len());
    if length > MOST_URI_BYTES {
        let detail = format!("the address has {length} bytes");
        let problem = Problem::new(StatusCode::URI_TOO_LONG, detail);
        return Err(problem.expected(format!("at most {MOST_URI_BYTES} bytes")));
    }
    Ok(())
}

/// On a loopback address, a page of another site whose name was made to point here (DNS rebinding) is told apart by the
/// name that its browser sends. With a token there is no need: such a page has neither token nor cookie.
fn check_host(headers: &HeaderMap, uri: &Uri, is_loopback: bool) -> Result<(), Problem> {
    let mut named = headers.get_all(header::HOST).into_iter();
    let host = named.next().and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
    let expected = "one Host header with the name of this server, such as localhost or 127.0.0.1";
    match host {
        Some(host) if named.next().is_none() && (!is_loopback || names_loopback(host)) => Ok(()),
        Some(host) => {
            let detail = format!("this server is not called `{host}`");
            Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).expected(expected))
        }
        None => {
            let problem = Problem::new(StatusCode::BAD_REQUEST, "the request names no host");
            Err(problem.expected(expected))
        }
    }
}

/// Whether a host, with or without a port, is this machine by any name service.
fn names_loopback(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let is_port = port.parse::<u16>().is_ok();
    let name = name.to_ascii_lowercase();
    let ip = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let ip: Option<std::net::IpAddr> = ip.unwrap_or(&name).parse().ok();
    is_port
        && (name == "localhost"
            || name.ends_with(".localhost")
            || ip.is_some_and(|ip| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in [
            "localhost",
            "localhost:8501",
            "LOCALHOST:1",
            "rtp.localhost",
            "127.0.0.1:8501",
            "127.9.9.9",
            "[::1]:8501",
            "[::1]",
        ] {
            assert!(names_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "evil-localhost",
            "127.0.0.1.example.org",
            "127.0.0.1@example.org",
            "192.168.0.1:8501",
            "0.0.0.0",
            "localhost:x",
            "localhost:",
        ] {
            assert!(!names_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_token_leaves_the_address() {
        let taken = |query: &str| without_token(query).unwrap();
        assert_eq!(taken("token=a%26b"), ("a&b".into(), "/".into()));
        for plus in ["token=a+b", "token=a%2Bb"] {
            assert_eq!(taken(plus), ("a+b".into(), "/".into()));
        }
        let rest = ("t".into(), "/?range=24h&x=%26".into());
        assert_eq!(taken("range=24h&token=t&x=%26"), rest);
        assert!(without_token("tokens=1").is_none());
    }
}
