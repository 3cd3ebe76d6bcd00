//! From the file as written to a checked [`Dataset`]: every error names file, line and what is allowed.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::parse::*;
use super::*;
use crate::error::Error;

/// Columns that the stores add themselves start with this.
const RESERVED_PREFIX: &str = "rtp_";

pub(super) fn dataset(raw: RawDataset, text: &str, origin: &str) -> Result<Dataset> {
    Checker { text, origin }.dataset(raw)
}

struct Checker<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Checker<'_> {
    fn error(&self, span: &Range<usize>, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!(
            "{}:{}: {message}",
            self.origin,
            line_of(self.text, span.start)
        ))
    }

    fn dataset(&self, raw: RawDataset) -> Result<Dataset> {
        let name = self.identifier(&raw.name, "the dataset's name")?;
        let fields = self.fields(&raw.fields)?;
        let event = self.event(&raw.event, &fields)?;
        let realtime = self.realtime(&raw.realtime, &fields)?;
        let batch_table = self.identifier(&raw.batch.table, "table")?;
        let nulls = match &raw.null {
            None => Nulls::Write,
            Some(null) => self.choice(
                null,
                "null",
                &[("write", Nulls::Write), ("unset", Nulls::Unset)],
            )?,
        };
        let secrets = raw
            .secrets
            .iter()
            .map(|s| self.pointer(s))
            .collect::<Result<Vec<_>>>()?;
        self.secrets_stay(&secrets, &raw.fields, &fields)?;
        let mut digest_order: Vec<usize> = (0..fields.len()).collect();
        digest_order.sort_by(|a, b| fields[*a].name.cmp(&fields[*b].name));
        Ok(Dataset {
            name,
            source: self.source(raw.source.get_ref(), &raw.source.span())?,
            secrets,
            fields,
            event,
            realtime,
            batch: BatchSpec {
                table: batch_table,
                history: raw.batch.history,
            },
            nulls,
            digest_order,
        })
    }

    fn fields(&self, raw: &[Spanned<RawField>]) -> Result<Vec<Field>> {
        let mut names = HashSet::new();
        let mut fields = Vec::with_capacity(raw.len());
        for field in raw {
            let at = field.span();
            let field = field.get_ref();
            let name = self.identifier(&field.name, "field name")?;
            if name.to_ascii_lowercase().starts_with(RESERVED_PREFIX) {
                return Err(self.error(
                    &field.name.span(),
                    format!("field name `{name}`: names that start with `{RESERVED_PREFIX}` are for columns of rtp's own"),
                ));
            }
            let mut aliases = Vec::new();
            for (text, span) in std::iter::once((&name, field.name.span()))
                .chain(field.aliases.iter().map(|a| (a.get_ref(), a.span())))
            {
                // Table columns are compared without case by some stores.
                if !names.insert(text.to_ascii_lowercase()) {
                    return Err(self.error(&span, format!("the name `{text}` is used twice")));
                }
                if *text != name {
                    aliases.push(text.clone());
                }
            }
            let kind = self.choice(&field.kind, "type", &FieldType::ALL)?;
            let from = self.from(field, &at, &name)?;
            if matches!(from, From::AsOf) && kind != FieldType::Timestamp {
                return Err(self.error(
                    &field.kind.span(),
                    format!("field `{name}`: from = \"as-of\" needs type = \"timestamp\""),
                ));
            }
            let format = match &field.format {
                None => TimeFormat::Rfc3339,
                Some(f) if kind != FieldType::Timestamp => {
                    return Err(self.error(
                        &f.span(),
                        format!(
                            "field `{name}`: format belongs to type = \"timestamp\", not \"{}\"",
                            kind.name()
                        ),
                    ));
                }
                Some(f) => self.choice(
                    f,
                    "format",
                    &[
                        ("rfc3339", TimeFormat::Rfc3339),
                        ("epoch-s", TimeFormat::EpochSeconds),
                        ("epoch-ms", TimeFormat::EpochMillis),
                    ],
                )?,
            };
            if matches!(from, From::AsOf) && format != TimeFormat::Rfc3339 {
                return Err(self.error(
                    &at,
                    format!("field `{name}`: from = \"as-of\" is always written as rfc3339"),
                ));
            }
            fields.push(Field {
                name,
                kind,
                from,
                required: field.required,
                aliases,
                coerce: field.coerce,
                format,
            });
        }
        if fields.is_empty() {
            return Err(self.error(&(0..0), "a dataset needs at least one [[field]]"));
        }
        Ok(fields)
    }

    fn from(&self, field: &RawField, at: &Range<usize>, name: &str) -> Result<From> {
        match (&field.from, &field.template) {
            (Some(from), None) if from.get_ref() == "as-of" => Ok(From::AsOf),
            (Some(from), None) => Ok(From::Pointer(self.pointer(from)?)),
            (None, Some(template)) => {
                if field.kind.get_ref() != "text" {
                    return Err(self.error(
                        &template.span(),
                        format!(
                            "field `{name}`: a template makes a text, so it needs type = \"text\""
                        ),
                    ));
                }
                Template::parse(template.get_ref())
                    .map(From::Template)
                    .map_err(|e| self.error(&template.span(), format!("field `{name}`: {e}")))
            }
            (None, None) => Err(self.error(
                at,
                format!("field `{name}` needs `from` (a JSON pointer, or \"as-of\") or `template`"),
            )),
            (Some(_), Some(template)) => Err(self.error(
                &template.span(),
                format!("field `{name}` has both `from` and `template`; keep one"),
            )),
        }
    }

    fn event(&self, raw: &RawEvent, fields: &[Field]) -> Result<EventSpec> {
        let key = self.field(&raw.key, fields)?;
        let time = self.field(&raw.time, fields)?;
        let spans = [
            (key, raw.key.span(), "key"),
            (time, raw.time.span(), "event time"),
        ];
        for (index, span, role) in spans {
            if !fields[index].required {
                return Err(self.error(
                    &span,
                    format!(
                        "the {role} `{}` must be a field with required = true",
                        fields[index].name
                    ),
                ));
            }
        }
        use FieldType as T;
        if !matches!(fields[key].kind, T::Text | T::Uuid | T::Int | T::BigInt) {
            return Err(self.error(
                &raw.key.span(),
                format!(
                    "the key `{}` is a {}; a key is text, uuid, int or bigint",
                    fields[key].name,
                    fields[key].kind.name()
                ),
            ));
        }
        if fields[time].kind != T::Timestamp {
            return Err(self.error(
                &raw.time.span(),
                format!(
                    "the event time `{}` is a {}; it must be a timestamp",
                    fields[time].name,
                    fields[time].kind.name()
                ),
            ));
        }
        Ok(EventSpec {
            topic: self.topic(&raw.topic)?,
            key,
            time,
            partitions: self.range(raw.partitions.as_ref(), "partitions", 1, 1024, 3)?,
            replication: self.range(raw.replication.as_ref(), "replication", 1, 32, 1)?,
            retention: raw
                .retention
                .as_ref()
                .map(|d| self.duration(d))
                .transpose()?,
        })
    }

    fn realtime(&self, raw: &RawRealtime, fields: &[Field]) -> Result<RealtimeSpec> {
        let mut series = Vec::new();
        for raw in &raw.series {
            let bucket = self.choice(
                &raw.bucket,
                "bucket",
                &[("hour", Bucket::Hour), ("day", Bucket::Day)],
            )?;
            for column in [bucket.name(), "shard"] {
                if fields.iter().any(|f| f.name.eq_ignore_ascii_case(column)) {
                    return Err(self.error(
                        &raw.table.span(),
                        format!("the series adds a column `{column}`, which is also a field"),
                    ));
                }
            }
            series.push(Series {
                table: self.identifier(&raw.table, "table")?,
                bucket,
                shards: self.range(raw.shards.as_ref(), "shards", 1, 256, 1)?,
            });
        }
        let table = self.identifier(&raw.table, "table")?;
        let mut tables = HashSet::from([table.clone()]);
        for (one, raw) in series.iter().zip(&raw.series) {
            if !tables.insert(one.table.clone()) {
                return Err(self.error(
                    &raw.table.span(),
                    format!("the table `{}` is used twice", one.table),
                ));
            }
        }
        Ok(RealtimeSpec {
            keyspace: self.identifier(&raw.keyspace, "keyspace")?,
            table,
            ttl: raw.ttl.as_ref().map(|d| self.duration(d)).transpose()?,
            series,
        })
    }

    fn source(&self, raw: &RawSource, at: &Range<usize>) -> Result<Source> {
        let url = raw.url.get_ref();
        match url::Url::parse(url) {
            Ok(u) if !matches!(u.scheme(), "http" | "https" | "file") => {
                return Err(self.error(
                    &raw.url.span(),
                    format!("`{url}`: the scheme must be http, https or file"),
                ));
            }
            Ok(u) if u.password().is_some() => {
                return Err(self.error(
                    &raw.url.span(),
                    "a password in the URL; use [source.auth] with env or file",
                ));
            }
            Ok(_) => {}
            Err(e) => return Err(self.error(&raw.url.span(), format!("`{url}` is no URL: {e}"))),
        }
        Ok(Source {
            url: url.clone(),
            records: self.pointer(&raw.records)?,
            error: raw.error.as_ref().map(|p| self.pointer(p)).transpose()?,
            seed_param: raw.seed_param.clone(),
            query: self.texts(&raw.query, at, "query")?,
            headers: self.texts(&raw.headers, at, "headers")?,
            pagination: match &raw.pagination {
                Some(raw) => self.pagination(raw.get_ref(), &raw.span())?,
                None => Pagination {
                    style: PageStyle::None,
                    size_param: None,
                    size: 0,
                    max_size: None,
                    endless: false,
                },
            },
            limit: raw
                .limit
                .as_ref()
                .map(|l| self.limit(l.get_ref(), &l.span()))
                .transpose()?,
            auth: raw
                .auth
                .as_ref()
                .map_or(Ok(Auth::None), |a| self.auth(a.get_ref(), &a.span()))?,
        })
    }

    fn pagination(&self, raw: &RawPagination, at: &Range<usize>) -> Result<Pagination> {
        let style_name = raw.style.get_ref().as_str();
        let need = |key: &str| {
            self.error(
                at,
                format!("pagination style \"{style_name}\" needs `{key}`"),
            )
        };
        let param = || {
            raw.param
                .as_ref()
                .map(|p| p.get_ref().clone())
                .ok_or_else(|| need("param"))
        };
        let next = || match &raw.next {
            Some(next) => self.pointer(next),
            None => Err(need("next")),
        };
        let first = raw.first.as_ref().map_or(1, |f| *f.get_ref());
        let styles = ["none", "page", "offset", "cursor", "link", "next-url"];
        let style = match style_name {
            "none" => PageStyle::None,
            "page" => PageStyle::Page {
                param: param()?,
                first,
            },
            "offset" => PageStyle::Offset { param: param()? },
            "cursor" => PageStyle::Cursor {
                param: param()?,
                next: next()?,
            },
            "link" => PageStyle::Link,
            "next-url" => PageStyle::NextUrl { next: next()? },
            other => {
                return Err(self.error(&raw.style.span(), expected("style", other, &styles)));
            }
        };
        let unused = [
            (
                "param",
                raw.param.is_some(),
                matches!(style_name, "page" | "offset" | "cursor"),
            ),
            ("first", raw.first.is_some(), style_name == "page"),
            (
                "next",
                raw.next.is_some(),
                matches!(style_name, "cursor" | "next-url"),
            ),
            (
                "endless",
                raw.endless,
                matches!(style_name, "page" | "offset"),
            ),
        ];
        if let Some((key, ..)) = unused.iter().find(|(_, given, used)| *given && !*used) {
            return Err(self.error(
                at,
                format!("`{key}` has no meaning with style \"{style_name}\""),
            ));
        }
        if raw.size.is_none() && (style.is_addressable() || raw.size_param.is_some()) {
            return Err(need("size"));
        }
        let size = self.range(raw.size.as_ref(), "size", 1, 1_000_000, 0)?;
        let max_size = match &raw.max_size {
            Some(max) if *max.get_ref() < size => {
                return Err(self.error(&max.span(), format!("max_size is less than size ({size})")));
            }
            max => max.as_ref().map(|m| *m.get_ref()),
        };
        Ok(Pagination {
            style,
            size_param: raw.size_param.clone(),
            size,
            max_size,
            endless: raw.endless,
        })
    }

    fn limit(&self, raw: &RawLimit, at: &Range<usize>) -> Result<Limit> {
        let (unit, count) = match (&raw.records, &raw.requests) {
            (Some(n), None) => (LimitUnit::Records, n),
            (None, Some(n)) => (LimitUnit::Requests, n),
            _ => return Err(self.error(at, "a limit counts either `records` or `requests`")),
        };
        let per = self.duration(&raw.per)?;
        Ok(Limit {
            unit,
            count: self.range(Some(count), "the limit", 1, u64::MAX, 1)?,
            per,
        })
    }

    fn auth(&self, raw: &RawAuth, at: &Range<usize>) -> Result<Auth> {
        let style = raw.style.get_ref().as_str();
        let need = |key: &str| self.error(at, format!("auth style \"{style}\" needs `{key}`"));
        let text = |value: &Option<String>, key: &str| value.clone().ok_or_else(|| need(key));
        let secret = || match (&raw.env, &raw.file) {
            (Some(env), None) => Ok(SecretRef::Env(env.clone())),
            (None, Some(file)) => Ok(SecretRef::File(file.clone())),
            _ => Err(need("env` or `file")),
        };
        Ok(match style {
            "none" => Auth::None,
            "bearer" => Auth::Bearer { token: secret()? },
            "basic" => Auth::Basic {
                username: text(&raw.username, "username")?,
                password: secret()?,
            },
            "api-key" => match (&raw.header, &raw.param) {
                (Some(header), None) => Auth::ApiKeyHeader {
                    header: header.clone(),
                    key: secret()?,
                },
                (None, Some(param)) => Auth::ApiKeyQuery {
                    param: param.clone(),
                    key: secret()?,
                },
                _ => return Err(need("header` or `param")),
            },
            "oauth2" => Auth::OAuth2 {
                token_url: text(&raw.token_url, "token_url")?,
                client_id: text(&raw.client_id, "client_id")?,
                client_secret: secret()?,
                scope: raw.scope.clone(),
            },
            other => {
                let styles = ["none", "bearer", "basic", "api-key", "oauth2"];
                return Err(self.error(&raw.style.span(), expected("auth style", other, &styles)));
            }
        })
    }

    /// No field may be taken from a secret place, or from a place that holds one.
    fn secrets_stay(
        &self,
        secrets: &[Pointer],
        raw: &[Spanned<RawField>],
        fields: &[Field],
    ) -> Result<()> {
        for (field, raw) in fields.iter().zip(raw) {
            let places: Vec<&Pointer> = match &field.from {
                From::Pointer(p) => vec![p],
                From::Template(t) => t
                    .parts
                    .iter()
                    .filter_map(|p| match p {
                        TemplatePart::Pointer(p) => Some(p),
                        TemplatePart::Literal(_) => None,
                    })
                    .collect(),
                From::AsOf => Vec::new(),
            };
            for (place, secret) in places
                .iter()
                .flat_map(|p| secrets.iter().map(move |s| (p, s)))
            {
                let (p, s) = (place.tokens(), secret.tokens());
                if p.starts_with(s) || s.starts_with(p) {
                    return Err(self.error(
                        &raw.span(),
                        format!(
                            "field `{}` takes `{place}`, which holds the secret `{secret}`",
                            field.name
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Names of tables, columns and keyspaces: what CQL and SQL both take, 48 bytes at most (Cassandra's limit).
    fn identifier(&self, name: &Spanned<String>, what: &str) -> Result<String> {
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
            format!("{what} `{text}`: allowed are 1 to 48 of A-Z, a-z, 0-9 and _, not starting with a digit"),
        ))
    }

    /// Kafka's rule for topic names; five characters are left for `.dlq` and the like.
    fn topic(&self, name: &Spanned<String>) -> Result<String> {
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
            format!("topic `{text}`: allowed are 1 to 240 of A-Z, a-z, 0-9, `.`, `_` and `-`"),
        ))
    }

    fn field(&self, name: &Spanned<String>, fields: &[Field]) -> Result<usize> {
        let text = name.get_ref();
        fields.iter().position(|f| f.name == *text).ok_or_else(|| {
            let names: Vec<&str> = fields.iter().map(|f| f.name.as_str()).collect();
            self.error(&name.span(), expected("field", text, &names))
        })
    }

    fn pointer(&self, text: &Spanned<String>) -> Result<Pointer> {
        Pointer::parse(text.get_ref()).map_err(|e| self.error(&text.span(), e))
    }

    fn duration(&self, text: &Spanned<String>) -> Result<Duration> {
        crate::time::parse_duration(text.get_ref()).map_err(|e| self.error(&text.span(), e))
    }

    fn range<T>(&self, n: Option<&Spanned<T>>, what: &str, min: T, max: T, default: T) -> Result<T>
    where
        T: Copy + PartialOrd + std::fmt::Display,
    {
        match n {
            None => Ok(default),
            Some(n) if (min..=max).contains(n.get_ref()) => Ok(*n.get_ref()),
            Some(n) => Err(self.error(
                &n.span(),
                format!("{what} is {}, allowed is {min} to {max}", n.get_ref()),
            )),
        }
    }

    fn choice<T: Copy>(
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

    fn texts(
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
                    format!("{what}.{key} must be a text, an integer or a boolean"),
                )),
            })
            .collect()
    }
}

