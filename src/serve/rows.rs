//! The merged view over HTTP: one row, or a page of rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use xxhash_rust::xxh3::Xxh3;

use super::Site;
use super::problem::Problem;
use crate::dataset::Dataset;
use crate::error::{Error, Kind, Result};
use crate::ports::batch_store::BatchStores;
use crate::ports::ledger::Verdict;
use crate::ports::realtime_store::RealtimeStores;
use crate::view::merge::{Merged, Shown};
use crate::view::{Boundary, Query, View, Walk, cursor, query};

/// Rows of a page, unless asked for.
pub(super) const DEFAULT_LIMIT: usize = 100;

/// Maximum rows of a page.
pub(super) const MOST: usize = 1_000;

/// Requests that read the stores at once; others wait, so that the stream's stores are not overrun.
const READERS: usize = 4;

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// What an address is made of.
pub(super) const ESCAPED: &str = "UTF-8, with special characters as %XX";

/// The parameters of a listing that are not fields.
pub(super) const PARAMETERS: [&str; 4] = ["limit", "after", "boundary", "where"];

/// Both stores, opened as often as they are read at once.
#[derive(Debug)]
pub(crate) struct Views {
    dataset: Arc<Dataset>,
    realtime: Arc<dyn RealtimeStores>,
    batch: Arc<dyn BatchStores>,
    idle: Mutex<Vec<View>>,
    turns: Semaphore,
}

impl Views {
    pub(crate) fn new(
        dataset: Arc<Dataset>,
        realtime: Arc<dyn RealtimeStores>,
        batch: Arc<dyn BatchStores>,
    ) -> Views {
        Views {
            dataset,
            realtime,
            batch,
            idle: Mutex::default(),
            turns: Semaphore::new(READERS),
        }
    }

    /// Waits for a turn to read the stores.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let turn =
            turn.map_err(|_| Error::unavailable("too many requests are reading the stores"))?;
        turn.map_err(Error::internal)
    }

    /// Reads both stores. After an error they are opened again the next time.
    async fn read<T>(&self, work: impl AsyncFnOnce(&mut View) -> Result<T>) -> Result<T> {
        let read = self.try_read(work).await;
        // A table that is missing is no mistake of whoever asks.
        read.map_err(|error| match error.kind() {
            Kind::Invalid => error.as_kind(Kind::Missing),
            _ => error,
        })
    }

    async fn try_read<T>(&self, work: impl AsyncFnOnce(&mut View) -> Result<T>) -> Result<T> {
        let _turn = self.turn().await?;
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut view = match idle {
            Some(view) => view,
            None => View::open(&self.dataset, &*self.realtime, &*self.batch).await?,
        };
        let done = work(&mut view).await?;
        // A file may be replaced by another one, which whoever has it open does not see.
        if self.realtime.file().is_none() && self.batch.file().is_none() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(view);
        }
        Ok(done)
    }
}

/// What an answer says besides the rows.
struct Answer {
    boundary: Option<i64>,
    verdict: Option<Verdict>,
    rows: Vec<Merged>,
    next: Option<String>,
    /// Sentences about what a page does not list.
    left_out: Vec<String>,
}

