//! Answers that are not as the dataset says.

use super::{Api, Dataset, ITEMS, Reply, fetch, fetch_in, fetches, ids, items, numbers, records};
use crate::common::Place;

#[test]
fn an_answer_that_cannot_be_read_and_comes_for_ever_ends_the_run() {
    let with_error = Dataset {
        records: "/items\"\nerror = \"/error",
        ..ITEMS
    };
    let replies: [(&Dataset, &[u8], &[u8], &str); 5] = [
        (
            &ITEMS,
            b"",
            b"<!DOCTYPE html><title>Sign in</title>",
            "begins with `<!DOCTYPE html><title>Sign in",
        ),
        (&ITEMS, b"", b"", "the response is empty"),
        (
            &ITEMS,
            b"",
            b"{\"items\":[{\"id\":\"caf\xe9\"}]}",
            "not valid UTF-8 at byte 20",
        ),
        (
            &ITEMS,
            b"Content-Encoding: gzip\r\n",
            b"{\"items\":[]}",
            "invalid gzip",
        ),
        (
            &with_error,
            b"",
            b"{\"error\":\"no such plan\"}",
            "no such plan",
        ),
    ];
    for (dataset, fields, body, says) in replies {
        let api = Api::start(move |_, _| Reply::with("200 OK", fields, body));
        let forever = ["--max-outage", "24h"];
        let (_, ran) = fetch(dataset, &api.x(), &forever, &[]);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (4, ""),
            "{says}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
        assert!(ran.stderr.contains("8 times in a row"), "{}", ran.stderr);
        assert!(
            ran.stderr
                .contains("expected JSON with the records at `/items`"),
            "{}",
            ran.stderr
        );
        assert_eq!(api.targets().len(), 8);
    }
}

#[test]
fn an_answer_that_cannot_be_read_may_be_an_outage() {
    let dataset = Dataset {
        pagination: "style = \"page\"\nparam = \"page\"\nsize = 2",
        ..ITEMS
    };
    // Seven times the same, and others between: no answer that comes for ever. After a page, no number is too many.
    for glitches in [0..7, 1..9] {
        let api = Api::start(move |request, number| match request.param("page") {
            _ if glitches.contains(&number) => Reply::ok("<html>"),
            Some("1") => Reply::ok(items(0..2)),
            _ => Reply::ok(items(2..2)),
        });
        let url = api.x();
        fetches(&dataset, &url, &["--concurrency", "1"], 0..2);
    }
}

#[test]
fn null_in_place_of_records_is_an_empty_page() {
    let dataset = Dataset {
        pagination: "style = \"page\"\nparam = \"page\"\nsize = 2",
        ..ITEMS
    };
    let api = Api::start(|request, _| match request.param("page") {
        Some("1") => Reply::ok(items(0..2)),
        _ => Reply::ok("{\"items\":null}"),
    });
    fetches(&dataset, &api.x(), &[], 0..2);
}

#[test]
fn byte_order_marks_are_no_content() {
    let place = Place::new();
    place.write("b.json", "\u{feff}{\"items\":[{\"id\":\"1\"}]}");
    let url = format!("file://{}", place.path("b.json").display());
    let ran = fetch_in(&place, &ITEMS, &url, &[], &[]);
    assert_eq!(
        (ran.status, ids(&ran)),
        (0, numbers(1..2)),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_next_page_that_no_response_names_is_told() {
    let cursor = |next: &'static str, size: &'static str| Dataset {
        pagination: match (next, size) {
            ("wrong", "2") => {
                "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/meta/nextCursor\"\nsize_param = \"limit\"\nsize = 2"
            }
            _ => "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/meta/nextCursor\"",
        },
        ..ITEMS
    };
    let api = || {
        Api::start(|request, _| {
            let page: u64 = request.param("cursor").map_or(0, |c| c.parse().unwrap());
            let next = if page < 3 {
                format!("\"{}\"", page + 1)
            } else {
                "null".into()
            };
            let records = records(page * 2..page * 2 + 2);
            Reply::ok(format!(
                "{{\"items\":{records},\"meta\":{{\"next_cursor\":{next}}}}}"
            ))
        })
    };
    // A full page is an error, for more may follow.
    let (_, ran) = fetch(&cursor("wrong", "2"), &api().x(), &[], &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("`/meta` has the keys next_cursor"),
        "{}",
        ran.stderr
    );
    // Where the source decides how long a page is, it is a warning.
    let ran = fetches(&cursor("wrong", ""), &api().x(), &[], 0..2);
    assert!(
        ran.stderr.contains("`/meta` has the keys next_cursor"),
        "{}",
        ran.stderr
    );
    // Nobody asks for a second page if the first one is enough.
    let more = ["--count", "2"];
    fetches(&cursor("wrong", "2"), &api().x(), &more, 0..2);
}

#[test]
fn records_in_another_place_end_the_run_at_once_and_name_what_is_there() {
    let api = Api::start(|_, _| Reply::ok("{\"data\":{\"users\":[]},\"page\":1}"));
    let (_, ran) = fetch(&ITEMS, &api.x(), &["--max-outage", "24h"], &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("has no `/items`: the response has the keys data, page"),
        "{}",
        ran.stderr
    );
    assert!(api.targets().len() <= 4);
}

#[test]
fn a_field_that_no_record_has_is_told_and_can_end_the_run_with_1() {
    let dataset = Dataset {
        fields: "[[field]]\nname = \"mail\"\ntype = \"text\"\nfrom = \"/emial\"",
        ..ITEMS
    };
    let api = Api::start(|_, _| Reply::ok(items(0..3)));
    let url = api.x();
    let ran = fetches(&dataset, &url, &[], 0..3);
    let said = "field mail is empty: none of the 3 records has `/emial`";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let (_, ran) = fetch(&dataset, &url, &["--require-fields"], &[]);
    assert_eq!(
        (ran.status, ids(&ran)),
        (1, numbers(0..3)),
        "{}",
        ran.stderr
    );
    let more = [
        "--require-fields",
        "--out",
        "o",
        "--trailer",
        "--unless-complete",
    ];
    let place = Place::new();
    for _ in 0..2 {
        let ran = fetch_in(&place, &dataset, &url, &more, &[]);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(!place.path("o").exists());
    }
    let (_, ran) = fetch(&ITEMS, &url, &["--require-fields"], &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("is empty"), "{}", ran.stderr);
}
