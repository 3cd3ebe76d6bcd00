//! How far two values of a column may differ and still count as equal.

use std::time::Duration;

use num_bigint::BigInt;

use crate::dataset::{Dataset, Field, FieldType, Nulls};
use crate::error::{Error, Result};
use crate::record::value::Value;

/// The tolerance of each column.
#[derive(Clone, Debug)]
pub struct Tolerances {
    columns: Vec<Tolerance>,
    /// By column, as it was given.
    given: Vec<Option<String>>,
    nulls: Nulls,
}

#[derive(Clone, Debug, PartialEq)]
enum Tolerance {
    Exact,
    Ignore,
    /// Maximum difference of two numbers, as text and as a number.
    Number(String, f64),
    Time(Duration),
}

impl Tolerances {
    /// Reads `COLUMN=AMOUNT` of `--tolerance`.
    pub fn parse(dataset: &Dataset, given: &[String]) -> Result<Tolerances> {
        let mut columns = vec![Tolerance::Exact; dataset.fields.len()];
        let mut texts = vec![None; dataset.fields.len()];
        for text in given {
            let wrong = |what: String| Error::invalid(format!("--tolerance {text}: {what}"));
            let (name, amount) = text
                .split_once('=')
                .ok_or_else(|| wrong("expected COLUMN=AMOUNT".into()))?;
            let i = dataset.field_index(name).ok_or_else(|| {
                wrong(format!(
                    "unknown column `{name}`; columns: {}",
                    dataset.field_names()
                ))
            })?;
            if i == dataset.event.key {
                return Err(wrong(format!(
                    "`{name}` is the key that rows are matched by, so it takes no tolerance"
                )));
            }
            columns[i] = parse_amount(&dataset.fields[i], amount).map_err(wrong)?;
            texts[i] = Some(text.clone());
        }
        Ok(Tolerances {
            columns,
            given: texts,
            nulls: dataset.nulls,
        })
    }

    /// Whether every column must be equal.
    pub fn are_strict(&self) -> bool {
        self.columns.iter().all(|t| *t == Tolerance::Exact)
    }

    /// The options that count, in the order of the columns, and what the dataset adds to them.
    pub fn options(&self) -> Vec<String> {
        let given = self.given.iter().flatten();
        let given = given.map(|text| format!("--tolerance {text}"));
        let unset = (self.nulls == Nulls::Unset).then(|| "null=unset".to_string());
        given.chain(unset).collect()
    }

    /// What follows `equal` in a sentence.
    pub(super) fn within(&self) -> String {
        let given: Vec<&str> = self.given.iter().flatten().map(String::as_str).collect();
        match given.is_empty() {
            true => String::new(),
            false => format!(", within the tolerances {}", given.join(", ")),
        }
    }

    /// Whether a column is not compared at all.
    pub fn ignores(&self, column: usize) -> bool {
        self.columns[column] == Tolerance::Ignore
    }

    /// Whether two values of a column count as equal. A real-time store that does not write absent fields
    /// may hold an older value where the batch store has null.
    pub fn allow(&self, column: usize, realtime: &Value<'_>, batch: &Value<'_>) -> bool {
        if realtime == batch || (self.nulls == Nulls::Unset && *batch == Value::Null) {
            return true;
        }
        match (&self.columns[column], realtime, batch) {
            (Tolerance::Ignore, ..) => true,
            (Tolerance::Number(_, most), Value::Double(a), Value::Double(b)) => {
                (a - b).abs() <= *most
            }
            (Tolerance::Number(most, _), Value::Int(_), Value::Int(_))
            | (Tolerance::Number(most, _), Value::Decimal(_), Value::Decimal(_)) => {
                are_within(&realtime.to_string(), &batch.to_string(), most)
            }
            (Tolerance::Time(most), Value::Timestamp(a), Value::Timestamp(b)) => {
                u128::from(a.abs_diff(*b)) <= most.as_millis()
            }
            (Tolerance::Time(most), Value::Date(a), Value::Date(b)) => {
                u128::from(a.abs_diff(*b)) * 86_400_000 <= most.as_millis()
            }
            _ => false,
        }
    }
}

