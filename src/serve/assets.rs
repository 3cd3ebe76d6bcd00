//! The page's files, which are part of the program.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use xxhash_rust::xxh3::xxh3_64;

use super::Site;

/// A file: its address, its type, its content.
type Asset = (&'static str, &'static str, &'static [u8]);

const HTML: &str = "text/html; charset=utf-8";

/// All of them. A new one takes a line here.
const ASSETS: &[Asset] = &[("/", HTML, include_bytes!("assets/index.html"))];

/// Adds the files.
pub(super) fn routes(mut router: Router<Arc<Site>>) -> Router<Arc<Site>> {
    for (path, content_type, content) in ASSETS {
        let tag = format!("\"{:016x}\"", xxh3_64(content));
        let answer =
            async move |headers: HeaderMap| file(&headers, content_type, content, tag.clone());
        router = router.route(path, get(answer));
    }
    router
}

/// The file, unless the browser has it.
fn file(headers: &HeaderMap, content_type: &str, content: &'static [u8], tag: String) -> Response {
    let is_known = super::rows::knows(headers, &tag);
    let own = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".into()), // kept, but asked about each time
        (header::CONTENT_TYPE, content_type.into()),
    ];
    match is_known {
        true => (StatusCode::NOT_MODIFIED, own).into_response(),
        false => (own, content).into_response(),
    }
}
