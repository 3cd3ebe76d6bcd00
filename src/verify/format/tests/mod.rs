//! Every format, with ordinary and with hostile data.

mod cells;
mod markup;

use std::collections::BTreeMap;

use super::*;

/// What data may hold to become something else: a command of a terminal, markup, a table's cell, a formula.
const HOSTILE: &str = "\u{1b}[2J\r\n\0\t\u{9b}1m\u{202e}]]>|`` `<script>alert('x')</script>&amp;\"*_[a](b)\\|@all\u{fffe}";

const FORMATS: [Format; 6] = [
    Format::Table,
    Format::Json,
    Format::Csv,
    Format::Markdown,
    Format::Html,
    Format::Junit,
];

fn class(name: &str, meaning: &str, fails: bool) -> ClassDocument {
    ClassDocument {
        name: name.into(),
        meaning: meaning.into(),
        fails,
    }
}

/// A verdict with a class that fails and one that does not.
fn document() -> VerdictDocument {
    let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs.iter().map(|(n, c)| ((*n).into(), *c)).collect()
    };
    VerdictDocument {
        verdict: Verdict {
            run_id: "run-1".into(),
            started_at: 1_767_225_600_000,
            ended_at: 1_767_225_605_250,
            agrees: false,
            rows: [1_000_000, 999_999],
            classes: counts(&[("in_flight", 1_234), ("lost", 2)]),
            columns: counts(&[("email", 3)]),
            samples: BTreeMap::new(),
            options: vec!["--tolerance price=0.01".into()],
        },
        problems: Vec::new(),
        scope: ScopeDocument::default(),
        series: vec![SeriesDocument {
            table: "realtime.by_hour".into(),
            agrees: false,
            keys: 5,
            rows: 7,
            differences: [1, 2, 3],
        }],
        landing: Some(LandingDocument {
            records: 4,
            rejected: 1,
        }),
        sentence: "2 rows of realtime.users are lost".into(),
        dataset: "users".into(),
        stores: [
            StoreDocument {
                address: "cassandra://db:9042".into(),
                table: "realtime.users".into(),
            },
            StoreDocument {
                address: "postgres://me@db/rtp".into(),
                table: "batch_users".into(),
            },
        ],
        boundary: Ok(Some(1_767_225_500_000)),
        grace: Duration::from_millis(1_500),
        classes: vec![
            class("in_flight", "produced, and not yet streamed", false),
            class("lost", "loaded, and nowhere else", true),
            class("duplicate", "more than once in a store", true),
        ],
        samples: vec![
            SampleDocument {
                class: "in_flight".into(),
                key: "k1".into(),
                column: Some("email".into()),
                values: [Some("a@x".into()), None],
                evidence: "partition 0, offset 7, committed 5".into(),
            },
            SampleDocument {
                class: "lost".into(),
                key: "k2".into(),
                evidence: "users.ndjson:12".into(),
                ..SampleDocument::default()
            },
        ],
    }
}

/// The same with hostile text wherever data stands.
fn hostile() -> VerdictDocument {
    let mut d = document();
    let text = || HOSTILE.to_string();
    d.sentence = text();
    d.dataset = text();
    d.verdict.run_id = text();
    d.verdict.options = vec![text()];
    d.scope = ScopeDocument {
        name: "against",
        files: vec![text()],
    };
    d.series[0].table = text();
    d.verdict.columns = BTreeMap::from([(text(), 1)]);
    d.verdict.classes.insert(text(), 5);
    d.classes.push(class(HOSTILE, HOSTILE, true));
    for store in &mut d.stores {
        (store.address, store.table) = (text(), text());
    }
    for class in ["in_flight", "lost", HOSTILE] {
        d.samples.push(SampleDocument {
            class: class.into(),
            key: text(),
            column: Some(text()),
            values: [Some(text()), Some(String::new())],
            evidence: text(),
        });
    }
    d
}

