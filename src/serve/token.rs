//! The token that whoever is not on this machine must have.
//!
//! A browser shows it once, in the address of the page, and gets a cookie for it. The cookie is derived from the token, so
//! it holds as long as the token does: a page that is open comes back by itself after a restart of the dashboard, and
//! behind a balancer every dashboard with this token knows it. Whoever wants all browsers out changes the token.
//!
//! The cookie is `SameSite=Strict`: no request that another site's page causes has it, not even a link that is followed,
//! because the answers are personal data, and how long one takes to come may tell something about them. A link still
//! works, because the page itself needs no cookie: its files are those of the program, the same for everybody, and what
//! it shows it asks for itself, as a page of this site.

use std::path::Path;

use axum::http::{HeaderMap, header};
use openssl::hash::MessageDigest;
use openssl::sha::sha256;

use crate::dataset::SecretRef;
use crate::error::{Context, Error, Result};
use crate::secret::Secret;

/// The name of the cookie of a browser that has shown the token begins with this. A mark of the token follows, because
/// browsers keep one set of cookies for all ports of a host, where another dashboard may have another token.
const COOKIE: &str = "rtp_session_";

/// Rounds of the derivation of the cookie, so that a token that is not random is not guessed from it.
const ROUNDS: usize = 100_000;

/// Fewest characters of a token, so that it cannot be guessed.
const FEWEST: usize = 16;

/// The token, and the session of browsers that have shown it. Only digests are compared, in constant time.
#[derive(Debug)]
pub(crate) struct Token {
    digest: [u8; 32],
    /// The name of the cookie.
    name: String,
    /// Its value, which says nothing about the token.
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
        let session = hex(&derived(token.expose())?);
        Ok(Token {
            digest: sha256(token.expose().as_bytes()),
            name: format!("{COOKIE}{}", hex(&sha256(session.as_bytes())[..4])),
            session,
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
            .filter(|(name, _)| *name == self.name);
        bearers.any(|token| self.is(token)) || cookies.any(|(_, value)| is_session(value))
    }

    /// The `Set-Cookie` for a browser that has shown the token. No script can read it, and no other site's page sends
    /// it along.
    pub(crate) fn cookie(&self) -> String {
        format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict",
            self.name, self.session
        )
    }
}

/// What a browser keeps instead of the token. It takes some hundredths of a second.
fn derived(token: &str) -> Result<[u8; 32]> {
    let mut session = [0; 32];
    openssl::pkcs5::pbkdf2_hmac(
        token.as_bytes(),
        COOKIE.as_bytes(),
        ROUNDS,
        MessageDigest::sha256(),
        &mut session,
    )
    .map_err(Error::internal)?;
    Ok(session)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
            (header::COOKIE, &format!("{}=0123456789abcdef", token.name)),
            (header::COOKIE, &format!("{cookie}0")),
            (header::COOKIE, &cookie.replacen(&token.name, COOKIE, 1)),
        ] {
            assert!(!admits(name, value), "{value}");
        }
        assert!(!token.admits(&HeaderMap::new()));
    }

    #[test]
    fn a_cookie_holds_as_long_as_its_token() {
        let token = |text| file(0o600, text).1.unwrap();
        let (cookie, name) = (|text| token(text).cookie(), |text| token(text).name);
        let [one, other] = ["0123456789abcdef", "0123456789abcdeg"];
        assert_eq!(cookie(one), cookie(one));
        assert_ne!(cookie(one), cookie(other));
        assert_ne!(name(one), name(other));
    }
}
