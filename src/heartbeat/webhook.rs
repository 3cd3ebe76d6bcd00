//! Delivers alerts to a webhook; the only part of the heartbeat that speaks HTTP.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};

/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for one whole delivery.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a webhook. Its path and query are often secret, so only scheme and host are ever shown.
#[derive(Clone)]
pub struct WebhookUrl(::url::Url);

impl FromStr for WebhookUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = "expected an address such as https://host/path";
        let url = ::url::Url::parse(text).map_err(|e| format!("{e}; {allowed}"))?;
        match url.scheme() {
            "http" | "https" => Ok(WebhookUrl(url)),
            other => Err(format!("unknown scheme `{other}`; {allowed}")),
        }
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}/...", self.0.scheme())
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client for one webhook.
#[derive(Debug)]
pub struct Webhook {
    client: reqwest::Client,
    url: WebhookUrl,
}

impl Webhook {
    /// Does not connect yet.
    pub fn new(url: WebhookUrl) -> Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(DELIVERY_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("rtp/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::refused(format!("cannot start an HTTP client: {e}")))?;
        Ok(Webhook { client, url })
    }

    /// Posts a JSON body, which counts as delivered if the status of the response is 2xx.
    pub async fn post(&self, json: String) -> Result<()> {
        let sent = self
            .client
            .post(self.url.0.clone())
            .header("content-type", "application/json")
            .body(json)
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Error::refused(format!(
                "{} answered {}",
                self.url,
                answer.status()
            ))),
            Err(e) => Err(Error::unavailable(format!(
                "cannot reach {}: {}",
                self.url,
                cause(e)
            ))),
        }
    }
}

/// The innermost reason, without the address.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_never_shown_with_its_secrets() {
        let url: WebhookUrl = "https://user:pw@hooks.example.com/T0/secret?key=secret"
            .parse()
            .unwrap();
        for shown in [url.to_string(), format!("{url:?}")] {
            assert_eq!(shown, "https://hooks.example.com/...");
        }
        for bad in ["hooks.example.com/x", "ftp://host/x", ""] {
            assert!(bad.parse::<WebhookUrl>().is_err(), "{bad}");
        }
    }
}
