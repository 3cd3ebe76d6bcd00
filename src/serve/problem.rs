//! Answers to requests that cannot be met: problem details for HTTP APIs (RFC 9457).

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{Error, Kind};

/// The content type of a problem.
const CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong, and what was expected instead.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    expected: Option<String>,
    headers: Vec<(HeaderName, &'static str)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem {
            status,
            detail: detail.into(),
            expected: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn expected(mut self, what: impl Into<String>) -> Self {
        self.expected = Some(what.into());
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// A request that is wrong is the client's to mend; a store that is away comes back; anything else is ours.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Refused | Kind::Missing | Kind::Data | Kind::Budget => StatusCode::BAD_GATEWAY,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, error.to_string());
        match error.hint_text() {
            Some(hint) => problem.expected(hint),
            None => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let (Some(expected), Some(body)) = (self.expected, body.as_object_mut()) {
            body.insert("expected".into(), expected.into());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        for (name, value) in self.headers {
            headers.insert(name, HeaderValue::from_static(value));
        }
        (self.status, headers, body.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_mistake_it_is_decides_the_status() {
        for (error, status) in [
            (Error::invalid("x"), 400),
            (Error::unavailable("x"), 503),
            (Error::refused("x"), 502),
            (Error::internal("x"), 500),
        ] {
            let response = Problem::from(error).into_response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        }
    }
}
