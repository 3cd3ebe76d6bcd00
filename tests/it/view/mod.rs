//! The merged view of both layers, as users see it.

mod property;

use serde_json::Value;

use crate::common::{Place, Ran, user};

/// Sends events through the log into the real-time store.
fn stream(place: &Place, events: &[String]) {
    let events = events.join("\n") + "\n";
    for (stage, input) in [
        (&["produce"][..], events.as_bytes()),
        (&["stream", "--until-end"], b""),
    ] {
        let ran = place.rtp(stage, input);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
}

fn load(place: &Place, events: &[String]) {
    let ran = place.rtp(&["load-batch"], (events.join("\n") + "\n").as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

fn view(place: &Place, more: &[&str]) -> Ran {
    place.rtp(&[&["view"], more].concat(), b"")
}

fn lines(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let lines = ran.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Number, layer and email of each row.
fn shown(ran: &Ran) -> Vec<(u64, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    lines(ran)
        .iter()
        .map(|line| {
            let id = text(&line["row"]["id"]);
            let number = id.rsplit('-').next().unwrap().parse().unwrap();
            (number, text(&line["layer"]), text(&line["row"]["email"]))
        })
        .collect()
}

fn rows(rows: &[(u64, &str, &str)]) -> Vec<(u64, String, String)> {
    let owned = |(n, layer, email): &(u64, &str, &str)| (*n, (*layer).into(), (*email).into());
    rows.iter().map(owned).collect()
}

/// A place whose stores differ: the load ended at second 10.
fn place() -> Place {
    let place = Place::ready();
    load(
        &place,
        &[
            user(1, 10, "same@x"),
            user(2, 5, "old@x"),
            user(3, 9, "newer-in-batch@x"),
            user(4, 3, "batch-only@x"),
        ],
    );
    stream(
        &place,
        &[
            user(1, 10, "same@x"),
            user(2, 20, "new@x"),
            user(3, 4, "older@x"),
            user(5, 30, "realtime-only@x"),
            user(6, 7, "before-the-boundary@x"),
        ],
    );
    place
}

#[test]
fn each_row_is_the_newer_one_and_says_where_it_stands() {
    let place = place();
    let expected = rows(&[
        (1, "both", "same@x"),
        (2, "realtime", "new@x"),
        (3, "batch", "newer-in-batch@x"),
        (4, "batch", "batch-only@x"),
        (5, "realtime", "realtime-only@x"),
        (6, "realtime", "before-the-boundary@x"),
    ]);
    let all = view(&place, &[]);
    assert_eq!(shown(&all), expected);
    assert!(!all.stderr.contains("not listed"), "{}", all.stderr);
    assert_eq!(all.counts(), [6, 6, 0, 0, 0]);
    let first = &lines(&all)[0];
    assert_eq!(first["event_time"], "2026-11-01T00:00:10.000Z");
    let time = |name: &str| {
        let text = first[name].as_str().unwrap();
        rtp::time::parse_time(text).unwrap().as_millisecond()
    };
    let lag = (time("as_of") - time("event_time")) as f64 / 1e3;
    assert_eq!(first["lag_seconds"], lag);
    // A boundary leaves out what is only in the real-time store and not newer, and says so.
    for (boundary, rows) in [
        ("2026-11-01T00:00:10Z", &expected[..5]),
        ("2026-11-01T00:00:06Z", &expected),
        ("none", &expected),
    ] {
        let ran = view(&place, &["--boundary", boundary]);
        assert_eq!(shown(&ran), rows);
        let said = ran
            .stderr
            .contains("only the real-time store has are not listed")
            && ran.stderr.contains("--boundary none lists them");
        assert_eq!(said, boundary != "none", "{}", ran.stderr);
    }
}

/// Such a load says nothing about what was streamed before.
#[test]
fn a_small_load_of_a_newer_record_hides_nothing() {
    let place = Place::ready();
    let streamed: Vec<String> = (1..6).map(|n| user(n, n, "streamed@x")).collect();
    stream(&place, &streamed);
    load(&place, &[user(7, 50, "loaded@x")]);
    let numbers = |ran: &Ran| -> Vec<u64> { shown(ran).into_iter().map(|(n, ..)| n).collect() };
    for more in [&[][..], &["--limit", "100"], &["--where", "first_name=Zoë"]] {
        let ran = view(&place, more);
        assert_eq!(numbers(&ran), [1, 2, 3, 4, 5, 7], "{more:?}");
    }
}

#[test]
fn a_key_is_read_from_both_layers_whatever_the_boundary() {
    let place = place();
    let id = |n: u64| format!("00000000-0000-4000-8000-{n:012}");
    for (n, layer, email) in [
        (3, "batch", "newer-in-batch@x"),
        (6, "realtime", "before-the-boundary@x"),
    ] {
        let ran = view(&place, &[&id(n)]);
        assert_eq!(shown(&ran), rows(&[(n, layer, email)]));
    }
    let none = view(&place, &[&id(7)]);
    assert_eq!((none.status, none.stdout.as_str()), (1, ""));
    let said = format!("neither store has a row with the key `{}`", id(7));
    assert!(none.stderr.contains(&said), "{}", none.stderr);
}

#[test]
fn conditions_are_about_the_row_that_is_shown() {
    let place = place();
    let by_email = |email: &str| shown(&view(&place, &["--where", &format!("email={email}")]));
    assert_eq!(by_email("new@x"), rows(&[(2, "realtime", "new@x")]));
    assert_eq!(by_email("old@x"), rows(&[]));
    assert_eq!(by_email("older@x"), rows(&[]));
    let both = view(&place, &["--where", "email=same@x", "--where", "gender=f"]);
    assert_eq!(shown(&both), rows(&[]));
    // Also of a row that is only in the real-time store, and not newer than what was loaded.
    stream(&place, &[user(4, 8, "late@x")]);
    for more in [
        &[][..],
        &["--boundary", "2026-11-01T00:00:10Z"],
        &["--boundary", "none"],
    ] {
        let late = view(&place, &[&["--where", "email=late@x"], more].concat());
        assert_eq!(shown(&late), rows(&[(4, "realtime", "late@x")]), "{more:?}");
        let old = view(&place, &[&["--where", "email=batch-only@x"], more].concat());
        assert_eq!(shown(&old), rows(&[]), "{more:?}");
    }
}

/// Such a listing is read by that key, whatever the boundary.
#[test]
fn a_condition_on_the_key_finds_it_in_both_stores() {
    let place = place();
    let id = "id=00000000-0000-4000-8000-000000000006";
    let six = rows(&[(6, "realtime", "before-the-boundary@x")]);
    let with = |more: &[&str]| view(&place, &[&["--where", id][..], more].concat());
    for boundary in ["none", "2026-11-01T00:00:10Z"] {
        let ran = with(&["--boundary", boundary]);
        assert_eq!(shown(&ran), six);
        assert!(!ran.stderr.contains("not listed"), "{}", ran.stderr);
    }
    assert_eq!(shown(&with(&["--where", "email=other@x"])), rows(&[]));
    let other = ["--where", "id=00000000-0000-4000-8000-000000000005"];
    assert_eq!(shown(&with(&other)), rows(&[]));
}

/// Nor does it end the listing.
#[test]
fn a_key_of_another_type_is_named() {
    let place = place();
    let plant = |store: &str, table: &str, n: u64, key: &str| {
        let db = rusqlite::Connection::open(place.path(store)).unwrap();
        let update =
            format!("UPDATE {table} SET id = {key} WHERE hex(id) = '00000000000040008000{n:012}'");
        assert_eq!(db.execute(&update, []).unwrap(), 1);
    };
    plant(".rtp/realtime.db", "users_rows", 6, "'abc'");
    plant(
        ".rtp/batch.db",
        "batch_users_rows",
        3,
        "x'00000000000040008000000000000002ff'",
    );
    let batch_misfit = "SELECT email FROM batch_users_rows WHERE length(id) = 17";
    let batch_misfit = place.query(".rtp/batch.db", batch_misfit);
    let expected = rows(&[
        (1, "both", "same@x"),
        (2, "realtime", "new@x"),
        (3, "realtime", "older@x"),
        (4, "batch", "batch-only@x"),
        (5, "realtime", "realtime-only@x"),
    ]);
    let fitting = |ran: &Ran| -> Vec<String> {
        assert_eq!(ran.status, 5, "{}", ran.stderr);
        ran.stdout.lines().map(String::from).collect()
    };
    let all = view(&place, &[]);
    assert_eq!(fitting(&all).len(), expected.len());
    for said in [
        "1 row of the real-time store is not listed, because the key is not of the type uuid: text",
        "abc",
        "1 row of the batch store is not listed, because the key is not of the type uuid: blob of 17 bytes",
    ] {
        assert!(all.stderr.contains(said), "{}", all.stderr);
    }
    // Without the misfits, the same rows in pages; with a condition, only the misfits that it is about.
    let (mut pages, mut told) = (Vec::new(), Vec::new());
    let mut cursor: Option<String> = None;
    loop {
        let after = cursor.iter().flat_map(|c| ["--after", c]);
        let args: Vec<&str> = ["--limit", "2"].into_iter().chain(after).collect();
        let page = view(&place, &args);
        told.push(page.stderr.matches("not listed, because the key").count());
        let text =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["row"]["email"].clone();
        pages.extend(page.stdout.lines().map(text));
        let said = page.stderr.split("--after ").nth(1);
        let Some(next) = said.and_then(|said| said.split(' ').next()) else {
            break;
        };
        cursor = Some(next.into());
    }
    let emails: Vec<&str> = expected.iter().map(|(.., email)| &**email).collect();
    assert_eq!(pages, emails);
    // The text of the real-time store is before all keys in the order, the longer blob among them: each is told once.
    assert_eq!(told.iter().sum::<usize>(), 2, "{told:?}");
    let by_condition = view(&place, &["--where", "email=new@x"]);
    assert_eq!(shown(&by_condition), rows(&[(2, "realtime", "new@x")]));
    let misfit = view(&place, &["--where", "email=before-the-boundary@x"]);
    assert_eq!(fitting(&misfit).len(), 0);
    // With a boundary, the batch store's rows are all read, and its misfits count if they have the wanted values.
    let boundary = ["--boundary", "2026-11-01"];
    for (condition, status) in [("email=new@x", 0), (&*format!("email={batch_misfit}"), 5)] {
        let ran = view(&place, &[&["--where", condition], &boundary[..]].concat());
        assert_eq!(ran.status, status, "{condition}: {}", ran.stderr);
    }
}

#[test]
fn pages_continue_behind_their_last_row_with_the_same_boundary() {
    let place = place();
    let whole = shown(&view(&place, &[]));
    let mut cursor: Option<String> = None;
    let mut pages = Vec::new();
    loop {
        let after = cursor.iter().flat_map(|c| ["--after", c]);
        let args: Vec<&str> = ["--limit", "2"].into_iter().chain(after).collect();
        let page = view(&place, &args);
        pages.extend(shown(&page));
        let said = page.stderr.split("--after ").nth(1);
        let Some(next) = said.and_then(|said| said.split(' ').next()) else {
            break;
        };
        cursor = Some(next.into());
        if pages.len() == 2 {
            // A load that ends in the middle moves the boundary, but not that of the listing.
            load(&place, &[user(1, 40, "later@x"), user(9, 40, "added@x")]);
        }
    }
    let added = rows(&[(9, "batch", "added@x")]);
    assert_eq!(pages, [&whole[..], &added].concat());
    let other = view(&place, &["--after", &cursor.unwrap(), "--where", "email=a"]);
    assert_eq!(other.status, 2);
    assert!(
        other.stderr.contains("with other conditions"),
        "{}",
        other.stderr
    );
}

#[test]
fn what_cannot_be_asked_is_a_usage_error_that_says_what_can() {
    let place = Place::ready();
    for (args, message) in [
        (&["--where", "sex=f"][..], "unknown field `sex`"),
        (&["--where", "dob=soon"], "is not a value of dob"),
        (&["7"], "`7` is not a value of id"),
        (&["--after", "x"], "invalid cursor `x`"),
        (&["--limit", "0"], "0 is not in 1.."),
        (&["--boundary", "soon"], "invalid time `soon`"),
        (
            &["--boundary", "9999-12-31"],
            "invalid time `9999-12-31`; the last one is 9999-12-30T",
        ),
        (&["-5"], "`-5` is not a value of id"),
        (&["x", "--limit", "3"], "cannot be used with"),
    ] {
        let ran = view(&place, args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(shown(&view(&place, &[])), rows(&[]));
    let nowhere = Place::new();
    let ran = view(&nowhere, &[]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("rtp init"), "{}", ran.stderr);
}
