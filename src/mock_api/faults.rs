//! Faults on demand: which request is hit, and how the reply is spoiled.

use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use futures_util::{StreamExt, stream};

use super::connection::Peer;
use super::{JSON, Reply, Rng, lock};
use crate::error::{Error, Result};

/// One way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
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

const NAMES: [(&str, Fault); 15] = [
    ("429", Fault::TooMany),
    ("429-after", Fault::TooManyAfter),
    ("429-date", Fault::TooManyDate),
    ("503", Fault::Unavailable),
    ("error-body", Fault::ErrorBody),
    ("html", Fault::Html),
    ("slow", Fault::Slow),
    ("stall", Fault::Stall),
    ("cut", Fault::Cut),
    ("reset", Fault::Reset),
    ("wrong-length", Fault::WrongLength),
    ("redirect", Fault::Redirect),
    ("empty", Fault::Empty),
    ("no-records", Fault::NoRecords),
    ("few", Fault::Few),
];

/// Time for what was written to be sent, before the connection is dropped.
const PAUSE: Duration = Duration::from_millis(50);

/// A fault and the share of the requests it hits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    fault: Fault,
    share: f64,
}

/// Parses `NAME=SHARE`.
pub(crate) fn parse(text: &str) -> Result<Share, String> {
    let (name, share) = text
        .split_once('=')
        .ok_or("write NAME=SHARE, for example 503=0.1")?;
    let Some((_, fault)) = NAMES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
        return Err(format!(
            "no fault `{name}`, allowed is: {}",
            names.join(", ")
        ));
    };
    match share.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share {
            fault: *fault,
            share,
        }),
        _ => Err(format!("`{share}` is no share, allowed is: 0 to 1")),
    }
}

/// The faults of one server, and what is drawn for the next request.
#[derive(Debug)]
pub(crate) struct Faults {
    shares: Vec<Share>,
    rng: Mutex<Rng>,
    /// Whether the next wrong length is too long, else too short.
    is_length_long: AtomicBool,
}

impl Faults {
    /// Faults that hit the same requests for the same seed.
    pub(crate) fn new(shares: Vec<Share>, seed: u64) -> Result<Self> {
        let sum: f64 = shares.iter().map(|s| s.share).sum();
        if sum > 1.0 + 1e-9 {
            return Err(Error::invalid(format!(
                "the shares of --fault sum to {sum}, allowed is: up to 1"
            )));
        }
        Ok(Faults {
            shares,
            rng: Mutex::new(Rng::new(seed)),
            is_length_long: AtomicBool::new(false),
        })
    }

    /// The fault of the next request.
    pub(super) fn draw(&self) -> Option<Fault> {
        let mut drawn = lock(&self.rng).share();
        self.shares
            .iter()
            .find(|s| {
                drawn -= s.share;
                drawn < 0.0
            })
            .map(|s| s.fault)
    }

    /// The body as the fault leaves it, and the length to tell.
    pub(super) fn spoil(&self, fault: Fault, bytes: Bytes, peer: &Peer) -> (Body, Option<u64>) {
        let length = bytes.len() as u64;
        let half = bytes.slice(..bytes.len() / 2);
        match fault {
            Fault::Slow => (drip(bytes), Some(length)),
            Fault::Stall => {
                let half = stream::iter([Ok::<_, Infallible>(half)]);
                (
                    Body::from_stream(half.chain(stream::pending())),
                    Some(length),
                )
            }
            Fault::Cut => (cut(half), Some(length)),
            Fault::Reset => {
                peer.reset();
                (cut(half), Some(length))
            }
            Fault::WrongLength if !self.is_length_long.fetch_not(Ordering::Relaxed) => {
                peer.append(bytes.slice(half.len()..)); // hyper itself sends no more than it tells
                (half.into(), None)
            }
            Fault::WrongLength => {
                // A stream, for the length of a plain body is known to the server; and a pause, in
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

/// The half, and when it is sent an error, at which the server drops the connection.
fn cut(half: Bytes) -> Body {
    let lost = stream::once(async {
        tokio::time::sleep(PAUSE).await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(lost))
}

/// The message of a 429 to a client that was given so many users.
pub(super) fn ease_up(given: u64) -> String {
    format!(
        "Whoa, ease up there cowboy. You've requested {given} users in the last minute. \
         Help us keep this service free and spare some bandwidth for other users please :)"
    )
}

/// The reply of a fault that leaves no data.
pub(super) fn instead(fault: Fault) -> Option<Reply> {
    let page = |title: &str| {
        format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        )
    };
    let too_many = || Reply::json_error(StatusCode::TOO_MANY_REQUESTS, &ease_up(20_000));
    Some(match fault {
        Fault::TooMany => too_many(),
        Fault::TooManyAfter => too_many().with(header::RETRY_AFTER, "1"),
        Fault::TooManyDate => {
            // A date has whole seconds: one more, so that some of it is left.
            let at = SystemTime::now() + Duration::from_secs(2);
            too_many().with(header::RETRY_AFTER, httpdate::fmt_http_date(at))
        }
        Fault::Unavailable => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/html",
            page("503 Service Temporarily Unavailable"),
        ),
        Fault::ErrorBody => Reply::new(
            StatusCode::OK,
            JSON,
            r#"{"error":"Uh oh, something has gone wrong."}"#,
        ),
        Fault::Empty => Reply::new(StatusCode::OK, JSON, ""),
        Fault::Html => Reply::new(StatusCode::OK, "text/html", page("Welcome")),
        _ => return None,
    })
}
