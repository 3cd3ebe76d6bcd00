//! From the file as written to a checked [`Dataset`]: every error names file, line and what was expected.

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;

use super::checker::Checker;
use super::parse::*;
use super::*;

/// Names of columns that the stores themselves add start with this.
const RESERVED_PREFIX: &str = "rtp_";

/// The name by which trailers and bookmarks are known among the records.
const MARK: &str = "_rtp";

pub(super) fn dataset(raw: RawDataset, text: &str, origin: &str) -> Result<Dataset> {
    Checker { text, origin }.dataset(raw)
}

impl Checker<'_> {
    fn dataset(&self, raw: RawDataset) -> Result<Dataset> {
        let name = self.identifier(&raw.name, "the dataset's name")?;
        let fields = self.fields(&raw.fields)?;
        let event = self.event(&raw.event, &fields)?;
        let realtime = self.realtime(&raw.realtime, &fields)?;
        let batch_table = self.identifier(&raw.batch.table, "table")?;
        let history = self.history(raw.batch.history.as_ref(), &fields)?;
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
        let aggregates = self.aggregates(&raw.aggregates, &fields, event.time)?;
        let mut digest_order: Vec<usize> = (0..fields.len()).collect();
        digest_order.sort_by(|a, b| fields[*a].name.cmp(&fields[*b].name));
        Ok(Dataset {
            name,
            file: None,
            source: self.source(raw.source.get_ref(), &raw.source.span())?,
            secrets,
            fields,
            event,
            realtime,
            batch: BatchSpec {
                table: batch_table,
                history,
            },
            nulls,
            aggregates,
            digest_order,
        })
    }

    fn fields(&self, raw: &[Spanned<RawField>]) -> Result<Vec<Field>> {
        let mut names = HashSet::new();
        let mut fields = Vec::with_capacity(raw.len());
        for field in raw {
            let (at, field) = (field.span(), field.get_ref());
            let name = self.field_name(&field.name)?;
            let mut aliases = Vec::new();
            for text in std::iter::once(&field.name).chain(&field.aliases) {
                self.is_not_the_mark(text)?;
                // Some stores compare column names without case.
                if !names.insert(text.get_ref().to_ascii_lowercase()) {
                    let message = format!("the name `{}` is used twice", text.get_ref());
                    return Err(self.error(&text.span(), message));
                }
                if *text.get_ref() != name {
                    aliases.push(text.get_ref().clone());
                }
            }
            let kind = self.choice(&field.kind, "type", &FieldType::ALL)?;
            let from = self.from(field, &at, &name)?;
            fields.push(Field {
                format: self.format(field, &at, kind, &from)?,
                name,
                kind,
                from,
                required: field.required,
                aliases,
                coerce: field.coerce,
            });
        }
        if fields.is_empty() {
            return Err(self.error(&(0..0), "a dataset needs at least one [[field]]"));
        }
        Ok(fields)
    }

    fn field_name(&self, name: &Spanned<String>) -> Result<String> {
        let text = self.identifier(name, "field name")?;
        if text.to_ascii_lowercase().starts_with(RESERVED_PREFIX) {
            let message = format!(
                "field name `{text}`: names that start with `{RESERVED_PREFIX}` are reserved for rtp's own columns"
            );
            return Err(self.error(&name.span(), message));
        }
        Ok(text)
    }

    /// A record that started with this name would be read as a trailer.
    fn is_not_the_mark(&self, name: &Spanned<String>) -> Result<()> {
        match name.get_ref() == MARK {
            false => Ok(()),
            true => Err(self.error(
                &name.span(),
                format!("field name `{MARK}` is reserved: it marks the trailers among the records"),
            )),
        }
    }

    fn format(
        &self,
        field: &RawField,
        at: &Range<usize>,
        kind: FieldType,
        from: &From,
    ) -> Result<TimeFormat> {
        let name = field.name.get_ref();
        let is_as_of = matches!(from, From::AsOf);
        if is_as_of && kind != FieldType::Timestamp {
            let message = format!("field `{name}`: from = \"as-of\" needs type = \"timestamp\"");
            return Err(self.error(&field.kind.span(), message));
        }
        let Some(text) = &field.format else {
            return Ok(TimeFormat::Rfc3339);
        };
        if kind != FieldType::Timestamp {
            let message = format!(
                "field `{name}`: format applies only to type = \"timestamp\", not \"{}\"",
                kind.name()
            );
            return Err(self.error(&text.span(), message));
        }
        let formats = [
            ("rfc3339", TimeFormat::Rfc3339),
            ("epoch-s", TimeFormat::EpochSeconds),
            ("epoch-ms", TimeFormat::EpochMillis),
        ];
        let format = self.choice(text, "format", &formats)?;
        if is_as_of && format != TimeFormat::Rfc3339 {
            let message =
                format!("field `{name}`: from = \"as-of\" always has format = \"rfc3339\"");
            return Err(self.error(at, message));
        }
        Ok(format)
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
                            "field `{name}`: a template yields text, so it needs type = \"text\""
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
                    "the key `{}` has type {}; expected text, uuid, int or bigint",
                    fields[key].name,
                    fields[key].kind.name()
                ),
            ));
        }
        if fields[time].kind != T::Timestamp {
            return Err(self.error(
                &raw.time.span(),
                format!(
                    "the event time `{}` has type {}; expected timestamp",
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
            retention: self.duration_if_any(raw.retention.as_ref())?,
            dead_letter_retention: self.duration_if_any(raw.dead_letter_retention.as_ref())?,
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
            ttl: self.duration_if_any(raw.ttl.as_ref())?,
            series,
        })
    }

    /// Whether there is a history, whose table has a column of its own.
    fn history(&self, history: Option<&Spanned<bool>>, fields: &[Field]) -> Result<bool> {
        let Some(history) = history.filter(|history| *history.get_ref()) else {
            return Ok(false);
        };
        match fields.iter().any(|f| f.name.eq_ignore_ascii_case(AS_OF)) {
            false => Ok(true),
            true => Err(self.error(
                &history.span(),
                format!("the history adds a column `{AS_OF}`, which is also a field"),
            )),
        }
    }

    /// No field may be taken from a secret place, or from a place that contains one.
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
                            "field `{}` takes `{place}`, which contains the secret `{secret}`",
                            field.name
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
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
        assert_eq!(d.event.dead_letter_retention, None);
        assert_eq!(d.fields.len(), 14);
        assert_eq!(
            d.field_index("registered"),
            d.field_index("registered_date")
        );
        assert_eq!(d.fields[d.digest_order[0]].name, "address");
    }

    #[test]
    fn dead_letters_do_not_expire_with_the_events() {
        use crate::ports::event_log::{Retention, topics};
        let days = |n: u64| Retention::For(std::time::Duration::from_secs(n * 86_400));
        let of = |event: &str| {
            let dataset = with("retention = \"7d\"", event).unwrap();
            topics(&dataset).map(|topic| topic.retention)
        };
        let hour = Retention::For(std::time::Duration::from_secs(3_600));
        let forever = Retention::Forever;
        let both = "retention = \"7d\"\ndead_letter_retention = \"90d\"";
        assert_eq!(of("retention = \"7d\""), [days(7), forever, hour]);
        assert_eq!(of(both), [days(7), days(90), hour]);
        assert_eq!(of(""), [forever, forever, hour]);
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
                "unknown style `pages`; expected one of: none, page",
            ),
            (
                "type = \"uuid\"",
                "type = \"guid\"",
                "unknown type `guid`; expected one of: text, uuid",
            ),
            (
                "key = \"id\"",
                "key = \"idd\"",
                "unknown field `idd`; expected one of: id, first_name",
            ),
            (
                "per = \"300s\"",
                "per = \"soon\"",
                "invalid duration `soon`",
            ),
            (
                "partitions = 3",
                "partitions = 0",
                "partitions must be 1 to 1024, got 0",
            ),
            (
                "table = \"users\"",
                "table = \"u\\\"; DROP\"",
                "expected 1 to 48 characters of A-Z",
            ),
            (
                "topic = \"user_events\"",
                "topic = \"../x\"",
                "expected 1 to 240",
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
    fn no_field_is_named_like_a_trailer() {
        for (old, new) in [
            ("name = \"gender\"\ntype", "name = \"_rtp\"\ntype"),
            ("aliases = [\"registered\"]", "aliases = [\"_rtp\"]"),
        ] {
            let error = with(old, new).unwrap_err().to_string();
            assert!(error.contains("field name `_rtp` is reserved"), "{error}");
        }
    }

    #[test]
    fn a_secret_cannot_become_a_field() {
        for place in ["/login/password", "/login"] {
            let error =
                with("from = \"/login/username\"", &format!("from = \"{place}\"")).unwrap_err();
            assert!(error.to_string().contains("contains the secret"), "{error}");
        }
    }
}
