//! Dead letters that are larger than their topic accepts. Of a value, only the first bytes are kept: the event itself is
//! still where it was read. A key or headers that leave no room would refuse the letter as a whole, and with it all that
//! follows, so they are kept complete in events of their own, right after the letter.

use base64::Engine;

use crate::record::event::{Event, EventBatch, Headers};

/// Bytes for the headers that give the original sizes.
const SIZES: usize = 256;

/// The same letters, in events of at most this size.
pub(super) fn fitting(batch: &EventBatch, max_size: usize) -> EventBatch {
    let mut fitting = EventBatch::default();
    for letter in batch.iter() {
        match letter.size() <= max_size {
            true => fitting.push(letter),
            false => push_shortened(&mut fitting, &letter, max_size),
        }
    }
    fitting
}

fn push_shortened(fitting: &mut EventBatch, letter: &Event<'_>, max_size: usize) {
    let share = max_size / 4;
    let is_crowded = letter.size() - letter.value.map_or(0, <[u8]>::len) + SIZES > max_size;
    let is_moved = |bytes: &[u8]| is_crowded && bytes.len() > share;
    let kept = match is_moved(letter.headers) {
        true => last_headers(letter.headers, share),
        false => letter.headers,
    };
    let mut sizes = Headers::default();
    let mut size = |name: &str, bytes: &[u8]| {
        sizes.push(name, bytes.len().to_string().as_bytes());
    };
    let mut key = letter.key;
    let mut parts = EventBatch::default();
    if let Some(whole) = key.filter(|key| is_moved(key)) {
        size("rtp.key_bytes", whole);
        key = Some(&whole[..share]);
        push_parts(&mut parts, "key", whole, kept, share);
    }
    if is_moved(letter.headers) {
        size("rtp.headers_bytes", letter.headers);
        push_parts(
            &mut parts,
            "headers",
            &as_lines(letter.headers),
            kept,
            share,
        );
    }
    let taken = key.map_or(0, <[u8]>::len) + kept.len() + SIZES;
    let room = max_size.saturating_sub(taken);
    let mut value = letter.value;
    if let Some(whole) = value.filter(|whole| whole.len() > room) {
        size("rtp.value_bytes", whole);
        value = Some(&whole[..room]);
    }
    let headers = [kept, sizes.bytes()].concat();
    fitting.push(Event {
        key,
        value,
        headers: &headers,
        ..*letter
    });
    parts.iter().for_each(|part| fitting.push(part));
}

/// Adds the parts of what was moved out of a letter. They have no key, so that they follow it in its partition.
fn push_parts(parts: &mut EventBatch, of: &str, whole: &[u8], kept: &[u8], share: usize) {
    for (i, part) in whole.chunks(share.max(1)).enumerate() {
        let mut own = Headers::default();
        own.push("rtp.part_of", of.as_bytes());
        own.push("rtp.part_from", (i * share).to_string().as_bytes());
        let headers = [kept, own.bytes()].concat();
        parts.push(Event::new(None, Some(part), &headers));
    }
}

/// As many of the last headers as fit: these are our own, which say what the letter is about.
fn last_headers(headers: &[u8], most: usize) -> &[u8] {
    let mut first = 0;
    for (name, value) in Headers::parts(headers) {
        if headers.len() - first <= most {
            break;
        }
        first += 8 + name.len() + value.len();
    }
    &headers[first.min(headers.len())..]
}

/// Headers as NDJSON: bytes in base64.
fn as_lines(headers: &[u8]) -> Vec<u8> {
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut lines = Vec::new();
    for (name, value) in Headers::parts(headers) {
        let header = match std::str::from_utf8(name) {
            Ok(name) => serde_json::json!({"name": name, "value_base64": base64(value)}),
            Err(_) => {
                serde_json::json!({"name_base64": base64(name), "value_base64": base64(value)})
            }
        };
        lines.extend_from_slice(header.to_string().as_bytes());
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 4_000;

    /// A letter with our own header at the end, in events that fit.
    fn fit(key: &[u8], value: &[u8], more: &[(&str, &[u8])]) -> Vec<(Vec<u8>, Vec<u8>, Headers)> {
        let mut headers = Headers::default();
        for (name, value) in more {
            headers.push(name, value);
        }
        headers.push("rtp.rule", b"json_syntax");
        let mut batch = EventBatch::default();
        batch.push(Event::new(Some(key), Some(value), headers.bytes()));
        let fitting = fitting(&batch, MOST);
        let events = fitting.iter().map(|event| {
            assert!(event.size() <= MOST, "{}", event.size());
            assert!(Headers::read(event.headers).any(|h| h == ("rtp.rule", b"json_syntax")));
            let mut headers = Headers::default();
            for (name, value) in Headers::parts(event.headers) {
                headers.push_bytes(name, value);
            }
            let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
            (bytes(event.key), bytes(event.value), headers)
        });
        events.collect()
    }

    fn told(headers: &Headers, name: &str) -> Option<String> {
        let mut found = Headers::read(headers.bytes()).filter(|(n, _)| *n == name);
        found
            .next()
            .map(|(_, value)| String::from_utf8(value.into()).unwrap())
    }

    fn parts(events: &[(Vec<u8>, Vec<u8>, Headers)], of: &str) -> Vec<u8> {
        let mut whole = Vec::new();
        for (_, part, headers) in &events[1..] {
            if told(headers, "rtp.part_of").as_deref() == Some(of) {
                let from = told(headers, "rtp.part_from").unwrap();
                assert_eq!(from, whole.len().to_string());
                whole.extend_from_slice(part);
            }
        }
        whole
    }

    #[test]
    fn of_a_value_the_start_is_kept() {
        let events = fit(b"k", &[b'v'; 10_000], &[]);
        assert_eq!(events.len(), 1);
        let (key, value, headers) = &events[0];
        assert_eq!(key, b"k");
        assert!((3_500..4_000).contains(&value.len()), "{}", value.len());
        assert_eq!(told(headers, "rtp.value_bytes").as_deref(), Some("10000"));
        assert_eq!(told(headers, "rtp.key_bytes"), None);
    }

    #[test]
    fn a_key_and_headers_that_leave_no_room_are_kept_in_parts() {
        let key: Vec<u8> = (0..9_000_u32).map(|n| n as u8).collect();
        let events = fit(&key, b"value", &[]);
        assert_eq!(
            (events[0].0.as_slice(), events[0].1.as_slice()),
            (&key[..1_000], &b"value"[..])
        );
        assert_eq!(told(&events[0].2, "rtp.key_bytes").as_deref(), Some("9000"));
        assert_eq!(parts(&events, "key"), key);

        let big = [b'h'; 7_000];
        let events = fit(&key, &[b'v'; 5_000], &[("big", &big), ("small", b"1")]);
        assert_eq!(parts(&events, "key"), key);
        assert_eq!(told(&events[0].2, "big"), None);
        assert_eq!(told(&events[0].2, "small").as_deref(), Some("1"));
        let lines = String::from_utf8(parts(&events, "headers")).unwrap();
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let value = first["value_base64"].as_str().unwrap();
        let value = base64::engine::general_purpose::STANDARD
            .decode(value)
            .unwrap();
        assert_eq!(
            (&first["name"], value.as_slice()),
            (&"big".into(), &big[..])
        );
        assert_eq!(lines.lines().count(), 3);
    }
}
