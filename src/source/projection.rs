//! Pure: a response body becomes events. Values are cut out of the text by the dataset's pointers,
//! without building a tree of the body.

use std::borrow::Cow;

use super::pointers::{Node, Pointers, Token, child, members};
use crate::dataset::{Dataset, FieldType, From, TemplatePart};

/// Turns a source's records into events of the dataset.
#[derive(Clone, Debug)]
pub struct Projection {
    places: Pointers,
    fields: Vec<Projected>,
    secrets: Pointers,
}

#[derive(Clone, Debug)]
struct Projected {
    /// `"name":`
    label: String,
    from: ProjectedFrom,
}

#[derive(Clone, Debug)]
enum ProjectedFrom {
    /// The slot, and whether values of other types become text.
    Slot(usize, AsText),
    Template(Vec<Part>),
    AsOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsText {
    Yes,
    No,
}

#[derive(Clone, Debug)]
enum Part {
    /// As inside a JSON string.
    Literal(String),
    Slot(usize),
}

impl Projection {
    /// The projection of a dataset.
    pub fn new(dataset: &Dataset) -> Self {
        let mut places = Pointers::default();
        let mut fields = Vec::with_capacity(dataset.fields.len());
        for field in &dataset.fields {
            let from = match &field.from {
                From::Pointer(pointer) => {
                    let text = field.coerce && field.kind == FieldType::Text;
                    ProjectedFrom::Slot(
                        places.add(pointer),
                        if text { AsText::Yes } else { AsText::No },
                    )
                }
                From::Template(template) => {
                    let part = |part: &TemplatePart| match part {
                        TemplatePart::Literal(text) => Part::Literal(escaped(text)),
                        TemplatePart::Pointer(pointer) => Part::Slot(places.add(pointer)),
                    };
                    ProjectedFrom::Template(template.parts.iter().map(part).collect())
                }
                From::AsOf => ProjectedFrom::AsOf,
            };
            fields.push(Projected {
                label: format!("\"{}\":", field.name),
                from,
            });
        }
        Projection {
            places,
            fields,
            secrets: Pointers::new(&dataset.secrets),
        }
    }

    /// The dataset's number of fields.
    pub fn fields(&self) -> usize {
        self.fields.len()
    }

    /// Appends the event of one record as a line of JSON. Absent fields are left out; only the dataset's fields
    /// come through. Marks in `present`, one for each field, those that are there.
    pub fn event(
        &self,
        record: &str,
        as_of: &str,
        present: &mut [bool],
        out: &mut Vec<u8>,
    ) -> serde_json::Result<()> {
        debug_assert_eq!(present.len(), self.fields.len());
        let found = self.places.find(record)?;
        let mut before = b'{';
        for (field, present) in self.fields.iter().zip(present) {
            let value: Cow<'_, str> = match &field.from {
                ProjectedFrom::AsOf => Cow::Owned(format!("\"{as_of}\"")),
                ProjectedFrom::Slot(slot, text) => match (found[*slot], text) {
                    (None, _) => continue,
                    (Some(raw), AsText::No) => Cow::Borrowed(raw),
                    (Some(raw), AsText::Yes) if raw.starts_with('"') || raw == "null" => {
                        Cow::Borrowed(raw)
                    }
                    (Some(raw), AsText::Yes) => Cow::Owned(serde_json::to_string(raw)?),
                },
                ProjectedFrom::Template(parts) => match fill(parts, &found) {
                    None => continue,
                    Some(json) => Cow::Owned(json),
                },
            };
            *present = true;
            out.push(before);
            before = b',';
            out.extend_from_slice(field.label.as_bytes());
            push_on_one_line(&value, out);
        }
        if before == b'{' {
            out.push(b'{');
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// Appends a record as received, minus the dataset's secrets, as a line of JSON.
    pub fn raw(&self, record: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
        without(&self.secrets.root, record, out)?;
        out.push(b'\n');
        Ok(())
    }
}

/// The text of a template as a JSON string; none if one of its places is absent or null. Strings are copied as they are
/// escaped, so that one that is not Unicode reaches the checks of its own record.
fn fill(parts: &[Part], found: &[Option<&str>]) -> Option<String> {
    let mut json = String::from("\"");
    for part in parts {
        match part {
            Part::Literal(literal) => json.push_str(literal),
            Part::Slot(slot) => match found[*slot] {
                None | Some("null") => return None,
                Some(raw) if raw.starts_with('"') => json.push_str(&raw[1..raw.len() - 1]),
                Some(raw) => json.push_str(&escaped(raw)),
            },
        }
    }
    json.push('"');
    Some(json)
}

/// A text as it stands inside a JSON string.
fn escaped(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json[1..json.len() - 1].to_string()
}

/// Newlines in JSON are always white space between tokens, because inside strings they are escaped.
fn push_on_one_line(json: &str, out: &mut Vec<u8>) {
    out.extend(
        json.bytes()
            .map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }),
    );
}

