//! Pure: places in a JSON text, found by the dataset's pointers without building a tree of the text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::dataset::Pointer;

/// JSON pointers compiled into a tree, so that one pass over a text finds them all.
#[derive(Clone, Debug, Default)]
pub struct Pointers {
    pub(super) root: Node,
    len: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) slots: Vec<usize>,
    pub(super) children: Vec<(String, Node)>,
}

impl Pointers {
    /// Compiles pointers; the slot of each one is its index in the list.
    pub fn new<'p>(pointers: impl IntoIterator<Item = &'p Pointer>) -> Self {
        let mut compiled = Pointers::default();
        for pointer in pointers {
            compiled.add(pointer);
        }
        compiled
    }

    /// Adds a pointer and returns its slot.
    pub(super) fn add(&mut self, pointer: &Pointer) -> usize {
        let mut node = &mut self.root;
        for token in pointer.tokens() {
            let at = node
                .children
                .iter()
                .position(|(t, _)| t == token)
                .unwrap_or_else(|| {
                    node.children.push((token.clone(), Node::default()));
                    node.children.len() - 1
                });
            node = &mut node.children[at].1;
        }
        node.slots.push(self.len);
        self.len += 1;
        self.len - 1
    }

    /// The raw JSON at each pointer, none where there is nothing. Of repeated keys, the last one counts.
    pub fn find<'a>(&self, json: &'a str) -> serde_json::Result<Vec<Option<&'a str>>> {
        let raw: &RawValue = serde_json::from_str(json)?;
        let mut found = vec![None; self.len];
        find(&self.root, raw.get(), &mut found)?;
        Ok(found)
    }
}

fn find<'a>(node: &Node, json: &'a str, found: &mut [Option<&'a str>]) -> serde_json::Result<()> {
    for slot in &node.slots {
        found[*slot] = Some(json);
    }
    if node.children.is_empty() {
        return Ok(());
    }
    members(json, |token, raw| match child(node, token) {
        Some(child) => find(child, raw, found),
        None => Ok(()),
    })
}

pub(super) fn child<'n>(node: &'n Node, token: Token<'_>) -> Option<&'n Node> {
    let text = token.text()?;
    let mut children = node.children.iter();
    children.find(|(t, _)| *t == text).map(|(_, child)| child)
}

/// What a response has where it lacks a pointer's place: the keys beside the first token that is missing.
pub fn instead_of(pointer: &Pointer, json: &str) -> serde_json::Result<String> {
    let (mut here, mut place) = (json, String::new());
    for wanted in pointer.tokens() {
        let (mut inner, mut keys) = (None, Vec::new());
        members(here, |token, raw| {
            if token.text().is_some_and(|text| text == *wanted) {
                inner = Some(raw);
            }
            if let Token::Key(key) = token {
                let key = key.trim_matches('"');
                keys.push(key.chars().take(MAX_KEY).collect::<String>());
            }
            Ok(())
        })?;
        let Some(inner) = inner else {
            let of = match place.is_empty() {
                true => "the response".into(),
                false => format!("`{place}`"),
            };
            let (shown, more) = match keys.get(..MAX_KEYS) {
                Some(first) => (first, ", …"),
                None => (&keys[..], ""),
            };
            return Ok(match keys.is_empty() {
                true => format!("{of} has no keys"),
                false => format!("{of} has the keys {}{more}", shown.join(", ")),
            });
        };
        here = inner;
        place.push_str(&format!("/{wanted}"));
    }
    Ok(format!("`{place}` is there"))
}

/// How many keys a message names.
const MAX_KEYS: usize = 20;

/// How many characters it shows of each.
const MAX_KEY: usize = 60;

/// Calls `each` with the raw JSON of every element of an array; null has none, as some languages write an empty array.
/// False if `json` is neither.
pub fn elements<'a>(
    json: &'a str,
    mut each: impl FnMut(&'a str) -> serde_json::Result<()>,
) -> serde_json::Result<bool> {
    match json.starts_with('[') {
        true => members(json, |_, raw| each(raw)).map(|()| true),
        false => Ok(json == "null"),
    }
}

/// The name of a member of an object, or the index of one of an array.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token<'a> {
    /// As JSON, quotes included: a lone surrogate cannot be decoded, and must not stop the others.
    Key(&'a str),
    Index(usize),
}

impl<'a> Token<'a> {
    /// None if it is not Unicode text, which no pointer is either.
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Token::Key(raw) if raw.contains('\\') => serde_json::from_str(raw).ok(),
            Token::Key(raw) => Some(Cow::Borrowed(&raw[1..raw.len() - 1])),
            Token::Index(index) => Some(Cow::Owned(index.to_string())),
        }
    }
}

/// Calls `each` with the token and raw JSON of every member of an object or array; other values have
/// none.
pub(super) fn members<'a>(
    json: &'a str,
    each: impl FnMut(Token<'a>, &'a str) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    match json.as_bytes().first() {
        Some(b'{') => deserializer.deserialize_map(Members(each)),
        Some(b'[') => deserializer.deserialize_seq(Members(each)),
        _ => Ok(()),
    }
}

struct Members<F>(F);

impl<'a, F: FnMut(Token<'a>, &'a str) -> serde_json::Result<()>> Visitor<'a> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or array")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, raw)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            (self.0)(Token::Key(key.get()), raw.get()).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(raw) = seq.next_element::<&'a RawValue>()? {
            (self.0)(Token::Index(index), raw.get()).map_err(serde::de::Error::custom)?;
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_instead_is_named() {
        let json = r#"{"items":[],"meta":{"next_cursor":1,"total":2}}"#;
        for (pointer, said) in [
            (
                "/meta/nextCursor",
                "`/meta` has the keys next_cursor, total",
            ),
            ("/data", "the response has the keys items, meta"),
            ("/items/0", "`/items` has no keys"),
        ] {
            let pointer = Pointer::parse(pointer).unwrap();
            assert_eq!(instead_of(&pointer, json).unwrap(), said);
        }
    }

    #[test]
    fn pointers_reach_into_arrays_and_the_whole() {
        let pointer = |p| Pointer::parse(p).unwrap();
        let pointers = [
            pointer(""),
            pointer("/a/1/b"),
            pointer("/a/9"),
            pointer("/a"),
        ];
        let found = Pointers::new(&pointers)
            .find(r#" {"a":[0,{"b":1.50}]} "#)
            .unwrap();
        assert_eq!(
            found,
            [
                Some(r#"{"a":[0,{"b":1.50}]}"#),
                Some("1.50"),
                None,
                Some(r#"[0,{"b":1.50}]"#)
            ]
        );
        assert!(Pointers::new(&pointers).find("{\"a\":").is_err());
    }
}
