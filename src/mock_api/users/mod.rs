//! Users like those of randomuser.me 1.4: the same for the same seed, page and nationalities.

mod names;
mod render;

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::names::{ADJECTIVES, ANIMALS, NATIONS, Nation, PASSWORDS, Postcode, TIMEZONES};
use super::Amount;
use super::query::Query;
use super::rng::Rng;

/// The date for computing ages; not today's, because then the users would change.
const TODAY: &str = "2026-01-01";
/// Births are between 1945-01-01 and 2004-12-31.
const BORN: (i64, i64) = (-788_918_400_000, 1_104_451_200_000);
/// Registrations are between 2002-01-01 and 2025-12-31.
const REGISTERED: (i64, i64) = (1_009_843_200_000, 1_767_139_200_000);

/// All values of a user in order: the header of CSV, and the nesting of JSON.
const COLUMNS: [&str; 34] = [
    "gender",
    "name.title",
    "name.first",
    "name.last",
    "location.street.number",
    "location.street.name",
    "location.city",
    "location.state",
    "location.country",
    "location.postcode",
    "location.coordinates.latitude",
    "location.coordinates.longitude",
    "location.timezone.offset",
    "location.timezone.description",
    "email",
    "login.uuid",
    "login.username",
    "login.password",
    "login.salt",
    "login.md5",
    "login.sha1",
    "login.sha256",
    "dob.date",
    "dob.age",
    "registered.date",
    "registered.age",
    "phone",
    "cell",
    "id.name",
    "id.value",
    "picture.large",
    "picture.medium",
    "picture.thumbnail",
    "nat",
];

/// The values of a user, by [`COLUMNS`].
type User = [Datum; COLUMNS.len()];

/// A value of a user.
enum Datum {
    Text(Cow<'static, str>),
    Number(u64),
    Null,
}

/// The format of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    Json,
    Pretty,
    Csv,
}

/// What a query asks for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) results: u64,
    pub(super) page: u64,
    seed: String,
    nations: Vec<&'static Nation>,
    female: Option<bool>,
    shown: [bool; COLUMNS.len()],
    info: bool,
    notation: Notation,
}

impl Request {
    /// Reads a query. As in the real API, invalid values are ignored, and so is a repeated `results`; of other
    /// repeated parameters the last one counts.
    pub(super) fn new(query: &Query) -> Self {
        let number = |key: &str, max: u64| {
            query
                .get(key)
                .filter(|_| !(key == "results" && query.is_repeated(key)))
                .and_then(|text| text.parse().ok())
                .filter(|n| (1..=max).contains(n))
                .unwrap_or(1)
        };
        let asked = nations(query.get("nat"));
        let given = query.get("seed").filter(|seed| !seed.is_empty());
        let seed = given.map_or_else(|| new_seed(&asked), str::to_string);
        let pinned = pinned(&seed).filter(|_| asked.is_empty());
        let nations = match (pinned, asked.is_empty()) {
            (Some(nation), _) => vec![nation],
            (None, true) => NATIONS.iter().collect(),
            (None, false) => asked,
        };
        Request {
            results: number("results", 5_000),
            page: number("page", 10_000),
            nations,
            female: match query.get("gender") {
                Some("female") if given.is_none() => Some(true),
                Some("male") if given.is_none() => Some(false),
                _ => None,
            },
            seed,
            shown: shown(query.get("inc"), query.get("exc")),
            info: query.get("noinfo").is_none(),
            notation: match query.get("format").or(query.get("fmt")) {
                Some("pretty" | "prettyjson") => Notation::Pretty,
                Some("csv") => Notation::Csv,
                _ => Notation::Json,
            },
        }
    }

    /// Content type and body.
    pub(super) fn render(&self, amount: Amount) -> (&'static str, String) {
        let codes: String = self.nations.iter().map(|n| n.code).collect();
        let hash = xxh3_64_with_seed(self.seed.as_bytes(), self.page);
        let hash = xxh3_64_with_seed(codes.as_bytes(), hash);
        let users = (0..amount.of(self.results)).map(|index| {
            let mut rng = Rng::new(xxh3_64_with_seed(&index.to_le_bytes(), hash));
            self.user(&mut rng)
        });
        render::page(self, users)
    }