fn without(secrets: &Node, json: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let (open, close) = match json.as_bytes().first() {
        Some(b'{') if !secrets.children.is_empty() => (b'{', b'}'),
        Some(b'[') if !secrets.children.is_empty() => (b'[', b']'),
        _ => {
            push_on_one_line(json, out);
            return Ok(());
        }
    };
    let mut before = open;
    members(json, |token, raw| {
        let child = child(secrets, token);
        if child.is_some_and(|node| !node.slots.is_empty()) {
            return Ok(());
        }
        out.push(before);
        before = b',';
        if let Token::Key(key) = token {
            out.extend_from_slice(key.as_bytes());
            out.push(b':');
        }
        without(child.unwrap_or(&Node::default()), raw, out)
    })?;
    if before == open {
        out.push(open);
    }
    out.push(close);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Pointer;

    const RECORD: &str = r#"{"gender":"male","name":{"first":"J\u00f6rg","last":"Q\"x"},
        "location":{"street":{"number":12,"name":"Große Straße"},"city":"Ulm","state":"BW","country":"Germany","postcode":11549},
        "login":{"uuid":"053a5780-3703-442c-a561-beda535af12c","username":"u","password":"hunter2","salt":"s","md5":"m","sha1":"1","sha256":"2"},
        "nat":"DE"}"#;

    fn projection() -> Projection {
        Projection::new(&Dataset::load(None).unwrap())
    }

    #[test]
    fn a_record_becomes_an_event_of_its_fields_only() {
        let mut out = Vec::new();
        let projection = projection();
        let mut present = vec![false; projection.fields()];
        projection
            .event(RECORD, "2026-11-24T00:00:00.000Z", &mut present, &mut out)
            .unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(
            line,
            concat!(
                r#"{"id":"053a5780-3703-442c-a561-beda535af12c","first_name":"J\u00f6rg","last_name":"Q\"x","gender":"male","#,
                r#""address":"12 Große Straße, Ulm, BW, Germany","post_code":"11549","username":"u","nationality":"DE","#,
                r#""fetched_at":"2026-11-24T00:00:00.000Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_template_with_a_missing_place_makes_no_half_text() {
        let mut out = Vec::new();
        let projection = projection();
        let mut present = vec![false; projection.fields()];
        projection
            .event(
                r#"{"location":{"city":"Ulm"}}"#,
                "t",
                &mut present,
                &mut out,
            )
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"fetched_at\":\"t\"}\n");
        assert_eq!(present.iter().filter(|is_there| **is_there).count(), 1);
    }

    #[test]
    fn a_raw_record_keeps_all_but_the_secrets_on_one_line() {
        let mut out = Vec::new();
        projection().raw(RECORD, &mut out).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let mut expected: serde_json::Value = serde_json::from_str(RECORD).unwrap();
        for secret in ["password", "salt", "md5", "sha1", "sha256"] {
            expected["login"].as_object_mut().unwrap().remove(secret);
        }
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            expected
        );
    }

    #[test]
    fn what_is_not_unicode_stays_in_its_own_place() {
        let template = crate::dataset::Template::parse("{/n} \"{/k}\"").unwrap();
        let mut places = Pointers::default();
        let parts: Vec<Part> = template
            .parts
            .iter()
            .map(|part| match part {
                TemplatePart::Literal(text) => Part::Literal(escaped(text)),
                TemplatePart::Pointer(pointer) => Part::Slot(places.add(pointer)),
            })
            .collect();
        let json = r#"{"n":"cut \ud83d","k\ud83d":1,"\u006b":{"a":1}}"#;
        let found = places.find(json).unwrap();
        assert_eq!(
            fill(&parts, &found).unwrap(),
            r#""cut \ud83d \"{\"a\":1}\"""#
        );
        let mut out = Vec::new();
        without(
            &Pointers::new([&Pointer::parse("/k").unwrap()]).root,
            json,
            &mut out,
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"n":"cut \ud83d","k\ud83d":1}"#
        );
    }
}
