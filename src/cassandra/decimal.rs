//! Decimals as Cassandra keeps them: a scale of 32 bits, then the digits as one integer in the fewest
//! bytes of two's complement, both big-endian.

/// Highest scale that is read, either way; what a dataset's decimal can hold ends before.
const MAX_SCALE: u32 = 2_000;

/// Most bytes of an integer that are read: a dataset's decimals have 1,000 digits, which take 416.
const MAX_BYTES: usize = 512;

/// Digits that go through one step of the long arithmetic.
const STEP: usize = 9;

/// Nine zeros.
const STEP_BASE: u64 = 1_000_000_000;

/// Appends the stored form of a decimal in plain notation, such as `-12.5`.
pub(super) fn encode(text: &str, out: &mut Vec<u8>) {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let scale = digits
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len());
    out.extend_from_slice(&u32::try_from(scale).unwrap_or(u32::MAX).to_be_bytes());
    let digits = digits.bytes().filter(u8::is_ascii_digit);
    let mut bytes = magnitude(&digits.collect::<Vec<u8>>());
    if negative {
        negate(&mut bytes);
    }
    // A first byte that only repeats the sign is left out.
    let sign = if negative { 0xff } else { 0 };
    let superfluous = bytes
        .windows(2)
        .take_while(|pair| pair[0] == sign && (pair[1] ^ sign) < 0x80)
        .count();
    out.extend_from_slice(&bytes[superfluous..]);
}

/// A stored decimal in plain notation; none if it is malformed, or longer than any dataset's.
pub(super) fn decode(stored: &[u8]) -> Option<String> {
    let (scale, integer) = stored.split_first_chunk::<4>()?;
    let scale = i32::from_be_bytes(*scale);
    if integer.is_empty() || integer.len() > MAX_BYTES || scale.unsigned_abs() > MAX_SCALE {
        return None;
    }
    let negative = integer[0] >= 0x80;
    let mut bytes = integer.to_vec();
    if negative {
        negate(&mut bytes);
    }
    let mut digits = decimal_digits(&bytes);
    let places = scale.unsigned_abs() as usize;
    if scale < 0 {
        digits.push_str(&"0".repeat(places));
    } else if places > 0 {
        if digits.len() <= places {
            digits.insert_str(0, &"0".repeat(places + 1 - digits.len()));
        }
        digits.insert(digits.len() - places, '.');
    }
    if negative {
        digits.insert(0, '-');
    }
    Some(digits)
}

/// The integer of these digits, big-endian, with a first bit of 0.
fn magnitude(digits: &[u8]) -> Vec<u8> {
    let mut limbs: Vec<u32> = Vec::with_capacity(digits.len() / STEP + 1); // lowest first
    for step in digits.chunks(STEP) {
        let mut carry = step.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
        let base = 10_u64.pow(step.len() as u32);
        for limb in &mut limbs {
            carry += u64::from(*limb) * base;
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            limbs.push(carry as u32);
        }
    }
    let mut bytes = vec![0];
    bytes.extend(limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()));
    bytes
}

/// The digits of a big-endian integer without sign.
fn decimal_digits(bytes: &[u8]) -> String {
    let mut rest = bytes.to_vec();
    let mut steps = Vec::new(); // lowest first
    while rest.iter().any(|b| *b != 0) {
        let mut remainder = 0;
        for byte in &mut rest {
            let n = remainder << 8 | u64::from(*byte);
            *byte = (n / STEP_BASE) as u8;
            remainder = n % STEP_BASE;
        }
        steps.push(remainder);
    }
    let mut digits = steps.pop().unwrap_or(0).to_string();
    for step in steps.iter().rev() {
        digits.push_str(&format!("{step:09}"));
    }
    digits
}

/// Two's complement of a big-endian integer.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
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
