//! Nothing fails in silence: every place in src/ where the code goes on after a failure, or looks as if it did, is in
//! tests/it/silence.txt with the reason why nothing is lost there. `RTP_BLESS=1 cargo test --test it silence` adds new
//! places with the reason `?`, which has to be replaced, and removes those that are gone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::common::sources;

/// What passes over an error, or replaces it with a default. Many of these are of an `Option`, where nothing has failed;
/// the text does not show that, so they are listed, too.
const PASSES_OVER: &[&str] = &[
    ".ok()",
    ".err()",
    ".unwrap_or(",
    ".unwrap_or_else(",
    ".unwrap_or_default()",
    ".map_or(",
    ".map_or_else(",
    ".is_ok()",
    ".is_err()",
    ".is_ok_and(",
    ".is_err_and(",
    ".flatten()",
    "Result::ok",
    "let _ =",
    "drop(",
    "let Ok(",
    "let Err(",
    "Err(_)",
    "Err(..)",
];

/// How an arm of a `match` begins that does nothing, or says that all is well, on the right of its arrow.
const GOES_ON: &[&str] = &[
    "{}", "()", "Ok(", "None", "true", "false", "break", "continue", "return,",
];

/// The reason of a place that has none yet.
const UNKNOWN: &str = "?";

/// A file below the project's folder, and the code of the place.
type Place = (String, String);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn list() -> PathBuf {
    root().join("tests/it/silence.txt")
}

/// Whether an arm of a `match` takes an error and does not pass it on, or takes everything else and goes on.
fn goes_on(code: &str) -> bool {
    let Some((pattern, body)) = code.split_once(" => ") else {
        return code.contains("Err(") && code.ends_with(" =>");
    };
    let says_all_is_well = GOES_ON.iter().any(|with| body.starts_with(with));
    let pattern = pattern.split(" if ").next().unwrap();
    let takes_errors = pattern.contains("Err(") && !body.contains("Err(");
    let takes_the_rest = pattern == "_" || pattern.contains("(_)");
    body.starts_with("{}") || takes_errors || takes_the_rest && says_all_is_well
}

/// The places of a file's text, without comments and tests. A line that continues a chain of calls, or a condition, is
/// shown with the lines before it.
fn places(text: &str) -> Vec<String> {
    let text = text.split("\n#[cfg(test)]\n").next().unwrap();
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("//")).collect();
    let goes_on_with = |at: usize| {
        let is_whole =
            lines[at - 1].is_empty() || lines[at - 1].ends_with(['{', '}', ';', ',', '(', '[']);
        let continues = ["&& ", "|| ", "| ", "if "]
            .iter()
            .any(|with| lines[at].starts_with(with));
        lines[at].starts_with('.') || !is_whole && continues
    };
    let shown = |at: usize| {
        let continued = (0..at).rev().take_while(|i| goes_on_with(i + 1));
        lines[continued.last().unwrap_or(at)..=at].join(" ")
    };
    let is_place = |at: &usize| {
        let code = |line: &str| line.split(" // ").next().unwrap().to_string();
        let line = code(lines[*at]);
        let is_own_drop = line.starts_with("fn drop(");
        !is_own_drop
            && (PASSES_OVER.iter().any(|what| line.contains(what)) || goes_on(&code(&shown(*at))))
    };
    (0..lines.len()).filter(is_place).map(shown).collect()
}

/// Every place, and how often it is there. The suites in ports/conformance are tests themselves.
fn found() -> BTreeMap<Place, usize> {
    let mut paths = Vec::new();
    sources(&root().join("src"), &mut paths);
    let mut found = BTreeMap::new();
    for path in paths {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        if name.starts_with("src/ports/conformance/") {
            continue;
        }
        for code in places(&std::fs::read_to_string(&path).unwrap()) {
            *found.entry((name.clone(), code)).or_default() += 1;
        }
    }
    found
}

/// The places of a listing with their reasons: a file at the start of a line, its places below, each with its reasons
/// below that, one for each time that the place is there.
fn listed(text: &str) -> BTreeMap<Place, Vec<String>> {
    let mut listed: BTreeMap<Place, Vec<String>> = BTreeMap::new();
    let (mut file, mut code) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words = line.trim().to_string();
        match line.len() - line.trim_start().len() {
            0 => file = words,
            2 => code = words,
            _ => listed
                .entry((file.clone(), code.clone()))
                .or_default()
                .push(words),
        }
    }
    listed
}

