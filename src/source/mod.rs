//! The source port: pages of records from an API, one response body after another.

pub mod bookmark;
pub mod file;
mod front;
pub mod http;
pub mod landing;
pub mod pace;
pub mod page;
pub mod pages;
pub mod pagination;
pub mod pointers;
pub mod projection;
mod query;
pub mod walk;

use async_trait::async_trait;
use url::Url;

use crate::dataset::{self, Dataset};
use crate::error::{Error, Result};
use crate::source::file::FileSource;
use crate::source::http::{HttpSource, Timeouts};

/// A successful response: its body, and what its headers say about the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The whole body, decompressed.
    pub body: Vec<u8>,
    /// The target of the `Link` header with `rel="next"` (RFC 8288), verbatim.
    pub next_link: Option<String>,
}

/// Answers one address at a time.
///
/// Guarantees: a body is whole as far as the transport can tell, or an error; memory is bounded
/// whatever the other side sends; credentials go only to the address's own origin. Errors: what is
/// worth a retry is `Unavailable`, with the pause that the source asked for; an answer that came whole but cannot be
/// read is `Data`, whose repetition shows whether a retry helps; everything else is `Refused`.
#[async_trait]
pub trait Source: std::fmt::Debug + Send + Sync {
    /// Requests one address.
    async fn get(&self, address: &Url) -> Result<Response>;
}

/// The source of a dataset, and the dataset's declaration as it applies to that source: a folder of saved
/// bodies has neither parameters nor limits, and each file leads to the next.
pub fn open(
    api: &url::Url,
    dataset: &Dataset,
    timeouts: Timeouts,
) -> Result<(Box<dyn Source>, dataset::SourceSpec)> {
    if api.scheme() != "file" {
        let http = HttpSource::new(api, &dataset.source, timeouts)?;
        let mut declared = dataset.source.clone();
        declared.url = api.to_string();
        return Ok((Box::new(http), declared));
    }
    let files = FileSource::open(api)?;
    let declared = dataset::SourceSpec {
        url: files.first().map_or_else(String::new, ToString::to_string),
        records: dataset.source.records.clone(),
        error: dataset.source.error.clone(),
        ..dataset::SourceSpec::plain()
    };
    Ok((Box::new(files), declared))
}

/// The address of the API: the one given, with the place that it comes from, or the dataset's. It must not contain a
/// password, which every list of processes would show. Errors do not repeat it, because a mistyped one may.
pub fn api_address(given: Option<(&str, &str)>, dataset: &Dataset) -> Result<Url> {
    let (text, place) = given.unwrap_or((&dataset.source.url, "source.url of the dataset"));
    let allowed = "supported: http://, https:// and file://";
    let url = Url::parse(text)
        .map_err(|e| Error::invalid(format!("{place} is not an address: {e}")).hint(allowed))?;
    // A colon that is percent-encoded does not separate the password from the user for everybody.
    let user = url.username().to_ascii_lowercase();
    if url.password().is_some() || user.contains("%3a") {
        return Err(Error::invalid(format!(
            "the address in {place} must not contain a password"
        ))
        .hint("[source.auth] in the dataset reads it from the environment or a file"));
    }
    match url.scheme() {
        "http" | "https" | "file" => Ok(url),
        other => Err(Error::invalid(format!("unknown scheme `{other}` in {place}")).hint(allowed)),
    }
}