fn written(format: Format, document: &VerdictDocument) -> String {
    let mut out = Vec::new();
    format.write(document, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Control characters but for the newline, and those that turn the direction of text.
fn is_control(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[test]
fn the_verdict_stands_first_in_every_format() {
    for agrees in [true, false] {
        let mut d = document();
        d.verdict.agrees = agrees;
        let (word, other) = match agrees {
            true => ("AGREE", "DIFFER"),
            false => ("DIFFER", "AGREE"),
        };
        for format in FORMATS {
            let text = written(format, &d);
            let verdict = text.find(&d.sentence).unwrap();
            for later in ["in_flight", "realtime.users in", "999", "email"] {
                let is_first = text[..verdict].contains(later);
                assert!(!is_first, "{format:?}: {later} comes first in {text}");
            }
            let head = &text[..verdict];
            let says = match format {
                Format::Json => head.contains(&format!("\"agrees\":{agrees}")),
                _ => head.contains(word) && !head.contains(other),
            };
            assert!(says, "{format:?}: {head}");
        }
    }
}

#[test]
fn no_control_character_gets_into_any_format() {
    let d = hostile();
    for format in FORMATS {
        let text = written(format, &d);
        let found: Vec<char> = text.chars().filter(|c| is_control(*c)).collect();
        assert!(found.is_empty(), "{format:?}: {found:?}");
    }
    // Nor does hostile data add a line: it has one where ordinary data has one.
    let mut tame = hostile();
    for text in [
        &mut tame.sentence,
        &mut tame.dataset,
        &mut tame.verdict.run_id,
    ] {
        *text = "x".into();
    }
    for sample in &mut tame.samples {
        (sample.key, sample.evidence) = ("x".into(), "x".into());
        sample.column = Some("x".into());
    }
    for format in FORMATS {
        let lines = |d| written(format, d).lines().count();
        assert_eq!(lines(&d), lines(&tame), "{format:?}");
    }
}

#[test]
fn the_table_is_aligned_and_says_everything() {
    let expected = "\
DIFFER: 2 rows of realtime.users are lost

dataset               users
scope                 all rows
options               --tolerance price=0.01
real-time store       realtime.users in cassandra://db:9042: 1,000,000 rows
batch store           batch_users in postgres://me@db/rtp: 999,999 rows
newest loaded record  2025-12-31T23:58:20.000Z
grace                 1.5 s
began                 2026-01-01T00:00:00.000Z
ended                 2026-01-01T00:00:05.250Z
run                   run-1

class       keys  fails  meaning
in_flight  1,234  no     produced, and not yet streamed
lost           2  yes    loaded, and nowhere else
duplicate      0  yes    more than once in a store

column  differing values
email                  3

class      key  column  real-time  batch  evidence
in_flight  k1   email   a@x        null   partition 0, offset 7, committed 5
lost       k2                             users.ndjson:12
";
    assert_eq!(written(Format::Table, &document()), expected);
    let mut agreed = document();
    agreed.verdict = Verdict {
        agrees: true,
        ..Verdict::default()
    };
    (agreed.samples, agreed.boundary) = (Vec::new(), Err("no answer".into()));
    let text = written(Format::Table, &agreed);
    let unknown = "newest loaded record  not known: no answer\n";
    assert!(text.contains(unknown), "{text}");
    agreed.boundary = Ok(None);
    let text = written(Format::Table, &agreed);
    assert!(
        text.contains("newest loaded record  nothing is loaded\n"),
        "{text}"
    );
    assert!(!text.contains("evidence"), "{text}");
}

#[test]
fn wide_and_long_cells_keep_the_columns_of_the_table() {
    let mut d = document();
    d.samples[0].key = "山田太郎e\u{301}".into();
    d.samples[1].key = "long ".repeat(50);
    let text = written(Format::Table, &d);
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|l| !l.contains("evidence"))
        .collect();
    // The wide key takes 9 columns, the long one 40.
    assert!(
        rows[1].contains(&format!("山田太郎e\u{301}{}email", " ".repeat(33))),
        "{text}"
    );
    assert!(
        rows[2].contains("long long long long long long long long…"),
        "{text}"
    );
}

#[test]
fn json_is_one_object_that_reads_back_as_it_was() {
    let d = hostile();
    let text = written(Format::Json, &d);
    assert_eq!(text.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["sentence"], HOSTILE);
    assert_eq!(json["realtime"]["store"], HOSTILE);
    assert_eq!(json["columns"][HOSTILE], 1);
    assert_eq!(json["samples"][2]["key"], HOSTILE);
    assert_eq!(json["samples"][2]["batch"], "");

    let json: serde_json::Value =
        serde_json::from_str(&written(Format::Json, &document())).unwrap();
    let expected = serde_json::json!({
        "agrees": false,
        "sentence": "2 rows of realtime.users are lost",
        "dataset": "users",
        "run_id": "run-1",
        "started_at": "2026-01-01T00:00:00.000Z",
        "ended_at": "2026-01-01T00:00:05.250Z",
        "realtime": {"store": "cassandra://db:9042", "table": "realtime.users", "rows": 1_000_000},
        "batch": {"store": "postgres://me@db/rtp", "table": "batch_users", "rows": 999_999},
        "boundary": "2025-12-31T23:58:20.000Z",
        "grace_seconds": 1.5,
        "classes": [
            {"name": "in_flight", "count": 1234, "fails": false, "meaning": "produced, and not yet streamed"},
            {"name": "lost", "count": 2, "fails": true, "meaning": "loaded, and nowhere else"},
            {"name": "duplicate", "count": 0, "fails": true, "meaning": "more than once in a store"},
        ],
        "columns": {"email": 3},
        "samples": [
            {"class": "in_flight", "key": "k1", "column": "email", "realtime": "a@x", "batch": null,
             "evidence": "partition 0, offset 7, committed 5"},
            {"class": "lost", "key": "k2", "column": null, "realtime": null, "batch": null,
             "evidence": "users.ndjson:12"},
        ],
        "problems": [],
        "scope": "all",
        "files": [],
        "options": ["--tolerance price=0.01"],
        "series": [
            {"table": "realtime.by_hour", "agrees": false, "keys": 5, "rows": 7, "missing": 1, "extra": 2, "changed": 3},
        ],
        "landing": {"records": 4, "bad_records": 1},
    });
    assert_eq!(json, expected);
}

#[test]
fn past_verdicts_are_a_table_and_json_in_their_order() {
    let verdict = document().verdict;
    let older = Verdict {
        agrees: true,
        ended_at: 1_767_139_205_000,
        rows: [5, 5],
        classes: BTreeMap::from([("lost".into(), 0)]),
        options: Vec::new(),
        ..verdict.clone()
    };
    let both = [verdict, older];
    let mut out = Vec::new();
    history_table(&both, &mut out).unwrap();
    let expected = "\
ended                     agree  real-time rows  batch rows  differing keys by class
2026-01-01T00:00:05.250Z  no          1,000,000     999,999  in_flight 1,234, lost 2; compared with --tolerance price=0.01
2025-12-31T00:00:05.000Z  yes                 5           5  none
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);

    let mut out = Vec::new();
    history_json(&both, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let verdicts = json["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), 2);
    assert_eq!(verdicts[0]["classes"]["in_flight"], 1_234);
    assert_eq!(verdicts[0]["columns"]["email"], 3);
    assert_eq!(verdicts[1]["agrees"], true);
    assert_eq!(verdicts[1]["ended_at"], "2025-12-31T00:00:05.000Z");

    let (mut table, mut json) = (Vec::new(), Vec::new());
    history_table(&[], &mut table).unwrap();
    history_json(&[], &mut json).unwrap();
    assert_eq!(table, b"no verdict has been kept yet\n");
    assert_eq!(json, b"{\"verdicts\":[]}\n");
}
