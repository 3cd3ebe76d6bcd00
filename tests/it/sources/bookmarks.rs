//! What `fetch --state` takes from a source that has changed since the last run, and what it tells.

use std::sync::{Arc, Mutex};

use super::{Api, Dataset, ITEMS, Reply, fetch_in, fetch_new, ids, items, numbers, records};
use crate::common::{Place, Ran};

#[test]
fn a_last_page_that_grows_is_fetched_from_where_it_ended() {
    let dataset = Dataset {
        pagination: "style = \"page\"\nparam = \"page\"\nsize_param = \"size\"\nsize = 50",
        ..ITEMS
    };
    let size = Arc::new(Mutex::new(140));
    let total = size.clone();
    let api = Api::start(move |request, _| {
        let page: u64 = request.param("page").unwrap().parse().unwrap();
        let total = *total.lock().unwrap();
        let start = ((page - 1) * 50).min(total);
        Reply::ok(items(start..(start + 50).min(total)))
    });
    let url = api.x();
    let place = Place::new();
    let more = ["--state", "state.json", "--out", "out.ndjson"];
    let mut fetched = Vec::new();
    for (total, status) in [(140, 0), (140, 0), (250, 0), (250, 0), (251, 0), (243, 5)] {
        *size.lock().unwrap() = total;
        std::fs::remove_file(place.path("out.ndjson")).ok();
        let ran = fetch_in(&place, &dataset, &url, &more, &[]);
        assert_eq!(ran.status, status, "{total}: {}", ran.stderr);
        if status == 0 {
            let out = std::fs::read_to_string(place.path("out.ndjson")).unwrap();
            fetched.extend(ids(&Ran { stdout: out, ..ran }));
        } else {
            let said = "an earlier run took 1 from this page";
            assert!(ran.stderr.contains(said), "{}", ran.stderr);
        }
    }
    assert_eq!(fetched, numbers(0..251));
    // A run that needs only part of a page goes on in the middle of it.
    let place = Place::new();
    let more = [
        "--state",
        "state.json",
        "--out",
        "out.ndjson",
        "--count",
        "70",
    ];
    let mut fetched = Vec::new();
    for _ in 0..3 {
        let ran = fetch_in(&place, &dataset, &url, &more, &[]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let out = std::fs::read_to_string(place.path("out.ndjson")).unwrap();
        fetched.extend(ids(&Ran { stdout: out, ..ran }));
    }
    assert_eq!(fetched, numbers(0..210));
}

#[test]
fn a_bookmark_at_a_full_last_page_that_names_no_next_one_is_no_mistake() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"\nsize_param = \"limit\"\nsize = 2",
        ..ITEMS
    };
    let api = Api::start(|request, _| {
        let page: u64 = request.param("cursor").map_or(0, |c| c.parse().unwrap());
        let records = records(page * 2..page * 2 + 2);
        match page {
            0 => Reply::ok(format!("{{\"items\":{records},\"next\":\"1\"}}")),
            _ => Reply::ok(format!("{{\"items\":{records}}}")),
        }
    });
    let place = Place::new();
    let url = api.x();
    let state = ["--state", "s.json", "--out", "o.ndjson"];
    for (more, expected) in [(&["--count", "2"][..], 0..2), (&[], 2..4)] {
        let ran = fetch_in(&place, &dataset, &url, &[&state[..], more].concat(), &[]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let out = std::fs::read_to_string(place.path("o.ndjson")).unwrap();
        assert_eq!(ids(&Ran { stdout: out, ..ran }), numbers(expected));
    }
}

/// A source with numbered pages of 50 records out of a list that changes.
fn numbered(list: Arc<Mutex<Vec<u64>>>, at: fn(u64) -> u64) -> Api {
    Api::start(move |request, _| {
        let list = list.lock().unwrap();
        let number: u64 = request.param("at").unwrap().parse().unwrap();
        let start = usize::try_from(at(number)).unwrap().min(list.len());
        let page = &list[start..(start + 50).min(list.len())];
        let records: Vec<String> = page.iter().map(|n| format!("{{\"id\":\"{n}\"}}")).collect();
        Reply::ok(format!("{{\"items\":[{}]}}", records.join(",")))
    })
}

