//! Credentials and proxies: what is sent, what is shown, and what a bookmark keeps.

use super::{Api, Dataset, ITEMS, Reply, fetch, fetch_new, ids, items, numbers, records};
use crate::common::Place;

#[test]
fn no_secret_of_a_query_is_shown_and_what_the_address_supplies_is_not_kept() {
    let query = "api_key=hunter2a&X-Signature=hunter2b&accessToken=hunter2c&n=1";
    let dataset = Dataset {
        pagination: "style = \"next-url\"\nnext = \"/next\"",
        ..ITEMS
    };
    // Errors, warnings, help: the address comes from the option, the environment, or the dataset.
    let nobody = format!("http://127.0.0.1:1/x?{query}");
    let outage = ["--max-outage", "1s"];
    let by_option = [&outage[..], &["--api", &nobody]].concat();
    let by_variable = [("RTP_API_URL", nobody.as_str())];
    for (more, env) in [
        (&by_option[..], &[][..]),
        (&outage, &by_variable),
        (&outage, &[]),
        (&["--help"], &by_variable),
    ] {
        let (_, ran) = fetch(&dataset, &nobody, more, env);
        let said = ran.stdout + &ran.stderr;
        assert!(!said.contains("hunter2"), "{more:?}: {said}");
        if ran.status != 0 {
            let masked = "http://127.0.0.1:1/x?api_key=***&X-Signature=***&accessToken=***&n=1: ";
            assert!(ran.status == 4 && said.contains(masked), "{more:?}: {said}");
        }
    }
    // The source repeats the address in that of the next page, which has a secret of its own.
    let api = Api::start(
        move |request, number| match (request.param("page"), number) {
            (None, _) => {
                let next = format!("/x?{query}&page=2&sig=hunter2d");
                Reply::ok(format!(
                    "{{\"items\":{},\"next\":\"{next}\"}}",
                    records(0..2)
                ))
            }
            (_, 1) => Reply::ok("{\"items\":[],\"next\":null}"),
            _ => Reply::with("404 Not Found", b"", ""),
        },
    );
    let place = Place::new();
    let url = format!("{}/x?{query}", api.url);
    let (status, fetched, said) = fetch_new(&place, &dataset, &url, &[]);
    assert_eq!((status, fetched), (0, numbers(0..2)), "{said}");
    let state = std::fs::read_to_string(place.path("state.json")).unwrap();
    assert!(
        state.contains("api_key=***") && state.contains("sig=hunter2d"),
        "{state}"
    );
    for supplied in ["hunter2a", "hunter2b", "hunter2c"] {
        assert!(!state.contains(supplied), "{state}");
    }
    let (status, _, said) = fetch_new(&place, &dataset, &url, &[]);
    assert!(status == 4 && !said.contains("hunter2"), "{said}");
    let (first, second) = (
        format!("/x?{query}"),
        format!("/x?{query}&page=2&sig=hunter2d"),
    );
    let both = [first, second];
    assert_eq!(api.targets(), [both.clone(), both].concat());
    // Without the secret the page could not be requested.
    let (status, _, said) = fetch_new(&place, &dataset, &api.x(), &[]);
    assert!(
        status == 2 && said.contains("needs the parameter `api_key`"),
        "{said}"
    );
}

#[test]
fn no_secret_of_an_address_is_shown_or_kept() {
    let dataset = Dataset {
        auth: "style = \"api-key\"\nparam = \"key\"\nenv = \"LAB_KEY\"".into(),
        ..ITEMS
    };
    let api = Api::start(|request, _| {
        let to = format!(
            "Location: https://me:hunter2pass@127.0.0.1{}\r\n",
            request.target
        );
        Reply::with("301 Moved", to.as_bytes(), "")
    });
    let env = [("LAB_KEY", "hunter2key")];
    let (_, ran) = fetch(&dataset, &api.x(), &[], &env);
    assert_eq!(ran.status, 4);
    assert!(
        ran.stderr
            .contains("https://127.0.0.1/x, which is not followed"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);

    let dataset = Dataset {
        pagination: "style = \"next-url\"\nnext = \"/next\"",
        ..ITEMS
    };
    let api = Api::start(|request, _| {
        let host = request
            .head
            .split("host: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_string();
        let next = format!("http://me:hunter2@{host}/x?page=2");
        match request.param("page") {
            None => Reply::ok(format!(
                "{{\"items\":{},\"next\":\"{next}\"}}",
                records(0..2)
            )),
            Some(_) => Reply::ok("{\"items\":[],\"next\":null}"),
        }
    });
    let more = ["--state", "state.json", "--out", "out.ndjson"];
    let (place, ran) = fetch(&dataset, &api.x(), &more, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let state = std::fs::read_to_string(place.path("state.json")).unwrap();
    assert!(
        state.contains("/x?page=2") && !state.contains("hunter2"),
        "{state}"
    );
    let sent = &api.requests.lock().unwrap()[1].1.head;
    assert!(!sent.to_lowercase().contains("authorization"), "{sent}");
}

#[test]
fn a_token_whose_lifetime_is_strange_is_used() {
    for expires_in in [
        "9223372036854775807",
        "18446744073709551615",
        "\"3599\"",
        "3600.0",
        "-1",
    ] {
        let api = Api::start(move |request, _| match request.target.as_str() {
            "/token" => Reply::ok(format!(
                "{{\"access_token\":\"T\",\"expires_in\":{expires_in}}}"
            )),
            _ => Reply::ok(items(0..1)),
        });
        let dataset = Dataset {
            auth: format!(
                "style = \"oauth2\"\ntoken_url = \"{}/token\"\nclient_id = \"me\"\nenv = \"LAB_KEY\"",
                api.url
            ),
            ..ITEMS
        };
        let (_, ran) = fetch(&dataset, &api.x(), &[], &[("LAB_KEY", "s")]);
        assert_eq!(
            (ran.status, ids(&ran)),
            (0, numbers(0..1)),
            "{expires_in}: {}",
            ran.stderr
        );
    }
}

#[test]
fn proxies_of_the_environment_are_used_refused_or_left_out() {
    let api = Api::start(|_, _| Reply::ok(items(0..1)));
    let proxy = Api::start(|_, _| Reply::ok(items(7..8)));
    let url = api.x();
    let fetch = |env: &[(&str, &str)]| fetch(&ITEMS, &url, &[], env).1;
    assert_eq!(ids(&fetch(&[("http_proxy", &proxy.url)])), numbers(7..8));
    let all = [("http_proxy", proxy.url.as_str()), ("no_proxy", "*")];
    assert_eq!(ids(&fetch(&all)), numbers(0..1));
    let socks = "socks5h://127.0.0.1:1";
    let exempt = [("ALL_PROXY", socks), ("NO_PROXY", "localhost, 127.0.0.1")];
    assert_eq!(ids(&fetch(&exempt)), numbers(0..1));
    let unused = [
        ("https_proxy", "garbage"),
        ("http_proxy", proxy.url.as_str()),
    ];
    assert_eq!(ids(&fetch(&unused)), numbers(7..8));
    for broken in ["garbage://x y", "socks5://127.0.0.1:1", "hunter2@"] {
        let ran = fetch(&[("http_proxy", broken)]);
        assert_eq!(ran.status, 2, "{broken}: {}", ran.stderr);
        assert!(ran.stderr.contains("http_proxy") && !ran.stderr.contains("hunter2"));
    }
}
