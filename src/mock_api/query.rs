//! Queries and forms.

use std::collections::HashMap;

use ::url::form_urlencoded;

/// The parameters of a query; the last value of a repeated one.
#[derive(Debug, Default)]
pub(super) struct Query(HashMap<String, (String, usize)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let mut map: HashMap<String, (String, usize)> = HashMap::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            let entry = map.entry(key.into_owned()).or_default();
            *entry = (value.into_owned(), entry.1 + 1);
        }
        Query(map)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(value, _)| value.as_str())
    }

    pub(super) fn is_repeated(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|(_, times)| *times > 1)
    }
}
