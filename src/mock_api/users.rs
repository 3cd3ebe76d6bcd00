//! Users as of randomuser.me 1.4: the same for the same seed, page and nationalities.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::names::{ADJECTIVES, ANIMALS, NATIONS, Nation, PASSWORDS, Postcode, TIMEZONES};
use super::{Amount, JSON, Query, Rng, push_json};

/// All values of a user in their order: the header of CSV, and the nesting of JSON.
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

/// The day at which ages are told; not today's, for then the users would change.
const TODAY: &str = "2026-01-01";
/// Births are between 1945-01-01 and 2004-12-31.
const BORN: (i64, i64) = (-788_918_400_000, 1_104_451_200_000);
/// Registrations are between 2002-01-01 and 2025-12-31.
const REGISTERED: (i64, i64) = (1_009_843_200_000, 1_767_139_200_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
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
    format: Format,
}

enum Value {
    Text(Cow<'static, str>),
    Number(u64),
    Null,
}

impl Request {
    /// What the query asks for; what it gets wrong counts as not said, as in the real API, and so
    /// does a repeated `results`; of other repeated keys the last one counts.
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
            format: match query.get("format").or(query.get("fmt")) {
                Some("pretty" | "prettyjson") => Format::Pretty,
                Some("csv") => Format::Csv,
                _ => Format::Json,
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
        match self.format {
            Format::Csv => ("text/csv; charset=utf-8", self.csv(users)),
            Format::Json => (JSON, self.json(users)),
            Format::Pretty => (JSON, pretty(&self.json(users))),
        }
    }

    fn json(&self, users: impl Iterator<Item = [Value; COLUMNS.len()]>) -> String {
        let (columns, end) = self.frame();
        let mut out = String::from("{\"results\":[");
        for (i, user) in users.enumerate() {
            if i > 0 {
                out.push(',');
            }
            for (column, before) in &columns {
                out.push_str(before);
                match &user[*column] {
                    Value::Text(text) => push_json(&mut out, text),
                    Value::Number(n) => out.push_str(&n.to_string()),
                    Value::Null => out.push_str("null"),
                }
            }
            out.push_str(&end);
        }
        out.push(']');
        if self.info {
            out.push_str(",\"info\":{\"seed\":");
            push_json(&mut out, &self.seed);
            out.push_str(&format!(
                ",\"results\":{},\"page\":{},\"version\":\"1.4\"}}",
                self.results, self.page
            ));
        }
        out.push('}');
        out
    }

    /// The shown columns, each with the JSON that stands before its value, and what ends a user.
    fn frame(&self) -> (Vec<(usize, String)>, String) {
        let mut columns = Vec::new();
        let mut open: Vec<&str> = Vec::new();
        let mut json = String::from("{");
        let mut separator = "";
        for (i, column) in COLUMNS.iter().enumerate().filter(|(i, _)| self.shown[*i]) {
            let mut path: Vec<&str> = column.split('.').collect();
            let leaf = path.pop().unwrap_or_default();
            let common = open.iter().zip(&path).take_while(|(a, b)| a == b).count();
            json.extend(open.drain(common..).map(|_| '}'));
            for part in &path[common..] {
                json.push_str(&format!("{separator}\"{part}\":{{"));
                separator = "";
                open.push(part);
            }
            json.push_str(&format!("{separator}\"{leaf}\":"));
            columns.push((i, std::mem::take(&mut json)));
            separator = ",";
        }
        json.extend(open.iter().map(|_| '}'));
        json.push('}');
        (columns, json)
    }

    fn csv(&self, users: impl Iterator<Item = [Value; COLUMNS.len()]>) -> String {
        let header = COLUMNS.map(|column| Value::Text(column.into()));
        let lines: Vec<String> = std::iter::once(header)
            .chain(users)
            .map(|user| {
                let cells: Vec<String> = user
                    .iter()
                    .zip(self.shown)
                    .filter(|(_, shown)| *shown)
                    .map(|(value, _)| cell(value))
                    .collect();
                cells.join(",")
            })
            .collect();
        lines.join("\n")
    }

