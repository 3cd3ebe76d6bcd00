//! The routes, and the steps that all of them share.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};

use super::connection::Peer;
use super::faults::{self, ApiFault};
use super::products::{self, Walk};
use super::query::Query;
use super::rate_limit::Given;
use super::reply::{JSON, Reply, TEXT};
use super::{Amount, Config, auth, recorded, users};

#[derive(Debug)]
struct MockApi {
    config: Config,
    given: Given,
    tokens: auth::Tokens,
}

/// Which data a route serves.
#[derive(Clone, Copy, Debug)]
enum Route {
    Users,
    Products(Walk),
}

/// All routes.
pub(crate) fn router(config: Config) -> Router {
    let server = Arc::new(MockApi {
        config,
        given: Given::new(),
        tokens: auth::Tokens::default(),
    });
    let data = |route: Route| {
        get(
            move |state: State<Arc<MockApi>>, peer: ConnectInfo<Peer>, request: Request| {
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

async fn token(State(server): State<Arc<MockApi>>, headers: HeaderMap, body: Bytes) -> Response {
    let (status, body) = match &server.config.auth {
        Some(auth) => server.tokens.issue(auth, &headers, &body),
        None => (StatusCode::NOT_FOUND, r#"{"error":"no oauth2"}"#.into()),
    };
    Reply::new(status, JSON, body)
        .with(header::CACHE_CONTROL, "no-store")
        .plain()
}

async fn serve_data(
    State(server): State<Arc<MockApi>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    route: Route,
    request: Request,
) -> Response {
    let config = &server.config;
    tokio::time::sleep(config.latency).await;
    let (parts, _) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    if let Some(refusal) = server.refusal(&parts.headers, &query) {
        return refusal.plain();
    }
    let fault = match faults::is_redirected(&query) {
        true => None,
        false => config.faults.draw(),
    };
    if let Some(reply) = fault.and_then(|fault| faults::instead(fault, &parts.uri)) {
        return reply.plain();
    }
    let amount = fault.map_or(Amount::All, ApiFault::amount);
    let reply = match route {
        Route::Users => {
            let client = client(&parts.headers, &peer);
            server.users(parts.uri.path(), &query, client, amount).await
        }
        Route::Products(walk) => server.products(walk, &parts, &query, amount),
    };
    let reply = reply.compressed_for(&parts.headers);
    match fault {
        Some(fault) => config.faults.spoil(fault, reply, &peer),
        None => reply.plain(),
    }
}

impl MockApi {
    /// The reply to a request without the required credentials.
    fn refusal(&self, headers: &HeaderMap, query: &Query) -> Option<Reply> {
        let auth = self.config.auth.as_ref()?;
        if auth.admits(headers, query, &self.tokens) {
            return None;
        }
        let reply = Reply::json_error(StatusCode::UNAUTHORIZED, "unauthorized");
        Some(match auth.challenge() {
            Some(challenge) => reply.with(header::WWW_AUTHENTICATE, challenge),
            None => reply,
        })
    }

    async fn users(&self, path: &str, query: &Query, client: IpAddr, amount: Amount) -> Reply {
        let version = path.trim_start_matches("/api").trim_matches('/');
        if !matches!(version, "" | "1.4") {
            return Reply::not_found();
        }
        let request = users::Request::new(query);
        if let Some(limit) = self.config.rate_limit
            && let Err(given) = self.given.admit(limit, client, request.results)
        {
            return Reply::json_error(StatusCode::TOO_MANY_REQUESTS, &faults::ease_up(given));
        }
        let Some(dir) = &self.config.serve else {
            let (content_type, body) = request.render(amount);
            return Reply::new(StatusCode::OK, content_type, body);
        };
        recorded::page(&dir.join(format!("page-{:02}.json", request.page)), amount).await
    }

    fn products(&self, walk: Walk, request: &Parts, query: &Query, amount: Amount) -> Reply {
        let base = request
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .map(|host| format!("http://{host}"))
            .unwrap_or_default();
        match products::page(walk, query, self.config.products, &base, amount) {
            Ok((body, None)) => Reply::new(StatusCode::OK, JSON, body),
            Ok((body, Some(link))) => {
                Reply::new(StatusCode::OK, JSON, body).with(header::LINK, link)
            }
            Err(message) => Reply::json_error(StatusCode::BAD_REQUEST, &message),
        }
    }
}

/// The client: as named by proxies, otherwise the other end of the connection.
fn client(headers: &HeaderMap, peer: &Peer) -> IpAddr {
    ["cf-connecting-ip", "x-real-ip", "x-forwarded-for"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok()?.split(',').next())
        .find_map(|ip| ip.trim().parse().ok())
        .unwrap_or_else(|| peer.address().ip())
}