    fn user(&self, rng: &mut Rng) -> User {
        let text = |text: &'static str| Datum::Text(text.into());
        let owned = |text: String| Datum::Text(text.into());
        let nation = self.nations[rng.below(self.nations.len() as u64) as usize];
        let female = rng.one_in(2);
        let female = self.female.unwrap_or(female);
        let [title, first, last] = name(nation, female, rng);
        let (offset, description) = TIMEZONES[rng.below(TIMEZONES.len() as u64) as usize];
        let (latitude, longitude) = (degrees(90, rng), degrees(180, rng));
        let (uuid, username) = (uuid(rng), username(rng));
        let (born, registered) = (date(BORN, rng), date(REGISTERED, rng));
        let (born_age, registered_age) = (age(&born), age(&registered));
        let portraits = if female { "women" } else { "men" };
        let portrait = format!("{portraits}/{}.jpg", rng.below(100));
        let picture = |size: &str| {
            owned(format!(
                "https://randomuser.me/api/portraits/{size}{portrait}"
            ))
        };
        let (id_name, id_value) = id(nation, rng);
        let postcode = postcode(nation, rng);
        let mut hex = |digits: usize| owned(rng.fill(&"%".repeat(digits)));
        let (md5, sha1, sha256) = (hex(32), hex(40), hex(64));
        [
            text(if female { "female" } else { "male" }),
            text(title),
            text(first),
            text(last),
            Datum::Number(rng.between(1, 9999)),
            text(rng.pick(nation.street)),
            text(rng.pick(nation.city)),
            text(rng.pick(nation.state)),
            text(nation.country),
            postcode,
            owned(latitude),
            owned(longitude),
            text(offset),
            text(description),
            owned(format!("{}.{}@example.com", ascii(first), ascii(last))),
            owned(uuid),
            owned(username),
            text(rng.pick(PASSWORDS)),
            owned(rng.fill("********")),
            md5,
            sha1,
            sha256,
            owned(born),
            Datum::Number(born_age),
            owned(registered),
            Datum::Number(registered_age),
            owned(rng.fill(nation.phone)),
            owned(rng.fill(nation.cell)),
            text(id_name),
            id_value,
            picture(""),
            picture("med/"),
            picture("thumb/"),
            text(nation.code),
        ]
    }
}

/// Title, first and last name.
fn name(nation: &Nation, female: bool, rng: &mut Rng) -> [&'static str; 3] {
    let titles = match (nation.code, female) {
        ("FR" | "CH", true) => "Madame|Mademoiselle",
        ("FR" | "CH", false) => "Monsieur",
        (_, true) => "Mrs|Ms|Miss",
        (_, false) => "Mr",
    };
    let first = if female { nation.female } else { nation.male };
    [titles, first, nation.last].map(|list| rng.pick(list))
}

/// Degrees of latitude or longitude, up to `limit` either way.
fn degrees(limit: u64, rng: &mut Rng) -> String {
    let n = rng.between(0, 2 * limit * 10_000) as i64 - (limit * 10_000) as i64;
    let sign = if n < 0 { "-" } else { "" };
    let n = n.unsigned_abs();
    format!("{sign}{}.{:04}", n / 10_000, n % 10_000)
}

fn uuid(rng: &mut Rng) -> String {
    let bytes = (u128::from(rng.next()) << 64) | u128::from(rng.next());
    uuid::Builder::from_random_bytes(bytes.to_be_bytes())
        .into_uuid()
        .to_string()
}

fn username(rng: &mut Rng) -> String {
    let (adjective, animal) = (rng.pick(ADJECTIVES), rng.pick(ANIMALS));
    format!("{adjective}{animal}{}", rng.below(1000))
}

/// Name and value of an identity number, if the nation has one.
fn id(nation: &Nation, rng: &mut Rng) -> (&'static str, Datum) {
    match nation.id {
        Some((name, pattern)) => (name, Datum::Text(rng.fill(pattern).into())),
        None => ("", Datum::Null),
    }
}

fn postcode(nation: &Nation, rng: &mut Rng) -> Datum {
    match nation.postcode {
        Postcode::Number(low, high) => Datum::Number(rng.between(low, high)),
        Postcode::Text(pattern) => Datum::Text(rng.fill(pattern).into()),
    }
}

