//! What changed between two states, as a JSON merge patch (RFC 7396).

use serde_json::{Map, Value};

/// The patch that makes `new` of `old`; none if they are equal. A member that is null in `new` is left out of what the
/// patch makes, which means the same: not known.
pub(crate) fn diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (name, value) in new {
        let changed = match old.get(name) {
            Some(before) => diff(before, value),
            None if value.is_null() => None,
            None => Some(value.clone()),
        };
        if let Some(changed) = changed {
            patch.insert(name.clone(), changed);
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
#[path = "../../tests/common/merge_patch.rs"]
mod merge_patch;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge_patch::apply;
    use super::*;

    /// Without the members of objects that are null.
    fn known(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let known = map.iter().filter(|(_, value)| !value.is_null());
                Value::Object(
                    known
                        .map(|(name, value)| (name.clone(), self::known(value)))
                        .collect(),
                )
            }
            other => other.clone(),
        }
    }

    #[test]
    fn a_patch_makes_the_new_state_of_the_old_one() {
        let states = [
            json!({"a": 1, "b": {"c": [1, 2], "d": null}, "e": "x"}),
            json!({"a": 1, "b": {"c": [1, 2], "d": 5}, "e": "x"}),
            json!({"a": 2, "b": {"c": [1], "d": {"f": 1, "g": null}}}),
            json!({"a": null, "b": {"c": [], "d": {"f": 1}}, "h": {}}),
            json!({"b": 7}),
        ];
        for old in &states {
            for new in &states {
                let mut made = old.clone();
                match diff(old, new) {
                    None => assert_eq!(old, new),
                    Some(patch) => apply(&mut made, &patch),
                }
                assert_eq!(known(&made), known(new), "{old} -> {new}");
            }
        }
        assert_eq!(diff(&states[0], &states[1]), Some(json!({"b": {"d": 5}})));
    }
}
