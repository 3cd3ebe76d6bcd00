//! Passwords, tokens and keys: read from the environment or a file, never from the command line or a
//! dataset file, and never printed.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use url::Url;

use crate::dataset::SecretRef;
use crate::error::{Error, Result, file_error};

/// A secret text, which its debug form does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text that came from elsewhere, such as a token of an OAuth server.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Reads a secret from the place that the dataset names.
    pub fn read(from: &SecretRef) -> Result<Secret> {
        match from {
            SecretRef::Env(name) => match std::env::var(name) {
                Ok(text) if !text.is_empty() => one_line(text, &format!("${name}")),
                _ => Err(Error::invalid(format!(
                    "the environment variable {name} is empty or not set"
                ))
                .hint("set it, or remove it from the dataset if no secret is needed")),
            },
            SecretRef::File(path) => read_file(path),
        }
    }

    /// The password of a server: the file that `RTP_<NAME>_PASSWORD_FILE` names, or `RTP_<NAME>_PASSWORD`.
    /// None if neither is set.
    pub fn of_server(name: &str) -> Result<Option<Secret>> {
        let (file, plain) = (
            format!("RTP_{name}_PASSWORD_FILE"),
            format!("RTP_{name}_PASSWORD"),
        );
        match (std::env::var_os(&file), std::env::var_os(&plain)) {
            (Some(path), _) => read_file(Path::new(&path)).map(Some),
            (None, Some(_)) => Secret::read(&SecretRef::Env(plain)).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// What stands for a secret wherever it is not shown.
pub const MASK: &str = "***";

/// The words of a parameter's name that say that its value is a secret.
const SECRET_WORDS: [&str; 19] = [
    "accesskey",
    "accesstoken",
    "apikey",
    "appid",
    "auth",
    "authorization",
    "credential",
    "credentials",
    "jwt",
    "key",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "pwd",
    "secret",
    "sig",
    "signature",
    "token",
];

/// Whether a query parameter is a secret, by its name: `token`, `api_key`, `X-Amz-Signature`, `accessToken`.
pub fn is_secret(param: &str) -> bool {
    let is_word = |word: &str| SECRET_WORDS.contains(&word.to_ascii_lowercase().as_str());
    let mut parts = param.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| is_word(part) || humps(part).any(is_word))
}

/// The parts of a name that begin with a capital letter.
fn humps(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let mut chars = rest.char_indices().skip(1);
        let end = chars.find(|(_, c)| c.is_ascii_uppercase());
        let (hump, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        rest = after;
        (!hump.is_empty()).then_some(hump)
    })
}

/// A query with the values that `change` returns in place of those of its secret parameters. All else stays byte for byte.
pub fn with_secrets(query: &str, mut change: impl FnMut(&str, &str) -> Option<String>) -> String {
    let pairs = query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let parsed = url::form_urlencoded::parse(pair.as_bytes()).next();
        let (decoded, text) = parsed.unwrap_or_default();
        let is_changed = is_secret(&decoded) && !value.is_empty();
        match is_changed.then(|| change(&decoded, &text)).flatten() {
            Some(other) => format!("{name}={other}"),
            None => pair.to_string(),
        }
    });
    pairs.collect::<Vec<String>>().join("&")
}

/// An address as people may see it: without its password and the secrets of its query.
pub fn shown(address: &Url) -> String {
    let mut address = address.clone();
    if address.password().is_some() {
        // An address that cannot have a password has none.
        address.set_password(Some(MASK)).ok();
    }
    if let Some(query) = address.query() {
        let masked = with_secrets(query, |_, _| Some(MASK.into()));
        address.set_query(Some(&masked));
    }
    address.into()
}

fn read_file(path: &Path) -> Result<Secret> {
    let fail = |e: &std::io::Error| file_error("read the secret in", path, e);
    let mode = std::fs::metadata(path)
        .map_err(|e| fail(&e))?
        .permissions()
        .mode();
    if mode & 0o007 != 0 {
        return Err(Error::invalid(format!(
            "the secret in {} is readable by every user of this machine",
            path.display()
        ))
        .hint(format!("chmod 600 {}", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
    one_line(text, &path.display().to_string())
}

/// One newline at the end comes from an editor; any other is an error.
fn one_line(mut text: String, place: &str) -> Result<Secret> {
    if text.starts_with('\u{feff}') {
        // An editor's byte order mark, which nobody sees and which is not part of the secret.
        text.drain(..'\u{feff}'.len_utf8());
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() || text.contains(['\n', '\r']) {
        return Err(Error::invalid(format!(
            "the secret in {place} must be one non-empty line"
        )));
    }
    Ok(Secret(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        let table = [
            (
                "http://h/p?page=2&key=x&n=1",
                "http://h/p?page=2&key=***&n=1",
            ),
            (
                "http://me:x@h/p?API_KEY=x%20y",
                "http://me:***@h/p?API_KEY=***",
            ),
            (
                "http://h/?X-Amz-Signature=x&access_token=x&accessToken=x&apikey=x&my-secret=x",
                "http://h/?X-Amz-Signature=***&access_token=***&accessToken=***&apikey=***&my-secret=***",
            ),
            ("http://h/?%6Bey=x&k%65y=x", "http://h/?%6Bey=***&k%65y=***"),
            (
                "http://h/?monkey=1&keyboard=2&author=3&design=%E9&compass=4&a=b=key&&key&token=",
                "http://h/?monkey=1&keyboard=2&author=3&design=%E9&compass=4&a=b=key&&key&token=",
            ),
            ("file:///tmp/a%20b.json", "file:///tmp/a%20b.json"),
        ];
        for (address, expected) in table {
            assert_eq!(shown(&Url::parse(address).unwrap()), expected);
        }
    }

    #[test]
    fn files_of_one_line_that_only_the_owner_reads() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let from = SecretRef::File(path.clone());
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("s3cret\n", 0o600);
        let secret = Secret::read(&from).unwrap();
        assert_eq!(
            (secret.expose(), format!("{secret:?}").as_str()),
            ("s3cret", "***")
        );
        write("\u{feff}s3cret\r\n", 0o600);
        assert_eq!(Secret::read(&from).unwrap().expose(), "s3cret");
        for (text, mode, message) in [
            ("s3cret\n", 0o644, "readable by every user"),
            ("a\nb\n", 0o600, "one non-empty line"),
            ("\n", 0o600, "one non-empty line"),
        ] {
            write(text, mode);
            let error = Secret::read(&from).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(!error.to_string().contains("s3cret"));
        }
        let unset = SecretRef::Env("RTP_TEST_NOT_SET".into());
        assert!(Secret::read(&unset).is_err());
    }
}
