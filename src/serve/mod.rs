//! What `rtp dashboard` answers over HTTP: the page, what it shows, and the merged view for other programs. Everything is
//! read-only.
//!
//! A connection is accepted by `listen`, as far as there are `files`, and kept as long as its client reads (`patience`); a
//! request passes `guard` (and its `token`), and is answered by `assets`, `rows`,
//! `events` or one of the short answers here. A request that cannot be met is answered by a `problem`.

mod assets;
mod events;
pub(crate) mod files;
mod guard;
pub(crate) mod listen;
mod openapi;
mod patience;
mod problem;
mod rows;
mod series;
pub(crate) mod token;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use xxhash_rust::xxh3::xxh3_64;

use self::problem::Problem;
pub(crate) use self::rows::Views;
use self::token::Token;
use crate::dashboard::Board;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::explain::{Asked, Key};
use crate::run::{Run, exposition};

/// Names that a dataset cannot be served under, because they are addresses of their own.
const RESERVED: [&str; 5] = ["state", "events", "series", "explain", "openapi.json"];

/// What the answers are made of.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) views: Views,
    pub(crate) board: Arc<Board>,
    pub(crate) token: Option<Token>,
    pub(crate) run: Run,
}

/// All addresses.
pub(crate) fn router(site: Site) -> Result<Router> {
    let name = &site.dataset.name;
    if RESERVED.contains(&name.as_str()) {
        return Err(Error::invalid(format!(
            "a dataset called {name} cannot be served, because /api/v1/{name} is an address of the dashboard itself"
        ))
        .hint("change its name"));
    }
    let document = openapi::document(&site.dataset).to_string();
    let router = Router::new()
        .route(&format!("/api/v1/{name}"), get(rows::page))
        .route(&format!("/api/v1/{name}/{{*key}}"), get(rows::one))
        .route("/api/v1/state", get(state))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/series", get(serve_series))
        .route("/api/v1/explain", get(explain_parameter))
        .route("/api/v1/explain/{*key}", get(explain))
        .route(
            "/api/v1/openapi.json",
            get(async move |headers: HeaderMap| json(&headers, document.clone())),
        )
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"));
    let site = Arc::new(site);
    Ok(assets::routes(router)
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&site),
            guard::guard,
        ))
        .with_state(site))
}

/// The answer to an address that there is not.
async fn nothing(State(site): State<Arc<Site>>, uri: Uri) -> Problem {
    let name = &site.dataset.name;
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {}", uri.path()),
    )
    .expected(format!(
        "/, /api/v1/{name}, /api/v1/{name}/KEY or another address of /api/v1/openapi.json"
    ))
}

/// JSON, unless the client has it.
fn json(headers: &HeaderMap, body: String) -> Response {
    let tag = format!("\"{:016x}\"", xxh3_64(body.as_bytes()));
    if rows::knows(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let own = [
        (header::ETAG, tag),
        (header::CONTENT_TYPE, "application/json".into()),
    ];
    (own, body).into_response()
}

/// What the dashboard shows now.
async fn state(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    json(&headers, site.board.now().state.to_string())
}

/// What it shows of a range of time.
async fn serve_series(
    State(site): State<Arc<Site>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.unwrap_or_default();
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    let (name, more) = (parameters.next(), parameters.next());
    let name = match (&name, more) {
        (None, _) => "15m",
        (Some((name, value)), None) if name == "range" => value,
        _ => "",
    };
    let range = series::parse(name).ok_or_else(|| {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid range");
        problem.expected(format!("range= one of {}", series::NAMES.join(", ")))
    })?;
    let series = site.board.series(range, name).await?;
    Ok(json(&headers, series.to_string()))
}

/// One record's life, by the key in the path.
async fn explain(
    State(site): State<Arc<Site>>,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    life(&site, &rows::text(key)?, &headers).await
}

/// The same by a parameter, because a path cannot end with the key `.` or `..`: whoever asks resolves it.
async fn explain_parameter(
    State(site): State<Arc<Site>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.unwrap_or_default();
    if !rows::is_utf8(&query) {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "the key is not UTF-8");
        return Err(problem.expected(rows::ESCAPED));
    }
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    match (parameters.next(), parameters.next()) {
        (Some((name, key)), None) if name == "key" => life(&site, &key, &headers).await,
        _ => {
            let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid parameters");
            Err(problem.expected("key=KEY"))
        }
    }
}

/// What became of a record. It may take long, because its events are looked for in the log.
async fn life(site: &Site, key: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let key = Key::parse(&site.dataset, key)?;
    let _turn = site.views.turn().await?;
    let sources = site.board.sources();
    let found = crate::explain::explain(&Asked {
        dataset: &site.dataset,
        key: &key,
        group: &sources.group,
        log: &*sources.event_log,
        realtime: &*sources.realtime,
        batch: &*sources.batch,
        landing: &[],
        stop: &site.run.stop,
    })
    .await;
    let mut answer = serde_json::to_value(&found).map_err(Error::internal)?;
    answer["summary"] = found.outcome.text.into();
    Ok(json(headers, answer.to_string()))
}

/// The process' own counters.
async fn metrics(State(site): State<Arc<Site>>) -> Result<Response, Problem> {
    let text = exposition::text(&site.run)?;
    Ok(([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response())
}