fn date((from, to): (i64, i64), rng: &mut Rng) -> String {
    crate::time::format_ms(from + rng.below(to.abs_diff(from)) as i64)
}

/// The nationalities of a list; none if any of them is unknown.
fn nations(list: Option<&str>) -> Vec<&'static Nation> {
    let find = |code: &str| {
        NATIONS
            .iter()
            .find(|n| n.code.eq_ignore_ascii_case(code.trim()))
    };
    list.and_then(|list| list.split(',').map(find).collect())
        .unwrap_or_default()
}

/// 16 hexadecimal digits, and 2 more for the nationality if exactly one is requested.
fn new_seed(asked: &[&'static Nation]) -> String {
    let seed: u64 = rand::random();
    let index = match asked {
        [one] => NATIONS.iter().position(|n| n.code == one.code),
        _ => None,
    };
    index.map_or_else(|| format!("{seed:016x}"), |i| format!("{seed:016x}{i:02x}"))
}

/// The nationality in a seed of 18 digits.
fn pinned(seed: &str) -> Option<&'static Nation> {
    if seed.len() != 18 || !seed.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    NATIONS.get(usize::from_str_radix(seed.get(16..)?, 16).ok()?)
}

fn shown(inc: Option<&str>, exc: Option<&str>) -> [bool; COLUMNS.len()] {
    let has = |list: &str, field: &str| {
        list.split(',')
            .any(|f| f.trim().eq_ignore_ascii_case(field))
    };
    COLUMNS.map(|column| {
        let field = column.split('.').next().unwrap_or_default();
        inc.filter(|list| !list.is_empty())
            .is_none_or(|list| has(list, field))
            && !exc.is_some_and(|list| has(list, field))
    })
}

/// Full years from a date to [`TODAY`].
fn age(date: &str) -> u64 {
    let year = |date: &str| date.get(..4).and_then(|y| y.parse().ok()).unwrap_or(0u64);
    let before_birthday = date.get(5..10) > TODAY.get(5..10);
    (year(TODAY) - year(date)).saturating_sub(before_birthday.into())
}

/// A name as the local part of an email address: lowercase Latin letters.
fn ascii(name: &str) -> String {
    name.chars()
        .flat_map(char::to_lowercase)
        .map(|c| match c {
            'a'..='z' => "abcdefghijklmnopqrstuvwxyz"
                .get(letter(c))
                .unwrap_or_default(),
            'ä' | 'á' | 'à' | 'ã' | 'å' | 'â' | 'ā' | 'æ' | 'آ' | 'ا' | 'а' => "a",
            'ب' | 'б' => "b",
            'ç' | 'ć' | 'č' | 'ц' => "c",
            'đ' | 'ð' | 'د' | 'д' => "d",
            'é' | 'è' | 'ê' | 'ë' | 'е' | 'є' => "e",
            'ف' | 'ф' => "f",
            'ğ' | 'گ' | 'ґ' => "g",
            'ه' | 'ح' | 'г' | 'х' => "h",
            'í' | 'ï' | 'î' | 'ı' | 'и' | 'і' | 'ї' => "i",
            'ژ' | 'й' => "j",
            'ک' | 'к' => "k",
            'ل' | 'л' => "l",
            'م' | 'м' => "m",
            'ñ' | 'ن' | 'н' => "n",
            'ö' | 'ó' | 'ô' | 'õ' | 'ø' | 'о' => "o",
            'پ' | 'п' => "p",
            'ر' | 'р' => "r",
            'š' | 'ş' | 'س' | 'с' => "s",
            'ß' => "ss",
            'ش' | 'ш' => "sh",
            'щ' => "shch",
            'ت' | 'ط' | 'т' => "t",
            'ü' | 'ú' | 'û' | 'ū' | 'у' => "u",
            'و' | 'в' => "v",
            'ی' => "y",
            'ž' | 'ز' | 'ظ' | 'з' => "z",
            'ч' => "ch",
            'ю' => "yu",
            'я' => "ya",
            _ => "",
        })
        .collect()
}

fn letter(c: char) -> std::ops::Range<usize> {
    let at = (u32::from(c) - u32::from('a')) as usize;
    at..at + 1
}
