//! Pure: what is new at the front of a source, by what identifies its records.

/// How many new records a first page has before, or between, those that were there when a walk began; none if it has
/// none of those any more. Some may have been deleted, and others move up behind them, so what stands behind the last older
/// one is not looked at. Nor is an older one new that only moved.
pub(super) fn new_before(first: &str, there: &[String]) -> Option<usize> {
    let older: Vec<&str> = first.split(' ').collect();
    let end = end_of_older(&older, there)?;
    let mut left = older;
    let mut new = 0;
    for record in &there[..end] {
        match left.iter().position(|known| known == record) {
            Some(known) => {
                left.swap_remove(known);
            }
            None => new += 1,
        }
    }
    Some(new)
}

/// Where the older records end that still stand in their order: the longest common subsequence, because several records
/// may have one key. None if there are none.
fn end_of_older(older: &[&str], there: &[String]) -> Option<usize> {
    // How many of the first `i` older ones are found in their order so far.
    let mut found = vec![0; older.len() + 1];
    let (mut most, mut end) = (0, None);
    for (at, record) in there.iter().enumerate() {
        let mut diagonal = 0;
        for (i, known) in older.iter().enumerate() {
            let above = found[i + 1];
            found[i + 1] = match known == record {
                true => diagonal + 1,
                false => above.max(found[i]),
            };
            diagonal = above;
        }
        if found[older.len()] > most {
            most = found[older.len()];
            end = Some(at + 1);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_before_an_older_record_is_new() {
        for (first, there, expected) in [
            ("a b c", "a b c d", Some(0)),
            ("a b c", "b c d e", Some(0)),
            ("a b c", "a b d e", Some(0)),
            ("a b c", "z a b c", Some(1)),
            ("a b c", "z y b c", Some(2)),
            ("a b c", "a x b c", Some(1)),
            ("a b c", "a a b c", Some(1)),
            ("a a b", "a b c", Some(0)),
            ("a", "b c a", Some(2)),
            ("a b c", "c a b c", Some(1)),
            ("a b c", "b a c", Some(0)),
            ("a b a", "a a a", Some(0)),
            ("a a", "a a a a", Some(0)),
            ("a b c", "d e", None),
            ("a b c", "", None),
        ] {
            let there: Vec<String> = there.split_terminator(' ').map(String::from).collect();
            assert_eq!(new_before(first, &there), expected, "{first}: {there:?}");
        }
    }
}
