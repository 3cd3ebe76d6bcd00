//! What `rtp transform` answers to a batch of events: for each event its row or the reason why it is rejected, as one
//! table, written as NDJSON or as an Arrow batch. Pure; docs/transform.md describes both.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMillisecondArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef, TimeUnit};
use serde_json::json;

use crate::dataset::{Dataset, FieldType, Nulls, Series};
use crate::error::{Error, Result};
use crate::record::reject::{Reject, Rule};
use crate::record::row::{self, Rows};
use crate::record::transform;
use crate::record::value::Value;

/// The answers to one batch of events, in order.
#[derive(Debug)]
pub struct Answers {
    rows: Rows,
    /// For each event, its position in the input, and the number of its row or the reason why it has none.
    answers: Vec<(u64, Result<usize, Reject>)>,
    /// Whether a row is the newest one with its key among `rows`.
    is_newest: Vec<bool>,
}

impl Answers {
    /// Reads events by the dataset's rules, each given with its position in the input. `now` and the events' timestamps
    /// are those of [`transform::events`].
    pub fn of<'a>(
        dataset: &Dataset,
        now: i64,
        events: impl Iterator<Item = (u64, (Option<i64>, Option<&'a [u8]>))>,
    ) -> Self {
        let mut rows = Rows::new(dataset.fields.len());
        let mut places = Vec::new();
        let events = events.map(|(place, event)| {
            places.push(place);
            event
        });
        let rejects = transform::events(dataset, now, events, &mut rows);
        let mut is_newest = vec![false; rows.len()];
        for newest in rows.newest_by_key(dataset.event.key) {
            is_newest[newest] = true;
        }
        let (mut good, mut bad) = (0.., rejects.into_iter().peekable());
        let answer = |(i, place)| {
            let reject = bad.next_if(|(at, _)| *at == i);
            let answer =
                reject.map_or_else(|| Ok(good.next().unwrap_or_default()), |bad| Err(bad.1));
            (place, answer)
        };
        Answers {
            answers: places.into_iter().enumerate().map(answer).collect(),
            rows,
            is_newest,
        }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Number of good events.
    pub fn good(&self) -> usize {
        self.rows.len()
    }

    /// The rule that the last event breaks, if any.
    pub fn last_rule(&self) -> Option<Rule> {
        let (_, answer) = self.answers.last()?;
        answer.as_ref().err().map(|reject| reject.fault.rule)
    }

    /// Appends one JSON object per line.
    fn write_ndjson(&self, dataset: &Dataset, out: &mut Vec<u8>) -> serde_json::Result<()> {
        for (place, answer) in &self.answers {
            let mut line = JsonLine { out, start: b'{' };
            match answer {
                Ok(row) => self.write_row(dataset, *row, &mut line)?,
                Err(reject) => {
                    line.member("rtp_rule", &reject.fault.rule.name())?;
                    line.member("rtp_field", &field_of(dataset, reject))?;
                    line.member("rtp_message", &reject.describe(dataset))?;
                }
            }
            line.member("rtp_line", place)?;
            out.extend_from_slice(b"}\n");
        }
        Ok(())
    }

    fn write_row(
        &self,
        dataset: &Dataset,
        row: usize,
        line: &mut JsonLine<'_>,
    ) -> serde_json::Result<()> {
        let meta = self.rows.meta(row);
        for (field, value) in dataset.fields.iter().zip(self.rows.values(row)) {
            line.member(&field.name, &value)?;
        }
        for series in &dataset.realtime.series {
            let [bucket, shard] = series_columns(series);
            let (start, number) = self.bucket(dataset, series, row);
            line.member(&bucket, &Value::Timestamp(start))?;
            line.member(&shard, &number)?;
        }
        line.member("rtp_write_timestamp", &meta.write_timestamp())?;
        line.member("rtp_newest", &self.is_newest[row])
    }

    /// The same as columns of [`schema`].
    fn to_arrow(&self, dataset: &Dataset, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let rows = || self.answers.iter().map(|(_, answer)| answer.as_ref().ok());
        let rejects = || self.answers.iter().map(|(_, answer)| answer.as_ref().err());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for (i, field) in dataset.fields.iter().enumerate() {
            let value =
                |row: Option<&usize>| row.map_or(Value::Null, |row| self.rows.value(*row, i));
            columns.push(column(field.kind, rows().map(value)));
        }
        for series in &dataset.realtime.series {
            let buckets: Vec<_> = rows()
                .map(|row| row.map(|row| self.bucket(dataset, series, *row)))
                .collect();
            let starts = buckets.iter().map(|bucket| bucket.map(|(start, _)| start));
            columns.push(Arc::new(
                starts
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            ));
            let shards = buckets.iter().map(|bucket| bucket.map(|(_, shard)| shard));
            columns.push(Arc::new(shards.collect::<Int32Array>()));
        }
        let written = |row: Option<&usize>| row.map(|row| self.rows.meta(*row).write_timestamp());
        columns.push(Arc::new(rows().map(written).collect::<Int64Array>()));
        let newest = |row: Option<&usize>| row.map(|row| self.is_newest[*row]);
        columns.push(Arc::new(rows().map(newest).collect::<BooleanArray>()));
        let rule = |reject: Option<&Reject>| reject.map(|reject| reject.fault.rule.name());
        columns.push(Arc::new(rejects().map(rule).collect::<StringArray>()));
        let field = |reject: Option<&Reject>| reject.and_then(|reject| field_of(dataset, reject));
        columns.push(Arc::new(rejects().map(field).collect::<StringArray>()));
        let message = |reject: Option<&Reject>| reject.map(|reject| reject.describe(dataset));
        columns.push(Arc::new(rejects().map(message).collect::<StringArray>()));
        let lines = self
            .answers
            .iter()
            .map(|(place, _)| i64::try_from(*place).ok());
        columns.push(Arc::new(lines.collect::<Int64Array>()));
        RecordBatch::try_new(schema.clone(), columns)
    }

    fn bucket(&self, dataset: &Dataset, series: &Series, row: usize) -> (i64, i32) {
        let key = self.rows.value(row, dataset.event.key);
        row::bucket(series, self.rows.meta(row).event_time, &key)
    }
}

fn field_of<'d>(dataset: &'d Dataset, reject: &Reject) -> Option<&'d str> {
    reject.field.map(|i| dataset.fields[i].name.as_str())
}

