//! The canonical encoding of values, which is used to compare and digest rows.

use uuid::Uuid;

use super::Value;

impl Value<'_> {
    /// Appends the canonical encoding: a tag, then the value, length-prefixed if its length varies. Equal
    /// values have equal encodings in every store, different ones have different encodings.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(0),
            Value::Text(text) => encode_text(text.as_bytes(), out),
            Value::Uuid(uuid) => fixed(out, 2, uuid.as_bytes()),
            Value::Int(n) => fixed(out, 3, &n.to_be_bytes()),
            Value::Double(n) => fixed(out, 4, &n.to_bits().to_be_bytes()),
            Value::Decimal(text) => sized(out, 5, text.as_bytes()),
            Value::Boolean(b) => fixed(out, 6, &[u8::from(*b)]),
            Value::Timestamp(ms) => fixed(out, 7, &ms.to_be_bytes()),
            Value::Date(days) => fixed(out, 8, &days.to_be_bytes()),
        }
    }

    /// Reads back what [`Value::encode`] made of a key: a text, a UUID or an integer.
    pub(crate) fn decode_key(encoding: &[u8]) -> Option<Value<'static>> {
        let (tag, rest) = encoding.split_first()?;
        match tag {
            1 => String::from_utf8(rest.get(8..)?.to_vec())
                .ok()
                .map(|text| Value::Text(text.into())),
            2 => Uuid::from_slice(rest).ok().map(Value::Uuid),
            3 => Some(Value::Int(i64::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

/// Appends the canonical encoding of a text, given as bytes that are known to be UTF-8.
#[inline]
pub fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    sized(out, 1, text);
}

#[inline]
fn fixed<const N: usize>(out: &mut Vec<u8>, tag: u8, bytes: &[u8; N]) {
    out.reserve(1 + N);
    out.push(tag);
    out.extend_from_slice(bytes);
}

#[inline]
fn sized(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    let mut head = [tag; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.reserve(head.len() + bytes.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_tell_values_apart() {
        let values = [
            Value::Null,
            Value::Text("".into()),
            Value::Text("a".into()),
            Value::Text("a ".into()),
            Value::Decimal("1".into()),
            Value::Int(1),
            Value::Timestamp(1),
            Value::Date(1),
            Value::Boolean(true),
            Value::Double(1.0),
        ];
        let mut seen = std::collections::HashSet::new();
        for value in &values {
            let mut out = Vec::new();
            value.encode(&mut out);
            assert!(seen.insert(out), "{value:?}");
        }
    }

    #[test]
    fn keys_are_read_back() {
        for key in [
            Value::Text("Zoë".into()),
            Value::Text("".into()),
            Value::Uuid(Uuid::from_u128(7)),
            Value::Int(-9_007_199_254_740_993),
        ] {
            let mut encoding = Vec::new();
            key.encode(&mut encoding);
            assert_eq!(Value::decode_key(&encoding), Some(key));
        }
    }
}
