//! The figures of users, held against an independent count.

#![allow(clippy::print_stderr)] // how many figures were compared

use std::path::Path;
use std::process::Command;

use super::{Mock, Place, Ran};

/// Response bodies of the users' API in a folder `pages`: the recorded users, a thousand generated ones, and the pages
/// `page-*.json` in the folder that RTP_REAL_USERS names, if it is set.
pub fn user_pages(place: &Place) {
    let pages = place.path("pages");
    std::fs::create_dir(&pages).unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/randomuser");
    std::fs::copy(recorded.join("users.json"), pages.join("recorded.json")).unwrap();
    let mock = Mock::start(&[]);
    let args = ["fetch", "--raw", "--count", "1000", "--api"];
    let raw = place.rtp(&[&args[..], &[&mock.users()]].concat(), b"");
    assert_eq!(raw.status, 0, "{}", raw.stderr);
    let users: Vec<&str> = raw.stdout.lines().collect();
    let page = format!("{{\"results\":[{}]}}", users.join(","));
    std::fs::write(pages.join("generated.json"), page).unwrap();
    let Some(more) = std::env::var_os("RTP_REAL_USERS") else {
        return;
    };
    for page in std::fs::read_dir(more).unwrap() {
        let page = page.unwrap();
        let name = page.file_name().into_string().unwrap();
        if name.starts_with("page-") {
            std::fs::copy(page.path(), pages.join(name)).unwrap();
        }
    }
}

/// The dimension that the users dataset cannot have, because the API does not say when a record arrived.
const LATENESS: &str = r#"
[[aggregate]]
name = "lateness"
field = "arrived"
by = "lateness"

[[field]]
name = "arrived"
type = "timestamp"
from = "/arrived"
format = "epoch-ms"
"#;

/// When the users arrived that were fetched at this time, in milliseconds since 1970: as check_aggregates.py expects it.
fn with_arrival(events: &str, fetched: i64) -> String {
    const LATE: [Option<i64>; 13] = [
        Some(-1),
        Some(0),
        Some(999),
        Some(1_000),
        Some(59_999),
        Some(60_000),
        Some(599_999),
        Some(600_000),
        Some(3_599_999),
        Some(3_600_000),
        Some(86_399_999),
        Some(86_400_000),
        None,
    ];
    let arrived = |line: &str| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = event["id"].as_str().unwrap();
        let id = usize::from_str_radix(&id[..8], 16).unwrap();
        event["arrived"] = LATE[id % LATE.len()].map(|late| fetched + late).into();
        format!("{event}\n")
    };
    events.lines().map(arrived).collect()
}

/// Loads the users of [`user_pages`] into a store that it creates, computes their figures, twice, and compares them with an
/// independent count, of this users dataset with a lateness. The file of the dataset is `users.toml`.
pub fn figures_are_right(place: &Place, users: &str, store: &[&str]) {
    place.write("users.toml", users.to_string() + LATENESS);
    let with_store = |args: &[&str], input: &[u8]| {
        let args = [args, &["--dataset", "users.toml"], store].concat();
        let ran = place.rtp(&args, input);
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
        ran
    };
    with_store(&["init"], b"");
    user_pages(place);
    let api = format!("file://{}", place.path("pages").display());
    let fetched = place.rtp(
        &["fetch", "--api", &api, "--as-of", "2026-03-01T06:30:00Z"],
        b"",
    );
    assert_eq!(fetched.status, 0, "{}", fetched.stderr);
    let events = with_arrival(&fetched.stdout, 1_772_346_600_000);
    let loaded = with_store(&["load-batch"], events.as_bytes());
    assert!(loaded.counts()[1] >= 1_004, "{}", loaded.stderr);
    let day = ["aggregate", "--date", "2026-03-01"];
    let compute =
        |output: &str| with_store(&[&day[..], &["--output", output]].concat(), b"").counts();
    let [figures, written, ..] = compute("first.ndjson");
    assert!(figures > 50 && figures == written, "{figures} {written}");
    let check = |figures: &str, dataset: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_aggregates.py");
        let out = Command::new("python3")
            .arg(script)
            .args(["pages", figures, "2026-03-01", "06", dataset])
            .current_dir(place.root())
            .output();
        Ran::of(out.unwrap())
    };
    let right = check("first.ndjson", "users.toml");
    assert_eq!(right.status, 0, "{}{}", right.stdout, right.stderr);
    let told = format!(" users, {figures} figures of 7 dimensions are right");
    assert!(right.stdout.contains(&told), "{}", right.stdout);
    eprintln!("{}", right.stdout.trim_end());
    assert_eq!(compute("second.ndjson"), [figures, 0, 0, 0, figures]);
    let [first, second] = ["first.ndjson", "second.ndjson"]
        .map(|name| std::fs::read_to_string(place.path(name)).unwrap());
    assert_eq!(first, second, "a day that is computed again is not touched");
    // The check itself must be able to fail: for a missing figure and for a wrong one, and for a dimension that the dataset
    // does not declare, or that is not counted.
    let (line, rest) = first.split_once('\n').unwrap();
    place.write("missing.ndjson", rest);
    let wrong = line.replacen("\"count\":", "\"count\":1", 1);
    place.write("wrong.ndjson", first.replacen(line, &wrong, 1));
    place.write("fewer.toml", users);
    let more = LATENESS.replace("\"lateness\"\nfield", "\"more\"\nfield");
    place.write("more.toml", users.to_string() + LATENESS + &more);
    for (figures, dataset) in [
        ("missing.ndjson", "users.toml"),
        ("wrong.ndjson", "users.toml"),
        ("first.ndjson", "fewer.toml"),
        ("first.ndjson", "more.toml"),
    ] {
        let wrong = check(figures, dataset);
        let is_told = wrong.stdout.contains("expected");
        assert!(wrong.status == 1 && is_told, "{dataset}: {}", wrong.stdout);
    }
}
