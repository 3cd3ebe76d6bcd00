//! Pure: where the next page is, for each pagination style, and how that is kept as a bookmark.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::dataset::{Auth, PageStyle, SourceSpec};
use crate::error::{Error, Result};

/// Where a page is, in the form that a bookmark keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// The first page of a source whose pages name the next one.
    Start,
    /// The page of this number.
    Page(u64),
    /// The page after this many records.
    Offset(u64),
    /// The page of this cursor.
    Cursor(String),
    /// The page at this address.
    Url(String),
}

/// What a response says about the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing: the last page, or a style in which the client counts.
    None,
    /// A cursor or an address.
    Next(String),
}

impl Hint {
    /// From the raw JSON of a cursor or address; absent, null, false and an empty text mean the end.
    pub fn of_json(raw: Option<&str>) -> Result<Hint> {
        match raw {
            None | Some("null" | "false" | "\"\"") => Ok(Hint::None),
            Some(raw) if raw.starts_with('"') => {
                serde_json::from_str(raw).map(Hint::Next).map_err(|e| {
                    Error::unavailable(format!(
                        "the next page in the response is not a valid string: {e}"
                    ))
                })
            }
            Some(number) if number.parse::<i64>().is_ok() => Ok(Hint::Next(number.into())),
            Some(_) => Err(Error::refused(
                "the next page in the response is neither a string nor a number",
            )),
        }
    }
}

/// Makes addresses of positions, for one source and seed.
#[derive(Clone, Debug)]
pub struct Paging {
    base: Url,
    style: PageStyle,
    size: u64,
    size_param: Option<String>,
    endless: bool,
    /// Query parameter that the HTTP client adds: it contains a key, so no address here may have it.
    key_param: Option<String>,
}

impl Paging {
    /// Makes addresses from `base` with the source's fixed parameters and the seed.
    pub fn new(source: &SourceSpec, base: &Url, seed: Option<&str>) -> Result<Self> {
        let key_param = match &source.auth {
            Auth::ApiKeyQuery { param, .. } => Some(param.clone()),
            _ => None,
        };
        let mut base = base.clone();
        for (name, value) in &source.query {
            set_param(&mut base, name, value);
        }
        match (&source.seed_param, seed) {
            (Some(param), Some(seed)) => set_param(&mut base, param, seed),
            (None, Some(_)) => {
                return Err(Error::invalid(
                    "--seed: the dataset's source takes no seed (it has no `seed_param`)",
                ));
            }
            (_, None) => {}
        }
        let pagination = &source.pagination;
        Ok(Paging {
            base: without_param(base, key_param.as_deref()),
            key_param,
            style: pagination.style.clone(),
            size: pagination.size,
            size_param: pagination.size_param.clone(),
            endless: pagination.endless,
        })
    }

    /// Number of records requested per page; 0 if the source decides.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether there is always a next page.
    pub fn is_endless(&self) -> bool {
        self.endless
    }

    /// The position of the page with this number, as the source numbers its pages.
    pub fn start(&self, number: Option<u64>) -> Result<Position> {
        match (&self.style, number) {
            (PageStyle::Page { first, .. }, number) => Ok(Position::Page(number.unwrap_or(*first))),
            (PageStyle::Offset { .. }, number) => Ok(Position::Offset(
                number.map_or(0, |n| n.saturating_sub(1)) * self.size,
            )),
            (_, None) => Ok(Position::Start),
            (_, Some(_)) => Err(Error::invalid(
                "--page needs a source with numbered pages (pagination style page or offset)",
            )),
        }
    }

    /// Whether a bookmark matches the source's style.
    pub fn fits(&self, position: &Position) -> bool {
        use Position as P;
        matches!(
            (&self.style, position),
            (PageStyle::Page { .. }, P::Page(_))
                | (PageStyle::Offset { .. }, P::Offset(_))
                | (PageStyle::Cursor { .. }, P::Start | P::Cursor(_))
                | (
                    PageStyle::Link | PageStyle::NextUrl { .. },
                    P::Start | P::Url(_)
                )
                | (PageStyle::None, P::Start)
        )
    }