fn expected(what: &str, got: &str, allowed: &[&str]) -> String {
    format!(
        "unknown {what} `{got}`, allowed are: {}",
        allowed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The built-in file with one text replaced.
    fn with(old: &str, new: &str) -> Result<Dataset> {
        assert!(BUILT_IN.contains(old), "{old}");
        Dataset::parse(&BUILT_IN.replacen(old, new, 1), "users.toml")
    }

    #[test]
    fn the_built_in_dataset_is_valid() {
        let d = Dataset::load(None).unwrap();
        assert_eq!(d.key().name, "id");
        assert_eq!(d.time().name, "fetched_at");
        assert_eq!(d.event.dead_letter_topic(), "user_events.dlq");
        assert_eq!(d.fields.len(), 14);
        assert_eq!(
            d.field_index("registered"),
            d.field_index("registered_date")
        );
        assert_eq!(d.fields[d.digest_order[0]].name, "address");
    }

    #[test]
    fn errors_name_the_line_and_what_is_allowed() {
        let line = |needle: &str| BUILT_IN.lines().position(|l| l.contains(needle)).unwrap() + 1;
        let cases = [
            (
                "name = \"users\"",
                "nmae = \"users\"",
                "unknown field `nmae`, expected one of",
            ),
            (
                "style = \"page\"",
                "style = \"pages\"",
                "unknown style `pages`, allowed are: none, page",
            ),
            (
                "type = \"uuid\"",
                "type = \"guid\"",
                "unknown type `guid`, allowed are: text, uuid",
            ),
            (
                "key = \"id\"",
                "key = \"idd\"",
                "unknown field `idd`, allowed are: id, first_name",
            ),
            ("per = \"300s\"", "per = \"soon\"", "`soon` is no duration"),
            (
                "partitions = 3",
                "partitions = 0",
                "partitions is 0, allowed is 1 to 1024",
            ),
            (
                "table = \"users\"",
                "table = \"u\\\"; DROP\"",
                "allowed are 1 to 48 of A-Z",
            ),
            (
                "topic = \"user_events\"",
                "topic = \"../x\"",
                "allowed are 1 to 240",
            ),
            ("from = \"/gender\"", "from = \"gender\"", "start with `/`"),
            (
                "max_size = 5000",
                "max_size = 5",
                "max_size is less than size",
            ),
            ("coerce = true", "coerce = \"yes\"", "expected a boolean"),
            (
                "aliases = [\"registered\"]",
                "aliases = [\"ID\"]",
                "the name `ID` is used twice",
            ),
            (
                "time = \"fetched_at\"",
                "time = \"dob\"",
                "must be a field with required = true",
            ),
        ];
        for (old, new, message) in cases {
            let error = with(old, new).unwrap_err().to_string();
            assert!(error.contains(message), "{new}: {error}");
            let place = format!("users.toml:{}: ", line(old));
            assert!(
                error.starts_with(&place),
                "{new}: {error} should start with {place}"
            );
        }
    }

    #[test]
    fn a_secret_cannot_become_a_field() {
        for place in ["/login/password", "/login"] {
            let error =
                with("from = \"/login/username\"", &format!("from = \"{place}\"")).unwrap_err();
            assert!(error.to_string().contains("holds the secret"), "{error}");
        }
    }
}
