//! What travels in the log: events, in batches that own their bytes.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One event, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Partition it was read from. A producer ignores it: the key decides.
    pub partition: i32,
    /// Offset it was read at. A producer ignores it.
    pub offset: i64,
    /// When it was produced, in milliseconds since 1970 UTC. A producer ignores it and sets the time at which it
    /// accepts the event.
    pub timestamp: i64,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value; none means a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, as [`Headers`] encodes them; empty for none.
    pub headers: &'a [u8],
}

impl<'a> Event<'a> {
    /// An event for a producer, which sets the rest.
    pub fn new(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: &'a [u8]) -> Event<'a> {
        Event {
            partition: 0,
            offset: 0,
            timestamp: 0,
            key,
            value,
            headers,
        }
    }

    /// What tells it apart from others that had its offset, in a log that was restored from a backup.
    pub fn mark(&self) -> Mark {
        let add = |hash: u64, bytes: Option<&[u8]>| match bytes {
            Some(bytes) => xxh3_64_with_seed(bytes, hash),
            None => hash.wrapping_add(1), // none is not the same as empty
        };
        let hash = self.timestamp.cast_unsigned();
        Mark(add(add(hash, self.key), self.value).cast_signed())
    }

    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len()
    }
}

/// Recognizes an event: XXH3-64 of timestamp, key and value. It is stored, so it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub i64);

/// A batch of events in one buffer.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    bytes: Vec<u8>,
    events: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
}

impl EventBatch {
    /// Adds an event, copying its bytes.
    pub fn push(&mut self, event: Event<'_>) {
        let span = Place {
            partition: event.partition,
            offset: event.offset,
            timestamp: event.timestamp,
            key: event.key.map(|key| self.store(key)),
            value: event.value.map(|value| self.store(value)),
            headers: self.store_headers(event.headers),
        };
        self.events.push(span);
    }

    /// Headers equal to those of the last event are stored only once.
    fn store_headers(&mut self, headers: &[u8]) -> Range<usize> {
        let last = self.events.last().map(|span| span.headers.clone());
        match last {
            Some(last) if self.bytes[last.clone()] == *headers => last,
            _ => self.store(headers),
        }
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Reserves space for events and their bytes.
    pub fn reserve(&mut self, events: usize, bytes: usize) {
        self.events.reserve(events);
        self.bytes.reserve(bytes);
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes of keys, values and headers; equal headers of consecutive events count once.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The events, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        self.iter_from(0)
    }

    /// Like [`EventBatch::iter`], without the first `count` events.
    pub fn iter_from(&self, count: usize) -> impl Iterator<Item = Event<'_>> {
        let rest = self.events.get(count..).unwrap_or_default();
        rest.iter().map(|span| self.read(span))
    }

    /// The event that was added last.
    pub fn last(&self) -> Option<Event<'_>> {
        self.events.last().map(|span| self.read(span))
    }

    fn read(&self, span: &Place) -> Event<'_> {
        Event {
            partition: span.partition,
            offset: span.offset,
            timestamp: span.timestamp,
            key: span.key.clone().map(|range| &self.bytes[range]),
            value: span.value.clone().map(|range| &self.bytes[range]),
            headers: &self.bytes[span.headers.clone()],
        }
    }
}

/// Headers of an event: names and values, each preceded by its length as u32.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<u8>);

impl Headers {
    /// Adds a header.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.push_bytes(name.as_bytes(), value);
    }

    /// Like [`Headers::push`], for a name that may not be UTF-8, because other producers can write one.
    pub fn push_bytes(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, value] {
            self.0
                .extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.0.extend_from_slice(part);
        }
    }

    /// Removes all of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether every name is UTF-8.
    pub fn are_text(bytes: &[u8]) -> bool {
        Headers::parts(bytes).all(|(name, _)| std::str::from_utf8(name).is_ok())
    }

    /// Reads an encoding back; an entry that is cut short or has a name that is not UTF-8 ends the list.
    pub fn read(bytes: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
        let texts = |(name, value)| std::str::from_utf8(name).ok().map(|name| (name, value));
        Headers::parts(bytes).map_while(texts)
    }

    /// Like [`Headers::read`], with the names as arbitrary bytes.
    pub fn parts(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = bytes;
        std::iter::from_fn(move || Some((take(&mut rest)?, take(&mut rest)?)))
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (part, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_and_headers_round_trip() {
        let mut headers = Headers::default();
        headers.push("rtp.run_id", b"r1");
        headers.push("empty", b"");
        let read: Vec<_> = Headers::read(headers.bytes()).collect();
        assert_eq!(read, [("rtp.run_id", b"r1".as_slice()), ("empty", b"")]);
        assert_eq!(Headers::read(&[0, 0, 0, 9, 1]).count(), 0);
        let event = Event {
            partition: 1,
            offset: 7,
            timestamp: 3,
            key: Some(b"k"),
            value: None,
            headers: headers.bytes(),
        };
        let mut batch = EventBatch::default();
        batch.push(event);
        batch.push(Event {
            value: Some(b""),
            ..event
        });
        let read: Vec<_> = batch.iter().collect();
        assert_eq!(read[0], event);
        assert_eq!(read[1].value, Some(b"".as_slice()));
        assert_eq!(batch.last(), Some(read[1]));
    }

    #[test]
    fn a_mark_changes_with_the_event_and_with_nothing_else() {
        let event = Event {
            timestamp: 1_795_500_000_000,
            ..Event::new(Some(b"k"), Some(b"v"), b"h")
        };
        let others = [
            Event {
                timestamp: 0,
                ..event
            },
            Event { key: None, ..event },
            Event {
                key: Some(b""),
                ..event
            },
            Event {
                value: None,
                ..event
            },
            Event {
                value: Some(b""),
                ..event
            },
            Event {
                key: Some(b"v"),
                value: Some(b"k"),
                ..event
            },
        ];
        let mut marks: Vec<i64> = others.iter().map(|other| other.mark().0).collect();
        marks.push(event.mark().0);
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), others.len() + 1, "{marks:?}");
        let moved = Event {
            offset: 9,
            partition: 3,
            headers: b"",
            ..event
        };
        assert_eq!(moved.mark(), event.mark());
        // Stores have marks of older versions.
        assert_eq!(event.mark(), Mark(4_517_172_014_248_546_170));
    }
}
