//! Merge patches, for the tests of the library and of its commands.

#![allow(unreachable_pub)] // both have it in a private module

use serde_json::{Map, Value};

/// Applies one, as RFC 7396 says.
pub fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let mut members = match target.take() {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, value) in patch {
        match value {
            Value::Null => drop(members.remove(name)),
            _ => apply(members.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
    *target = Value::Object(members);
}
