//! The keys of an earlier list of differences.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde::Deserialize;

use super::{Class, Side, series};
use crate::dataset::Dataset;
use crate::error::{Error, Result, file_error};
use crate::intake::chunk::FileFormat;
use crate::intake::sniff;
use crate::record::value::Value;

/// The evidence of a row whose key does not fit its column, by which a list tells such a key from others.
pub(super) const FOREIGN_KEY: &str = "no row that rtp writes has such a key";

/// What an earlier list has, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// Keys of the tables of both stores.
    pub(super) keys: Vec<Value<'static>>,
    /// Encodings of those of them that are as they should be if neither store has them: somebody else had inserted them.
    pub(super) may_be_gone: HashSet<Vec<u8>>,
    /// What was in place of a key, as the list shows it.
    pub(super) foreign: BTreeSet<String>,
    /// Keys of tables for reads by time, by the names of these.
    pub(super) series: BTreeMap<String, Vec<Value<'static>>>,
}

/// A line of the list.
#[derive(Deserialize)]
struct Line {
    key: serde_json::Value,
    #[serde(default)]
    store: Option<String>,
    #[serde(default)]
    class: String,
    #[serde(default)]
    evidence: String,
}

/// Reads the NDJSON that `--output` wrote. `Invalid` names the line that is none, or whose key is none.
pub fn listed(path: &Path, dataset: &Dataset) -> Result<Listed> {
    sniff::check_files(&[path.to_path_buf()], Some(FileFormat::Ndjson))?;
    let file = File::open(path).map_err(|e| file_error("open", path, &e))?;
    let mut all = Listed::default();
    let mut seen = HashSet::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| match e.kind() {
            ErrorKind::InvalidData => Error::invalid(format!(
                "{}, line {}: it is not UTF-8 text",
                path.display(),
                number + 1
            ))
            .hint("--rerun reads the NDJSON that --output wrote for the same dataset"),
            _ => file_error("read", path, &e),
        })?;
        if line.trim().is_empty() {
            continue;
        }
        all.add(&line, dataset, &mut seen).map_err(|why| {
            let place = format!("{}, line {}", path.display(), number + 1);
            Error::invalid(format!("{place}: {why}"))
                .hint("--rerun reads the NDJSON that --output wrote for the same dataset")
        })?;
    }
    Ok(all)
}

impl Listed {
    /// Number of keys.
    pub(super) fn count(&self) -> u64 {
        (self.keys.len() + self.foreign.len()) as u64
    }

    fn add(
        &mut self,
        line: &str,
        dataset: &Dataset,
        seen: &mut HashSet<(Option<String>, Vec<u8>)>,
    ) -> Result<(), String> {
        let line: Line = serde_json::from_str(line)
            .map_err(|_| "expected a JSON object with a key, as --output writes it".to_string())?;
        let text = match line.key {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            _ => return Err("the key is neither a text nor a number".into()),
        };
        let store = line.store.filter(|store| !is_side(store));
        if store.is_none() && line.evidence == FOREIGN_KEY {
            self.foreign.insert(text);
            return Ok(());
        }
        let field = dataset.key();
        let key = Value::from_text(field, text.into());
        let key = key.map_err(|fault| format!("the key does not fit {}: {fault}", field.name))?;
        let key = key.owned();
        let mut encoding = Vec::new();
        key.encode(&mut encoding);
        let keys = match &store {
            None => &mut self.keys,
            Some(name) if is_series(name, dataset) => self.series.entry(name.clone()).or_default(),
            Some(name) => {
                let dataset = &dataset.name;
                return Err(format!("dataset {dataset} has no table {name}"));
            }
        };
        let may_be_gone = line.class == Class::ChangedOutside.name();
        let is_new = seen.insert((store.clone(), encoding.clone()));
        if store.is_none() && !may_be_gone {
            self.may_be_gone.remove(&encoding);
        } else if store.is_none() && is_new {
            self.may_be_gone.insert(encoding);
        }
        if is_new {
            keys.push(key);
        }
        Ok(())
    }
}

fn is_side(store: &str) -> bool {
    [Side::Realtime, Side::Batch]
        .map(Side::name)
        .contains(&store)
}

fn is_series(name: &str, dataset: &Dataset) -> bool {
    let mut series = dataset.realtime.series.iter();
    series.any(|series| series::name(dataset, series) == name)
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
        let all = listed(&path, &dataset).unwrap();
        let texts: Vec<String> = all.keys.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [format!("{id}1"), format!("{id}2")]);
        for (bad, why) in [
            ("class,key\n", "expected a JSON object"),
            ("{\"key\":\"7\"}\n", "the key does not fit id"),
            ("{\"key\":null}\n", "neither a text nor a number"),
            (
                &line(3).replace("\"column\"", "\"store\":\"realtime.by_day\",\"column\""),
                "no table realtime.by_day",
            ),
        ] {
            std::fs::write(&path, line(1) + bad).unwrap();
            let error = listed(&path, &dataset).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn foreign_keys_and_those_of_series_are_kept_apart() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.ndjson");
        let id = "00000000-0000-0000-0000-000000000001";
        let store = |name: &str| format!("{{\"key\":\"{id}\",\"store\":\"{name}\"}}\n");
        let foreign = format!("{{\"key\":\"text \\\"a\\\"\",\"evidence\":\"{FOREIGN_KEY}\"}}\n");
        let series = "realtime.users_by_hour";
        let lines = store("batch") + &store(series) + &store("realtime") + &store(series);
        std::fs::write(&path, lines + &foreign).unwrap();
        let all = listed(&path, &dataset).unwrap();
        assert_eq!((all.keys.len(), all.count()), (1, 2));
        assert_eq!(all.foreign, BTreeSet::from(["text \"a\"".to_string()]));
        assert_eq!(
            all.series,
            BTreeMap::from([(series.to_string(), all.keys.clone())])
        );
    }
}
