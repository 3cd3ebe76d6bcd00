//! Pure: where the next page is, for each pagination style, and how that is kept as a bookmark.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::dataset::{Auth, PageStyle, SourceSpec};
use crate::error::{Error, Result};
use crate::source::query::{hide_secrets, remove_param, restore_secrets, set_param, without_user};

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

impl Position {
    /// Whether it is a number of pages or records, which shifts if the source puts records before it.
    pub fn is_counted(&self) -> bool {
        matches!(self, Position::Page(_) | Position::Offset(_))
    }
}

/// Where the next walk continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The first page to request.
    pub position: Position,
    /// Records of that page that were taken before, from its first: it may have grown since.
    pub done: u64,
    /// What identifies these, in their order. If they are no longer where they were, the source has moved its records,
    /// and those that are new are somewhere else.
    pub last: Option<String>,
    /// What identifies each of the first records of the first page, if the walk has left it by a name: what the source puts
    /// before those would never be seen.
    pub first: Option<String>,
}

impl From<Position> for Resume {
    fn from(position: Position) -> Self {
        Resume {
            position,
            done: 0,
            last: None,
            first: None,
        }
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
                Error::data(format!(
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
        let lowest = match &self.style {
            PageStyle::Page { first, .. } => *first,
            _ => 1,
        };
        if let Some(number) = number.filter(|number| *number < lowest) {
            return Err(Error::invalid(format!(
                "--page {number}: the source's first page is {lowest}"
            )));
        }
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
    /// page moves nothing, because it is empty. That is the same page until the next one is named: numbers alone do not
    /// show whether the source has put new records first, those that were taken do. Pages of an endless source never
    /// change.
    pub fn resume(
        &self,
        position: &Position,
        records: u64,
        taken: u64,
        next: Option<&Position>,
    ) -> Option<Resume> {
        let is_whole = taken == records;
        let is_counted = position.is_counted();
        match next {
            _ if is_counted && records == 0 => None,
            Some(next) if is_whole && (self.endless || !is_counted) => Some(next.clone().into()),
            // One request is everything, so the next walk makes it again.
            None if is_whole && matches!(self.style, PageStyle::None) => {
                Some(position.clone().into())
            }
            _ => Some(Resume {
                position: position.clone(),
                done: taken,
                last: None,
                first: None,
            }),
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
                let mut next = self.same_origin(&here, target)?;
                hide_secrets(&mut next, &self.base);
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
            // The state file does not have these, but every page needs them.
            url.set_username(self.base.username()).ok();
            restore_secrets(&mut url, &self.base)?;
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
        let error = p.start(Some(0)).unwrap_err().to_string();
        assert_eq!(error, "--page 0: the source's first page is 1");
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
    fn a_secret_that_the_source_repeats_is_kept_by_its_mask() {
        let dataset = Dataset::parse(BUILT_IN, "test").unwrap();
        let mut source = dataset.source.clone();
        source.pagination.style = PageStyle::Link;
        source.query = vec![("token".into(), "a b/c".into())];
        let at = |url: &str| Paging::new(&source, &Url::parse(url).unwrap(), None).unwrap();
        let p = at("http://h/p?api_key=hunter2");
        let next = "/p?api_key=hunter2&sig=s&page=%E9&token=a%20b%2Fc";
        let next = p.after(&Position::Start, 1, &Hint::Next(next.into()));
        let next = next.unwrap().unwrap();
        let kept = "http://h/p?api_key=***&sig=s&page=%E9&token=***";
        assert_eq!(next, Position::Url(kept.into()));
        assert_eq!(
            p.address(&next).unwrap().as_str(),
            "http://h/p?api_key=hunter2&sig=s&page=%E9&token=a+b%2Fc"
        );
        let error = at("http://h/p").address(&next).unwrap_err().to_string();
        assert!(error.contains("`api_key`"), "{error}");
        // Both values of one name come back.
        for base in ["http://h/p?key=a&key=b", "http://h/p"] {
            let p = at(base);
            let target = "/p?key=a&key=b&page=2&token=a+b%2Fc";
            let next = p.after(&Position::Start, 1, &Hint::Next(target.into()));
            let next = p.address(&next.unwrap().unwrap()).unwrap();
            assert_eq!(next.as_str(), format!("http://h{target}"), "{base}");
        }
    }

    #[test]
    fn a_walk_continues_on_the_page_where_the_last_one_ended() {
        let p = paging("style = \"page\"\nparam = \"page\"\nsize_param = \"n\"\nsize = 50");
        let (here, next) = (Position::Page(3), Position::Page(4));
        let resume = |records, taken| p.resume(&here, records, taken, Some(&next));
        let here_after = |done| {
            Some(Resume {
                position: here.clone(),
                done,
                last: None,
                first: None,
            })
        };
        assert_eq!(resume(50, 50), here_after(50));
        assert_eq!(resume(40, 40), here_after(40));
        assert_eq!(resume(50, 20), here_after(20));
        assert_eq!(resume(0, 0), None);
        let p = paging("style = \"offset\"\nparam = \"o\"\nsize = 50");
        let (here, next) = (Position::Offset(100), Position::Offset(150));
        let resume = |records, taken| p.resume(&here, records, taken, Some(&next));
        let at = |resume: Option<Resume>| resume.map(|at| (at.position, at.done));
        assert_eq!(at(resume(50, 50)), Some((here.clone(), 50)));
        assert_eq!(at(resume(50, 20)), Some((here.clone(), 20)));
        assert_eq!(at(resume(0, 0)), None);
        let p = paging(
            "style = \"page\"\nparam = \"page\"\nsize_param = \"n\"\nsize = 50\nendless = true",
        );
        let (here, next) = (Position::Page(3), Position::Page(4));
        let resume = |records, taken| p.resume(&here, records, taken, Some(&next));
        assert_eq!(at(resume(50, 50)), Some((next.clone(), 0)));
        assert_eq!(at(resume(50, 20)), Some((here.clone(), 20)));
        let p = paging("style = \"link\"");
        let (here, next) = (Position::Start, Position::Url("http://h:1/2".into()));
        let resume = |taken, next| p.resume(&here, 9, taken, next);
        assert_eq!(resume(9, Some(&next)), Some(next.clone().into()));
        assert_eq!(at(resume(9, None)), Some((here.clone(), 9)));
        assert_eq!(at(resume(4, Some(&next))), Some((here.clone(), 4)));
        let p = paging("style = \"none\"");
        let resume = |taken| p.resume(&here, 9, taken, None);
        assert_eq!(at(resume(9)), Some((here.clone(), 0)));
        assert_eq!(at(resume(4)), Some((here.clone(), 4)));
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