    /// The position `pages` further on, if it is known without a response.
    pub fn ahead(&self, position: &Position, pages: u64) -> Option<Position> {
        match position {
            Position::Page(n) => Some(Position::Page(n + pages)),
            Position::Offset(n) => Some(Position::Offset(n + pages * self.size)),
            _ => None,
        }
    }

    /// The position after a page of `records` records; none at the end. A source that is not endless
    /// ends with the first page without records: a short page may be due to a page size limit.
    pub fn after(
        &self,
        position: &Position,
        records: u64,
        hint: &Hint,
    ) -> Result<Option<Position>> {
        Ok(match (position, &self.style, hint) {
            (Position::Page(_) | Position::Offset(_), ..) if records == 0 => None,
            (Position::Page(n), ..) => Some(Position::Page(n + 1)),
            (Position::Offset(n), ..) => Some(Position::Offset(n + records)),
            (_, PageStyle::Cursor { .. }, Hint::Next(cursor)) => {
                Some(Position::Cursor(cursor.clone()))
            }
            (_, PageStyle::Link | PageStyle::NextUrl { .. }, Hint::Next(target)) => {
                let here = self.address(position)?;
                let next = self.same_origin(&here, target)?;
                Some(Position::Url(next.into()))
            }
            _ => None,
        })
    }

    /// The address of a position.
    pub fn address(&self, position: &Position) -> Result<Url> {
        let mut url = self.base.clone();
        if let Position::Url(target) = position {
            return self.same_origin(&self.base, target);
        }
        match (position, &self.style) {
            (Position::Page(n), PageStyle::Page { param, .. }) => {
                set_param(&mut url, param, &n.to_string());
            }
            (Position::Offset(n), PageStyle::Offset { param }) => {
                set_param(&mut url, param, &n.to_string());
            }
            (Position::Cursor(cursor), PageStyle::Cursor { param, .. }) => {
                set_param(&mut url, param, cursor);
            }
            _ => {}
        }
        if let Some(param) = &self.size_param {
            set_param(&mut url, param, &self.size.to_string());
        }
        Ok(url)
    }

    /// Refuses a next page at another origin, which would receive this source's credentials.
    fn same_origin(&self, here: &Url, target: &str) -> Result<Url> {
        let next = here.join(target).map_err(|e| {
            Error::refused(format!("invalid address `{target}` of the next page: {e}"))
        })?;
        let files = next.scheme() == "file" && self.base.scheme() == "file";
        if files || next.origin() == self.base.origin() {
            return Ok(without_param(next, self.key_param.as_deref()));
        }
        Err(Error::refused(format!(
            "the next page is at {}, not at {}, so it is not requested",
            next.origin().ascii_serialization(),
            self.base.origin().ascii_serialization()
        )))
    }
}

/// Sets a query parameter, replacing any of that name.
fn set_param(url: &mut Url, name: &str, value: &str) {
    let others = pairs_without(url, name);
    url.query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair(name, value);
}

fn without_param(mut url: Url, param: Option<&str>) -> Url {
    let Some(param) = param.filter(|p| url.query_pairs().any(|(name, _)| name == *p)) else {
        return url;
    };
    let others = pairs_without(&url, param);
    url.set_query(None);
    if !others.is_empty() {
        url.query_pairs_mut().extend_pairs(others);
    }
    url
}

