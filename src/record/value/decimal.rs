//! Converts numbers to the notation in which equal decimals are equal texts. Only the point is moved and zeros are
//! removed: a crate for big numbers would multiply and divide the digits again for the same text.

use std::borrow::Cow;

use crate::record::reject::{Fault, Rule};

/// Maximum digits of a decimal, before and after the point together.
const MAX_DIGITS: usize = 1_000;

/// An integer, also written as `1.0` or `1e3`.
pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse()
        .ok()
        .filter(|_| !text.starts_with('+'))
        .or_else(|| canonical(text).ok()?.parse().ok())
}

/// The canonical form of a JSON number: plain notation, no exponent, no superfluous zeros, no `-0`.
/// Borrowed if `text` is canonical already.
pub(super) fn canonical(text: &str) -> Result<Cow<'_, str>, Fault> {
    let number = Number::parse(text)?;
    match number.is_canonical() {
        true => Ok(text.into()),
        false => number.plain().map(Cow::Owned),
    }
}

/// The parts of a JSON number. Unlike JSON it may begin with zeros.
struct Number<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: Option<i64>,
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Result<Number<'a>, Fault> {
        let bad = || Fault::new(Rule::Type, "expected a number");
        let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            None => (rest, None),
            Some((mantissa, exponent)) => {
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if digits.is_empty() || !are_digits(digits) {
                    return Err(bad());
                }
                let exponent = exponent.parse().map_err(|_| too_long())?;
                (mantissa, Some(exponent))
            }
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return Err(bad()),
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
            return Err(bad());
        }
        Ok(Number {
            is_negative,
            whole,
            fraction,
            exponent,
        })
    }

    fn is_canonical(&self) -> bool {
        let is_zero = self.whole == "0" && self.fraction.is_empty();
        self.exponent.is_none()
            && (self.whole == "0" || !self.whole.starts_with('0'))
            && !self.fraction.ends_with('0')
            && !(self.is_negative && is_zero)
            && self.whole.len() + self.fraction.len() <= MAX_DIGITS
    }

    /// The canonical form, composed from the parts.
    fn plain(&self) -> Result<String, Fault> {
        let digits = format!("{}{}", self.whole, self.fraction);
        let significant = digits.trim_start_matches('0');
        let leading = digits.len() - significant.len();
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            return Ok("0".into());
        }
        // The value is 0.SIGNIFICANT times ten to the power of `point`.
        let point = (self.whole.len() as i64 - leading as i64)
            .checked_add(self.exponent.unwrap_or(0))
            .ok_or_else(too_long)?;
        let width = significant.len() as i64;
        let size = point.max(width).max(width.saturating_sub(point));
        if size > MAX_DIGITS as i64 {
            return Err(too_long());
        }
        let zeros = |n: i64| "0".repeat(usize::try_from(n).unwrap_or(0));
        let plain = if point <= 0 {
            format!("0.{}{significant}", zeros(-point))
        } else if point >= width {
            format!("{significant}{}", zeros(point - width))
        } else {
            let (whole, fraction) = significant.split_at(usize::try_from(point).unwrap_or(0));
            format!("{whole}.{fraction}")
        };
        Ok(match self.is_negative {
            true => format!("-{plain}"),
            false => plain,
        })
    }
}

fn too_long() -> Fault {
    Fault::new(
        Rule::OutOfRange,
        format!("a decimal can have at most {MAX_DIGITS} digits"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_one_form() {
        let table = [
            ("1", "1"),
            ("1.00", "1"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0.10", "0.1"),
            ("1e3", "1000"),
            ("1.5E-3", "0.0015"),
            ("12.34e1", "123.4"),
            ("12345678901234567890.1234", "12345678901234567890.1234"),
            (
                "0.100000000000000000000000000001",
                "0.100000000000000000000000000001",
            ),
            ("-120", "-120"),
            ("0e99999", "0"),
            ("1E+0", "1"),
        ];
        for (text, expected) in table {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(canonical(expected).as_deref(), Ok(expected), "{expected}");
        }
        for (bad, rule) in [
            ("", Rule::Type),
            ("1.", Rule::Type),
            (".5", Rule::Type),
            ("NaN", Rule::Type),
            ("1e", Rule::Type),
            ("1e+-5", Rule::Type),
            ("1e400000", Rule::OutOfRange),
            ("1e99999999999999999999", Rule::OutOfRange),
            ("1e-1001", Rule::OutOfRange),
        ] {
            assert_eq!(canonical(bad).unwrap_err().rule, rule, "{bad}");
        }
    }
}
