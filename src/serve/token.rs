//! The token that whoever is not on this machine must have.

use std::path::Path;

use axum::http::{HeaderMap, header};
use openssl::sha::sha256;

use crate::dataset::SecretRef;
use crate::error::{Context, Error, Result};
use crate::secret::Secret;

/// The cookie of a browser that has shown the token.
const COOKIE: &str = "rtp_session";

/// Fewest characters of a token, so that it cannot be guessed.
const FEWEST: usize = 16;

/// The token, and the session of browsers that have shown it. Only digests are compared, in constant time.
#[derive(Debug)]
pub(crate) struct Token {
    digest: [u8; 32],
    /// The value of the cookie, which ends with the process and says nothing about the token.
    session: String,
}

impl Token {
    /// Reads the token from a file that not every user of this machine can read.
    pub(crate) fn read(path: &Path) -> Result<Token> {
        let token = Secret::read(&SecretRef::File(path.into())).context("--token-file")?;
        let is_right = |c: char| c.is_ascii_graphic();
        if token.expose().len() < FEWEST || !token.expose().chars().all(is_right) {
            return Err(Error::invalid(format!(
                "--token-file: {} has no token; expected at least {FEWEST} letters, digits and signs, without blanks",
                path.display()
            ))
            .hint("`openssl rand -hex 32` makes one"));
        }
        let session: [u8; 32] = rand::random();
        Ok(Token {
            digest: sha256(token.expose().as_bytes()),
            session: session.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Whether this is the token.
    pub(crate) fn is(&self, given: &str) -> bool {
        openssl::memcmp::eq(&sha256(given.as_bytes()), &self.digest)
    }

    /// Whether a request shows the token, or the cookie of a browser that has shown it.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let text = |name| {
            headers
                .get_all(name)
                .into_iter()
                .filter_map(|v| v.to_str().ok())
        };
        let mut bearers = text(header::AUTHORIZATION).filter_map(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let session = sha256(self.session.as_bytes());
        let is_session = |value: &str| openssl::memcmp::eq(&sha256(value.as_bytes()), &session);
        let mut cookies = text(header::COOKIE)
            .flat_map(|line| line.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == COOKIE);
        bearers.any(|token| self.is(token)) || cookies.any(|(_, value)| is_session(value))
    }

    /// The `Set-Cookie` for a browser that has shown the token. No script can read it, and no other site's page sends
    /// it along.
    pub(crate) fn cookie(&self) -> String {
        format!(
            "{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict",
            self.session
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32, text: &str) -> (tempfile::TempDir, Result<Token>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let token = Token::read(&path);
        (folder, token)
    }

    #[test]
    fn a_token_is_taken_from_a_private_file_only() {
        assert!(file(0o600, "0123456789abcdef\n").1.is_ok());
        assert!(file(0o440, "0123456789abcdef").1.is_ok()); // of a group, as in Kubernetes
        for (mode, text, message) in [
            (0o644, "0123456789abcdef", "readable by every user"),
            (0o604, "0123456789abcdef", "readable by every user"),
            (0o600, "0123456789abcde", "has no token"),
            (0o600, "0123456789 abcdef", "has no token"),
            (0o600, "", "one non-empty line"),
            (0o600, "0123456789abcdef\nx", "one non-empty line"),
        ] {
            let error = file(mode, text).1.unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(!error.to_string().contains("0123"), "{error}");
        }
    }

    #[test]
    fn a_request_is_admitted_by_the_token_or_the_cookie() {
        let token = file(0o600, "0123456789abcdef").1.unwrap();
        let admits = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            token.admits(&headers)
        };
        let cookie = token.cookie();
        let cookie = cookie.split(';').next().unwrap();
        assert!(admits(header::AUTHORIZATION, "Bearer 0123456789abcdef"));
        assert!(admits(header::AUTHORIZATION, "bearer 0123456789abcdef"));
        assert!(admits(header::COOKIE, &format!("a=b; {cookie}")));
        for (name, value) in [
            (header::AUTHORIZATION, "Bearer 0123456789abcdeg"),
            (header::AUTHORIZATION, "Basic 0123456789abcdef"),
            (header::AUTHORIZATION, "0123456789abcdef"),
            (header::COOKIE, "rtp_session=0123456789abcdef"),
            (header::COOKIE, &format!("{cookie}0")),
        ] {
            assert!(!admits(name, value), "{value}");
        }
        assert!(!token.admits(&HeaderMap::new()));
    }
}
