//! Pure: the `Link` header fields of RFC 8288, read by the algorithm of its appendix B.2.

use crate::error::{Error, Result};

/// The target of the first link whose relation types include `next`, among the values of all `Link` header fields.
/// An error for a value that cannot be read, because the link that it may hold would be a lost page.
pub(super) fn next<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Result<Option<String>> {
    for value in values {
        let value = ascii(value);
        let mut rest = value.as_str();
        while let Some(link) = take_link(&mut rest)? {
            let mut types = link.rel.split_ascii_whitespace();
            if types.any(|rel| rel.eq_ignore_ascii_case("next")) {
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
        .ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            Error::refused(format!(
                "cannot read the Link header at `{shown}`; expected <target>; rel=\"next\" (RFC 8288)"
            ))
        })?;
    *rest = after;
    let mut rel = None;
    while let Some((name, value)) = take_parameter(rest) {
        if name.eq_ignore_ascii_case("rel") {
            rel.get_or_insert(value); // of several, the first one counts
        }
    }
    Ok(Some(Link {
        target: target.trim_matches(SPACE).into(),
        rel: rel.unwrap_or_default(),
    }))
}

/// Takes one parameter off the rest of a link; none at the link's end.
fn take_parameter<'t>(rest: &mut &'t str) -> Option<(&'t str, String)> {
    let text = rest.trim_start_matches(SPACE);
    let Some(text) = text.strip_prefix(';') else {
        *rest = &text[text.find(',').unwrap_or(text.len())..];
        return None;
    };
    let text = text.trim_start_matches(SPACE);
    let end = text.find(['=', ';', ',', ' ', '\t']).unwrap_or(text.len());
    let (name, text) = text.split_at(end);
    let Some(text) = text.trim_start_matches(SPACE).strip_prefix('=') else {
        *rest = text;
        return Some((name, String::new()));
    };
    let text = text.trim_start_matches(SPACE);
    match text.strip_prefix('"') {
        Some(quoted) => {
            let (value, text) = unquote(quoted);
            *rest = text;
            Some((name, value))
        }
        None => {
            let (value, text) = text.split_at(text.find([';', ',']).unwrap_or(text.len()));
            *rest = text;
            Some((name, value.trim_end_matches(SPACE).into()))
        }
    }
}

/// The content of a quoted string whose opening quote is gone, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Option<String>> {
        next([value.as_bytes()])
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
        ];
        for (value, target) in table {
            assert_eq!(read(value).unwrap().as_deref(), Some(target), "{value}");
        }
        let latin = b"</x?page=2>; rel=\"next\"; title=\"caf\xe9\"";
        assert_eq!(next([&latin[..]]).unwrap().as_deref(), Some("/x?page=2"));
        let both = [&b"</9>; rel=last"[..], b"</2>; rel=next"];
        assert_eq!(next(both).unwrap().as_deref(), Some("/2"));
    }

    #[test]
    fn a_header_without_a_next_link_is_the_end_and_a_broken_one_is_an_error() {
        for none in [
            "",
            " ,",
            "<https://a>; rel=\"last\"",
            "<https://a>",
            "</2>; rel=last; rel=next",
            "</2>; title=\"rel=next",
        ] {
            assert_eq!(read(none).unwrap(), None, "{none}");
        }
        for broken in ["<https://a", "next", "</9>; rel=last, /2; rel=next"] {
            let error = read(broken).unwrap_err().to_string();
            assert!(error.contains("cannot read the Link header"), "{error}");
        }
    }
}
