//! The description of the API for other programs (OpenAPI 3.1). It is made when the server starts, because the rows'
//! schema is the dataset's.

use serde_json::{Map, Value, json};

use super::rows::{DEFAULT_LIMIT, MOST};
use crate::dataset::{Dataset, Field, FieldType};
use crate::view::Boundary;
use crate::view::merge::Layer;

/// The document.
pub(super) fn document(dataset: &Dataset) -> Value {
    let name = &dataset.name;
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": format!("rtp: {name}"),
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The merged view of the batch store and the real-time store",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths(dataset),
        "components": {
            "schemas": schemas(dataset),
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Only if the server was started with --token-file",
            }},
        },
    })
}

fn paths(dataset: &Dataset) -> Value {
    let name = &dataset.name;
    let key = json!({
        "name": "key", "in": "path", "required": true, "schema": value(dataset.key()),
        "description": "The key of the row",
    });
    let range = json!({"name": "range", "in": "query", "schema": {"enum": super::series::NAMES}});
    let explained = |place: &str| {
        vec![json!({"name": "key", "in": place, "required": true, "schema": {"type": "string"}})]
    };
    let mut paths = Map::new();
    let mut add = |path: String, summary: &str, parameters: Vec<Value>, answer: Value| {
        let operation = operation(&path, summary, parameters, answer);
        paths.insert(path, json!({"get": operation}));
    };
    add(
        format!("/api/v1/{name}"),
        "A page of rows, in the order of keys",
        of_page(dataset),
        reference("Page"),
    );
    add(
        format!("/api/v1/{name}/{{key}}"),
        "The newest row of a key",
        vec![key],
        reference("Single"),
    );
    let any = || json!({"type": "object"});
    add(
        "/api/v1/state".into(),
        "What the dashboard shows",
        vec![],
        any(),
    );
    add(
        "/api/v1/series".into(),
        "Rates, lag, dead letters and verdicts over time",
        vec![range],
        any(),
    );
    add(
        "/api/v1/explain/{key}".into(),
        "One record's life",
        explained("path"),
        any(),
    );
    add(
        "/api/v1/explain".into(),
        "One record's life, also of the keys . and .., which no path can end with",
        explained("query"),
        any(),
    );
    add(
        "/api/v1/openapi.json".into(),
        "This document",
        vec![],
        any(),
    );
    let mut paths = Value::Object(paths);
    paths["/api/v1/events"] = events();
    paths
}

fn events() -> Value {
    json!({"get": {
        "summary": "The state, and then its changes: server-sent events `state` and `patch` (RFC 7396)",
        "operationId": "events",
        "responses": {"200": {
            "description": "Until the client or the server ends it",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }},
    }})
}

fn operation(path: &str, summary: &str, parameters: Vec<Value>, answer: Value) -> Value {
    let id: String = path
        .trim_start_matches("/api/v1/")
        .chars()
        .filter_map(|c| match c {
            '/' | '.' => Some('_'),
            '{' | '}' => None,
            other => Some(other),
        })
        .collect();
    let problem = |description: &str| {
        json!({
            "description": description,
            "content": {"application/problem+json": {"schema": reference("Problem")}},
        })
    };
    json!({
        "summary": summary,
        "operationId": id,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Done",
                "headers": {"ETag": {"schema": {"type": "string"}, "description": "For If-None-Match"}},
                "content": {"application/json": {"schema": answer}},
            },
            "304": {"description": "The client has this answer, by If-None-Match"},
            "400": problem("The request is wrong"),
            "401": problem("The token is missing or wrong"),
            "404": problem("There is no such row or address"),
            "503": problem("A store does not answer"),
            "default": problem("Anything else"),
        },
    })
}

