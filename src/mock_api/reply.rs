//! Replies before they are sent, and their compression.

use std::io::Write;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

pub(super) const JSON: &str = "application/json; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// Bodies below this are not worth compressing.
const GZIP_FROM: usize = 256;

/// A reply before faults and compression.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
    headers: Vec<(HeaderName, String)>,
}

impl Reply {
    pub(super) fn new(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Vec<u8>>,
    ) -> Self {
        Reply {
            status,
            content_type,
            body: body.into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn not_found() -> Self {
        Reply::new(StatusCode::NOT_FOUND, TEXT, "Not Found")
    }

    pub(super) fn json_error(status: StatusCode, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        Reply::new(status, JSON, body)
    }

    /// The response, whose body `body` makes from the bytes.
    pub(super) fn respond(self, body: impl FnOnce(Bytes) -> (Body, Option<u64>)) -> Response {
        let (body, length) = body(self.body.into());
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.content_type),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        response
    }

    /// The response, unchanged.
    pub(super) fn plain(self) -> Response {
        self.respond(|bytes| (bytes.into(), None))
    }

    /// Compressed, if the client accepts that and it is worth it.
    pub(super) fn compressed_for(self, client: &HeaderMap) -> Self {
        match accepts_gzip(client) && self.body.len() >= GZIP_FROM {
            true => self.gzip(),
            false => self,
        }
    }

    fn gzip(mut self) -> Self {
        self = self.with(header::VARY, "Accept-Encoding");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        // Writing to memory cannot fail; if it did, the plain body would be right as well.
        match encoder
            .write_all(&self.body)
            .and_then(|()| encoder.finish())
        {
            Ok(body) => Reply { body, ..self }.with(header::CONTENT_ENCODING, "gzip"),
            Err(_) => self,
        }
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts
                .filter_map(|p| p.strip_prefix("q="))
                .any(|q| q.parse() == Ok(0.0));
            matches!(name, "gzip" | "x-gzip" | "*") && !refused
        })
}

/// Appends `text` as a JSON string.
pub(super) fn push_json(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
