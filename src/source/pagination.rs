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

/// Where the next walk continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The first page to request.
    pub position: Position,
    /// Records of that page that were taken before, from its first: a short last page of a source with numbered pages
    /// may grow.
    pub done: u64,
}

impl From<Position> for Resume {
    fn from(position: Position) -> Self {
        Resume { position, done: 0 }
    }
}

/// What a response says about the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// There is none, or the client counts pages itself.
    None,
    /// Nothing: the response lacks the place where the next page should be. What it has instead.
    Absent(String),
    /// A cursor or an address.
    Next(String),
}

impl Hint {
    /// From the raw JSON of a cursor or address; null, false and an empty text mean the end. A number goes back to the
    /// source as it came.
    pub fn of_json(raw: &str) -> Result<Hint> {
        match raw.as_bytes() {
            b"null" | b"false" | b"\"\"" => Ok(Hint::None),
            [b'"', ..] => serde_json::from_str(raw).map(Hint::Next).map_err(|e| {
                Error::unavailable(format!(
                    "the next page in the response is not a valid string: {e}"
                ))
            }),
            [b'-' | b'0'..=b'9', ..] => Ok(Hint::Next(raw.into())),
            _ => Err(Error::refused(
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
        if let Some(param) = &key_param {
            remove_param(&mut base, param);
        }
        Ok(Paging {
            base,
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
            (PageStyle::Offset { .. }, number) => {
                Ok(Position::Offset(number.map_or(0, |n| {
                    n.saturating_sub(1).saturating_mul(self.size)
                })))
            }
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
            Position::Page(n) => n.checked_add(pages).map(Position::Page),
            Position::Offset(n) => {
                let records = pages.checked_mul(self.size)?;
                n.checked_add(records).map(Position::Offset)
            }
            _ => None,
        }
    }

    /// Where to continue once `taken` of a page's records are safe, those taken by earlier walks included; none if the
    /// page moves nothing, because it is empty.
    pub fn resume(
        &self,
        position: &Position,
        records: u64,
        taken: u64,
        next: Option<&Position>,
    ) -> Option<Resume> {
        let is_whole = taken == records;
        match (position, next) {
            (Position::Page(_) | Position::Offset(_), _) if records == 0 => None,
            (Position::Page(_), Some(next)) if is_whole && self.is_full(records) => {
                Some(next.clone().into())
            }
            (Position::Page(_), _) => Some(Resume {
                position: position.clone(),
                done: taken,
            }),
            (Position::Offset(n), _) => Some(Position::Offset(n.saturating_add(taken)).into()),
            (_, Some(next)) if is_whole => Some(next.clone().into()),
            _ => Some(position.clone().into()),
        }
    }

    /// Whether a page holds as many records as were requested; false if the source decides.
    pub fn is_full(&self, records: u64) -> bool {
        self.size > 0 && records >= self.size
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
            (Position::Page(n), ..) => n.checked_add(1).map(Position::Page),
            (Position::Offset(n), ..) => n.checked_add(records).map(Position::Offset),
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
            let mut url = self.same_origin(&self.base, target)?;
            // The state file does not have it, but every page needs it.
            url.set_username(self.base.username()).ok();
            return Ok(url);
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
        // The address itself is not shown, because it may contain a key.
        let mut next = here
            .join(target)
            .map_err(|e| Error::refused(format!("the address of the next page is invalid: {e}")))?;
        let files = next.scheme() == "file" && self.base.scheme() == "file";
        if files || next.origin() == self.base.origin() {
            without_user(&mut next);
            if let Some(param) = &self.key_param {
                remove_param(&mut next, param);
            }
            return Ok(next);
        }
        Err(Error::refused(format!(
            "the next page is at {}, not at {}, so it is not requested",
            next.origin().ascii_serialization(),
            self.base.origin().ascii_serialization()
        )))
    }
}

/// Sets a query parameter, replacing any of that name. All others stay byte for byte, because `%E9` decoded and encoded
/// again is another query.
fn set_param(url: &mut Url, name: &str, value: &str) {
    remove_param(url, name);
    url.query_pairs_mut().append_pair(name, value);
}

fn remove_param(url: &mut Url, name: &str) {
    let is_other = |pair: &&str| {
        let mut parsed = url::form_urlencoded::parse(pair.as_bytes());
        parsed.next().is_none_or(|(found, _)| found != name)
    };
    let query = url.query().unwrap_or_default();
    let others: Vec<&str> = query.split('&').filter(is_other).collect();
    let others = others.join("&");
    if others.len() < query.len() {
        url.set_query((!others.is_empty()).then_some(&others));
    }
}

/// Removes a user and a password, which belong neither into a state file nor into a message.
pub(super) fn without_user(url: &mut Url) {
    // An address that cannot have a user, such as that of a file, has none.
    url.set_username("").ok();
    url.set_password(None).ok();
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
    fn what_the_source_repeats_of_a_secret_is_left_out() {
        let left = |text: &str| {
            let mut url = Url::parse(text).unwrap();
            remove_param(&mut url, "key");
            without_user(&mut url);
            url.to_string()
        };
        assert_eq!(left("http://h/p?key=old&a=1&key=older"), "http://h/p?a=1");
        assert_eq!(left("http://h/p?key=old"), "http://h/p");
        assert_eq!(left("http://h/p?%6Bey=old&b"), "http://h/p?b");
        assert_eq!(left("http://me:hunter2@h/p?a=%20b"), "http://h/p?a=%20b");
    }

    #[test]
    fn the_other_parameters_stay_byte_for_byte() {
        let mut url = Url::parse("http://h/p?city=Montr%E9al&page=1&sig=a%20b&&c+d").unwrap();
        set_param(&mut url, "page", "2 3");
        assert_eq!(
            url.as_str(),
            "http://h/p?city=Montr%E9al&sig=a%20b&&c+d&page=2+3"
        );
    }

    #[test]
    fn a_short_page_may_grow_and_a_full_one_is_done() {
        let p = paging("style = \"page\"\nparam = \"page\"\nsize_param = \"n\"\nsize = 50");
        let (here, next) = (Position::Page(3), Position::Page(4));
        let resume = |records, taken| p.resume(&here, records, taken, Some(&next));
        let here_after = |done| {
            Some(Resume {
                position: here.clone(),
                done,
            })
        };
        assert_eq!(resume(50, 50), Some(next.clone().into()));
        assert_eq!(resume(40, 40), here_after(40));
        assert_eq!(resume(50, 20), here_after(20));
        assert_eq!(resume(0, 0), None);
        let p = paging("style = \"offset\"\nparam = \"o\"\nsize = 50");
        let resume = |records, taken| p.resume(&Position::Offset(100), records, taken, None);
        assert_eq!(resume(50, 20), Some(Position::Offset(120).into()));
        assert_eq!(resume(0, 0), None);
        let p = paging("style = \"link\"");
        let (here, next) = (Position::Start, Position::Url("http://h:1/2".into()));
        let resume = |taken, next| p.resume(&here, 9, taken, next);
        assert_eq!(resume(9, Some(&next)), Some(next.clone().into()));
        assert_eq!(resume(9, None), Some(here.clone().into()));
        assert_eq!(resume(4, Some(&next)), Some(here.clone().into()));
    }

    #[test]
    fn cursors_are_strings_or_numbers_as_they_stand() {
        for (raw, hint) in [
            ("null", Hint::None),
            ("false", Hint::None),
            ("\"\"", Hint::None),
            ("\"a\\u0062\"", Hint::Next("ab".into())),
            ("17", Hint::Next("17".into())),
            (
                "17293822569102704640",
                Hint::Next("17293822569102704640".into()),
            ),
            ("1512085950.000216", Hint::Next("1512085950.000216".into())),
            ("1e3", Hint::Next("1e3".into())),
        ] {
            assert_eq!(Hint::of_json(raw).unwrap(), hint, "{raw}");
        }
        assert!(Hint::of_json("{}").is_err() && Hint::of_json("true").is_err());
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
