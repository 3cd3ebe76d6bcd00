//! JSON pointers (RFC 6901) and the templates made of them.

use std::fmt;

/// A JSON pointer: the reference tokens, unescaped. No tokens mean the whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// Parses `""` or `/a/b~1c/0`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Pointer, String> {
        if text.is_empty() {
            return Ok(Pointer { tokens: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "invalid JSON pointer `{text}`; it must be empty or start with `/`"
            ));
        };
        let tokens = rest
            .split('/')
            .map(unescape)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Pointer { tokens })
    }

    /// The reference tokens.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }
}

fn unescape(token: &str) -> Result<String, String> {
    let mut out = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '~' { chars.next() } else { None }) {
            ('~', Some('0')) => out.push('~'),
            ('~', Some('1')) => out.push('/'),
            ('~', _) => return Err(format!("`{token}`: after `~` comes 0 (for ~) or 1 (for /)")),
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.tokens {
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// A text with places of the record in braces: `{/a/b}, {/c}`. `{{` and `}}` are literal braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The parts, in order.
    pub parts: Vec<TemplatePart>,
}

/// One part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text as it stands.
    Literal(String),
    /// The text of the value at this place.
    Pointer(Pointer),
}

impl Template {
    /// Parses a template; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' if chars.next_if_eq(&'{').is_some() => literal.push('{'),
                '}' if chars.next_if_eq(&'}').is_some() => literal.push('}'),
                '}' => return Err("unmatched `}`; write `}}` for a literal brace".into()),
                '{' => {
                    let mut inner = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => inner.push(c),
                            None => return Err("unmatched `{`".into()),
                        }
                    }
                    if !literal.is_empty() {
                        parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(TemplatePart::Pointer(Pointer::parse(&inner)?));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(literal));
        }
        if !parts.iter().any(|p| matches!(p, TemplatePart::Pointer(_))) {
            return Err("a template needs at least one `{/pointer}`".into());
        }
        Ok(Template { parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_round_trip() {
        for text in ["", "/a", "/a/0/b", "/m~0n/a~1b", "/"] {
            assert_eq!(Pointer::parse(text).unwrap().to_string(), text);
        }
        assert!(Pointer::parse("a").unwrap_err().contains("start with `/`"));
        assert!(Pointer::parse("/a~2").unwrap_err().contains("after `~`"));
    }

    #[test]
    fn templates_have_literals_and_places() {
        let t = Template::parse("{/n} of {{x}}").unwrap();
        assert_eq!(
            t.parts,
            [
                TemplatePart::Pointer(Pointer::parse("/n").unwrap()),
                TemplatePart::Literal(" of {x}".into())
            ]
        );
        for bad in ["{/a", "a}", "plain"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
