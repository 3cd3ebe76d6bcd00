//! The merge of staged rows: one transaction, repeated if another one conflicts with it; and the search for the row that
//! the table refuses.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ::postgres::error::{Severity, SqlState};
use ::postgres::{Client, Transaction};

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Error, Kind};
use crate::ports::batch_store::{Merged, Mode};
use crate::ports::ledger::LoadInfo;
use crate::servers::postgres::history::{self, History};
use crate::servers::postgres::{error, ledger};

/// How often a merge is attempted while another transaction conflicts with it.
const ATTEMPTS: u32 = 5;

/// A load whose commit was sent but not answered: the number of its transaction on the server, and the result
/// if it was committed.
#[derive(Clone, Debug, Default)]
pub(super) struct InDoubt(Arc<Mutex<Option<(String, Merged)>>>);

impl InDoubt {
    pub(super) fn get(&self) -> Option<(String, Merged)> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    pub(super) fn set(&self, load: Option<(String, Merged)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = load;
    }
}

/// How a merge ended.
pub(super) enum Done {
    Merged(Merged),
    Refused(Error),
}

/// What a merge does, for the session's thread.
pub(super) struct Plan {
    mode: Mode,
    info: LoadInfo,
    table: String,
    staged: u64,
    /// Makes room for the rows.
    clear: Option<String>,
    /// The newest staged row of each key, in the order of keys.
    newest: String,
    insert: String,
    /// What to do with a key that is already in the table.
    conflict: String,
    keys: String,
    history: Option<History>,
    pub(super) in_doubt: InDoubt,
}

impl Plan {
    pub(super) fn new(dataset: &Dataset, mode: Mode, info: &LoadInfo, staged: u64) -> Plan {
        let (key, time) = (quoted(&dataset.key().name), quoted(&dataset.time().name));
        let table = quoted(&dataset.batch.table);
        let columns = history::columns(dataset);
        let updates: Vec<String> = columns
            .iter()
            .filter(|c| **c != key)
            .map(|c| format!("{c} = excluded.{c}"))
            .collect();
        let update = format!("ON CONFLICT ({key}) DO UPDATE SET {}", updates.join(", "));
        let conflict = match mode {
            Mode::Insert | Mode::Replace | Mode::ReplaceOrEmpty => String::new(),
            Mode::Upsert => update,
            Mode::Ignore => format!("ON CONFLICT ({key}) DO NOTHING"),
            Mode::UpdateIfNewer => format!(
                "{update} WHERE (excluded.{time}, excluded.\"rtp_digest\") > (t.{time}, t.\"rtp_digest\")"
            ),
        };
        Plan {
            mode,
            info: info.clone(),
            table: dataset.batch.table.clone(),
            staged,
            // Readers continue with the old rows; other loads wait.
            clear: mode.clears().then(|| {
                format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; DELETE FROM {table}")
            }),
            newest: format!(
                "SELECT DISTINCT ON ({key}) * FROM pg_temp.rtp_stage ORDER BY {key}, {time} DESC, rtp_digest DESC"
            ),
            insert: format!(
                "INSERT INTO {table} AS t ({}) SELECT {}",
                columns.join(", "),
                history::values(dataset).join(", ")
            ),
            conflict,
            keys: format!("SELECT count(DISTINCT {key}) FROM pg_temp.rtp_stage"),
            history: History::of(dataset, mode),
            in_doubt: InDoubt::default(),
        }
    }

    pub(super) fn run(&self, client: &mut Client) -> Result<Done, ::postgres::Error> {
        let mut merged = self.merge(client);
        for _ in 1..ATTEMPTS {
            if merged.as_ref().err().is_none_or(|e| !is_conflict(e)) {
                break;
            }
            merged = self.merge(client);
        }
        match merged {
            Ok(done) => Ok(done),
            Err(e) if is_bad_row(&e) => self.find_bad_row(client, &e).map(Done::Refused),
            Err(e) => Err(e),
        }
    }

    fn merge(&self, client: &mut Client) -> Result<Done, ::postgres::Error> {
        let mut transaction = client.transaction()?;
        self.make_room(&mut transaction)?;
        let written = self.insert(&mut transaction, None)?;
        if let Err(refused) = self.mode.check_written(written, &self.table) {
            transaction.rollback()?;
            return Ok(Done::Refused(refused));
        }
        let keys = match self.conflict.starts_with("ON") && written < self.staged {
            true => {
                let keys: i64 = transaction.query_one(&self.keys, &[])?.try_get(0)?;
                u64::try_from(keys).unwrap_or(0)
            }
            false => written,
        };
        let mode = self.mode.name();
        ledger::record(&mut transaction, &self.table, mode, &self.info, written)?;
        transaction.batch_execute("TRUNCATE pg_temp.rtp_stage")?;
        let merged = Merged {
            written,
            deduplicated: self.staged - keys,
            skipped: keys - written,
        };
        let number = "SELECT pg_current_xact_id()::text";
        let number: String = transaction.query_one(number, &[])?.try_get(0)?;
        self.in_doubt.set(Some((number, merged)));
        let committed = transaction.commit();
        if committed.as_ref().err().is_none_or(says_what_became) {
            self.in_doubt.set(None);
        }
        committed.map(|()| Done::Merged(merged))
    }

