//! Where and how records are fetched: the part of a dataset file that declares it, and its check.

use std::ops::Range;

use super::Pointer;
use super::checker::{Checker, expected};
use super::parse::{RawAuth, RawLimit, RawPagination, RawSource};
use crate::error::{Error, Result};

/// Where and how records are fetched.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The API's address.
    pub url: String,
    /// Where the array of records is in a response; the empty pointer is the whole body.
    pub records: Pointer,
    /// A response with a non-null value here is an error, whatever its status.
    pub error: Option<Pointer>,
    /// Query parameter that takes `--seed`.
    pub seed_param: Option<String>,
    /// Query parameters sent with every request.
    pub query: Vec<(String, String)>,
    /// Headers sent with every request.
    pub headers: Vec<(String, String)>,
    /// How to get from one page to the next.
    pub pagination: Pagination,
    /// The source's published limit, which `fetch` paces itself to.
    pub limit: Option<Limit>,
    /// How to authenticate.
    pub auth: Auth,
}

impl SourceSpec {
    /// A source without parameters, credentials and limit, whose responses name the next page by `Link`.
    pub fn plain() -> Self {
        SourceSpec {
            url: String::new(),
            records: Pointer::default(),
            error: None,
            seed_param: None,
            query: Vec::new(),
            headers: Vec::new(),
            pagination: Pagination {
                style: PageStyle::Link,
                size_param: None,
                size: 0,
                max_size: None,
                endless: false,
            },
            limit: None,
            auth: Auth::None,
        }
    }
}

/// How many records or requests the source allows in a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// What is counted.
    pub unit: LimitUnit,
    /// How many of them.
    pub count: u64,
    /// The period.
    pub per: std::time::Duration,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUnit {
    /// Records delivered.
    Records,
    /// Requests made.
    Requests,
}

/// How to get from one page to the next.
#[derive(Clone, Debug)]
pub struct Pagination {
    /// The style, with what it needs.
    pub style: PageStyle,
    /// Query parameter for the page size, if the source has one.
    pub size_param: Option<String>,
    /// Records per page.
    pub size: u64,
    /// Largest page size the source honours.
    pub max_size: Option<u64>,
    /// Whether there is always a next page: if so, a page with fewer records than requested is an error,
    /// otherwise it is the last one.
    pub endless: bool,
}

/// The six pagination styles.
#[derive(Clone, Debug)]
pub enum PageStyle {
    /// One request is everything.
    None,
    /// Pages by number: query parameter and the number of the first page.
    Page {
        /// Query parameter that takes the page number.
        param: String,
        /// Number of the first page.
        first: u64,
    },
    /// Pages by the number of records to skip.
    Offset {
        /// Query parameter that takes the offset.
        param: String,
    },
    /// Each response names the next page by an opaque text.
    Cursor {
        /// Query parameter that takes the cursor.
        param: String,
        /// Where the next cursor is in a response.
        next: Pointer,
    },
    /// The `Link` header with `rel="next"` (RFC 8288).
    Link,
    /// Each response holds the URL of the next page.
    NextUrl {
        /// Where that URL is in a response.
        next: Pointer,
    },
}

impl PageStyle {
    /// Whether a page's address is known without its predecessor, so that pages can be fetched concurrently.
    pub fn is_addressable(&self) -> bool {
        matches!(self, PageStyle::Page { .. } | PageStyle::Offset { .. })
    }
}

/// How to authenticate to the source.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Not at all.
    None,
    /// `Authorization: Bearer TOKEN`.
    Bearer {
        /// The token.
        token: SecretRef,
    },
    /// HTTP basic authentication.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: SecretRef,
    },
    /// A key in a header named by the source.
    ApiKeyHeader {
        /// Header name.
        header: String,
        /// The key.
        key: SecretRef,
    },
    /// A key in a query parameter.
    ApiKeyQuery {
        /// Parameter name.
        param: String,
        /// The key.
        key: SecretRef,
    },
    /// OAuth 2.0 client credentials (RFC 6749, section 4.4).
    OAuth2 {
        /// Where to get the token.
        token_url: String,
        /// Client id.
        client_id: String,
        /// Client secret.
        client_secret: SecretRef,
        /// Scope to request.
        scope: Option<String>,
    },
}

