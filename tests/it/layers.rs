//! Dependencies: the arrows between the rooms of src/ are those of ARCHITECTURE.md, and each driver is used only in
//! the rooms named there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common::sources;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A room and what it uses, or a crate and where it is used.
type Map = BTreeMap<String, BTreeSet<String>>;

/// The lines `NAME -> NAME NAME …` of the block of ARCHITECTURE.md that starts with this word.
fn declared(block: &str) -> Map {
    let text = std::fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let start = format!("```{block}\n");
    let (_, rest) = text
        .split_once(&start)
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has no block {start:?}"));
    let (block, _) = rest.split_once("```").unwrap();
    let line = |line: &str| {
        let (name, known) = line.split_once("->").unwrap_or((line, ""));
        let known = known.split_whitespace().map(str::to_string);
        (name.trim().to_string(), known.collect())
    };
    block.lines().map(line).collect()
}

/// Each file of src/ by its path there, without comments and unit tests.
fn code() -> BTreeMap<String, String> {
    let src = Path::new(ROOT).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let file = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("\n#[cfg(test)]\n").next().unwrap();
        let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let name = path.strip_prefix(&src).unwrap().display().to_string();
        (name, lines.collect::<Vec<_>>().join("\n"))
    };
    paths.into_iter().map(file).collect()
}

/// The room of a file: its folder, or its own name.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The names that follow `prefix` in a text, unless `prefix` is the end of a longer name.
fn names_after<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(|c| is_word(c) || c == ':'))
        .flat_map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap(),
                None => rest.split(|c: char| !is_word(c)).next().unwrap(),
            };
            list.split(',').map(|name| {
                let name = name.trim();
                name.split(|c: char| !is_word(c)).next().unwrap()
            })
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// The arrows that the code has.
fn arrows(code: &BTreeMap<String, String>) -> Map {
    let mut arrows = Map::new();
    for (file, text) in code {
        let known = names_after(text, "crate::").into_iter();
        let known = known.filter(|name| *name != room(file)).map(str::to_string);
        arrows
            .entry(room(file).to_string())
            .or_default()
            .extend(known);
    }
    arrows
}

/// The differences between the existing and the allowed arrows, for people.
fn differences(are: &Map, may_be: &Map) -> Vec<String> {
    let none = BTreeSet::new();
    let rooms: BTreeSet<&String> = are.keys().chain(may_be.keys()).collect();
    let mut out = Vec::new();
    for room in rooms {
        let (is, may) = (are.get(room), may_be.get(room));
        if is.is_none() || may.is_none() {
            let place = if is.is_none() {
                "src/"
            } else {
                "ARCHITECTURE.md"
            };
            out.push(format!("{room} is not in {place}"));
            continue;
        }
        let (is, may) = (is.unwrap_or(&none), may.unwrap_or(&none));
        let extra = is
            .difference(may)
            .map(|to| format!("{room} -> {to} is not allowed"));
        out.extend(extra);
        let unused = may
            .difference(is)
            .map(|to| format!("{room} -> {to} is allowed, and not there"));
        out.extend(unused);
    }
    out
}

/// Repeatedly removes rooms that use only removed ones. Returns what is left: nothing, unless there is a cycle.
fn circle(arrows: &Map) -> BTreeSet<String> {
    let mut left = arrows.clone();
    loop {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, known)| known.iter().all(|room| !left.contains_key(room)))
            .map(|(room, _)| room.clone())
            .collect();
        if free.is_empty() {
            return left.into_keys().collect();
        }
        for room in free {
            left.remove(&room);
        }
    }
}

#[test]
fn rooms_know_whom_architecture_md_allows() {
    let arrows = arrows(&code());
    let differences = differences(&arrows, &declared("rooms"));
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(
        circle(&arrows),
        BTreeSet::new(),
        "these know one another in a circle"
    );
}

#[test]
fn drivers_stand_where_architecture_md_says() {
    let code = code();
    let mut wrong = Vec::new();
    for (driver, places) in declared("drivers") {
        let mut unused = places.clone();
        for (file, text) in &code {
            let uses = [format!("{driver}::"), format!("::{driver}::")];
            if uses
                .iter()
                .all(|prefix| names_after(text, prefix).is_empty())
            {
                continue;
            }
            let place = places.iter().find(|place| file.starts_with(*place));
            match place {
                Some(place) => drop(unused.remove(place)),
                None => wrong.push(format!("{driver} in src/{file}")),
            }
        }
        wrong.extend(
            unused
                .iter()
                .map(|place| format!("no {driver} in src/{place}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The checks above can fail.
#[test]
fn a_wrong_arrow_a_circle_and_a_stray_driver_are_seen() {
    let file = |name: &str, text: &str| (name.to_string(), text.to_string());
    let code = BTreeMap::from([
        file(
            "stream/mod.rs",
            "use crate::error::Result;\nuse crate::{ports::Offsets, servers};",
        ),
        file("servers/mod.rs", "fn f() { crate::stream::run() }"),
        file("ports.rs", "use mycrate::other;"),
        file("error.rs", ""),
    ]);
    let arrows = arrows(&code);
    let of = |room: &str| arrows[room].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("stream"), ["error", "ports", "servers"]);
    assert_eq!(of("ports"), Vec::<&str>::new());
    let set = |names: &[&str]| {
        names
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(circle(&arrows), set(&["servers", "stream"]));
    let may_be = Map::from([
        ("stream".to_string(), set(&["error", "ports", "run"])),
        ("servers".to_string(), set(&["stream"])),
        ("ports".to_string(), set(&[])),
    ]);
    let told = differences(&arrows, &may_be);
    let expected = [
        "error is not in ARCHITECTURE.md",
        "stream -> servers is not allowed",
        "stream -> run is allowed, and not there",
    ];
    assert_eq!(told, expected);
    assert_eq!(
        names_after("use rdkafka::client::Client;", "rdkafka::"),
        ["client"]
    );
    assert!(names_after("use not_rdkafka::x;", "rdkafka::").is_empty());
    assert!(names_after("crate::servers::postgres::x", "postgres::").is_empty());
}