#[test]
fn a_source_that_puts_new_records_first_cannot_be_resumed_by_number() {
    let pages: fn(u64) -> u64 = |number| (number - 1) * 50;
    let offsets: fn(u64) -> u64 = |number| number;
    for (style, at) in [("page", pages), ("offset", offsets)] {
        let dataset = Dataset {
            pagination: match style {
                "page" => "style = \"page\"\nparam = \"at\"\nsize = 50",
                _ => "style = \"offset\"\nparam = \"at\"\nsize = 50",
            },
            ..ITEMS
        };
        // 140: the last page is short; 150: it is full; 50 more: a whole page is new.
        for (before, new) in [(140, 5), (150, 5), (150, 50), (140, 1)] {
            let list = Arc::new(Mutex::new((0..before).rev().collect::<Vec<u64>>()));
            let url = format!("{}/x", numbered(list.clone(), at).url);
            let place = Place::new();
            let fetch = || fetch_new(&place, &dataset, &url, &[]);
            let (status, fetched, said) = fetch();
            assert_eq!((status, fetched.len() as u64), (0, before), "{said}");
            let (status, fetched, said) = fetch();
            assert_eq!((status, fetched.len()), (0, 0), "{said}");
            assert!(said.contains("no new records"), "{said}");
            let state = std::fs::read(place.path("state.json")).unwrap();

            *list.lock().unwrap() = (0..before + new).rev().collect();
            let what = format!("{style}: {before} and {new} before them");
            let (status, fetched, said) = fetch();
            assert_eq!((status, fetched.len()), (5, 0), "{what}: {said}");
            let moved = "are not those that an earlier run took last";
            assert!(
                said.contains(moved) && said.contains("move the state file away"),
                "{said}"
            );
            assert_eq!(std::fs::read(place.path("state.json")).unwrap(), state);

            // At the end they are found, and a record whose other fields change is the same one.
            *list.lock().unwrap() = (0..before).rev().chain(1000..1000 + new).collect();
            let (status, fetched, said) = fetch();
            assert_eq!(
                (status, fetched),
                (0, numbers(1000..1000 + new)),
                "{what}: {said}"
            );
        }
    }
}

/// A source of a list that changes, with pages of 5 records that name the next one.
fn named(list: Arc<Mutex<Vec<u64>>>) -> Api {
    Api::start(move |request, _| {
        let list = list.lock().unwrap();
        let start: usize = request.param("cursor").map_or(0, |c| c.parse().unwrap());
        let end = (start + 5).min(list.len());
        let records: Vec<String> = list[start..end]
            .iter()
            .map(|n| format!("{{\"id\":\"{n}\"}}"))
            .collect();
        let next = match end < list.len() {
            true => format!("\"{end}\""),
            false => "null".into(),
        };
        Reply::ok(format!(
            "{{\"items\":[{}],\"next\":{next}}}",
            records.join(",")
        ))
    })
}

#[test]
fn new_records_before_the_first_one_of_a_walk_by_names_are_told() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"",
        ..ITEMS
    };
    let list = Arc::new(Mutex::new((0..12).rev().collect::<Vec<u64>>()));
    let url = named(list.clone()).x();
    let place = Place::new();
    let fetch = |records: Vec<u64>| {
        *list.lock().unwrap() = records;
        fetch_new(&place, &dataset, &url, &[])
    };
    let (status, fetched, said) = fetch((0..12).rev().collect());
    assert_eq!((status, fetched.len()), (0, 12), "{said}");
    let state = std::fs::read(place.path("state.json")).unwrap();
    let (status, fetched, said) = fetch((0..15).rev().collect());
    assert_eq!((status, fetched.len()), (5, 0), "{said}");
    assert!(
        said.contains("3 records come before those that were the first"),
        "{said}"
    );
    assert_eq!(std::fs::read(place.path("state.json")).unwrap(), state);
    // More than a page of them, or none: it cannot be known.
    let (status, _, said) = fetch((0..20).rev().collect());
    assert_eq!(status, 0, "{said}");
    assert!(
        said.contains("no longer on this page; if the source puts new"),
        "{said}"
    );
    // A bookmark of an rtp that did not look: from now on.
    let older = "{\"version\":1,\"dataset\":\"lab\",\"next\":{\"cursor\":\"15\"},\"done\":5}";
    let newer = std::fs::read(place.path("state.json")).unwrap();
    place.write("state.json", older);
    for (records, status) in [(20, 0), (20, 0), (21, 5)] {
        let (ended, _, said) = fetch((0..records).rev().collect());
        assert_eq!(ended, status, "{records}: {said}");
    }
    std::fs::write(place.path("state.json"), newer).unwrap();
    // At the end, without a word.
    let (status, fetched, said) = fetch((0..20).rev().chain(20..22).collect());
    assert_eq!(
        (status, fetched.last().map(String::as_str)),
        (0, Some("21")),
        "{said}"
    );
    assert!(!said.contains("the first"), "{said}");
}

