//! What a response says about itself: its status, its headers, its size.

use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};

use super::MAX_BODY;
use crate::error::{Error, Result};

/// Longest pause that a source may request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What a status means for the caller.
pub(super) fn check_status(response: &reqwest::Response) -> Result<()> {
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
            .hint("check [source.auth] in the dataset, which says how to authenticate and where the secret is"),
        s if s.is_redirection() => {
            let to = response.headers().get(header::LOCATION);
            let to = to.map_or("nowhere".into(), |to| {
                String::from_utf8_lossy(to.as_bytes()).into_owned()
            });
            Error::refused(format!("{message} to {to}, which is not followed"))
                .hint("only redirects within the same origin are followed, and at most ten; if the new address is right, pass it with --api")
        }
        _ => Error::refused(message),
    })
}

/// `Retry-After` in seconds or as a date, at most a minute; none if it is neither, negative or in the past.
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
pub(super) fn next_link(headers: &HeaderMap) -> Option<String> {
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

/// Targets and parameters of one header: `<a>; rel="next", <b>; rel="last"`. A target may contain commas.
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

/// A failed connection may heal; an invalid certificate will not.
pub(super) fn transport(error: &reqwest::Error) -> Error {
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
        // The address may contain a key, and the caller names the address anyway.
        message = message.replace(&format!(" for url ({url})"), "");
    }
    match message.contains("certificate") {
        true => Error::refused(message),
        false => Error::unavailable(message),
    }
}

pub(super) fn gunzip(wire: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(wire.len() * 4);
    flate2::read::MultiGzDecoder::new(wire)
        .take(MAX_BODY + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::unavailable(format!("the response is invalid gzip: {e}")))?;
    match bytes.len() as u64 > MAX_BODY {
        true => Err(Error::refused(format!(
            "the response is larger than {MAX_BODY} bytes when decompressed"
        ))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::super::MAX_WIRE;
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
        assert!(error.to_string().contains("when decompressed"), "{error}");
        assert!(gunzip(b"plain").unwrap_err().is_retriable());
    }
}
