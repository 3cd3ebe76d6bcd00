//! The proxy that the environment names.

use reqwest::{ClientBuilder, Proxy};
use url::Url;

use crate::error::{Error, Result};

/// Where the HTTP client looks for a proxy.
const VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Refuses a proxy that the client would silently pass over, and no proxy at all where `no_proxy` is `*`, which the
/// client applies to names only.
pub(super) fn checked(builder: ClientBuilder) -> Result<ClientBuilder> {
    for name in VARIABLES {
        let value = std::env::var_os(name).unwrap_or_default();
        let value = value.to_string_lossy();
        if !value.trim().is_empty() && !is_proxy(value.trim()) {
            // The value may contain a password.
            return Err(Error::invalid(format!(
                "the environment variable {name} is not the address of a proxy"
            ))
            .hint(
                "expected for example http://proxy.example.com:3128; unset it to connect directly",
            ));
        }
    }
    let without = ["NO_PROXY", "no_proxy"].map(|name| std::env::var(name).unwrap_or_default());
    Ok(match without.iter().any(|list| is_everything(list)) {
        true => builder.no_proxy(),
        false => builder,
    })
}

fn is_proxy(value: &str) -> bool {
    let address = match value.contains("://") {
        true => value.to_string(),
        false => format!("http://{value}"),
    };
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    Url::parse(&address).is_ok_and(|url| is_http(&url)) && Proxy::all(&address).is_ok()
}

fn is_everything(list: &str) -> bool {
    list.split(',').any(|entry| entry.trim() == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_http_addresses() {
        for good in ["http://h:3128", "https://u:p@h", "h:3128", "10.0.0.1"] {
            assert!(is_proxy(good), "{good}");
        }
        for bad in [
            "garbage://x y",
            "garbage://x",
            "socks5://h:1",
            "http://",
            "a b",
        ] {
            assert!(!is_proxy(bad), "{bad}");
        }
        assert!(is_everything("a, *") && is_everything("*") && !is_everything("*.x"));
    }
}