/// Writes answers to memory, in one of the formats.
pub struct Writer {
    dataset: Dataset,
    format: Format,
}

enum Format {
    Ndjson(Vec<u8>),
    Arrow(SchemaRef, Box<StreamWriter<Vec<u8>>>),
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// One JSON object per line.
    pub fn ndjson(dataset: &Dataset) -> Self {
        Writer {
            dataset: dataset.clone(),
            format: Format::Ndjson(Vec::new()),
        }
    }

    /// An Arrow IPC stream, whose schema is written at once.
    pub fn arrow(dataset: &Dataset) -> Result<Self> {
        let schema = schema(dataset);
        let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(Error::internal)?;
        Ok(Writer {
            dataset: dataset.clone(),
            format: Format::Arrow(schema, Box::new(writer)),
        })
    }

    /// Adds the answers to a batch.
    pub fn write(&mut self, answers: &Answers) -> Result<()> {
        match &mut self.format {
            Format::Ndjson(lines) => answers
                .write_ndjson(&self.dataset, lines)
                .map_err(Error::internal),
            Format::Arrow(schema, writer) => answers
                .to_arrow(&self.dataset, schema)
                .and_then(|batch| writer.write(&batch))
                .map_err(Error::internal),
        }
    }

    /// Adds the end mark, if the format has one, which shows that nothing is missing.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.format {
            Format::Ndjson(_) => Ok(()),
            Format::Arrow(_, writer) => writer.finish().map_err(Error::internal),
        }
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(match &mut self.format {
            Format::Ndjson(lines) => lines,
            Format::Arrow(_, writer) => writer.get_mut(),
        })
    }
}

/// One line of NDJSON being written.
struct JsonLine<'o> {
    out: &'o mut Vec<u8>,
    /// The separator before the next member.
    start: u8,
}

impl JsonLine<'_> {
    /// Adds a member whose name needs no escapes.
    fn member(&mut self, name: &str, value: &impl serde::Serialize) -> serde_json::Result<()> {
        self.out.push(std::mem::replace(&mut self.start, b','));
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        serde_json::to_writer(&mut *self.out, value)
    }
}

