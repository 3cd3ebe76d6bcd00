//! The keys of an earlier list of differences.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::dataset::Dataset;
use crate::error::{Error, Result, file_error};
use crate::record::value::Value;

/// A line of the list.
#[derive(Deserialize)]
struct Listed {
    key: serde_json::Value,
}

/// The keys in the NDJSON that `--output` wrote, each once, in order. `Invalid` names the line that has none.
pub fn listed_keys(path: &Path, dataset: &Dataset) -> Result<Vec<Value<'static>>> {
    let file = File::open(path).map_err(|e| file_error("open", path, &e))?;
    let mut keys = Vec::new();
    let mut seen = HashSet::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| file_error("read", path, &e))?;
        if line.trim().is_empty() {
            continue;
        }
        let key = listed_key(&line, dataset).map_err(|why| {
            let place = format!("{}, line {}", path.display(), number + 1);
            Error::invalid(format!("{place}: {why}"))
                .hint("--rerun reads the NDJSON that --output wrote for the same dataset")
        })?;
        let mut encoding = Vec::new();
        key.encode(&mut encoding);
        if seen.insert(encoding) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn listed_key(line: &str, dataset: &Dataset) -> Result<Value<'static>, String> {
    let field = dataset.key();
    let listed: Listed = serde_json::from_str(line)
        .map_err(|_| "expected a JSON object with a key, as --output writes it".to_string())?;
    let text = match listed.key {
        serde_json::Value::String(text) => text,
        serde_json::Value::Number(number) => number.to_string(),
        _ => return Err("the key is neither a text nor a number".into()),
    };
    match Value::from_text(field, text.into()) {
        Ok(key) => Ok(key.owned()),
        Err(fault) => Err(format!("the key does not fit {}: {fault}", field.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_once_and_a_bad_line_is_named() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.ndjson");
        let id = "00000000-0000-0000-0000-00000000000";
        let line = |n: u32| format!("{{\"class\":\"lost\",\"key\":\"{id}{n}\",\"column\":null}}\n");
        std::fs::write(&path, line(1) + &line(2) + "\n" + &line(1)).unwrap();
        let keys = listed_keys(&path, &dataset).unwrap();
        let texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [format!("{id}1"), format!("{id}2")]);
        for (bad, why) in [
            ("class,key\n", "expected a JSON object"),
            ("{\"key\":\"7\"}\n", "the key does not fit id"),
            ("{\"key\":null}\n", "neither a text nor a number"),
        ] {
            std::fs::write(&path, line(1) + bad).unwrap();
            let error = listed_keys(&path, &dataset).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(why), "{error}");
        }
    }
}