#[test]
fn the_last_page_that_has_a_name_grows_and_parts_of_pages_follow_one_another() {
    let dataset = Dataset {
        pagination: "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/next\"",
        ..ITEMS
    };
    let list = Arc::new(Mutex::new((0..7).collect::<Vec<u64>>()));
    let url = named(list.clone()).x();
    let place = Place::new();
    let part = ["--count", "3"];
    for (more, records, expected) in [
        (&part[..], 0..7, 0..3),
        (&part, 0..7, 3..6),
        (&[], 0..7, 6..7),
        (&[], 0..9, 7..9),
        (&[], 0..9, 9..9),
        (&[], 0..17, 9..17),
        // Its records moved, perhaps because one was deleted: all of the page once more, because which of them are new cannot be known.
        (&[], 1..18, 16..18),
    ] {
        *list.lock().unwrap() = records.clone().collect();
        let (status, fetched, said) = fetch_new(&place, &dataset, &url, more);
        assert_eq!(
            (status, fetched),
            (0, numbers(expected)),
            "{records:?}: {said}"
        );
    }
}

/// A source with pages of three of these records, numbered or named.
fn changing(list: Arc<Mutex<Vec<&'static str>>>) -> Api {
    Api::start(move |request, _| {
        let list = list.lock().unwrap();
        let number: usize = request.param("at").map_or(1, |at| at.parse().unwrap());
        let start = (number * 3 - 3).min(list.len());
        let end = (start + 3).min(list.len());
        let next = match end < list.len() {
            true => format!("\"{}\"", number + 1),
            false => "null".into(),
        };
        let items = list[start..end].join(",");
        Reply::ok(format!("{{\"items\":[{items}],\"next\":{next}}}"))
    })
}

#[test]
fn a_new_record_is_told_from_an_older_one_with_the_same_key_and_from_one_without() {
    const NUMBERED: &str = "style = \"page\"\nparam = \"at\"\nsize = 3";
    const NAMED: &str = "style = \"cursor\"\nparam = \"at\"\nnext = \"/next\"";
    const A: &str = "{\"id\":\"a\"}";
    const B: &str = "{\"id\":\"b\"}";
    const C: &str = "{\"id\":\"c\"}";
    const OTHER: [&str; 3] = ["{\"n\":1}", "{\"n\":2,\"id\":null}", "{\"n\":3}"];
    const CHANGED: &str = "{\"id\":\"a\",\"n\":9}";
    let [x, y, z] = OTHER;
    let raw = &["--raw"][..];
    for (style, more, before, after, status) in [
        // Of customers and their orders, the newest ones first.
        (NUMBERED, &[][..], &[A, A][..], &[B, A, A][..], 5),
        (NUMBERED, raw, &[A, A], &[B, A, A], 5),
        (NUMBERED, raw, &[x, y], &[z, x, y], 5),
        (NAMED, &[], &[A, B, B, C], &[A, A, B, B, C], 5),
        (NAMED, raw, &[x, y, x, x], &[z, x, y, x, x], 5),
        // One was deleted, and the next ones moved up; and then a new one came in its place.
        (NAMED, &[], &[A, A, B, C, C], &[A, B, C, C], 0),
        (NAMED, &[], &[A, A, B, C, C], &[C, A, B, C, C], 5),
        // A change is no other record, and new ones at the end are no others before them.
        (NUMBERED, &[], &[A, A], &[CHANGED, CHANGED, B], 0),
        (NUMBERED, raw, &[x, y], &[x, y, z], 0),
        (NUMBERED, &[], &[x, y], &[x, y, z], 0),
        (NAMED, &[], &[A, A, B, C], &[CHANGED, A, B, C, C], 0),
    ] {
        let dataset = Dataset {
            pagination: style,
            ..ITEMS
        };
        let list = Arc::new(Mutex::new(before.to_vec()));
        let url = format!("{}/x", changing(list.clone()).url);
        let place = Place::new();
        let args = [&["--state", "state.json", "--out", "out.ndjson"], more].concat();
        let first = fetch_in(&place, &dataset, &url, &args, &[]);
        assert_eq!(first.status, 0, "{}", first.stderr);
        *list.lock().unwrap() = after.to_vec();
        let second = fetch_in(&place, &dataset, &url, &args, &[]);
        let said = second.stderr;
        assert_eq!(second.status, status, "{before:?} {after:?}: {said}");
    }
}
