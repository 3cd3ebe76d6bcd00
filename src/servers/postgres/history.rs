//! The history of a batch store in PostgreSQL: written in the transaction of the load, by one statement over the staged
//! rows.

use crate::dataset::ddl::quoted;
use crate::dataset::{AS_OF, Dataset, FieldType};
use crate::ports::batch_store::Mode;

/// How the staged rows get into the history table.
pub(super) struct History {
    insert: String,
    conflict: String,
}

impl History {
    /// That of a dataset that keeps one, for loads by this mode. The batch table has taken the rows that it takes.
    pub(super) fn of(dataset: &Dataset, mode: Mode) -> Option<History> {
        let table = quoted(&dataset.history()?.batch.table);
        let batch = quoted(&dataset.batch.table);
        let (key, time, as_of) = (
            quoted(&dataset.key().name),
            quoted(&dataset.time().name),
            quoted(AS_OF),
        );
        let columns = columns(dataset);
        let updates: Vec<String> = columns
            .iter()
            .filter(|c| **c != key)
            .map(|c| format!("{c} = excluded.{c}"))
            .collect();
        let taken = match mode {
            Mode::Ignore => format!(
                "WHERE EXISTS (SELECT 1 FROM {batch} AS b WHERE b.{key} = s.{key} AND (s.{time}, s.rtp_digest) <= (b.{time}, b.rtp_digest))"
            ),
            _ => String::new(),
        };
        let differs = "excluded.rtp_digest <> t.rtp_digest";
        let is_current = format!(
            "{differs} AND EXISTS (SELECT 1 FROM {batch} AS b WHERE b.{key} = excluded.{key} AND b.rtp_digest = excluded.rtp_digest)"
        );
        let replaces = match mode {
            Mode::UpdateIfNewer => format!(
                "(excluded.{time}, excluded.rtp_digest) > (t.{time}, t.rtp_digest) OR ({is_current})"
            ),
            Mode::Ignore => is_current,
            Mode::Insert | Mode::Upsert | Mode::Replace | Mode::ReplaceOrEmpty => differs.into(),
        };
        Some(History {
            insert: format!(
                "INSERT INTO {table} AS t ({}, {as_of}) SELECT {}, rtp_day FROM (
                   SELECT DISTINCT ON ({key}, rtp_day) *, ({time} AT TIME ZONE 'UTC')::date AS rtp_day
                   FROM pg_temp.rtp_stage AS s {taken} ORDER BY {key}, rtp_day, {time} DESC, rtp_digest DESC) AS s",
                columns.join(", "),
                values(dataset).join(", "),
            ),
            conflict: format!(
                "ON CONFLICT ({key}, {as_of}) DO UPDATE SET {} WHERE {replaces}",
                updates.join(", ")
            ),
        })
    }

    /// The statement, for the staged rows that pass a filter. Of each key and day the newest counts; what becomes of the
    /// recorded one depends on the mode, as in the batch table.
    pub(super) fn statement(&self, filter: &str) -> String {
        format!("{} {filter} {}", self.insert, self.conflict)
    }
}

/// The columns that a load writes.
pub(super) fn columns(dataset: &Dataset) -> Vec<String> {
    let fields = dataset.fields.iter().map(|f| quoted(&f.name));
    fields.chain(["\"rtp_digest\"".into()]).collect()
}

/// What it writes to them, from the staged columns: decimals are staged as text.
pub(super) fn values(dataset: &Dataset) -> Vec<String> {
    let fields = dataset.fields.iter().map(|f| match f.kind {
        FieldType::Decimal => format!("{}::numeric", quoted(&f.name)),
        _ => quoted(&f.name),
    });
    fields.chain(["\"rtp_digest\"".into()]).collect()
}
