//! The credentials that `--require-auth` can require.

use std::collections::HashSet;
use std::sync::Mutex;

use ::url::form_urlencoded;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::lock;
use super::query::Query;
use super::rng::Rng;

/// The credential that a request must have.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    /// `Authorization: Bearer TOKEN`.
    Bearer(String),
    /// `Authorization: Basic`, of user and password.
    Basic(String, String),
    /// A header.
    Header(HeaderName, String),
    /// A query parameter.
    Query(String, String),
    /// A token from `POST /oauth/token`, issued for id and secret.
    OAuth2(String, String),
}

/// Parses `bearer:TOKEN`, `basic:USER:PASS`, `header:NAME:VALUE`, `query:NAME:VALUE` or `oauth2:ID:SECRET`.
pub(crate) fn parse(text: &str) -> Result<Login, String> {
    let wrong = || {
        "expected bearer:TOKEN, basic:USER:PASS, header:NAME:VALUE, query:NAME:VALUE or oauth2:ID:SECRET"
            .to_string()
    };
    let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
    if kind == "bearer" && !rest.is_empty() {
        return Ok(Login::Bearer(rest.into()));
    }
    let (name, value) = rest.split_once(':').ok_or_else(wrong)?;
    let (name, value) = (name.to_string(), value.to_string());
    match kind {
        _ if name.is_empty() => Err(wrong()),
        "basic" => Ok(Login::Basic(name, value)),
        "header" => {
            let header = name
                .parse()
                .map_err(|_| format!("invalid header name `{name}`"))?;
            Ok(Login::Header(header, value))
        }
        "query" => Ok(Login::Query(name, value)),
        "oauth2" => Ok(Login::OAuth2(name, value)),
        _ => Err(wrong()),
    }
}

impl Login {
    /// Whether a request has the credential.
    pub(super) fn admits(&self, headers: &HeaderMap, query: &Query, tokens: &Tokens) -> bool {
        match self {
            Login::Bearer(token) => authorization(headers, "bearer") == Some(token),
            Login::Basic(user, password) => {
                basic(headers).is_some_and(|(u, p)| u == *user && p == *password)
            }
            Login::Header(name, value) => {
                headers.get(name).map(|v| v.as_bytes()) == Some(value.as_bytes())
            }
            Login::Query(name, value) => query.get(name) == Some(value),
            Login::OAuth2(..) => authorization(headers, "bearer")
                .is_some_and(|token| lock(&tokens.0).contains(token)),
        }
    }

    /// The `WWW-Authenticate` of a refusal.
    pub(super) fn challenge(&self) -> Option<&'static str> {
        match self {
            Login::Bearer(_) | Login::OAuth2(..) => Some("Bearer"),
            Login::Basic(..) => Some("Basic realm=\"rtp mock-api\""),
            Login::Header(..) | Login::Query(..) => None,
        }
    }
}

/// The tokens issued, which are valid until the server ends.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashSet<String>>);

impl Tokens {
    /// Answers `POST /oauth/token`.
    pub(super) fn issue(
        &self,
        auth: &Login,
        headers: &HeaderMap,
        body: &[u8],
    ) -> (StatusCode, String) {
        let error = |status, code: &str| (status, format!("{{\"error\":\"{code}\"}}"));
        let Login::OAuth2(id, secret) = auth else {
            return error(StatusCode::NOT_FOUND, "no oauth2");
        };
        let form = Query::parse(&String::from_utf8_lossy(body));
        if form.get("grant_type") != Some("client_credentials") {
            return error(StatusCode::BAD_REQUEST, "unsupported_grant_type");
        }
        // RFC 6749 has clients encode id and secret as in a form; many do not.
        let by_header = basic(headers).is_some_and(|(user, password)| {
            (user == *id && password == *secret)
                || (form_decode(&user) == *id && form_decode(&password) == *secret)
        });
        let by_form =
            form.get("client_id") == Some(id) && form.get("client_secret") == Some(secret);
        if !by_header && !by_form {
            return error(StatusCode::UNAUTHORIZED, "invalid_client");
        }
        let token = Rng::new(rand::random()).fill(&"%".repeat(32));
        let body = format!(
            "{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}"
        );
        lock(&self.0).insert(token);
        (StatusCode::OK, body)
    }
}

fn form_decode(text: &str) -> String {
    form_urlencoded::parse(format!("x={text}").as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (given, rest) = value.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let bytes = STANDARD.decode(authorization(headers, "basic")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.into(), password.into()))
}