fn parse_amount(field: &Field, amount: &str) -> Result<Tolerance, String> {
    use FieldType as T;
    if amount == "ignore" {
        return Ok(Tolerance::Ignore);
    }
    let kind = field.kind.name();
    match field.kind {
        T::Int | T::BigInt | T::Double | T::Decimal => {
            let exact = Field {
                kind: T::Decimal,
                ..field.clone()
            };
            let wrong = || {
                format!("for type {kind}, expected a number not below 0, such as 0.01, or `ignore`")
            };
            match (Value::from_text(&exact, amount.into()), amount.parse()) {
                (Ok(Value::Decimal(text)), Ok(number)) if !text.starts_with('-') => {
                    Ok(Tolerance::Number(text.into_owned(), number))
                }
                _ => Err(wrong()),
            }
        }
        T::Timestamp | T::Date => crate::time::parse_duration(amount)
            .map(Tolerance::Time)
            .map_err(|_| {
                format!("for type {kind}, expected a duration, such as 250ms or 1d, or `ignore`")
            }),
        T::Text | T::Uuid | T::Boolean => {
            Err(format!("for type {kind}, only `ignore` is supported"))
        }
    }
}

/// Whether two numbers in plain notation differ by at most `most`, computed exactly.
fn are_within(a: &str, b: &str, most: &str) -> bool {
    let scale = [a, b, most].map(|n| n.split_once('.').map_or(0, |(_, f)| f.len()));
    let scale = scale.into_iter().max().unwrap_or(0);
    let [a, b, most] = [a, b, most].map(|n| scaled(n, scale));
    (a - b).magnitude() <= most.magnitude()
}

/// A number times ten to the power of `scale`, which leaves no fraction.
fn scaled(number: &str, scale: usize) -> BigInt {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let Ok(integer) = format!("{whole}{fraction:0<scale$}").parse() else {
        unreachable!("a number in plain notation has only digits");
    };
    integer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset() -> Dataset {
        Dataset::load(None).unwrap()
    }

    #[test]
    fn distances_of_decimals_are_exact() {
        let table = [
            ("1.10", "1.1", "0", true),
            ("0.3", "0.1", "0.2", true),
            ("0.3", "0.1", "0.19999999999999999999", false),
            ("-0.1", "0.1", "0.2", true),
            ("-0.1", "0.1", "0.1", false),
            ("999.99", "-0.01", "1000", true),
            (
                "99999999999999999999.5",
                "100000000000000000000",
                "0.5",
                true,
            ),
            ("-5", "-7.5", "2.5", true),
            ("-5", "-7.6", "2.5", false),
        ];
        for (a, b, most, within) in table {
            assert_eq!(are_within(a, b, most), within, "{a} {b} {most}");
            assert_eq!(are_within(b, a, most), within, "{b} {a} {most}");
        }
    }

    #[test]
    fn amounts_fit_their_columns() {
        let parse = |text: &str| Tolerances::parse(&dataset(), &[text.to_string()]);
        let table = [
            ("email", "expected COLUMN=AMOUNT"),
            ("e_mail=ignore", "unknown column `e_mail`; columns: id, "),
            ("id=ignore", "`id` is the key"),
            ("email=1", "for type text, only `ignore` is supported"),
            ("dob=1", "for type timestamp, expected a duration"),
        ];
        for (bad, message) in table {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(message), "{bad}: {error}");
        }
        let dob = dataset().field_index("dob").unwrap();
        let second = parse("dob=1s").unwrap();
        assert!(!second.are_strict() && !second.ignores(dob));
        for (b, allowed) in [(1_000, true), (1_001, false), (-1_000, true)] {
            let (a, b) = (Value::Timestamp(0), Value::Timestamp(b));
            assert_eq!(second.allow(dob, &a, &b), allowed, "{b}");
        }
        assert!(!second.allow(dob, &Value::Null, &Value::Timestamp(0)));
        assert!(parse("email=ignore").unwrap().ignores(6));
    }

    #[test]
    fn a_store_that_leaves_absent_fields_alone_may_hold_an_older_value() {
        let mut dataset = dataset();
        let values = (Value::Text("old".into()), Value::Null);
        for (nulls, allowed) in [(Nulls::Write, false), (Nulls::Unset, true)] {
            dataset.nulls = nulls;
            let tolerances = Tolerances::parse(&dataset, &[]).unwrap();
            assert_eq!(tolerances.allow(1, &values.0, &values.1), allowed);
            assert!(!tolerances.allow(1, &values.1, &values.0));
        }
    }
}
