//! Keys in the text of records.

use crate::dataset::{Dataset, FieldType};

/// Finds the key in the text of a record.
pub(super) struct KeyFinder {
    /// The name of the key as rtp writes it, in quotes; none if the key may have another name.
    name: Option<memchr::memmem::Finder<'static>>,
}

impl KeyFinder {
    pub(super) fn new(dataset: &Dataset) -> Self {
        let field = dataset.key();
        let name = format!("\"{}\"", field.name);
        let is_plain = field.aliases.is_empty() && field.kind == FieldType::Uuid;
        let finder = || memchr::memmem::Finder::new(&name).into_owned();
        KeyFinder {
            name: is_plain.then(finder),
        }
    }

    /// The key of a JSON record, in the form that the log keeps; none if the record has to be read for it, because the
    /// name is there more than once, or may be there in another form.
    pub(super) fn plain<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let name = self.name.as_ref()?;
        let at = name.find(text)? + name.needle().len();
        let key = text[at..].strip_prefix(b":\"")?;
        let (key, rest) = key.split_at_checked(36)?;
        let is_canonical = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-');
        let is_plain = rest.first() == Some(&b'"')
            // All are looked at, so that many are at once.
            && key.iter().fold(true, |all, b| all & is_canonical(b))
            && name.find(rest).is_none()
            && memchr::memchr(b'\\', text).is_none();
        is_plain.then_some(key)
    }
}
