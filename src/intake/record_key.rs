//! Key and event time of a record that may be bad otherwise.

use std::borrow::Cow;

use super::csv::Columns;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::record::value::Value;

/// What stands for a byte that is not valid UTF-8: a character that JSON allows in a text, and no source writes.
const UNKNOWN: u8 = 0x7f;

/// Where key and event time are in the records of a CSV file.
#[derive(Clone, Debug)]
pub struct KeyCells {
    key_only: Dataset,
    key: Columns,
    time_only: Dataset,
    time: Columns,
}

impl KeyCells {
    /// Reads a header. `null` is the text of an unquoted cell that means null. An error (`Invalid`) if there is no column,
    /// or more than one, for the key or the event time.
    pub fn read_header(header: &[u8], dataset: &Dataset, null: &str) -> Result<KeyCells> {
        let key_only = with_only(dataset, dataset.event.key);
        let time_only = with_only(dataset, dataset.event.time);
        Ok(KeyCells {
            key: Columns::read(header, &key_only, null)?,
            time: Columns::read(header, &time_only, null)?,
            key_only,
            time_only,
        })
    }

    /// The key of a record, and its event time in milliseconds since 1970 UTC; none if the key cannot be read.
    pub fn read(&self, record: &[u8]) -> Option<(Value<'static>, Option<i64>)> {
        let text = as_text(record);
        let key = self.key.values(&text, &self.key_only).ok()?;
        let key = known(key.first()?, matches!(text, Cow::Borrowed(_)))?;
        let time = self.time.values(&text, &self.time_only).ok();
        let time = time.and_then(|values| match values.first() {
            Some(Value::Timestamp(time)) => Some(*time),
            _ => None,
        });
        Some((key, time))
    }
}

/// The dataset as if this field were its only one, and its key.
pub(super) fn with_only(dataset: &Dataset, field: usize) -> Dataset {
    let mut only = dataset.clone();
    only.fields = vec![dataset.fields[field].clone()];
    (only.event.key, only.event.time) = (0, 0);
    only.digest_order = vec![0];
    only
}

/// A record as text of the same length: one in another encoding mostly differs from UTF-8 in a few letters.
pub(super) fn as_text(record: &[u8]) -> Cow<'_, [u8]> {
    if simdutf8::basic::from_utf8(record).is_ok() {
        return record.into();
    }
    let mut text = Vec::with_capacity(record.len());
    for chunk in record.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        text.resize(text.len() + chunk.invalid().len(), UNKNOWN);
    }
    text.into()
}

/// A key that was read from a record as text, unless it is null or not known to the last byte; `is_exact` if the record is
/// UTF-8.
pub(super) fn known(key: &Value<'_>, is_exact: bool) -> Option<Value<'static>> {
    let is_whole = || !key.to_string().as_bytes().contains(&UNKNOWN);
    (*key != Value::Null && (is_exact || is_whole())).then(|| key.owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::FieldType;
    use crate::intake::dead_letter::DeadLetters;

    const ID: &str = "053a5780-3703-442c-a561-beda535af12c";
    const TIME: &str = "2026-11-01T00:00:02Z";

    fn key() -> Value<'static> {
        Value::Uuid(ID.parse().unwrap())
    }

    #[test]
    fn a_key_is_read_from_a_record_in_another_encoding() {
        let dataset = Dataset::load(None).unwrap();
        let letters = DeadLetters::of(&dataset);
        let json = format!("{{\"first_name\":\"Jos?\",\"id\":\"{ID}\",\"fetched_at\":\"{TIME}\"}}");
        let json = json.replace('?', "\u{1}").into_bytes();
        let json: Vec<u8> = json
            .into_iter()
            .map(|b| if b == 1 { 0xe9 } else { b })
            .collect();
        let time = Some(1_793_491_202_000);
        assert_eq!(letters.key_in(&json), Some(key()));
        assert_eq!(letters.time_in(&json), time);
        let cells = KeyCells::read_header(b"first_name,fetched_at,id", &dataset, "").unwrap();
        let record = [b"Jos\xe9,", TIME.as_bytes(), b",", ID.as_bytes()].concat();
        assert_eq!(cells.read(&record), Some((key(), time)));
        let too_many = [&record[..], b",x"].concat();
        assert_eq!(cells.read(&too_many), None);
        // As large as a record may be, all of it in another encoding.
        let large = [
            &vec![0xe9; 1 << 19][..],
            b",",
            TIME.as_bytes(),
            b",",
            ID.as_bytes(),
        ]
        .concat();
        assert_eq!(cells.read(&large), Some((key(), time)));
    }

    #[test]
    fn a_key_with_an_unknown_byte_is_unknown() {
        let mut dataset = Dataset::load(None).unwrap();
        let field = dataset.event.key;
        dataset.fields[field].kind = FieldType::Text;
        let letters = DeadLetters::of(&dataset);
        assert_eq!(letters.key_in(b"{\"id\":\"Jos\xe9\"}"), None);
        let written = Value::Text("Jos\u{7f}".into());
        assert_eq!(letters.key_in(b"{\"id\":\"Jos\x7f\"}"), Some(written));
        let cells = KeyCells::read_header(b"id,fetched_at,email", &dataset, "NA").unwrap();
        let read = |record: &[u8]| cells.read(record).map(|(key, _)| key);
        assert_eq!(read(b"Jos\xe9,,"), None);
        assert_eq!(read(b"NA,,\xe9"), None);
        assert_eq!(read(b"Jo,,\xe9"), Some(Value::Text("Jo".into())));
    }
}
