//! Where a listing continues: a text for other programs to hand back, not to read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::Query;
use super::query::{self, Boundary};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::record::value::Value;

/// The form of what follows; another one is that of another version of rtp.
const VERSION: u8 = 1;

/// The mark of a listing without a boundary: no event has this time.
const NO_BOUNDARY: i64 = i64::MIN;

/// The cursor of a listing that goes on behind this key.
pub fn encode(dataset: &Dataset, query: &Query, after: &Value<'_>) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(fingerprint(dataset, query).to_be_bytes());
    bytes.extend(query.boundary.unwrap_or(NO_BOUNDARY).to_be_bytes());
    bytes.extend(after.to_string().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Continues a listing with the same conditions, behind its last key, and tells its boundary. `asked` is the one that is
/// asked for.
pub fn resume(
    dataset: &Dataset,
    query: &mut Query,
    cursor: &str,
    asked: Boundary,
) -> Result<Boundary> {
    let (fingerprint_there, boundary, key) = decode(cursor)
        .ok_or_else(|| Error::invalid(format!("invalid cursor `{cursor}`")).hint(FROM_A_PAGE))?;
    if fingerprint_there != fingerprint(dataset, query) {
        let other = "the cursor belongs to a listing with other conditions";
        return Err(Error::invalid(other).hint(FROM_A_PAGE));
    }
    let boundary = Boundary::from(boundary);
    if asked != Boundary::Unasked && asked != boundary {
        let other = "the cursor belongs to a listing with another boundary";
        return Err(Error::invalid(other).hint(FROM_A_PAGE));
    }
    query.after = Some(query::key(dataset, &key)?);
    Ok(boundary)
}

/// The hint for a cursor that cannot be used.
const FROM_A_PAGE: &str =
    "a cursor continues the listing that it was printed for, with the same conditions and dataset";

fn decode(cursor: &str) -> Option<(u64, Option<i64>, String)> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let rest = bytes.strip_prefix(&[VERSION])?;
    let (fingerprint, rest) = rest.split_first_chunk()?;
    let (boundary, key) = rest.split_first_chunk()?;
    let boundary = Some(i64::from_be_bytes(*boundary)).filter(|ms| *ms != NO_BOUNDARY);
    let key = String::from_utf8(key.to_vec()).ok()?;
    Some((u64::from_be_bytes(*fingerprint), boundary, key))
}

/// Tells listings with other conditions apart.
fn fingerprint(dataset: &Dataset, query: &Query) -> u64 {
    let mut bytes = dataset.name.clone().into_bytes();
    let mut filters: Vec<_> = query.filters.iter().collect();
    filters.sort_by_key(|filter| filter.field);
    for filter in filters {
        let name = &dataset.fields[filter.field].name;
        Value::Text(name.into()).encode(&mut bytes);
        filter.value.encode(&mut bytes);
    }
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_continues_its_own_listing_only() {
        let dataset = Dataset::load(None).unwrap();
        let conditions = |text: &str| Query {
            filters: vec![query::parse_filter(&dataset, text).unwrap()],
            boundary: Some(-5),
            after: None,
        };
        let key = Value::Uuid(uuid::Uuid::from_u128(7));
        let cursor = encode(&dataset, &conditions("gender=a"), &key);
        for asked in [Boundary::Unasked, Boundary::At(-5)] {
            let mut query = conditions("gender=a");
            let boundary = resume(&dataset, &mut query, &cursor, asked).unwrap();
            assert_eq!(
                (query.after, boundary),
                (Some(key.clone()), Boundary::At(-5))
            );
        }
        let cut = &cursor[..cursor.len() - 3];
        let any = Boundary::Unasked;
        for (text, cursor, asked, message) in [
            ("gender=b", &*cursor, any, "with other conditions"),
            ("phone=a", &cursor, any, "with other conditions"),
            (
                "gender=a",
                &cursor,
                Boundary::At(9),
                "with another boundary",
            ),
            (
                "gender=a",
                &cursor,
                Boundary::Without,
                "with another boundary",
            ),
            ("gender=a", "AA", any, "invalid cursor `AA`"),
            ("gender=a", "?", any, "invalid cursor"),
            ("gender=a", cut, any, "not a value of id"),
        ] {
            let error = resume(&dataset, &mut conditions(text), cursor, asked).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
        let all = Query::default();
        let mut resumed = Query::default();
        let whole = encode(&dataset, &all, &key);
        for asked in [any, Boundary::Without] {
            let boundary = resume(&dataset, &mut resumed, &whole, asked).unwrap();
            assert_eq!(boundary, Boundary::Without);
        }
    }
}
