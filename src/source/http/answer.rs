//! What a response says about itself: its status, its headers, its size.

use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};

use super::MAX_BODY;
use crate::error::{Error, Result};
use crate::source::query::without_user;

/// A pause that no clock overflows with; `--max-outage` is what limits the pauses that a source asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 86_400);

/// What a status means for the caller.
pub(super) fn check_status(response: &reqwest::Response) -> Result<()> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let pause = requested_pause(response.headers());
    let message = match pause.filter(|pause| !pause.is_zero()) {
        Some(pause) => format!("HTTP status {status}, which asks for a pause of {pause:?}"),
        None => format!("HTTP status {status}"),
    };
    Err(match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Error::unavailable(message).retry_after(pause)
        }
        s if s.is_server_error() => Error::unavailable(message).retry_after(pause),
        // A limit that is not about credentials, even if it is over by now: GitHub answers like this, for example.
        StatusCode::FORBIDDEN if pause.is_some() => Error::unavailable(message).retry_after(pause),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::refused(message)
            .hint("check [source.auth] in the dataset, which says how to authenticate and where the secret is"),
        s if s.is_redirection() => {
            let to = location(response).unwrap_or_else(|| "nowhere".into());
            Error::refused(format!("{message} to {to}, which is not followed"))
                .hint("only redirects within the same origin are followed, and at most ten; if the new address is right, pass it with --api")
        }
        _ => Error::refused(message),
    })
}

/// Where a redirect leads, without what may be secret in it: its query, its fragment, and any user and password.
fn location(response: &reqwest::Response) -> Option<String> {
    let to = response.headers().get(header::LOCATION)?;
    let to = String::from_utf8_lossy(to.as_bytes());
    let mut to = response.url().join(&to).ok()?;
    without_user(&mut to);
    to.set_query(None);
    to.set_fragment(None);
    Some(to.into())
}

/// The pause that a response asks for: `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3; fractions are
/// rounded up), or the end of a used-up limit (`X-RateLimit-Remaining: 0` with `X-RateLimit-Reset` in Unix seconds).
/// Zero if it is over, none if there is neither.
fn requested_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let now = SystemTime::now();
    let until = |at: SystemTime| Some(at.duration_since(now).unwrap_or_default());
    let pause = match text("retry-after") {
        Some(value) => match value.parse::<f64>() {
            Ok(seconds) => whole_seconds(seconds),
            Err(_) => until(httpdate::parse_http_date(value).ok()?),
        },
        None if text("x-ratelimit-remaining") == Some("0") => {
            let reset = whole_seconds(text("x-ratelimit-reset")?.parse().ok()?)?;
            until(SystemTime::UNIX_EPOCH + reset)
        }
        None => None,
    };
    pause.map(|pause| pause.min(LONGEST_PAUSE))
}

/// Rounded up; none if negative or not a number.
fn whole_seconds(seconds: f64) -> Option<Duration> {
    let seconds = (seconds >= 0.0).then(|| seconds.ceil().min(1e11))?;
    Duration::try_from_secs_f64(seconds).ok()
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
        .map_err(|e| Error::data(format!("the response is invalid gzip: {e}")))?;
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
    use crate::error::Kind;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let fields = fields.iter();
        fields
            .map(|(name, text)| (HeaderName::from_static(name), value(text)))
            .collect()
    }

    #[test]
    fn the_requested_pause_is_kept_to_the_second() {
        let read = |value: &str| requested_pause(&headers(&[("retry-after", value)]));
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(read("7"), seconds(7));
        assert_eq!(read(" 64 "), seconds(64));
        assert_eq!(read("2.5"), seconds(3));
        assert_eq!(read("1e300"), Some(LONGEST_PAUSE));
        for over in ["0", "0.0", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(read(over), seconds(0), "{over}");
        }
        for ignored in ["-1", "soon", "", "NaN"] {
            assert_eq!(read(ignored), None, "{ignored}");
        }
        let soon = SystemTime::now() + Duration::from_secs(20);
        let pause = read(&httpdate::fmt_http_date(soon)).unwrap();
        assert!(pause > Duration::from_secs(10) && pause <= Duration::from_secs(20));
    }

    #[test]
    fn a_limit_that_is_used_up_names_its_end() {
        let reset = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            + 30;
        let reset = reset.to_string();
        let read = |left: &str| {
            let fields = [
                ("x-ratelimit-remaining", left),
                ("x-ratelimit-reset", &reset),
            ];
            requested_pause(&headers(&fields))
        };
        let pause = read("0").unwrap();
        assert!(pause > Duration::from_secs(20) && pause <= Duration::from_secs(30));
        assert_eq!(read("1"), None);
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
        assert_eq!(gunzip(b"plain").unwrap_err().kind(), Kind::Data);
    }
}
