//! Pages served from files (`--serve`).

use std::path::Path;

use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::Amount;
use super::reply::{JSON, Reply, TEXT};

/// A recorded page, byte for byte unless a fault asks for fewer records.
pub(super) async fn page(path: &Path, amount: Amount) -> Reply {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Reply::not_found(),
        Err(e) => {
            let message = format!("cannot read {}: {e}", path.display());
            return Reply::new(StatusCode::INTERNAL_SERVER_ERROR, TEXT, message);
        }
    };
    let body = match amount {
        Amount::All => None,
        amount => fewer(&bytes, amount),
    };
    Reply::new(StatusCode::OK, JSON, body.unwrap_or(bytes))
}

/// The page with fewer records; none if it has a different structure.
fn fewer(bytes: &[u8], amount: Amount) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct RecordedPage<'a> {
        #[serde(borrow)]
        results: Vec<&'a RawValue>,
        #[serde(borrow)]
        info: Option<&'a RawValue>,
    }
    let page: RecordedPage = serde_json::from_slice(bytes).ok()?;
    let keep = amount.of(page.results.len() as u64) as usize;
    let results: Vec<&str> = page.results[..keep].iter().map(|r| r.get()).collect();
    let info = page
        .info
        .map_or(String::new(), |i| format!(",\"info\":{}", i.get()));
    Some(format!("{{\"results\":[{}]{info}}}", results.join(",")).into_bytes())
}