fn pairs_without(url: &Url, name: &str) -> Vec<(String, String)> {
    url.query_pairs()
        .filter(|(n, _)| n != name)
        .map(|(n, v)| (n.into_owned(), v.into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{BUILT_IN, Dataset};

    fn paging(pagination: &str) -> Paging {
        let start = BUILT_IN.find("[source.pagination]").unwrap();
        let end = BUILT_IN.find("[source.limit]").unwrap();
        let text = format!(
            "{}[source.pagination]\n{pagination}\n{}",
            &BUILT_IN[..start],
            &BUILT_IN[end..]
        );
        let dataset = Dataset::parse(&text, "test").unwrap();
        let base = Url::parse("http://h:1/api?results=1&x=y").unwrap();
        Paging::new(&dataset.source, &base, Some("s")).unwrap()
    }

    #[test]
    fn numbered_pages_are_known_ahead() {
        let p = paging(
            "style = \"page\"\nparam = \"page\"\nsize_param = \"results\"\nsize = 500\nendless = true",
        );
        let start = p.start(Some(3)).unwrap();
        let address = p.address(&start).unwrap();
        assert_eq!(
            address.as_str(),
            "http://h:1/api?x=y&seed=s&page=3&results=500"
        );
        assert_eq!(p.ahead(&start, 4), Some(Position::Page(7)));
        assert_eq!(
            p.after(&start, 500, &Hint::None).unwrap(),
            Some(Position::Page(4))
        );
        assert_eq!(p.after(&start, 0, &Hint::None).unwrap(), None);
    }

    #[test]
    fn offsets_move_by_what_came() {
        let p = paging("style = \"offset\"\nparam = \"o\"\nsize = 100");
        let start = p.start(Some(2)).unwrap();
        assert_eq!(start, Position::Offset(100));
        assert_eq!(
            p.after(&start, 40, &Hint::None).unwrap(),
            Some(Position::Offset(140))
        );
    }

    #[test]
    fn a_next_page_stays_at_its_origin() {
        let p = paging("style = \"link\"");
        let next = |target: &str| p.after(&Position::Start, 1, &Hint::Next(target.into()));
        assert_eq!(
            next("/p?page=2").unwrap(),
            Some(Position::Url("http://h:1/p?page=2".into()))
        );
        for elsewhere in [
            "http://h:2/p",
            "https://h:1/p",
            "file:///etc/passwd",
            "http://x/",
        ] {
            assert!(next(elsewhere).is_err(), "{elsewhere}");
        }
        assert_eq!(p.after(&Position::Start, 1, &Hint::None).unwrap(), None);
        assert!(p.start(Some(2)).is_err());
    }

    #[test]
    fn a_key_that_the_source_repeats_is_left_out() {
        let url = |text| Url::parse(text).unwrap();
        let repeated = url("http://h/p?key=old&a=1&key=older");
        assert_eq!(
            without_param(repeated, Some("key")).as_str(),
            "http://h/p?a=1"
        );
        let only = without_param(url("http://h/p?key=old"), Some("key"));
        assert_eq!(only.as_str(), "http://h/p");
        let kept = without_param(url("http://h/p?a=%20b"), Some("key"));
        assert_eq!(kept.as_str(), "http://h/p?a=%20b");
    }

    #[test]
    fn cursors_are_texts_or_numbers() {
        for (raw, hint) in [
            (None, Hint::None),
            (Some("null"), Hint::None),
            (Some("\"\""), Hint::None),
            (Some("\"a\\u0062\""), Hint::Next("ab".into())),
            (Some("17"), Hint::Next("17".into())),
        ] {
            assert_eq!(Hint::of_json(raw).unwrap(), hint, "{raw:?}");
        }
        assert!(Hint::of_json(Some("{}")).is_err());
    }

    #[test]
    fn positions_are_kept_as_json() {
        for (position, json) in [
            (Position::Page(3), r#"{"page":3}"#),
            (Position::Cursor("x".into()), r#"{"cursor":"x"}"#),
            (Position::Start, r#""start""#),
        ] {
            assert_eq!(serde_json::to_string(&position).unwrap(), json);
            assert_eq!(serde_json::from_str::<Position>(json).unwrap(), position);
        }
    }
}
