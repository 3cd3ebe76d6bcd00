//! How requests are authenticated.

use std::time::Duration;

use base64::Engine;
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::dataset::Auth;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A new token is requested this long before the old one expires.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);

/// Lifetime of a token whose response does not state one, in seconds.
const TOKEN_LIFE: f64 = 300.0;

/// Longest lifetime of a token that is relied on, in seconds: a week.
const MAX_TOKEN_LIFE: f64 = 604_800.0;

/// How a request is authenticated, its secrets read.
pub(super) enum Credentials {
    None,
    Header(HeaderName, HeaderValue),
    Query(String, Secret),
    OAuth2(OAuth2),
}

/// An OAuth 2 client that requests tokens with its own credentials (RFC 6749, section 4.4).
pub(super) struct OAuth2 {
    pub(super) token_url: Url,
    client_id: String,
    client_secret: Secret,
    scope: Option<String>,
    /// The last token.
    pub(super) token: Mutex<Option<Token>>,
}

impl OAuth2 {
    /// Requests a token.
    pub(super) fn request(&self, client: &Client) -> RequestBuilder {
        let mut form = vec![("grant_type", "client_credentials")];
        if let Some(scope) = &self.scope {
            form.push(("scope", scope));
        }
        let secret = form_encoded(self.client_secret.expose());
        client
            .post(self.token_url.clone())
            .basic_auth(form_encoded(&self.client_id), Some(secret))
            .form(&form)
    }
}

/// A token, ready for use.
pub(super) struct Token {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<serde_json::Value>,
}

/// Seconds until a token expires. RFC 6749 asks for a number; some servers send it as a string.
fn lifetime(expires_in: Option<&serde_json::Value>) -> Result<Duration> {
    use serde_json::Value;
    let seconds = match expires_in {
        None | Some(Value::Null) => Some(TOKEN_LIFE),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(other) => other.as_f64(),
    };
    let seconds = seconds
        .filter(|seconds| !seconds.is_nan())
        .ok_or_else(|| Error::refused("expires_in in the response is not a number of seconds"))?;
    Ok(Duration::from_secs_f64(seconds.clamp(0.0, MAX_TOKEN_LIFE)))
}

impl Token {
    /// Reads the response to [`OAuth2::request`].
    pub(super) fn read(body: &[u8]) -> Result<Token> {
        let answer: TokenAnswer = serde_json::from_slice(body)
            .map_err(|_| Error::refused("the response contains no access_token"))?;
        let life = lifetime(answer.expires_in.as_ref())?;
        Ok(Token {
            header: bearer(&answer.access_token)?,
            until: Instant::now() + life.saturating_sub(TOKEN_MARGIN),
        })
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.until > Instant::now()
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl Credentials {
    /// Reads the secrets that a dataset names.
    pub(super) fn read(auth: &Auth) -> Result<Credentials> {
        Ok(match auth {
            Auth::None => Credentials::None,
            Auth::Bearer { token } => Credentials::Header(
                header::AUTHORIZATION,
                bearer(Secret::read(token)?.expose())?,
            ),
            Auth::Basic { username, password } => {
                let password = Secret::read(password)?;
                let pair = format!("{username}:{}", password.expose());
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                Credentials::Header(header::AUTHORIZATION, sensitive(&format!("Basic {pair}"))?)
            }
            Auth::ApiKeyHeader { header, key } => {
                let name = header
                    .parse()
                    .map_err(|_| Error::invalid(format!("invalid header name `{header}`")))?;
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
            } => Credentials::OAuth2(OAuth2 {
                token_url: Url::parse(token_url).map_err(|e| {
                    Error::invalid(format!("token_url in the dataset is not an address: {e}"))
                })?,
                client_id: client_id.clone(),
                client_secret: Secret::read(client_secret)?,
                scope: scope.clone(),
                token: Mutex::new(None),
            }),
        })
    }
}

fn bearer(token: &str) -> Result<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

/// A header value that debug output does not show.
fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::invalid("the source's secret contains characters that are not allowed in a header")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn form_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_live_as_long_as_said_however_it_is_written() {
        let life = |text: &str| lifetime(Some(&serde_json::from_str(text).unwrap()));
        for (text, seconds) in [
            ("3599", 3_599),
            ("\"3599\"", 3_599),
            ("3600.0", 3_600),
            ("-1", 0),
            ("null", 300),
            ("9223372036854775807", 604_800),
            ("18446744073709551615", 604_800),
        ] {
            assert_eq!(life(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(lifetime(None).unwrap(), Duration::from_secs(300));
        for wrong in ["\"soon\"", "[]", "true", "\"NaN\""] {
            let error = life(wrong).unwrap_err();
            assert!(error.to_string().contains("expires_in"), "{error}");
        }
    }
}