    fn make_room(&self, transaction: &mut Transaction<'_>) -> Result<(), ::postgres::Error> {
        match &self.clear {
            Some(clear) => transaction.batch_execute(clear),
            None => Ok(()),
        }
    }

    /// Inserts the newest rows, or those among them of a range of lines, and records them in the history. Returns the
    /// number of rows written to the table.
    fn insert(
        &self,
        transaction: &mut Transaction<'_>,
        lines: Option<Range<i64>>,
    ) -> Result<u64, ::postgres::Error> {
        let filter = match lines {
            None => String::new(),
            Some(Range { start, end }) => {
                format!("WHERE rtp_line >= {start} AND rtp_line < {end}")
            }
        };
        let insert = format!(
            "{} FROM ({}) AS s {filter} {}",
            self.insert, self.newest, self.conflict
        );
        let written = transaction.execute(&insert, &[])?;
        if let Some(history) = &self.history {
            transaction.execute(&history.statement(&filter), &[])?;
        }
        Ok(written)
    }

    /// Names the first record that the table refuses, and the record before it that it conflicts with, if that is why:
    /// the server does not say which they are.
    fn find_bad_row(
        &self,
        client: &mut Client,
        first: &::postgres::Error,
    ) -> Result<Error, ::postgres::Error> {
        let Some((record, objection)) = self.first_refused(client, None)? else {
            let table = &self.table;
            return Ok(error(first).context(format_args!("refused by {table}, nothing was kept")));
        };
        let other = self.first_refused(client, Some(record))?;
        let other = other.map(|(line, _)| line).filter(|line| *line != record);
        Ok(self.mode.refused(&self.table, objection, record, other))
    }

    /// The first line that is refused after all those before it; or, with `after`, the first of those before that line
    /// that is refused after it, or that line itself if it is refused alone. Halves the range again and again, and keeps
    /// the rows of the accepted half, so that each row is inserted about once.
    fn first_refused(
        &self,
        client: &mut Client,
        after: Option<i64>,
    ) -> Result<Option<(i64, Error)>, ::postgres::Error> {
        let mut transaction = client.transaction()?;
        self.make_room(&mut transaction)?;
        let mut rest = 1..i64::try_from(self.staged).unwrap_or(i64::MAX - 1) + 1;
        if let Some(line) = after {
            if let Some(objection) = self.try_lines(&mut transaction, line..line + 1)? {
                return Ok(Some((line, objection)));
            }
            rest.end = line;
        }
        let mut part = rest.clone();
        while !rest.is_empty() {
            match self.try_lines(&mut transaction, part.clone())? {
                None => rest.start = part.end,
                Some(objection) if part.end - part.start == 1 => {
                    return Ok(Some((part.start, objection)));
                }
                Some(_) => rest.end = part.end,
            }
            part = rest.start..rest.start + (rest.end - rest.start + 1) / 2;
        }
        Ok(None)
    }

    /// Inserts these lines and keeps them; or keeps none of them, and returns why they are refused.
    fn try_lines(
        &self,
        transaction: &mut Transaction<'_>,
        lines: Range<i64>,
    ) -> Result<Option<Error>, ::postgres::Error> {
        let mut part = transaction.transaction()?;
        match self.insert(&mut part, Some(lines)) {
            Ok(_) => part.commit().map(|()| None),
            Err(e) if is_bad_row(&e) => part.rollback().map(|()| Some(error(&e))),
            Err(e) => Err(e),
        }
    }
}

/// Whether the error of a commit is the server's verdict on it, rather than the end of a connection.
fn says_what_became(e: &::postgres::Error) -> bool {
    let severity = e.as_db_error().and_then(|e| e.parsed_severity());
    severity == Some(Severity::Error)
}

fn is_bad_row(e: &::postgres::Error) -> bool {
    e.as_db_error().is_some() && error(e).kind() == Kind::Data
}

/// Whether another transaction conflicted, so that the same work may succeed now.
fn is_conflict(e: &::postgres::Error) -> bool {
    e.code().is_some_and(|code| {
        [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
        ]
        .contains(code)
    })
}
