//! Faults on demand: which request is hit, and how its reply is spoiled.

use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri, header};
use axum::response::Response;
use futures_util::{StreamExt, stream};

use super::connection::Peer;
use super::query::Query;
use super::reply::{JSON, Reply, TEXT};
use super::rng::Rng;
use super::{Amount, lock};
use crate::error::{Error, Result};

/// One way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiFault {
    TooMany,
    TooManyAfter,
    TooManyDate,
    Unavailable,
    ErrorBody,
    Html,
    Slow,
    Stall,
    Cut,
    Reset,
    WrongLength,
    Redirect,
    Empty,
    NoRecords,
    Few,
}

impl ApiFault {
    /// How many of the requested records are left.
    pub(super) fn amount(self) -> Amount {
        match self {
            ApiFault::Few => Amount::Half,
            ApiFault::NoRecords => Amount::None,
            _ => Amount::All,
        }
    }
}

const NAMES: [(&str, ApiFault); 15] = [
    ("429", ApiFault::TooMany),
    ("429-after", ApiFault::TooManyAfter),
    ("429-date", ApiFault::TooManyDate),
    ("503", ApiFault::Unavailable),
    ("error-body", ApiFault::ErrorBody),
    ("html", ApiFault::Html),
    ("slow", ApiFault::Slow),
    ("stall", ApiFault::Stall),
    ("cut", ApiFault::Cut),
    ("reset", ApiFault::Reset),
    ("wrong-length", ApiFault::WrongLength),
    ("redirect", ApiFault::Redirect),
    ("empty", ApiFault::Empty),
    ("no-records", ApiFault::NoRecords),
    ("few", ApiFault::Few),
];

/// The query parameter that marks the target of a redirect: no fault hits a request that has it.
const REDIRECTED: &str = "rtp-redirected";

/// Time for the written bytes to be sent before the connection is dropped.
const PAUSE: Duration = Duration::from_millis(50);

/// A fault and the share of the requests it hits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    fault: ApiFault,
    share: f64,
}

/// Parses `NAME=SHARE`.
pub(crate) fn parse(text: &str) -> Result<Share, String> {
    let (name, share) = text
        .split_once('=')
        .ok_or("expected NAME=SHARE, for example 503=0.1")?;
    let Some((_, fault)) = NAMES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
        return Err(format!(
            "unknown fault `{name}`; supported: {}",
            names.join(", ")
        ));
    };
    match share.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share {
            fault: *fault,
            share,
        }),
        _ => Err(format!("invalid share `{share}`; expected 0 to 1")),
    }
}

/// The faults of one server, and the generator that draws the next one.
#[derive(Debug)]
pub(crate) struct Faults {
    shares: Vec<Share>,
    rng: Mutex<Rng>,
    /// Whether the next wrong length is too long rather than too short.
    is_length_long: AtomicBool,
}

impl Faults {
    /// Faults that hit the same requests for the same seed.
    pub(crate) fn new(shares: Vec<Share>, seed: u64) -> Result<Self> {
        let sum: f64 = shares.iter().map(|s| s.share).sum();
        if sum > 1.0 + 1e-9 {
            return Err(Error::invalid(format!(
                "the shares of --fault add up to {sum}; the maximum is 1"
            )));
        }
        Ok(Faults {
            shares,
            rng: Mutex::new(Rng::new(seed)),
            is_length_long: AtomicBool::new(false),
        })
    }

    /// The fault of the next request.
    pub(super) fn draw(&self) -> Option<ApiFault> {
        let mut drawn = lock(&self.rng).share();
        self.shares
            .iter()
            .find(|s| {
                drawn -= s.share;
                drawn < 0.0
            })
            .map(|s| s.fault)
    }

    /// The response as the fault leaves it.
    pub(super) fn spoil(&self, fault: ApiFault, reply: Reply, peer: &Peer) -> Response {
        let reply = match fault {
            // What follows on the connection could not be distinguished from the body.
            ApiFault::WrongLength => reply.with(header::CONNECTION, "close"),
            _ => reply,
        };
        reply.respond(|bytes| self.spoiled(fault, bytes, peer))
    }

