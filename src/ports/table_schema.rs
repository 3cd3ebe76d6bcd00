//! Whether a table that is already there fits the dataset: one comparison, and one message, for every store.

use std::fmt::Display;

use crate::error::{Error, Result};

/// What to do about a table that does not fit.
const KEPT: &str = "rtp changes no table that exists: alter it with a statement of its server, or drop it if its rows can be loaded again and run `rtp init`, or name another table in the dataset";

/// A table, as a store has it or as the dataset needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSchema {
    /// Its columns; a table that does not exist has none.
    pub columns: Vec<ColumnSchema>,
    /// What identifies a row: columns that are unique together. A store may enforce several such keys; the dataset
    /// needs one.
    pub keys: Vec<Vec<String>>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSchema {
    /// Its name.
    pub name: String,
    /// Its type, in the store's words.
    pub kind: String,
    /// Whether a row that is written needs a value for it.
    pub required: bool,
}

impl TableSchema {
    /// An error that lists every difference if this table, which is called `name` and is in `store`, cannot take
    /// the rows of the dataset. Columns that only the store has do no harm unless they need a value.
    pub fn check(&self, needed: &TableSchema, name: &str, store: &dyn Display) -> Result<()> {
        let mut differences: Vec<String> = Vec::new();
        for column in &needed.columns {
            differences.extend(match self.columns.iter().find(|c| c.name == column.name) {
                None => Some(format!("it has no column {}", column.name)),
                Some(there) => there.difference(column),
            });
        }
        for column in self.columns.iter().filter(|column| column.required) {
            if !needed.columns.iter().any(|c| c.name == column.name) {
                differences.push(format!(
                    "its column {} needs a value, but the dataset has no such field",
                    column.name
                ));
            }
        }
        if !needed.keys.iter().all(|key| self.keys.contains(key)) {
            differences.push(key_difference(&needed.keys, &self.keys));
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(does_not_fit(name, store, &differences.join("; "))),
        }
    }
}

impl ColumnSchema {
    /// A column for a field or for rtp itself.
    pub fn new(name: &str, kind: &str, required: bool) -> ColumnSchema {
        ColumnSchema {
            name: name.into(),
            kind: kind.into(),
            required,
        }
    }

    /// How it differs from what is needed, unless it can take every value.
    fn difference(&self, needed: &ColumnSchema) -> Option<String> {
        let name = &self.name;
        if self.kind != needed.kind {
            let (is, needs) = (&self.kind, &needed.kind);
            return Some(format!(
                "its column {name} has type {is}, but the dataset needs {needs}"
            ));
        }
        (self.required && !needed.required).then(|| {
            format!("its column {name} accepts no null, but the dataset does not require the field")
        })
    }
}

/// The error for something in a store that does not fit the dataset.
pub fn does_not_fit(table: &str, store: &dyn Display, why: &str) -> Error {
    Error::invalid(format!(
        "table {table} in {store} does not fit the dataset: {why}"
    ))
    .hint(KEPT)
}

fn key_difference(needed: &[Vec<String>], there: &[Vec<String>]) -> String {
    let shown = |keys: &[Vec<String>]| {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("({})", key.join(", ")))
            .collect();
        keys.join(" and ")
    };
    match there {
        [] => format!("nothing keeps its {} unique", shown(needed)),
        there => format!(
            "its key is {}, but the dataset needs {}",
            shown(there),
            shown(needed)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, &str, bool)], keys: &[&[&str]]) -> TableSchema {
        let owned = |key: &&[&str]| key.iter().map(|name| (*name).to_string()).collect();
        TableSchema {
            columns: columns
                .iter()
                .map(|(name, kind, required)| ColumnSchema::new(name, kind, *required))
                .collect(),
            keys: keys.iter().map(owned).collect(),
        }
    }

    #[test]
    fn every_difference_is_named() {
        let needed = schema(&[("id", "text", true), ("v", "bigint", false)], &[&["id"]]);
        let error = |there: TableSchema| match there.check(&needed, "t", &"here") {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        };
        let fits = [
            schema(&[("id", "text", true), ("v", "bigint", false)], &[&["id"]]),
            // More columns, more keys, and a column that accepts more than it is given.
            schema(
                &[
                    ("x", "int", false),
                    ("v", "bigint", false),
                    ("id", "text", false),
                ],
                &[&["x", "v"], &["id"]],
            ),
        ];
        for there in fits {
            assert_eq!(error(there), "");
        }
        let there = schema(&[("id", "uuid", true), ("x", "int", true)], &[]);
        assert_eq!(
            error(there),
            "table t in here does not fit the dataset: its column id has type uuid, but the dataset needs text; \
             it has no column v; its column x needs a value, but the dataset has no such field; \
             nothing keeps its (id) unique"
        );
        let there = schema(
            &[("id", "text", true), ("v", "bigint", true)],
            &[&["v"], &["id", "v"]],
        );
        assert_eq!(
            error(there),
            "table t in here does not fit the dataset: its column v accepts no null, but the dataset does not \
             require the field; its key is (v) and (id, v), but the dataset needs (id)"
        );
    }
}
