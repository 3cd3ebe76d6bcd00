//! What every check of a dataset file needs: values of one kind each, and errors that name file and line.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::parse::line_of;
use super::{Field, Pointer};
use crate::error::{Error, Result};

/// Checks values of one file.
pub(super) struct Checker<'a> {
    pub(super) text: &'a str,
    pub(super) origin: &'a str,
}

impl Checker<'_> {
    pub(super) fn error(&self, span: &Range<usize>, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!(
            "{}:{}: {message}",
            self.origin,
            line_of(self.text, span.start)
        ))
    }

    /// Names of tables, columns and keyspaces: what both CQL and SQL accept, at most 48 bytes (Cassandra's limit).
    pub(super) fn identifier(&self, name: &Spanned<String>, what: &str) -> Result<String> {
        let text = name.get_ref();
        let mut bytes = text.bytes();
        let ok = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && text.len() <= 48;
        if ok {
            return Ok(text.clone());
        }
        Err(self.error(
            &name.span(),
            format!("{what} `{text}` is invalid; expected 1 to 48 characters of A-Z, a-z, 0-9 and _, not starting with a digit"),
        ))
    }

    /// Kafka's rule for topic names, minus some characters for `.dlq` and the like.
    pub(super) fn topic(&self, name: &Spanned<String>) -> Result<String> {
        let text = name.get_ref();
        let ok = (1..=240).contains(&text.len())
            && text != "."
            && text != ".."
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if ok {
            return Ok(text.clone());
        }
        Err(self.error(
            &name.span(),
            format!("topic `{text}` is invalid; expected 1 to 240 characters of A-Z, a-z, 0-9, `.`, `_` and `-`"),
        ))
    }

    pub(super) fn field(&self, name: &Spanned<String>, fields: &[Field]) -> Result<usize> {
        let text = name.get_ref();
        fields.iter().position(|f| f.name == *text).ok_or_else(|| {
            let names: Vec<&str> = fields.iter().map(|f| f.name.as_str()).collect();
            self.error(&name.span(), expected("field", text, &names))
        })
    }

    pub(super) fn pointer(&self, text: &Spanned<String>) -> Result<Pointer> {
        Pointer::parse(text.get_ref()).map_err(|e| self.error(&text.span(), e))
    }

    pub(super) fn duration(&self, text: &Spanned<String>) -> Result<Duration> {
        crate::time::parse_positive_duration(text.get_ref())
            .map_err(|e| self.error(&text.span(), e))
    }

    pub(super) fn duration_if_any(
        &self,
        text: Option<&Spanned<String>>,
    ) -> Result<Option<Duration>> {
        text.map(|text| self.duration(text)).transpose()
    }

    pub(super) fn range<T>(
        &self,
        n: Option<&Spanned<T>>,
        what: &str,
        min: T,
        max: T,
        default: T,
    ) -> Result<T>
    where
        T: Copy + PartialOrd + std::fmt::Display,
    {
        match n {
            None => Ok(default),
            Some(n) if (min..=max).contains(n.get_ref()) => Ok(*n.get_ref()),
            Some(n) => Err(self.error(
                &n.span(),
                format!("{what} must be {min} to {max}, got {}", n.get_ref()),
            )),
        }
    }

    pub(super) fn choice<T: Copy>(
        &self,
        text: &Spanned<String>,
        what: &str,
        table: &[(&str, T)],
    ) -> Result<T> {
        table
            .iter()
            .find(|(name, _)| name == text.get_ref())
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
                self.error(&text.span(), expected(what, text.get_ref(), &names))
            })
    }

    pub(super) fn texts(
        &self,
        table: &toml::Table,
        at: &Range<usize>,
        what: &str,
    ) -> Result<Vec<(String, String)>> {
        table
            .iter()
            .map(|(key, value)| match value {
                toml::Value::String(s) => Ok((key.clone(), s.clone())),
                toml::Value::Integer(i) => Ok((key.clone(), i.to_string())),
                toml::Value::Boolean(b) => Ok((key.clone(), b.to_string())),
                _ => Err(self.error(
                    at,
                    format!("{what}.{key} must be a string, an integer or a boolean"),
                )),
            })
            .collect()
    }
}

pub(super) fn expected(what: &str, got: &str, allowed: &[&str]) -> String {
    format!(
        "unknown {what} `{got}`; expected one of: {}",
        allowed.join(", ")
    )
}