/// One row, by its key.
pub(super) async fn one(
    State(site): State<Arc<Site>>,
    key: Result<Path<String>, PathRejection>,
    RawQuery(parameters): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let dataset = &site.dataset;
    if parameters.is_some_and(|text| !text.is_empty()) {
        let problem = Problem::new(
            StatusCode::BAD_REQUEST,
            "the address of a row has no parameters",
        );
        return Err(problem.expected(format!("/api/v1/{}/KEY", dataset.name)));
    }
    let wanted = query::key(dataset, &text(key)?)?;
    let read = async |view: &mut View| {
        Ok(Answer {
            boundary: view.newest_loaded().await?,
            verdict: view.verdict().await?,
            rows: view.row(&wanted).await?.into_iter().collect(),
            next: None,
            left_out: Vec::new(),
        })
    };
    let answer = site.views.read(read).await?;
    if answer.rows.is_empty() {
        let detail = format!("neither store has a row with the key `{wanted}`");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    respond(dataset, &answer, &headers, true)
}

/// A part of the address as text.
pub(super) fn text(part: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    match part {
        Ok(Path(text)) => Ok(text),
        Err(rejection) => {
            Err(Problem::new(rejection.status(), rejection.body_text()).expected(ESCAPED))
        }
    }
}

/// A page of rows.
pub(super) async fn page(
    State(site): State<Arc<Site>>,
    RawQuery(parameters): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let dataset = &site.dataset;
    let asked = Asked::parse(dataset, &parameters.unwrap_or_default())?;
    let read = async |view: &mut View| {
        let mut query = asked.query;
        query.boundary = view.boundary(asked.boundary, false).await?;
        let boundary = match query.boundary {
            None => view.newest_loaded().await?,
            some => some,
        };
        let verdict = view.verdict().await?;
        let mut walk = Walk::new(query, asked.limit);
        let rows = walk.next(view, asked.limit).await?;
        let next = match (walk.is_end(), walk.position()) {
            (false, Some(key)) => Some(cursor::encode(dataset, walk.query(), key)),
            _ => None,
        };
        let left_out = walk.left_out(view).into_iter().chain(walk.misfits(view));
        Ok(Answer {
            boundary,
            verdict,
            rows,
            next,
            left_out: left_out.collect(),
        })
    };
    let answer = site.views.read(read).await?;
    respond(dataset, &answer, &headers, false)
}

/// What a listing is asked for.
struct Asked {
    query: Query,
    limit: usize,
    /// The boundary that is given, by itself or in the cursor.
    boundary: Boundary,
}

impl Asked {
    fn parse(dataset: &Dataset, text: &str) -> Result<Asked> {
        let mut query = Query::default();
        let [mut limit, mut after, mut boundary]: [Option<String>; 3] = [None, None, None];
        if !is_utf8(text) {
            let wrong = Error::invalid("the parameters are not UTF-8");
            return Err(wrong.hint(ESCAPED));
        }
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            let place = match &*name {
                "limit" => &mut limit,
                "after" => &mut after,
                "boundary" => &mut boundary,
                "where" => {
                    query.filters.push(query::parse_filter(dataset, &value)?);
                    continue;
                }
                field => {
                    let filter = query::filter(dataset, field, &value);
                    query
                        .filters
                        .push(filter.map_err(|e| explained(dataset, field, e))?);
                    continue;
                }
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(Error::invalid(format!("`{name}` is given twice")));
            }
        }
        let boundary = boundary.map(|text| {
            let boundary = Boundary::parse(&text);
            boundary.map_err(|e| Error::invalid(format!("boundary: {e}")))
        });
        let mut boundary = boundary.transpose()?.unwrap_or_default();
        if let Some(after) = after {
            boundary = cursor::resume(dataset, &mut query, &after, boundary)?;
        }
        Ok(Asked {
            query,
            limit: limit.map_or(Ok(DEFAULT_LIMIT), |text| parse_limit(&text))?,
            boundary,
        })
    }
}

/// Whether the bytes that a query stands for are UTF-8. If not, reading it would quietly put other characters in their
/// place, and so ask for something else.
pub(super) fn is_utf8(query: &str) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        let byte = escaped.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = after
            .get(if byte.is_some() { 2.. } else { 0.. })
            .unwrap_or_default();
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// An unknown parameter may also have been meant as one that is not a field.
fn explained(dataset: &Dataset, name: &str, error: Error) -> Error {
    match dataset.field_index(name) {
        Some(_) => error,
        None => error.hint(format!(
            "the parameters are {}, and the fields {}",
            PARAMETERS.join(", "),
            dataset.field_names()
        )),
    }
}

fn parse_limit(text: &str) -> Result<usize> {
    let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| {
        Error::invalid(format!("invalid limit `{text}`")).hint(format!("a number from 1 to {MOST}"))
    })
}

/// The body of an answer: of one row, or of a page.
#[derive(Serialize)]
struct Body<'a> {
    dataset: &'a str,
    boundary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a Vec<Shown<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'a [String]>,
    verdict: &'a Option<Verdict>,
}