/// What is wrong with a listing, and what to do about it.
fn mistakes(found: &BTreeMap<Place, usize>, listed: &BTreeMap<Place, Vec<String>>) -> Vec<String> {
    let mut mistakes = Vec::new();
    for ((file, code), times) in found {
        let reasons = listed
            .get(&(file.clone(), code.clone()))
            .map_or(&[][..], Vec::as_slice);
        let known = reasons.iter().filter(|reason| *reason != UNKNOWN).count();
        if known < *times {
            mistakes.push(format!(
                "{file} goes on after a failure, without a reason: {code}\n  Return the error, or say it. If nothing \
                 is lost, say why in tests/it/silence.txt ({times} times there, {known} reasons); RTP_BLESS=1 adds the place."
            ));
        }
    }
    for ((file, code), reasons) in listed {
        let times = found
            .get(&(file.clone(), code.clone()))
            .copied()
            .unwrap_or(0);
        if reasons.len() > times {
            mistakes.push(format!(
                "tests/it/silence.txt gives {} reasons for {code}, which is {times} times in {file}; RTP_BLESS=1 \
                 removes what is gone.",
                reasons.len()
            ));
        }
    }
    mistakes
}

/// The listing of these places, with the known reasons.
fn listing(
    head: &str,
    found: &BTreeMap<Place, usize>,
    known: &BTreeMap<Place, Vec<String>>,
) -> String {
    let mut text = head.to_string();
    let mut last = "";
    for (place, times) in found {
        let (file, code) = place;
        if file != last {
            writeln!(text, "\n{file}").unwrap();
            last = file;
        }
        writeln!(text, "  {code}").unwrap();
        let reasons = known.get(place).map_or(&[][..], Vec::as_slice);
        for i in 0..*times {
            let reason = reasons.get(i).map_or(UNKNOWN, String::as_str);
            writeln!(text, "    {reason}").unwrap();
        }
    }
    text
}

#[test]
fn nothing_fails_in_silence() {
    let (text, found) = (std::fs::read_to_string(list()).unwrap(), found());
    let listed = listed(&text);
    if std::env::var_os("RTP_BLESS").is_some() {
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let head: String = head.map(|line| format!("{line}\n")).collect();
        std::fs::write(list(), listing(&head, &found, &listed)).unwrap();
    }
    let mistakes = mistakes(&found, &listed);
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// Each way to go on after a failure is seen, and none that passes the error on.
#[test]
fn arms_that_go_on_after_a_failure_are_seen() {
    let silent = [
        "Err(e) if e.kind() == NotFound => {}",
        "Err(_) => {",
        "Err(e) => log(e),",
        "Ok(Err(_)) => true,",
        "(Err(_), Err(_)) => a == b,",
        "_ => Ok(()),",
        "_ => None,",
        "Some(_) => {}",
        "if let Err(e) = save() {",
        "saved.err()",
    ];
    for code in silent {
        assert_eq!(places(&format!("match x {{\n{code}\n}}")), [code]);
    }
    for code in [
        "Err(e) => return Err(e),",
        "Err(e) => Err(e.into()),",
        "_ => unreachable(),",
        "Ok(x) => x,",
    ] {
        assert_eq!(
            places(&format!("match x {{\n{code}\n}}")),
            [""; 0],
            "{code}"
        );
    }
    let split =
        "match x {\n    Err(e)\n        if e.is_retriable()\n            && now < until => {}\n}";
    assert_eq!(
        places(split),
        ["Err(e) if e.is_retriable() && now < until => {}"]
    );
}

/// The check above can fail.
#[test]
fn a_place_without_a_reason_and_a_reason_without_a_place_are_seen() {
    let text = "fn f() {\n    // .ok() in a comment\n    one\n        .send()\n        .ok();\n    two.ok();\n    two.ok();\n}\n\
                impl Drop for X {\n    fn drop(&mut self) {} // drop(x)\n}\n#[cfg(test)]\nmod tests { x.ok() }";
    assert_eq!(
        places(text),
        ["one .send() .ok();", "two.ok();", "two.ok();"]
    );
    let mut found = BTreeMap::new();
    for code in places(text) {
        *found.entry(("src/a.rs".to_string(), code)).or_default() += 1;
    }
    let empty = listing("# Head\n", &found, &BTreeMap::new());
    assert_eq!(mistakes(&found, &listed(&empty)).len(), 2, "{empty}");
    let told = empty.replace("    ?", "    nobody waits");
    assert_eq!(mistakes(&found, &listed(&told)), Vec::<String>::new());
    assert_eq!(listing("# Head\n", &found, &listed(&told)), told);
    let one_less = told.replacen("    nobody waits\n", "", 1);
    assert_eq!(mistakes(&found, &listed(&one_less)).len(), 1, "{one_less}");
    found.retain(|(_, code), _| code.starts_with("two"));
    let stale = mistakes(&found, &listed(&told));
    assert_eq!(stale.len(), 1, "{stale:?}");
    assert!(
        stale[0].contains("one .send() .ok();, which is 0 times in src/a.rs"),
        "{stale:?}"
    );
}