impl Auth {
    /// Where its secret is; none if it has none.
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Auth::None => None,
            Auth::Bearer { token: secret }
            | Auth::Basic {
                password: secret, ..
            }
            | Auth::ApiKeyHeader { key: secret, .. }
            | Auth::ApiKeyQuery { key: secret, .. }
            | Auth::OAuth2 {
                client_secret: secret,
                ..
            } => Some(secret),
        }
    }
}

/// Where to find a secret. The dataset file itself never contains one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// In this environment variable.
    Env(String),
    /// In this file.
    File(std::path::PathBuf),
}

impl Checker<'_> {
    pub(super) fn source(&self, raw: &RawSource, at: &Range<usize>) -> Result<SourceSpec> {
        let url = raw.url.get_ref();
        match url::Url::parse(url) {
            Ok(u) if !matches!(u.scheme(), "http" | "https" | "file") => {
                return Err(self.error(
                    &raw.url.span(),
                    format!(
                        "unknown scheme `{}` in the URL; expected http, https or file",
                        u.scheme()
                    ),
                ));
            }
            Ok(u) if u.password().is_some() => {
                return Err(self.error(
                    &raw.url.span(),
                    "the URL must not contain a password; use [source.auth] with env or file",
                ));
            }
            Ok(_) => {}
            // Not repeated, because a mistyped one may contain a password.
            Err(e) => return Err(self.error(&raw.url.span(), format!("invalid URL: {e}"))),
        }
        Ok(SourceSpec {
            url: url.clone(),
            records: self.pointer(&raw.records)?,
            error: raw.error.as_ref().map(|p| self.pointer(p)).transpose()?,
            seed_param: raw.seed_param.clone(),
            query: self.texts(&raw.query, at, "query")?,
            headers: self.texts(&raw.headers, at, "headers")?,
            pagination: match &raw.pagination {
                Some(raw) => self.pagination(raw.get_ref(), &raw.span())?,
                None => Pagination {
                    style: PageStyle::None,
                    size_param: None,
                    size: 0,
                    max_size: None,
                    endless: false,
                },
            },
            limit: raw
                .limit
                .as_ref()
                .map(|l| self.limit(l.get_ref(), &l.span()))
                .transpose()?,
            auth: raw
                .auth
                .as_ref()
                .map_or(Ok(Auth::None), |a| self.auth(a.get_ref(), &a.span()))?,
        })
    }

    fn pagination(&self, raw: &RawPagination, at: &Range<usize>) -> Result<Pagination> {
        let style = self.style(raw, at)?;
        if raw.size.is_none() && (style.is_addressable() || raw.size_param.is_some()) {
            return Err(self.lacks(raw, at, "size"));
        }
        let size = self.range(raw.size.as_ref(), "size", 1, 1_000_000, 0)?;
        let max_size = match &raw.max_size {
            Some(max) if *max.get_ref() < size => {
                return Err(self.error(&max.span(), format!("max_size is less than size ({size})")));
            }
            max => max.as_ref().map(|m| *m.get_ref()),
        };
        Ok(Pagination {
            style,
            size_param: raw.size_param.clone(),
            size,
            max_size,
            endless: raw.endless,
        })
    }

    /// The style, with the keys that it needs, and none that do not apply to it.
    fn style(&self, raw: &RawPagination, at: &Range<usize>) -> Result<PageStyle> {
        let name = raw.style.get_ref().as_str();
        let param = || {
            let param = raw.param.as_ref().map(|p| p.get_ref().clone());
            param.ok_or_else(|| self.lacks(raw, at, "param"))
        };
        let next = || match &raw.next {
            Some(next) => self.pointer(next),
            None => Err(self.lacks(raw, at, "next")),
        };
        let first = raw.first.as_ref().map_or(1, |f| *f.get_ref());
        let (style, keys): (_, &[&str]) = match name {
            "none" => (PageStyle::None, &[]),
            "page" => {
                let param = param()?;
                (
                    PageStyle::Page { param, first },
                    &["param", "first", "endless"],
                )
            }
            "offset" => (PageStyle::Offset { param: param()? }, &["param", "endless"]),
            "cursor" => {
                let (param, next) = (param()?, next()?);
                (PageStyle::Cursor { param, next }, &["param", "next"])
            }
            "link" => (PageStyle::Link, &[]),
            "next-url" => (PageStyle::NextUrl { next: next()? }, &["next"]),
            other => {
                let styles = ["none", "page", "offset", "cursor", "link", "next-url"];
                return Err(self.error(&raw.style.span(), expected("style", other, &styles)));
            }
        };
        for (key, is_given) in [
            ("param", raw.param.is_some()),
            ("first", raw.first.is_some()),
            ("next", raw.next.is_some()),
            ("endless", raw.endless),
        ] {
            if is_given && !keys.contains(&key) {
                let message = format!("`{key}` does not apply to pagination style \"{name}\"");
                return Err(self.error(at, message));
            }
        }
        Ok(style)
    }

    fn lacks(&self, raw: &RawPagination, at: &Range<usize>, key: &str) -> Error {
        let style = raw.style.get_ref();
        self.error(at, format!("pagination style \"{style}\" needs `{key}`"))
    }

    fn limit(&self, raw: &RawLimit, at: &Range<usize>) -> Result<Limit> {
        let (unit, count) = match (&raw.records, &raw.requests) {
            (Some(n), None) => (LimitUnit::Records, n),
            (None, Some(n)) => (LimitUnit::Requests, n),
            _ => return Err(self.error(at, "a limit must have either `records` or `requests`")),
        };
        let per = self.duration(&raw.per)?;
        Ok(Limit {
            unit,
            count: self.range(Some(count), "the limit", 1, u64::MAX, 1)?,
            per,
        })
    }

    fn auth(&self, raw: &RawAuth, at: &Range<usize>) -> Result<Auth> {
        let style = raw.style.get_ref().as_str();
        let need = |key: &str| self.error(at, format!("auth style \"{style}\" needs `{key}`"));
        let text = |value: &Option<String>, key: &str| value.clone().ok_or_else(|| need(key));
        let secret = || match (&raw.env, &raw.file) {
            (Some(env), None) => Ok(SecretRef::Env(env.clone())),
            (None, Some(file)) => Ok(SecretRef::File(file.clone())),
            _ => Err(need("env` or `file")),
        };
        Ok(match style {
            "none" => Auth::None,
            "bearer" => Auth::Bearer { token: secret()? },
            "basic" => Auth::Basic {
                username: text(&raw.username, "username")?,
                password: secret()?,
            },
            "api-key" => match (&raw.header, &raw.param) {
                (Some(header), None) => Auth::ApiKeyHeader {
                    header: header.clone(),
                    key: secret()?,
                },
                (None, Some(param)) => Auth::ApiKeyQuery {
                    param: param.clone(),
                    key: secret()?,
                },
                _ => return Err(need("header` or `param")),
            },
            "oauth2" => Auth::OAuth2 {
                token_url: text(&raw.token_url, "token_url")?,
                client_id: text(&raw.client_id, "client_id")?,
                client_secret: secret()?,
                scope: raw.scope.clone(),
            },
            other => {
                let styles = ["none", "bearer", "basic", "api-key", "oauth2"];
                return Err(self.error(&raw.style.span(), expected("auth style", other, &styles)));
            }
        })
    }
}
