//! Decimals as Cassandra stores them: a 32-bit scale, then the digits as one integer in two's complement with as few
//! bytes as possible, both big-endian.

use num_bigint::{BigInt, Sign};

/// Maximum scale that is read, positive or negative; a dataset's decimal has less.
const MAX_SCALE: u32 = 2_000;

/// Maximum bytes of an integer that is read: a dataset's decimals have up to 1,000 digits, which take 416.
const MAX_BYTES: usize = 512;

/// Appends the stored form of a decimal in plain notation, such as `-12.5`.
pub(super) fn encode(text: &str, out: &mut Vec<u8>) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let Ok(integer) = format!("{whole}{fraction}").parse::<BigInt>() else {
        unreachable!("a decimal in plain notation has only digits");
    };
    let scale = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&scale.to_be_bytes());
    out.extend_from_slice(&integer.to_signed_bytes_be());
}

/// A stored decimal in plain notation; none if it is malformed, or longer than any dataset allows.
pub(super) fn decode(stored: &[u8]) -> Option<String> {
    let (scale, integer) = stored.split_first_chunk::<4>()?;
    let scale = i32::from_be_bytes(*scale);
    if integer.is_empty() || integer.len() > MAX_BYTES || scale.unsigned_abs() > MAX_SCALE {
        return None;
    }
    let integer = BigInt::from_signed_bytes_be(integer);
    let mut digits = integer.magnitude().to_string();
    let places = scale.unsigned_abs() as usize;
    if scale < 0 {
        digits.push_str(&"0".repeat(places));
    } else if places > 0 {
        if digits.len() <= places {
            digits.insert_str(0, &"0".repeat(places + 1 - digits.len()));
        }
        digits.insert(digits.len() - places, '.');
    }
    if integer.sign() == Sign::Minus {
        digits.insert(0, '-');
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_that_of_java() {
        for (text, scale, integer) in [
            ("0", 0, vec![0]),
            ("1", 0, vec![1]),
            ("-1", 0, vec![0xff]),
            ("127", 0, vec![0x7f]),
            ("128", 0, vec![0, 0x80]),
            ("-128", 0, vec![0x80]),
            ("-129", 0, vec![0xff, 0x7f]),
            ("12.50", 2, vec![0x04, 0xe2]),
            ("-0.001", 3, vec![0xff]),
            ("4294967296", 0, vec![1, 0, 0, 0, 0]),
            (
                "-18446744073709551616",
                0,
                vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
        ] {
            let mut stored = Vec::new();
            encode(text, &mut stored);
            assert_eq!(stored[..4], i32::to_be_bytes(scale), "{text}");
            assert_eq!(stored[4..], integer, "{text}");
            assert_eq!(decode(&stored).as_deref(), Some(text));
        }
    }

    #[test]
    fn long_decimals_come_back() {
        let digits = "1234567890".repeat(100);
        for text in [
            digits.clone(),
            format!("-{digits}"),
            format!("{}.{}", &digits[..400], &digits[400..]),
            format!("-0.{}1", "0".repeat(998)),
            format!("1{}", "0".repeat(999)),
        ] {
            let mut stored = Vec::new();
            encode(&text, &mut stored);
            assert_eq!(decode(&stored), Some(text));
        }
    }

    #[test]
    fn what_others_store_is_read_or_told() {
        let scaled = |scale: i32, integer: &[u8]| {
            let mut stored = scale.to_be_bytes().to_vec();
            stored.extend_from_slice(integer);
            decode(&stored)
        };
        assert_eq!(scaled(-3, &[5]).as_deref(), Some("5000"));
        assert_eq!(scaled(1, &[0, 0, 5]).as_deref(), Some("0.5"));
        assert_eq!(scaled(i32::MIN, &[5]), None);
        assert_eq!(scaled(1_000_000, &[5]), None);
        assert_eq!(scaled(0, &[]), None);
        assert_eq!(scaled(0, &[1; 600]), None);
        assert_eq!(decode(&[0, 0]), None);
    }
}