/// The columns of the answers. The metadata has what a program needs to write the rows to Cassandra.
fn schema(dataset: &Dataset) -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let field = |name: &str, kind| arrow_schema::Field::new(name, kind, true);
    let mut fields = Vec::new();
    for declared in &dataset.fields {
        let kind = match declared.kind {
            FieldType::Text | FieldType::Uuid | FieldType::Decimal => DataType::Utf8,
            FieldType::Int => DataType::Int32,
            FieldType::BigInt => DataType::Int64,
            FieldType::Double => DataType::Float64,
            FieldType::Boolean => DataType::Boolean,
            FieldType::Timestamp => time(),
            FieldType::Date => DataType::Date32,
        };
        fields.push(field(&declared.name, kind));
    }
    for series in &dataset.realtime.series {
        let [bucket, shard] = series_columns(series);
        fields.extend([field(&bucket, time()), field(&shard, DataType::Int32)]);
    }
    fields.extend([
        field("rtp_write_timestamp", DataType::Int64),
        field("rtp_newest", DataType::Boolean),
        field("rtp_rule", DataType::Utf8),
        field("rtp_field", DataType::Utf8),
        field("rtp_message", DataType::Utf8),
        field("rtp_line", DataType::Int64),
    ]);
    let declared = json!({
        "name": dataset.name,
        "topic": dataset.event.topic,
        "keyspace": dataset.realtime.keyspace,
        "table": dataset.realtime.table,
        "null": match dataset.nulls {
            Nulls::Write => "write",
            Nulls::Unset => "unset",
        },
    });
    let metadata = HashMap::from([("rtp.dataset".to_string(), declared.to_string())]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// Bucket and shard of a row, for a table that is read by time.
fn series_columns(series: &Series) -> [String; 2] {
    [series.bucket.name(), "shard"].map(|column| format!("{}.{column}", series.table))
}

fn column<'a>(kind: FieldType, values: impl Iterator<Item = Value<'a>>) -> ArrayRef {
    let int = |value| match value {
        Value::Int(n) | Value::Timestamp(n) => Some(n),
        _ => None,
    };
    match kind {
        FieldType::Int => {
            let narrow = |n: i64| i32::try_from(n).ok();
            Arc::new(
                values
                    .map(|v| int(v).and_then(narrow))
                    .collect::<Int32Array>(),
            )
        }
        FieldType::BigInt => Arc::new(values.map(int).collect::<Int64Array>()),
        FieldType::Timestamp => {
            let times: TimestampMillisecondArray = values.map(int).collect();
            Arc::new(times.with_timezone("UTC"))
        }
        FieldType::Double => {
            let double = |value| match value {
                Value::Double(n) => Some(n),
                _ => None,
            };
            Arc::new(values.map(double).collect::<Float64Array>())
        }
        FieldType::Boolean => {
            let boolean = |value| match value {
                Value::Boolean(b) => Some(b),
                _ => None,
            };
            Arc::new(values.map(boolean).collect::<BooleanArray>())
        }
        FieldType::Date => {
            let date = |value| match value {
                Value::Date(days) => Some(days),
                _ => None,
            };
            Arc::new(values.map(date).collect::<Date32Array>())
        }
        FieldType::Text | FieldType::Uuid | FieldType::Decimal => Arc::new(texts(values)),
    }
}

fn texts<'a>(values: impl Iterator<Item = Value<'a>>) -> StringArray {
    let mut texts = StringBuilder::new();
    for value in values {
        match value {
            Value::Null => texts.append_null(),
            Value::Text(text) | Value::Decimal(text) => texts.append_value(text),
            Value::Uuid(uuid) => {
                let mut buffer = uuid::Uuid::encode_buffer();
                texts.append_value(uuid.hyphenated().encode_lower(&mut buffer));
            }
            other => texts.append_value(other.to_string()),
        }
    }
    texts.finish()
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;

    use super::*;

    const ID: &str = "053a5780-3703-442c-a561-beda535af12c";

    #[test]
    fn every_event_has_one_answer_in_its_place() {
        let dataset = Dataset::load(None).unwrap();
        let event = |email| {
            format!(r#"{{"id":"{ID}","email":"{email}","fetched_at":"2026-11-01T00:00:00Z"}}"#)
        };
        let [a, b] = ["a", "b"].map(event);
        let values = [
            None,
            Some(a.as_bytes()),
            Some(b"{".as_slice()),
            Some(b.as_bytes()),
        ];
        let events = (5..).zip(values.map(|value| (None, value)));
        let answers = Answers::of(&dataset, 1_795_500_000_000, events);
        assert_eq!((answers.len(), answers.good()), (4, 2));
        assert_eq!(answers.last_rule(), None);

        let mut writer = Writer::ndjson(&dataset);
        writer.write(&answers).unwrap();
        let lines = String::from_utf8(writer.take()).unwrap();
        let lines: Vec<serde_json::Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let places: Vec<u64> = lines
            .iter()
            .map(|line| line["rtp_line"].as_u64().unwrap())
            .collect();
        assert_eq!(places, [5, 6, 7, 8]);
        assert_eq!(
            [&lines[0]["rtp_rule"], &lines[2]["rtp_rule"]],
            ["tombstone", "json_syntax"]
        );
        let newest: Vec<bool> = [1, 3]
            .map(|i| lines[i]["rtp_newest"].as_bool().unwrap())
            .into();
        assert_eq!(newest.iter().filter(|newest| **newest).count(), 1);

        let schema = schema(&dataset);
        let batch = answers.to_arrow(&dataset, &schema).unwrap();
        assert_eq!(batch.num_rows(), 4);
        for (i, line) in lines.iter().enumerate() {
            for name in ["id", "email", "rtp_rule", "rtp_message"] {
                let column = batch.column_by_name(name).unwrap();
                let column = column.as_any().downcast_ref::<StringArray>().unwrap();
                let found = (!column.is_null(i)).then(|| column.value(i));
                assert_eq!(
                    found,
                    line.get(name).and_then(|value| value.as_str()),
                    "{name}"
                );
            }
        }
    }
}
