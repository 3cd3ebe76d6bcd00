//! The event's JSON Schema, derived from the dataset.

use serde_json::{Map, Value, json};

use super::{Dataset, Field, FieldType};

/// JSON Schema (draft 2020-12) of one event: what `produce` and `stream` accept.
pub fn event_schema(dataset: &Dataset) -> Value {
    let mut properties = Map::new();
    for field in &dataset.fields {
        let schema = field_schema(field);
        for alias in &field.aliases {
            let mut alias_schema = schema.clone();
            if let Some(map) = alias_schema.as_object_mut() {
                map.insert(
                    "description".into(),
                    format!("alias of {}", field.name).into(),
                );
            }
            properties.insert(alias.clone(), alias_schema);
        }
        properties.insert(field.name.clone(), schema);
    }
    let required: Vec<&str> = dataset
        .fields
        .iter()
        .filter(|f| f.required && f.aliases.is_empty())
        .map(|f| f.name.as_str())
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": dataset.event.topic,
        "description": format!("An event of the dataset {}; derived from its declaration, do not edit.", dataset.name),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": true,
    })
}

fn field_schema(field: &Field) -> Value {
    let (mut types, mut schema) = field.json_type();
    if field.coerce {
        let more: &[&str] = match field.kind {
            FieldType::Text => &["number", "boolean", "array", "object"],
            _ => &["string"],
        };
        types.extend(
            more.iter()
                .filter(|t| !types.contains(t))
                .copied()
                .collect::<Vec<_>>(),
        );
    }
    if !field.required {
        types.push("null");
    }
    if let Some(map) = schema.as_object_mut() {
        let types = if types.len() == 1 {
            json!(types[0])
        } else {
            json!(types)
        };
        map.insert("type".into(), types);
    }
    schema
}
