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
const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// All of them. A new one takes a line here.
const ASSETS: &[Asset] = &[
    ("/assets/bars.js", JS, include_bytes!("assets/bars.js")),
    ("/assets/dom.js", JS, include_bytes!("assets/dom.js")),
    (
        "/assets/event_time.js",
        JS,
        include_bytes!("assets/event_time.js"),
    ),
    (
        "/assets/explain.js",
        JS,
        include_bytes!("assets/explain.js"),
    ),
    ("/assets/format.js", JS, include_bytes!("assets/format.js")),
    ("/assets/head.js", JS, include_bytes!("assets/head.js")),
    ("/assets/icon.svg", SVG, include_bytes!("assets/icon.svg")),
    ("/", HTML, include_bytes!("assets/index.html")),
    (
        "/assets/ingestion.js",
        JS,
        include_bytes!("assets/ingestion.js"),
    ),
    ("/assets/keys.js", JS, include_bytes!("assets/keys.js")),
    ("/assets/layers.js", JS, include_bytes!("assets/layers.js")),
    ("/assets/main.js", JS, include_bytes!("assets/main.js")),
    ("/assets/model.js", JS, include_bytes!("assets/model.js")),
    ("/assets/parts.js", JS, include_bytes!("assets/parts.js")),
    (
        "/assets/pipeline.js",
        JS,
        include_bytes!("assets/pipeline.js"),
    ),
    (
        "/assets/profiles.js",
        JS,
        include_bytes!("assets/profiles.js"),
    ),
    ("/assets/series.js", JS, include_bytes!("assets/series.js")),
    ("/assets/stream.js", JS, include_bytes!("assets/stream.js")),
    ("/assets/strips.js", JS, include_bytes!("assets/strips.js")),
    ("/assets/style.css", CSS, include_bytes!("assets/style.css")),
    ("/assets/theme.js", JS, include_bytes!("assets/theme.js")),
    (
        "/assets/uPlot.iife.min.js",
        JS,
        include_bytes!("assets/uPlot.iife.min.js"),
    ),
];

/// Whether the path is that of a file of the page, which is the same for everybody.
pub(super) fn has(path: &str) -> bool {
    ASSETS.iter().any(|(known, ..)| *known == path)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// More than that would be a slow page on a slow line.
    const MOST_BYTES: usize = 170_000;

    #[test]
    fn every_file_of_the_folder_is_served_and_all_together_are_small() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/serve/assets");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".txt")) // licences
            .map(|name| match name.as_str() {
                "index.html" => "/".to_string(),
                _ => format!("/assets/{name}"),
            })
            .collect();
        there.sort();
        let mut served: Vec<&str> = ASSETS.iter().map(|(path, ..)| *path).collect();
        served.sort_unstable();
        assert_eq!(served, there);
        let bytes: usize = ASSETS.iter().map(|(.., content)| content.len()).sum();
        assert!(bytes <= MOST_BYTES, "{bytes} bytes");
        for (path, content_type, _) in ASSETS {
            let ending = path.rsplit('.').next().unwrap();
            let expected = match ending {
                "js" => JS,
                "css" => CSS,
                "svg" => SVG,
                _ => HTML,
            };
            assert_eq!(*content_type, expected, "{path}");
        }
    }
}
