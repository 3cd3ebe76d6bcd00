//! The proxy that the environment names.

use reqwest::{ClientBuilder, Proxy};
use url::Url;

use crate::error::{Error, Result};

/// Refuses a proxy for this address that the client would silently pass over. There is none where `no_proxy` is `*`, which
/// the client applies to names only, or names the host.
pub(super) fn checked(builder: ClientBuilder, api: &Url) -> Result<ClientBuilder> {
    let host = api.host_str().unwrap_or_default();
    let without = ["NO_PROXY", "no_proxy"].map(|name| std::env::var(name).unwrap_or_default());
    if without.iter().any(|list| is_exempt(host, list)) {
        return Ok(builder.no_proxy());
    }
    let names = match api.scheme() {
        "https" => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let value = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    // The first one that is set counts.
    let Some((name, proxy)) = names
        .into_iter()
        .find_map(|name| Some((name, value(name)?)))
    else {
        return Ok(builder);
    };
    match is_proxy(proxy.to_string_lossy().trim()) {
        true => Ok(builder),
        // The value may contain a password.
        false => Err(Error::invalid(format!(
            "the environment variable {name} is not the address of an HTTP proxy"
        ))
        .hint("expected for example http://proxy.example.com:3128; SOCKS is not supported; unset it, or add the source's host to no_proxy, to connect directly")),
    }
}

fn is_proxy(value: &str) -> bool {
    let address = match value.contains("://") {
        true => value.to_string(),
        false => format!("http://{value}"),
    };
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    Url::parse(&address).is_ok_and(|url| is_http(&url)) && Proxy::all(&address).is_ok()
}

fn is_exempt(host: &str, list: &str) -> bool {
    let mut entries = list
        .split(',')
        .map(|entry| entry.trim().trim_start_matches('.'));
    entries.any(|entry| {
        let parent = host.strip_suffix(entry);
        let is_below = parent.is_some_and(|parent| parent.is_empty() || parent.ends_with('.'));
        entry == "*" || (!entry.is_empty() && is_below)
    })
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
        for list in ["*", "a, *", "h.example", "x, .example", "example"] {
            assert!(is_exempt("h.example", list), "{list}");
        }
        for list in ["", ",", "ample", "h", "x.h.example"] {
            assert!(!is_exempt("h.example", list), "{list}");
        }
    }
}
