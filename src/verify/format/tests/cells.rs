//! Formats that are tables of cells: data must stay in its cell.

use super::*;

/// The records of CSV, as its most common reader takes them.
fn records(text: &str) -> Vec<Vec<String>> {
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let records = reader.records().map(|record| record.unwrap());
    records
        .map(|r| r.iter().map(String::from).collect())
        .collect()
}

#[test]
fn csv_is_one_table_without_formulas() {
    let mut d = document();
    let formulas = [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "-inf",
        "=\"a\",b",
    ];
    d.samples = formulas
        .iter()
        .map(|key| SampleDocument {
            key: (*key).into(),
            ..SampleDocument::default()
        })
        .collect();
    let all = records(&written(Format::Csv, &d));
    let keys: Vec<&str> = all
        .iter()
        .filter(|r| r[0] == "sample")
        .map(|r| r[4].as_str())
        .collect();
    let expected = [
        "'=1+1",
        "'+cmd|' /C calc'!A0",
        "'-2+3",
        "'@SUM(A1)",
        "'\\t=1",
        "'\\u{d}=1",
        "'-inf",
        "'=\"a\",b",
    ];
    assert_eq!(keys, expected);
    d.samples.truncate(1);
    for number in ["-5", "+1.5", "007", "-.5"] {
        d.samples[0].key = number.into();
        let all = records(&written(Format::Csv, &d));
        assert_eq!(all.last().unwrap()[4], number);
    }
    let all = records(&written(Format::Csv, &document()));
    let row = |about: &str, n: usize| -> Vec<String> {
        all.iter().filter(|r| r[0] == about).nth(n).unwrap()[1..].to_vec()
    };
    assert_eq!(all[0][..4], ["verdict", "DIFFER", "", "yes"]);
    assert_eq!(row("class", 0)[..3], ["in_flight", "1234", "no"]);
    assert_eq!(row("class", 1)[7], "loaded, and nowhere else");
    assert_eq!(row("column", 0), ["", "3", "", "", "email", "", "", ""]);
    let sample = [
        "in_flight",
        "",
        "",
        "k1",
        "email",
        "a@x",
        "null",
        "partition 0, offset 7, committed 5",
    ];
    assert_eq!(row("sample", 0), sample);
    // Hostile data stays in its cell.
    assert!(
        records(&written(Format::Csv, &hostile()))
            .iter()
            .all(|r| r.len() == 9)
    );
}

/// The cells of a row of a Markdown table: `|` ends one, unless a backslash stands before it.
fn cells(line: &str) -> usize {
    let bars = line
        .char_indices()
        .filter(|(i, c)| *c == '|' && !line[..*i].ends_with('\\'));
    bars.count() - 1
}

#[test]
fn markdown_keeps_hostile_data_in_its_cell() {
    let text = written(Format::Markdown, &hostile());
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
    let mut width = 0;
    for (i, row) in rows.iter().enumerate() {
        let is_heading = rows.get(i + 1).is_some_and(|next| next.contains("---"));
        if is_heading {
            width = cells(row);
        }
        assert_eq!(cells(row), width, "{row}");
    }
    let sentence = text.lines().next().unwrap();
    assert!(sentence.contains("&lt;script>"), "{sentence}");
    assert!(!sentence.contains("<script"), "{sentence}");
    for escaped in ["\\|", "\\`", "\\*", "\\_", "\\[", "\\@all", "&amp;amp;"] {
        assert!(sentence.contains(escaped), "{escaped}: {sentence}");
    }
    // The fence is longer than the run of backticks in the data.
    let sample = rows.last().unwrap();
    assert!(
        sample.contains("```") && !sample.contains("````"),
        "{sample}"
    );

    let text = written(Format::Markdown, &document());
    assert!(
        text.starts_with("**DIFFER**: 2 rows of realtime.users are lost\n"),
        "{text}"
    );
    assert!(
        text.contains("| `lost` | 2 | yes | loaded, and nowhere else |"),
        "{text}"
    );
    assert!(
        text.contains("| `in_flight` | `k1` | `email` | `a@x` | `null` |"),
        "{text}"
    );
}
