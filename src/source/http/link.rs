//! Pure: the `Link` header fields of RFC 8288, read by the algorithm of its appendix B.2.

use url::Url;

use crate::error::{Error, Result};
use crate::source::query::remove_param;

/// The target of the first link from the page at `here` whose relation types include `next`, among the values of all
/// `Link` header fields. `here` lacks the parameter `key`, which contains the API key, whether a link repeats it or not.
/// An error for a value that cannot be read, because the link that it may hold would be a lost page.
pub(super) fn next<'v>(
    values: impl IntoIterator<Item = &'v [u8]>,
    here: &Url,
    key: Option<&str>,
) -> Result<Option<String>> {
    for value in values {
        let value = ascii(value);
        let mut rest = value.as_str();
        while let Some(link) = take_link(&mut rest)? {
            if link.is_next() && link.is_from(here, key)? {
                return Ok(Some(link.target));
            }
        }
    }
    Ok(None)
}

/// Header values are bytes. Those outside ASCII are percent-encoded, so that a target goes back to its server as it
/// came, whatever the encoding.
fn ascii(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value {
        match byte.is_ascii() {
            true => text.push(char::from(*byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

struct Link {
    target: String,
    /// The relation types, separated by spaces.
    rel: String,
    /// The resource that the link leads from, if that is not the one requested.
    anchor: Option<String>,
}

impl Link {
    fn is_next(&self) -> bool {
        let mut types = self.rel.split_ascii_whitespace();
        types.any(|rel| rel.eq_ignore_ascii_case("next"))
    }

    /// Whether it leads from this page: the next page of another resource is another page.
    fn is_from(&self, here: &Url, key: Option<&str>) -> Result<bool> {
        let Some(anchor) = &self.anchor else {
            return Ok(true);
        };
        let mut from = here.join(anchor).map_err(|_| unreadable(anchor))?;
        if let Some(key) = key {
            remove_param(&mut from, key);
        }
        Ok(from == *here)
    }
}

const SPACE: [char; 2] = [' ', '\t'];

/// Takes the next link off a value; none at its end.
fn take_link(rest: &mut &str) -> Result<Option<Link>> {
    let text = rest.trim_start_matches([' ', '\t', ',']);
    if text.is_empty() {
        return Ok(None);
    }
    let (target, after) = text
        .strip_prefix('<')
        .and_then(|text| text.split_once('>'))
        .ok_or_else(|| unreadable(text))?;
    *rest = after;
    let (mut rel, mut anchor) = (None, None);
    while let Some((name, value)) = take_parameter(rest)? {
        // Of several, the first one counts. `rel*` is another parameter, which RFC 8288 does not have.
        if name.eq_ignore_ascii_case("rel") {
            rel.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("anchor") {
            anchor.get_or_insert(value);
        }
    }
    Ok(Some(Link {
        target: target.trim_matches(SPACE).into(),
        rel: rel.unwrap_or_default(),
        anchor,
    }))
}

fn unreadable(at: &str) -> Error {
    let shown: String = at.chars().take(80).collect();
    Error::refused(format!(
        "cannot read the Link header at `{shown}`; expected <target>; rel=\"next\" (RFC 8288)"
    ))
}

/// Takes one parameter off the rest of a link; none at the link's end, which is a comma, or the target of another link
/// whose comma was forgotten.
fn take_parameter<'t>(rest: &mut &'t str) -> Result<Option<(&'t str, String)>> {
    let text = rest.trim_start_matches(SPACE);
    let Some(after) = text.strip_prefix(';') else {
        *rest = text;
        return match text.is_empty() || text.starts_with([',', '<']) {
            true => Ok(None),
            false => Err(unreadable(text)),
        };
    };
    let text = after.trim_start_matches(SPACE);
    let end = text.find(|c| "=;,<".contains(c) || SPACE.contains(&c));
    let (name, text) = text.split_at(end.unwrap_or(text.len()));
    let Some(text) = text.trim_start_matches(SPACE).strip_prefix('=') else {
        *rest = text;
        return Ok(Some((name, String::new())));
    };
    let text = text.trim_start_matches(SPACE);
    let quoted = text.strip_prefix('"').map(|inside| {
        let end = unquote(inside);
        end.ok_or_else(|| unreadable(text)) // the rest may be a link
    });
    let (value, text) = match quoted.transpose()? {
        Some(unquoted) => unquoted,
        None => single_quoted(text).unwrap_or_else(|| token(text)),
    };
    *rest = text;
    Ok(Some((name, value)))
}

/// A value without quotes, and what follows it.
fn token(text: &str) -> (String, &str) {
    let end = text.find(|c| ";,<".contains(c) || SPACE.contains(&c));
    let (value, rest) = text.split_at(end.unwrap_or(text.len()));
    (value.into(), rest)
}

/// The content of a value in single quotes, and what follows it. RFC 8288 takes these for a part of the value, but no
/// relation type has them, so whoever wrote them meant double ones. None if the value does not end with one.
fn single_quoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('\'')?;
    let ends = |rest: &str| {
        let rest = rest.trim_start_matches(SPACE);
        rest.is_empty() || rest.starts_with([';', ',', '<'])
    };
    let mut quotes = inside.match_indices('\'');
    let (end, _) = quotes.find(|(at, _)| ends(&inside[at + 1..]))?;
    Some((inside[..end].into(), &inside[end + 1..]))
}

/// The content of a quoted string whose opening quote is gone, and what follows it; none if it does not end.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_of(values: &[&[u8]]) -> Result<Option<String>> {
        let here = Url::parse("http://h/p?page=1").unwrap();
        next(values.iter().copied(), &here, Some("key"))
    }

    fn read(value: &str) -> Result<Option<String>> {
        next_of(&[value.as_bytes()])
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        let table = [
            (
                r#"<https://a/p?page=1,2>; rel="prev", <https://a/p?page=3,4>; title=x; rel="last next""#,
                "https://a/p?page=3,4",
            ),
            ("</p?page=2>;rel=next", "/p?page=2"),
            (
                r#"</x?page=9>; title="page;rel=next"; rel="last", </x?page=2>; rel="next""#,
                "/x?page=2",
            ),
            (r#"</9>; rel="last",  </2>; rel="next""#, "/2"),
            ("</9>; rel=\"last\",\t</2>; rel=\"next\"", "/2"),
            (r#"</9>; rel="last"; title="a, <b", </2>; rel="next""#, "/2"),
            (
                r#"</9>; rel=last; title="\"; rel=next", </2>; rel=next"#,
                "/2",
            ),
            (r#", ,</2> ; REL = NEXT ; x"#, "/2"),
            ("</2>; rel=next; rel=last", "/2"),
            ("</x?q=caf\u{e9}>; rel=next", "/x?q=caf%C3%A9"),
            ("</2>; rel='next'", "/2"),
            (
                "</9>; rel='last' , </2>; rel='prev next'; title='a, b'",
                "/2",
            ),
            ("</9>; rel=last; title='a, b'; x=it's, </2>; rel=NEXT", "/2"),
            ("</9>; rel=\"last\" </2>; rel=\"next\"", "/2"),
            ("</9>; rel=last </2>; rel=next", "/2"),
            ("</9> </2>; rel=next", "/2"),
            ("</9>; rel*=UTF-8''next; rel=last, </2>; rel=next", "/2"),
            ("</2>; rel=next; title*=UTF-8'de'n%c3%a4chstes", "/2"),
            ("</2>; rel=\"first next\";; rel=last", "/2"),
            ("</9>; rel=next; anchor=\"/other\", </2>; rel=next", "/2"),
            ("</9>; rel=next; anchor=\"#part\", </2>; rel=next", "/2"),
            ("</2>; anchor=\"http://h/p?page=1\"; rel=next", "/2"),
            ("</2>; anchor=\"http://h/p?page=1&key=x\"; rel=next", "/2"),
            ("</2>; anchor=\"\"; rel=next; anchor=\"/other\"", "/2"),
        ];
        for (value, target) in table {
            assert_eq!(read(value).unwrap().as_deref(), Some(target), "{value}");
        }
        let latin = &b"</x?page=2>; rel=\"next\"; title=\"caf\xe9\""[..];
        assert_eq!(next_of(&[latin]).unwrap().as_deref(), Some("/x?page=2"));
        let both = [&b"</9>; rel=last"[..], b"</2>; rel=next"];
        assert_eq!(next_of(&both).unwrap().as_deref(), Some("/2"));
    }

    #[test]
    fn a_header_without_a_next_link_is_the_end_and_a_broken_one_is_an_error() {
        for none in [
            "",
            " ,",
            "<https://a>; rel=\"last\"",
            "<https://a>",
            "</2>; rel=last; rel=next",
            "</9>; rel*=UTF-8''next",
            "</9>; rel=next; anchor=\"http://h/p?page=7\"",
        ] {
            assert_eq!(read(none).unwrap(), None, "{none}");
        }
        for broken in [
            "<https://a",
            "next",
            "</9>; rel=last, /2; rel=next",
            "</2>; title=\"rel=next",
            "</2>; rel=prev next",
            "</2>; rel \"next\"",
            "</2> rel=next",
            "</2>; rel=next; anchor=\"http://[\"",
            "</2>; rel=\"last\" rel=next",
            "</2>; rel=\"last\"next",
        ] {
            let error = read(broken).unwrap_err().to_string();
            assert!(error.contains("cannot read the Link header"), "{error}");
        }
    }
}
