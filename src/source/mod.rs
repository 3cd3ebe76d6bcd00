//! The source port: pages of records from an API, one response body after the other.

pub mod file;
pub mod http;
pub mod pace;
pub mod page;
pub mod pages;
pub mod paging;

use async_trait::async_trait;
use url::Url;

use crate::error::Result;

/// A response that passed for one: its body, and what its headers say of the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The whole body, decompressed.
    pub body: String,
    /// The target of the `Link` header with `rel="next"` (RFC 8288), as it stands there.
    pub next_link: Option<String>,
}

/// Answers one address at a time.
///
/// Guarantees: a body is whole as far as the transport can tell, or an error; memory is bounded
/// whatever the other side sends; credentials go to the address's own origin only. Errors: what is
/// worth another try is `Unavailable`, with the pause that the source asked for; all else `Refused`.
#[async_trait]
pub trait Source: std::fmt::Debug + Send + Sync {
    /// Requests one address.
    async fn get(&self, address: &Url) -> Result<Response>;
}
