//! Pure: the parts of an address that are changed, while all else stays byte for byte.

use url::Url;

use crate::error::{Error, Result};
use crate::secret::{self, MASK};

/// The value of a query parameter, as it stands.
fn value_of<'q>(query: &'q str, param: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let is_it = |name: &str| {
        let mut parsed = url::form_urlencoded::parse(name.as_bytes());
        parsed.next().is_some_and(|(name, _)| name == param)
    };
    pairs.find(|(name, _)| is_it(name)).map(|(_, value)| value)
}

/// Masks the secrets that the source repeats from its own address (`base`), so that no state file has them. Others stay,
/// because nobody else could add them again: the file can be read by its owner only.
pub(super) fn hide_secrets(next: &mut Url, base: &Url) {
    let Some(query) = next.query() else { return };
    let hidden = secret::with_secrets(query, |param, value| {
        // Of several parameters of one name, the first one takes the place of the mask again.
        let mut known = base.query_pairs();
        let (_, known) = known.find(|(name, _)| name == param)?;
        (known == value).then(|| MASK.into())
    });
    next.set_query(Some(&hidden));
}

/// Puts the secrets back in place of their masks.
pub(super) fn restore_secrets(next: &mut Url, base: &Url) -> Result<()> {
    let Some(query) = next.query() else {
        return Ok(());
    };
    let mut missing = None;
    let restored = secret::with_secrets(query, |param, value| {
        if value != MASK {
            return None;
        }
        let known = value_of(base.query().unwrap_or_default(), param);
        if known.is_none() {
            missing.get_or_insert(param.to_string());
        }
        known.map(String::from)
    });
    if let Some(param) = missing {
        return Err(Error::invalid(format!(
            "the bookmark's page needs the parameter `{param}`, which the source's address no longer has"
        ))
        .hint("add it to the address in --api, RTP_API_URL or the dataset's [source], or move the state file away to fetch everything again"));
    }
    next.set_query(Some(&restored));
    Ok(())
}

/// Sets a query parameter, replacing any of that name. All others stay byte for byte, because `%E9` decoded and encoded
/// again is another query.
pub(super) fn set_param(url: &mut Url, name: &str, value: &str) {
    remove_param(url, name);
    url.query_pairs_mut().append_pair(name, value);
}

/// Removes all query parameters of a name.
pub(super) fn remove_param(url: &mut Url, name: &str) {
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
}
