//! Bad records grouped by rule and field, so that a run says what is wrong with its records, not only how many are.

use std::fmt;

use serde_json::{Value, json};

/// How many groups are shown to people; machines get all of them.
const MOST_SHOWN: usize = 10;

/// Where a bad record was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File or topic.
    pub source: String,
    /// 1-based line, in a file.
    pub line: Option<u64>,
    /// Partition, in a topic.
    pub partition: Option<i32>,
    /// Offset in the partition, or byte offset in the file.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        match (self.line, self.partition) {
            (Some(line), _) => write!(f, "{source} line {line}"),
            (None, Some(partition)) => {
                write!(f, "{source} partition {partition} offset {}", self.offset)
            }
            (None, None) => write!(f, "{source} offset {}", self.offset),
        }
    }
}

/// The bad records that broke one rule in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name of the rule.
    pub rule: &'static str,
    /// Name of the field; none if the fault is not in a single one.
    pub field: Option<String>,
    /// Number of records.
    pub count: u64,
    /// Where the first one is.
    pub first: Place,
    /// What was expected there.
    pub reason: String,
    /// The file or topic where they were written; none if they were not kept.
    pub to: Option<String>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = if self.count == 1 { "record" } else { "records" };
        write!(f, "rejected {} {records}: {}", self.count, self.rule)?;
        if let Some(field) = &self.field {
            write!(f, " in field {field}")?;
        }
        write!(f, ", first at {}: {}", self.first, self.reason)?;
        match &self.to {
            Some(to) => write!(f, "; written to {to}"),
            None => Ok(()),
        }
    }
}

impl Group {
    fn is_of(&self, rule: &str, field: Option<&str>) -> bool {
        self.rule == rule && self.field.as_deref() == field
    }

    fn json(&self) -> Value {
        let first = &self.first;
        let mut place = json!({"source": first.source, "offset": first.offset});
        if let Some(line) = first.line {
            place["line"] = line.into();
        }
        if let Some(partition) = first.partition {
            place["partition"] = partition.into();
        }
        json!({
            "rule": self.rule,
            "field": self.field,
            "count": self.count,
            "first": place,
            "reason": self.reason,
            "to": self.to,
        })
    }
}

/// Bad records by rule and field. There are few groups, because a dataset has few fields.
#[derive(Clone, Debug, Default)]
pub struct Groups(Vec<Group>);

impl Groups {
    /// Counts a bad record; `group` describes the group of which it is the first one.
    pub fn count(
        &mut self,
        rule: &'static str,
        field: Option<&str>,
        group: impl FnOnce() -> (Place, String, Option<String>),
    ) {
        if let Some(known) = self.0.iter_mut().find(|known| known.is_of(rule, field)) {
            known.count += 1;
            return;
        }
        let (first, reason, to) = group();
        self.0.push(Group {
            rule,
            field: field.map(String::from),
            count: 1,
            first,
            reason,
            to,
        });
    }

    /// Adds groups of records that come after these.
    pub fn merge(&mut self, later: &Groups) {
        for group in &later.0 {
            let field = group.field.as_deref();
            match self.0.iter_mut().find(|g| g.is_of(group.rule, field)) {
                Some(known) => known.count += group.count,
                None => self.0.push(group.clone()),
            }
        }
    }

    /// Whether no record is bad.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest groups for people, a line each, and how many records are in the others.
    pub fn lines(&self) -> Vec<String> {
        let sorted = self.sorted();
        let (shown, others) = sorted.split_at(sorted.len().min(MOST_SHOWN));
        let mut lines: Vec<String> = shown.iter().map(|group| group.to_string()).collect();
        if !others.is_empty() {
            let records: u64 = others.iter().map(|group| group.count).sum();
            let groups = others.len();
            lines.push(format!(
                "rejected {records} more records by {groups} further rules and fields; --log-format json lists them all"
            ));
        }
        lines
    }

    /// All groups for machines, the largest first.
    pub fn json(&self) -> Value {
        self.sorted().into_iter().map(Group::json).collect()
    }

    fn sorted(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.0.iter().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count)); // stable: then by their first record
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(bad: &[(&'static str, Option<&str>, u64)]) -> Groups {
        let mut groups = Groups::default();
        for (rule, field, line) in bad {
            groups.count(rule, *field, || {
                let first = Place {
                    source: "in".into(),
                    line: Some(*line),
                    partition: None,
                    offset: 0,
                };
                (first, "expected x".into(), Some("bad".into()))
            });
        }
        groups
    }

    #[test]
    fn records_are_grouped_by_rule_and_field_with_their_first_place() {
        let mut all = groups(&[("type", Some("a"), 1), ("type", None, 2)]);
        all.merge(&groups(&[
            ("type", None, 3),
            ("type", Some("b"), 4),
            ("type", None, 5),
        ]));
        assert_eq!(
            all.lines(),
            [
                "rejected 3 records: type, first at in line 2: expected x; written to bad",
                "rejected 1 record: type in field a, first at in line 1: expected x; written to bad",
                "rejected 1 record: type in field b, first at in line 4: expected x; written to bad",
            ]
        );
        assert_eq!(all.json()[0]["count"], 3);
        assert_eq!(
            all.json()[1],
            json!({
                "rule": "type", "field": "a", "count": 1, "reason": "expected x", "to": "bad",
                "first": {"source": "in", "line": 1, "offset": 0},
            })
        );
    }

    #[test]
    fn people_get_the_largest_groups_and_the_number_of_the_others() {
        const RULES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let bad: Vec<_> = RULES.iter().map(|rule| (*rule, None, 1)).collect();
        let mut all = groups(&bad);
        all.merge(&groups(&[("l", None, 2)]));
        let lines = all.lines();
        assert_eq!(lines.len(), MOST_SHOWN + 1);
        assert!(lines[0].starts_with("rejected 2 records: l"), "{lines:?}");
        assert!(
            lines[MOST_SHOWN].starts_with("rejected 2 more records by 2"),
            "{lines:?}"
        );
        assert_eq!(all.json().as_array().map(Vec::len), Some(12));
    }
}