    /// The body as the fault leaves it, and the length to announce.
    fn spoiled(&self, fault: ApiFault, bytes: Bytes, peer: &Peer) -> (Body, Option<u64>) {
        let length = bytes.len() as u64;
        let half = bytes.slice(..bytes.len() / 2);
        match fault {
            ApiFault::Slow => (drip(bytes), Some(length)),
            ApiFault::Stall => {
                let half = stream::iter([Ok::<_, Infallible>(half)]);
                (
                    Body::from_stream(half.chain(stream::pending())),
                    Some(length),
                )
            }
            ApiFault::Cut => (cut(half), Some(length)),
            ApiFault::Reset => {
                peer.reset();
                (cut(half), Some(length))
            }
            ApiFault::WrongLength if !self.is_length_long.fetch_not(Ordering::Relaxed) => {
                peer.append(bytes.slice(half.len()..)); // hyper itself sends no more than it announces
                (half.into(), None)
            }
            ApiFault::WrongLength => {
                // A stream, because the server knows the length of a plain body; and a pause, in
                // which the body is sent before its end shows that the length was wrong.
                let pause = stream::once(async {
                    tokio::time::sleep(PAUSE).await;
                    Ok(Bytes::new())
                });
                let all = stream::iter([Ok::<_, Infallible>(bytes)]);
                (Body::from_stream(all.chain(pause)), Some(length + 16))
            }
            _ => (bytes.into(), None),
        }
    }
}

/// The body in 20 parts over 2 seconds.
fn drip(bytes: Bytes) -> Body {
    let step = bytes.len().div_ceil(20).max(1);
    Body::from_stream(stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let part = rest.split_to(step.min(rest.len()));
        Some((Ok::<_, Infallible>(part), rest))
    }))
}

/// The first half of the body, and once that is sent an error, at which the server drops the connection.
fn cut(half: Bytes) -> Body {
    let lost = stream::once(async {
        tokio::time::sleep(PAUSE).await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(lost))
}

/// The message of a 429 to a client that has received this many users.
pub(super) fn ease_up(given: u64) -> String {
    format!(
        "Whoa, ease up there cowboy. You've requested {given} users in the last minute. \
         Help us keep this service free and spare some bandwidth for other users please :)"
    )
}

/// Whether the request goes to the target of a redirect by a fault.
pub(super) fn is_redirected(query: &Query) -> bool {
    query.get(REDIRECTED).is_some()
}

/// The reply of a fault that leaves no data.
pub(super) fn instead(fault: ApiFault, asked: &Uri) -> Option<Reply> {
    let page = |title: &str| {
        format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        )
    };
    let too_many = || Reply::json_error(StatusCode::TOO_MANY_REQUESTS, &ease_up(20_000));
    Some(match fault {
        ApiFault::TooMany => too_many(),
        ApiFault::TooManyAfter => too_many().with(header::RETRY_AFTER, "1"),
        ApiFault::TooManyDate => {
            // A date has whole seconds, so one is added for some time to be left.
            let at = SystemTime::now() + Duration::from_secs(2);
            too_many().with(header::RETRY_AFTER, httpdate::fmt_http_date(at))
        }
        ApiFault::Unavailable => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/html",
            page("503 Service Temporarily Unavailable"),
        ),
        ApiFault::ErrorBody => Reply::new(
            StatusCode::OK,
            JSON,
            r#"{"error":"Uh oh, something has gone wrong."}"#,
        ),
        ApiFault::Redirect => {
            Reply::new(StatusCode::FOUND, TEXT, "Found").with(header::LOCATION, marked(asked))
        }
        ApiFault::Empty => Reply::new(StatusCode::OK, JSON, ""),
        ApiFault::Html => Reply::new(StatusCode::OK, "text/html", page("Welcome")),
        _ => return None,
    })
}

/// The same address, marked as the target of a redirect.
fn marked(uri: &Uri) -> String {
    let address = uri.path_and_query().map_or("/", |path| path.as_str());
    let separator = match uri.query() {
        Some(_) => '&',
        None => '?',
    };
    format!("{address}{separator}{REDIRECTED}=1")
}
