//! The HTTP source: one request at a time, with time-outs, size caps and credentials.

mod answer;
mod credentials;
mod link;
mod proxy;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode};
use url::Url;

use self::answer::{check_status, gunzip, transport};
use self::credentials::{Credentials, OAuth2, Token};
use super::query::remove_param;
use super::{Response, Source};
use crate::dataset::{self, PageStyle};
use crate::error::{Context, Error, Result};
use crate::secret::shown;

/// Largest body in bytes on the wire, compressed or not.
const MAX_WIRE: usize = 32 << 20;

/// Largest body in bytes once decompressed.
pub(super) const MAX_BODY: u64 = 100 << 20;

/// Maximum number of redirects that one request follows.
const MAX_REDIRECTS: usize = 10;

/// Time limits of a request.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// For the next bytes of a response.
    pub idle: Duration,
    /// For one whole request.
    pub total: Duration,
}

/// Requests pages over HTTP.
pub struct HttpSource {
    client: Client,
    credentials: Credentials,
    timeouts: Timeouts,
    /// Whether the next page is named by a `Link` header.
    reads_links: bool,
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSource")
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl HttpSource {
    /// A client for a dataset's source at this address. Reads the secrets that the source names.
    pub fn new(api: &Url, source: &dataset::SourceSpec, timeouts: Timeouts) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/json, */*;q=0.5"),
        );
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        for (name, value) in &source.headers {
            let wrong =
                || Error::invalid(format!("invalid header `{name}` in the dataset's source"));
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            headers.insert(name, value.parse().map_err(|_| wrong())?);
        }
        let client = proxy::checked(Client::builder(), api)?
            .user_agent(concat!("rtp/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(timeouts.connect)
            // Bodies are decompressed in this module, where both sizes can be capped.
            .no_gzip()
            // A redirect to another origin would pass on keys in headers.
            .redirect(reqwest::redirect::Policy::custom(|attempt| {
                let came_from = attempt.previous().last().map(Url::origin);
                match came_from == Some(attempt.url().origin())
                    && attempt.previous().len() <= MAX_REDIRECTS
                {
                    true => attempt.follow(),
                    false => attempt.stop(),
                }
            }))
            .build()
            .map_err(|e| Error::refused(format!("cannot start the HTTP client: {e}")))?;
        Ok(HttpSource {
            client,
            credentials: Credentials::read(&source.auth)?,
            timeouts,
            reads_links: matches!(source.pagination.style, PageStyle::Link),
        })
    }

    async fn exchange(&self, address: &Url) -> Result<Response> {
        let mut response = self.request(address).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.forget_token().await {
            response = self.request(address).await?; // the token may have been revoked
        }
        check_status(&response)?;
        let next_link = match self.reads_links {
            true => {
                let values = response.headers().get_all(header::LINK).iter();
                let here = self.page_of(&response);
                link::next(values.map(HeaderValue::as_bytes), &here, self.key_param())?
            }
            false => None,
        };
        let body = self.body(response).await?;
        Ok(Response { body, next_link })
    }

    /// The page that a response is, by its address after redirects, without the key that its links do not have.
    fn page_of(&self, response: &reqwest::Response) -> Url {
        let mut page = response.url().clone();
        if let Some(param) = self.key_param() {
            remove_param(&mut page, param);
        }
        page
    }

    /// The query parameter that contains the API key.
    fn key_param(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::Query(param, _) => Some(param),
            _ => None,
        }
    }

    async fn request(&self, address: &Url) -> Result<reqwest::Response> {
        let mut url = address.clone();
        if let Credentials::Query(param, key) = &self.credentials {
            url.query_pairs_mut().append_pair(param, key.expose());
        }
        let request = self.client.get(url);
        let request = match &self.credentials {
            Credentials::None | Credentials::Query(..) => request,
            Credentials::Header(name, value) => request.header(name.clone(), value.clone()),
            Credentials::OAuth2(oauth2) => {
                request.header(header::AUTHORIZATION, self.token(oauth2).await?)
            }
        };
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let idle = self.timeouts.connect.saturating_add(self.timeouts.idle);
        match tokio::time::timeout(idle, request.send()).await {
            Ok(sent) => sent.map_err(|e| transport(&e)),
            Err(_) => Err(Error::unavailable(format!("no response within {idle:?}"))),
        }
    }

    /// Reads a body to its end, piece by piece, within all limits.
    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>> {
        let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
        let mut wire = Vec::new();
        loop {
            let idle = self.timeouts.idle;
            let piece = tokio::time::timeout(idle, response.chunk()).await;
            let piece = piece
                .map_err(|_| {
                    Error::unavailable(format!(
                        "the response stalled for {idle:?} after {} bytes",
                        wire.len()
                    ))
                })?
                .map_err(|e| transport(&e))?;
            let Some(piece) = piece else { break };
            if wire.len() + piece.len() > MAX_WIRE {
                return Err(Error::refused(format!(
                    "the response is larger than {MAX_WIRE} bytes"
                )));
            }
            wire.extend_from_slice(&piece);
        }
        // Codings have no case (RFC 9110, section 8.4.1).
        let encoding = encoding.map(|value| value.as_bytes().to_ascii_lowercase());
        match encoding.as_deref() {
            None | Some(b"identity" | b"") => Ok(wire),
            Some(b"gzip" | b"x-gzip") => gunzip(&wire),
            Some(other) => Err(Error::refused(format!(
                "the response is compressed with {}, which was not requested",
                String::from_utf8_lossy(other)
            ))),
        }
    }

    /// The OAuth 2 token; a new one is requested if there is none or it expires soon.
    async fn token(&self, oauth2: &OAuth2) -> Result<HeaderValue> {
        let mut token = oauth2.token.lock().await;
        if let Some(known) = token.as_ref().filter(|token| token.is_fresh()) {
            return Ok(known.header());
        }
        let fresh = self.ask_token(oauth2).await.context(format_args!(
            "cannot get a token from {}",
            shown(&oauth2.token_url)
        ))?;
        Ok(token.insert(fresh).header())
    }

    async fn ask_token(&self, oauth2: &OAuth2) -> Result<Token> {
        let response = self.send(oauth2.request(&self.client)).await?;
        check_status(&response)?;
        Token::read(&self.body(response).await?)
    }

    /// Forgets the OAuth 2 token, and returns whether there was one.
    async fn forget_token(&self) -> bool {
        match &self.credentials {
            Credentials::OAuth2(oauth2) => oauth2.token.lock().await.take().is_some(),
            _ => false,
        }
    }
}

#[async_trait]
impl Source for HttpSource {
    async fn get(&self, address: &Url) -> Result<Response> {
        let total = self.timeouts.total;
        match tokio::time::timeout(total, self.exchange(address)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::unavailable(format!(
                "the request took longer than {total:?}"
            ))),
        }
        .context(shown(address))
    }
}
