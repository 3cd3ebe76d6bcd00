//! Formats that are markup: what is in the data must not become any.

use super::*;

#[test]
fn html_is_one_page_without_scripts_or_other_files() {
    let text = written(Format::Html, &hostile());
    let lower = text.to_lowercase();
    for forbidden in [
        "<script", "<img", "<link", "http:", "https:", "src=", "url(", "@import", "onerror",
    ] {
        assert!(!lower.contains(forbidden), "{forbidden}");
    }
    assert!(lower.contains("&lt;script&gt;"));
    assert!(lower.contains("default-src 'none'") && lower.contains("@media print"));
    // With its first line and the tags that need no end left out, it is well-formed XML: every element ends, in order.
    let body = text.split_once("</head>").unwrap().1;
    let body = body.trim_end().strip_suffix("</html>").unwrap();
    let page = roxmltree::Document::parse(body.trim()).unwrap();
    let count = |name: &str| page.descendants().filter(|n| n.has_tag_name(name)).count();
    assert_eq!(count("table"), 4);
    let cells: Vec<&str> = page
        .descendants()
        .filter(|n| n.has_tag_name("td"))
        .filter_map(|n| n.text())
        .collect();
    assert!(
        cells
            .iter()
            .any(|cell| cell.contains("<script>alert('x')</script>")),
        "{cells:?}"
    );
}

/// The parts of the two common schemas of JUnit's XML: the attributes that must be there, those that may be there, and the
/// order of the elements.
fn check_junit(text: &str) -> (usize, Vec<String>) {
    let document = roxmltree::Document::parse(text).unwrap();
    let suites = document.root_element();
    assert_eq!(suites.tag_name().name(), "testsuites");
    let elements = |node: roxmltree::Node<'_, '_>| -> Vec<String> {
        let children = node.children().filter(|child| child.is_element());
        children
            .map(|child| child.tag_name().name().to_string())
            .collect()
    };
    assert_eq!(elements(suites), ["testsuite"]);
    let suite = suites.first_element_child().unwrap();
    let attributes = |node: roxmltree::Node<'_, '_>| -> Vec<String> {
        node.attributes().map(|a| a.name().to_string()).collect()
    };
    let known = [
        "id",
        "package",
        "name",
        "timestamp",
        "hostname",
        "tests",
        "failures",
        "errors",
        "skipped",
        "time",
    ];
    assert_eq!(attributes(suite), known);
    let number = |name: &str| suite.attribute(name).unwrap().parse::<f64>().unwrap();
    let timestamp = suite.attribute("timestamp").unwrap();
    assert!(
        timestamp.len() == 19 && timestamp.as_bytes()[10] == b'T',
        "{timestamp}"
    );
    let mut order = elements(suite);
    order.dedup();
    assert_eq!(
        order,
        ["properties", "testcase", "system-out", "system-err"]
    );
    let cases: Vec<_> = suite
        .children()
        .filter(|c| c.has_tag_name("testcase"))
        .collect();
    assert_eq!(number("tests") as usize, cases.len());
    let mut failed = Vec::new();
    for case in &cases {
        assert_eq!(attributes(*case), ["classname", "name", "time"]);
        assert!(elements(*case).iter().all(|name| name == "failure"));
        if let Some(failure) = case.first_element_child() {
            assert_eq!(attributes(failure), ["type", "message"]);
            failed.push(case.attribute("name").unwrap().to_string());
        }
    }
    assert_eq!(number("failures") as usize, failed.len());
    assert_eq!(
        (number("errors") as usize, number("skipped") as usize),
        (0, 0)
    );
    (cases.len(), failed)
}

#[test]
fn junit_has_a_case_for_each_class_and_fails_as_they_do() {
    let text = written(Format::Junit, &document());
    assert_eq!(check_junit(&text), (3, vec!["lost".to_string()]));
    let parsed = roxmltree::Document::parse(&text).unwrap();
    let texts = |tag: &str| -> String {
        let nodes = parsed.descendants().filter(|n| n.has_tag_name(tag));
        nodes.filter_map(|n| n.text()).collect()
    };
    assert_eq!(texts("failure"), "k2: users.ndjson:12\n");
    let out = texts("system-out");
    assert!(
        out.contains("in_flight: 1,234 keys: produced, and not yet streamed\n"),
        "{out}"
    );
    assert!(
        out.contains("k1: email is a@x in real time, null in batch: partition 0"),
        "{out}"
    );
    assert!(!out.contains("lost:"), "{out}");
    let suite = parsed
        .descendants()
        .find(|n| n.has_tag_name("testsuite"))
        .unwrap();
    assert_eq!(suite.attribute("time"), Some("5.250"));

    let text = written(Format::Junit, &hostile());
    let (cases, failed) = check_junit(&text);
    assert_eq!((cases, failed.len()), (4, 2));
}

#[test]
fn junit_has_a_case_for_what_no_class_says() {
    let mut d = document();
    d.problems = vec![HOSTILE.into(), "1 bad record".into()];
    let text = written(Format::Junit, &d);
    let (cases, failed) = check_junit(&text);
    assert_eq!((cases, failed.len()), (4, 2), "{text}");
    assert!(text.contains("; 1 bad record"), "{text}");
    d.verdict.agrees = true;
    d.verdict.classes.clear();
    assert_eq!(check_junit(&written(Format::Junit, &d)), (3, vec![]));
}

#[test]
fn junit_never_passes_a_verdict_that_says_no() {
    let mut d = document();
    d.verdict.classes.remove("lost");
    let text = written(Format::Junit, &d);
    assert_eq!(check_junit(&text), (4, vec!["verdict".to_string()]));
    d.verdict.agrees = true;
    assert_eq!(check_junit(&written(Format::Junit, &d)), (3, vec![]));
}

#[test]
fn a_class_that_nobody_declared_is_shown_and_fails() {
    let mut d = document();
    d.verdict.classes.insert("new".into(), 7);
    for format in FORMATS {
        let text = written(format, &d);
        assert!(
            text.contains("a class without a description"),
            "{format:?}: {text}"
        );
    }
    let (_, failed) = check_junit(&written(Format::Junit, &d));
    assert_eq!(failed, ["lost", "new"]);
}