fn of_page(dataset: &Dataset) -> Vec<Value> {
    let parameter = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let text = || json!({"type": "string"});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT});
    let time = json!({"type": "string", "format": "date-time"});
    let mut all = vec![
        parameter("limit", "Maximum rows of the page", limit),
        parameter(
            "after",
            "The `next` of the page before, with the same conditions",
            text(),
        ),
        parameter(
            "boundary",
            "List a key that only the real-time store has only if its event time is later; none lists all of them. Default: none, or the newest event time of all loads if the real-time store keeps no order of keys (Cassandra), because it is then read as a whole for each page",
            json!({"oneOf": [time, {"const": Boundary::WITHOUT}]}),
        ),
        parameter(
            "where",
            "A condition as FIELD=VALUE, for a field named like one of these parameters",
            text(),
        ),
    ];
    let fields = dataset
        .fields
        .iter()
        .filter(|f| !super::rows::PARAMETERS.contains(&&*f.name));
    all.extend(
        fields.map(|field| parameter(&field.name, "Only rows with this value", value(field))),
    );
    all
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn schemas(dataset: &Dataset) -> Value {
    let layers = Layer::ALL.map(|(name, _)| name);
    let time = || json!({"type": ["string", "null"], "format": "date-time"});
    let values: Map<String, Value> = dataset
        .fields
        .iter()
        .map(|field| {
            let nullable = json!({"oneOf": [value(field), {"type": "null"}]});
            let schema = if field.required {
                value(field)
            } else {
                nullable
            };
            (field.name.clone(), schema)
        })
        .collect();
    let names: Vec<&str> = dataset.fields.iter().map(|field| &*field.name).collect();
    let about = json!({
        "dataset": {"const": dataset.name},
        "boundary": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "The one asked for, or the newest event time of all loads; null before the first load",
        },
        "verdict": {"oneOf": [reference("Verdict"), {"type": "null"}]},
    });
    let with = |more: Value, required: &[&str]| {
        let mut properties = about.clone();
        if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
            all.extend(more);
        }
        json!({"type": "object", "properties": properties, "required": required})
    };
    json!({
        "Values": {"type": "object", "properties": values, "required": names},
        "Row": {
            "type": "object",
            "properties": {
                "layer": {"enum": layers, "description": "Where the row stands: both, if both stores hold the same"},
                "event_time": time(),
                "as_of": {"type": "string", "format": "date-time", "description": "When both stores were read"},
                "lag_seconds": {"type": ["number", "null"], "description": "From event_time to as_of"},
                "row": reference("Values"),
                "misfits": {"type": "object", "description": "Values that do not fit their column; `row` has null in their place"},
            },
            "required": ["layer", "event_time", "as_of", "lag_seconds", "row"],
        },
        "Single": with(json!({"row": reference("Row")}), &["dataset", "boundary", "verdict", "row"]),
        "Page": with(
            json!({
                "rows": {"type": "array", "items": reference("Row"), "maxItems": MOST},
                "next": {"type": ["string", "null"], "description": "For `after`; null at the end"},
                "left_out": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Sentences about keys that are not listed: by the boundary, or because they do not have the declared type. Empty if every key of both stores is listed",
                },
            }),
            &["dataset", "boundary", "verdict", "rows", "next", "left_out"],
        ),
        "Verdict": verdict(),
        "Problem": problem(),
    })
}

/// A request that cannot be met.
fn problem() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": {"const": "about:blank"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "expected": {"type": "string", "description": "What would have been right"},
        },
        "required": ["type", "title", "status", "detail"],
    })
}

/// The last verdict of `rtp verify`.
fn verdict() -> Value {
    let counts = || json!({"type": "object", "additionalProperties": {"type": "integer"}});
    let ms = || json!({"type": "integer", "description": "Milliseconds since 1970 UTC"});
    json!({
        "type": "object",
        "properties": {
            "run_id": {"type": "string"},
            "started_at": ms(),
            "ended_at": ms(),
            "agrees": {"type": "boolean"},
            "rows": {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "integer"}],
                "description": "Of the real-time and of the batch store",
            },
            "classes": counts(),
            "columns": counts(),
            "samples": {"type": "object"},
            "options": {
                "type": "array",
                "items": {"type": "string"},
                "description": "How the comparison was other than one of every value of both tables and nothing else",
            },
        },
    })
}

/// The schema of a value as the view shows it, which is not always how an event has it.
fn value(field: &Field) -> Value {
    match field.kind {
        FieldType::Text => json!({"type": "string"}),
        FieldType::Uuid => json!({"type": "string", "format": "uuid"}),
        FieldType::Int => json!({"type": "integer", "format": "int32"}),
        FieldType::BigInt => json!({"type": "integer", "format": "int64"}),
        FieldType::Double => json!({"type": "number", "format": "double"}),
        FieldType::Decimal => json!({"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?$"}),
        FieldType::Boolean => json!({"type": "boolean"}),
        FieldType::Timestamp => json!({"type": "string", "format": "date-time"}),
        FieldType::Date => json!({"type": "string", "format": "date"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The targets of all references.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.push(to.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_has_its_schema_and_every_field_its_parameter() {
        let dataset = Dataset::load(None).unwrap();
        let document = document(&dataset);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        for to in found {
            assert!(document.pointer(&to[1..]).is_some(), "{to}");
        }
        let page = &document["paths"]["/api/v1/users"]["get"]["parameters"];
        let names: Vec<&str> = page
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        for field in &dataset.fields {
            assert!(names.contains(&&*field.name), "{}", field.name);
        }
    }
}