    fn user(&self, rng: &mut Rng) -> [Value; COLUMNS.len()] {
        let text = |text: &'static str| Value::Text(text.into());
        let owned = |text: String| Value::Text(text.into());
        let nation = self.nations[rng.below(self.nations.len() as u64) as usize];
        let female = rng.one_in(2);
        let female = self.female.unwrap_or(female);
        let title = rng.pick(match (nation.code, female) {
            ("FR" | "CH", true) => "Madame|Mademoiselle",
            ("FR" | "CH", false) => "Monsieur",
            (_, true) => "Mrs|Ms|Miss",
            (_, false) => "Mr",
        });
        let first = rng.pick(if female { nation.female } else { nation.male });
        let last = rng.pick(nation.last);
        let (offset, description) = TIMEZONES[rng.below(TIMEZONES.len() as u64) as usize];
        let mut degrees = |limit: u64| {
            let n = rng.between(0, 2 * limit * 10_000) as i64 - (limit * 10_000) as i64;
            let sign = if n < 0 { "-" } else { "" };
            let n = n.unsigned_abs();
            format!("{sign}{}.{:04}", n / 10_000, n % 10_000)
        };
        let (latitude, longitude) = (degrees(90), degrees(180));
        let uuid = uuid::Builder::from_random_bytes(
            ((u128::from(rng.next()) << 64) | u128::from(rng.next())).to_be_bytes(),
        )
        .into_uuid();
        let username = format!(
            "{}{}{}",
            rng.pick(ADJECTIVES),
            rng.pick(ANIMALS),
            rng.below(1000)
        );
        let mut date = |(from, to): (i64, i64)| {
            let ms = from + rng.below(to.abs_diff(from)) as i64;
            crate::time::format_ms(ms)
        };
        let (born, registered) = (date(BORN), date(REGISTERED));
        let (born_age, registered_age) = (age(&born), age(&registered));
        let portrait = format!(
            "{}/{}.jpg",
            if female { "women" } else { "men" },
            rng.below(100)
        );
        let picture = |size: &str| {
            owned(format!(
                "https://randomuser.me/api/portraits/{size}{portrait}"
            ))
        };
        let (id_name, id_value) = match nation.id {
            Some((name, pattern)) => (name, owned(rng.fill(pattern))),
            None => ("", Value::Null),
        };
        let postcode = match nation.postcode {
            Postcode::Number(low, high) => Value::Number(rng.between(low, high)),
            Postcode::Text(pattern) => owned(rng.fill(pattern)),
        };
        let mut hex = |digits: usize| owned(rng.fill(&"%".repeat(digits)));
        let (md5, sha1, sha256) = (hex(32), hex(40), hex(64));
        [
            text(if female { "female" } else { "male" }),
            text(title),
            text(first),
            text(last),
            Value::Number(rng.between(1, 9999)),
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
            owned(uuid.to_string()),
            owned(username),
            text(rng.pick(PASSWORDS)),
            owned(rng.fill("********")),
            md5,
            sha1,
            sha256,
            owned(born),
            Value::Number(born_age),
            owned(registered),
            Value::Number(registered_age),
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

/// The nationalities of a list; none, if one of them is unknown.
fn nations(list: Option<&str>) -> Vec<&'static Nation> {
    let find = |code: &str| {
        NATIONS
            .iter()
            .find(|n| n.code.eq_ignore_ascii_case(code.trim()))
    };
    list.and_then(|list| list.split(',').map(find).collect())
        .unwrap_or_default()
}

/// 16 hexadecimal digits, and 2 more for the nationality, if exactly one is asked.
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

fn cell(value: &Value) -> String {
    match value {
        Value::Text(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::Text(text) => text.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Null => "null".into(), // as the real API
    }
}

/// Compact JSON with a line for each value and two spaces for each level.
fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 3 / 2);
    let mut level = 0;
    let (mut quoted, mut escaped) = (false, false);
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", level));
    };
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        level += 1;
                        line(&mut out, level);
                    }
                }
            }
            '}' | ']' => {
                level -= 1;
                line(&mut out, level);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, level);
            }
            ':' => out.push_str(": "),
            c => {
                quoted = c == '"';
                out.push(c);
            }
        }
    }
    out
}

/// A name as the local part of an address: small Latin letters.
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
