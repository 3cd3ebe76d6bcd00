//! The dataset file as written: TOML parsed into values with their positions; unknown keys are refused.

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDataset {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) secrets: Vec<Spanned<String>>,
    pub(super) null: Option<Spanned<String>>,
    pub(super) source: Spanned<RawSource>,
    pub(super) event: RawEvent,
    pub(super) realtime: RawRealtime,
    pub(super) batch: RawBatch,
    #[serde(rename = "field")]
    pub(super) fields: Vec<Spanned<RawField>>,
    #[serde(default, rename = "aggregate")]
    pub(super) aggregates: Vec<Spanned<RawAggregate>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) url: Spanned<String>,
    pub(super) records: Spanned<String>,
    pub(super) error: Option<Spanned<String>>,
    pub(super) seed_param: Option<String>,
    #[serde(default)]
    pub(super) query: toml::Table,
    #[serde(default)]
    pub(super) headers: toml::Table,
    pub(super) pagination: Option<Spanned<RawPagination>>,
    pub(super) limit: Option<Spanned<RawLimit>>,
    pub(super) auth: Option<Spanned<RawAuth>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPagination {
    pub(super) style: Spanned<String>,
    pub(super) param: Option<Spanned<String>>,
    pub(super) first: Option<Spanned<u64>>,
    pub(super) next: Option<Spanned<String>>,
    pub(super) size_param: Option<String>,
    pub(super) size: Option<Spanned<u64>>,
    pub(super) max_size: Option<Spanned<u64>>,
    #[serde(default)]
    pub(super) endless: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimit {
    pub(super) records: Option<Spanned<u64>>,
    pub(super) requests: Option<Spanned<u64>>,
    pub(super) per: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) style: Spanned<String>,
    pub(super) env: Option<String>,
    pub(super) file: Option<std::path::PathBuf>,
    pub(super) username: Option<String>,
    pub(super) header: Option<String>,
    pub(super) param: Option<String>,
    pub(super) token_url: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) scope: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvent {
    pub(super) topic: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) time: Spanned<String>,
    pub(super) partitions: Option<Spanned<u32>>,
    pub(super) replication: Option<Spanned<u16>>,
    pub(super) retention: Option<Spanned<String>>,
    pub(super) dead_letter_retention: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRealtime {
    pub(super) keyspace: Spanned<String>,
    pub(super) table: Spanned<String>,
    pub(super) ttl: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) series: Vec<RawSeries>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSeries {
    pub(super) table: Spanned<String>,
    pub(super) bucket: Spanned<String>,
    pub(super) shards: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBatch {
    pub(super) table: Spanned<String>,
    pub(super) history: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawField {
    pub(super) name: Spanned<String>,
    #[serde(rename = "type")]
    pub(super) kind: Spanned<String>,
    pub(super) from: Option<Spanned<String>>,
    pub(super) template: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) required: bool,
    #[serde(default)]
    pub(super) aliases: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) coerce: bool,
    pub(super) format: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAggregate {
    pub(super) name: Spanned<String>,
    pub(super) field: Spanned<String>,
    pub(super) by: Option<Spanned<String>>,
    pub(super) width: Option<Spanned<u16>>,
}

/// Reads the TOML; errors name the file and line, and for an unknown key the allowed ones.
pub(super) fn raw(text: &str, origin: &str) -> Result<RawDataset> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| line_of(text, span.start));
        Error::invalid(format!(
            "{origin}:{line}: {}",
            e.message().replace('\n', "; ")
        ))
    })
}

/// The 1-based line of a byte offset.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1
}