/// The answer as JSON, or that the client has it.
fn respond(
    dataset: &Dataset,
    answer: &Answer,
    headers: &HeaderMap,
    is_single: bool,
) -> Result<Response, Problem> {
    let verdict = serde_json::to_string(&answer.verdict).map_err(Error::internal)?;
    let tag = tag(answer, &verdict);
    if knows(headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let rows: Vec<Shown<'_>> = answer.rows.iter().map(|row| row.shown(dataset)).collect();
    let (rows, next, left_out) = match is_single {
        true => (None, None, None),
        false => (Some(&rows), Some(&answer.next), Some(&*answer.left_out)),
    };
    let body = Body {
        dataset: &dataset.name,
        boundary: answer.boundary.map(crate::time::format_ms),
        row: answer
            .rows
            .first()
            .filter(|_| is_single)
            .map(|row| row.shown(dataset)),
        rows,
        next,
        left_out,
        verdict: &answer.verdict,
    };
    let body = serde_json::to_string(&body).map_err(Error::internal)?;
    let headers = [
        (header::ETAG, tag),
        (header::CONTENT_TYPE, "application/json".into()),
    ];
    Ok((headers, body).into_response())
}

/// Tells answers apart by their content, except for the time at which it was read: a weak tag.
fn tag(answer: &Answer, verdict: &str) -> String {
    let mut hash = Xxh3::new();
    for row in &answer.rows {
        hash.update(row.layer.name().as_bytes());
        let (time, digest) = row.row.version();
        hash.update(&time.to_be_bytes());
        hash.update(&digest.0);
        // The digest has null in place of what does not fit.
        hash.update(format!("{:?}", row.row.misfits).as_bytes());
    }
    let Answer {
        boundary,
        next,
        left_out,
        ..
    } = answer;
    let rest = format!("{boundary:?} {next:?} {left_out:?} {verdict}");
    hash.update(rest.as_bytes());
    format!("W/\"{:016x}\"", hash.digest())
}

/// Whether the client has the answer with this tag.
pub(super) fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_string();
    let mut known = headers
        .get_all(header::IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    known.any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let dataset = Dataset::load(None).unwrap();
        let asked = Asked::parse(
            &dataset,
            "limit=7&gender=a+b&where=phone%3D1&boundary=1970-01-01",
        );
        let asked = asked.unwrap();
        assert_eq!((asked.limit, asked.query.filters.len()), (7, 2));
        assert_eq!(asked.boundary, Boundary::At(0));
        let plain = Asked::parse(&dataset, "").unwrap();
        assert_eq!(
            (plain.limit, plain.boundary),
            (DEFAULT_LIMIT, Boundary::Unasked)
        );
        let all = Asked::parse(&dataset, "boundary=none").unwrap();
        assert_eq!(all.boundary, Boundary::Without);
        let replaced = Asked::parse(&dataset, "gender=%EF%BF%BD&phone=\u{fffd}").unwrap();
        assert_eq!(replaced.query.filters.len(), 2);
        for (text, message, hint) in [
            ("limit=0", "invalid limit `0`", "from 1 to 1000"),
            ("limit=1001", "invalid limit", "from 1 to 1000"),
            ("limit=x", "invalid limit `x`", "from 1 to 1000"),
            ("limit=1&limit=2", "`limit` is given twice", ""),
            (
                "sex=f",
                "unknown field `sex`",
                "limit, after, boundary, where, and the fields id, first_name",
            ),
            ("dob=x", "`x` is not a value of dob", "timestamp"),
            ("boundary=soon", "boundary: invalid time `soon`", ""),
            ("gender=%ff", "the parameters are not UTF-8", "%XX"),
            ("gender=%EF%BF%BD%fe", "the parameters are not UTF-8", "%XX"),
            ("%c3=1", "the parameters are not UTF-8", "%XX"),
            ("after=x", "invalid cursor `x`", "a cursor continues"),
        ] {
            let error = Asked::parse(&dataset, text).err().unwrap();
            assert!(error.to_string().contains(message), "{error}");
            assert!(
                error.hint_text().unwrap_or_default().contains(hint),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_is_no_utf_8_is_told_from_what_is() {
        for (query, expected) in [
            ("", true),
            ("a=b&c=%C3%B6+%41", true),
            ("a=%&b=%4&c=%zz", true), // as they are
            ("a=%EF%BF%BD", true),
            ("a=%C3&b=%B6", false),
            ("a=%ff", false),
            ("%ff", false),
        ] {
            assert_eq!(is_utf8(query), expected, "{query}");
        }
    }

    #[test]
    fn tags_are_compared_weakly() {
        for (value, known) in [
            ("W/\"a\"", true),
            ("\"a\"", true),
            ("\"b\", W/\"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            assert_eq!(knows(&headers, "W/\"a\""), known, "{value}");
        }
    }
}
