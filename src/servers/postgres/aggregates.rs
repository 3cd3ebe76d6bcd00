//! The figures in PostgreSQL: one statement a dimension counts the rows of a day, and changes what differs from the
//! stored figures.

use std::sync::Arc;

use ::postgres::{Client, IsolationLevel, Transaction};
use async_trait::async_trait;
use jiff::civil::Date;

use crate::dataset::ddl::quoted;
use crate::dataset::{
    AS_OF, Aggregate, By, Dataset, Field, FieldType, LATENESS, UNBORN, VERY_LATE,
};
use crate::error::{Context, Error, Result};
use crate::ports::aggregates::{
    Aggregates, Computed, Fewer, Figure, INVALID, MAX_VALUES, Summary, Top, names, number, too_many,
};
use crate::servers::address::Address;
use crate::servers::postgres::{Session, Target, open_tables, schema};

/// The table of figures, and what keeps a second figure of a value out of it. An index holds no long text, so it has a
/// hash of the value.
pub const FIGURES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS rtp_aggregates (
  dataset text NOT NULL,
  aggregate text NOT NULL,
  day date NOT NULL,
  value text,
  count bigint NOT NULL,
  run_id text NOT NULL,
  computed_at timestamp(3) with time zone NOT NULL
)",
    "CREATE UNIQUE INDEX IF NOT EXISTS rtp_aggregates_key
  ON rtp_aggregates (dataset, day, aggregate, (value IS NULL), md5(coalesce(value, '')))",
];

/// Before the first statement that reads: it waits for another run, and what is read is what that run has left.
const LOCK: &str = "LOCK TABLE rtp_aggregates IN SHARE ROW EXCLUSIVE MODE";

const READ: &str =
    "SELECT aggregate, value, count, run_id, (extract(epoch FROM computed_at) * 1000)::bigint
  FROM rtp_aggregates WHERE dataset = $1 AND day = $2::text::date
  ORDER BY aggregate COLLATE \"C\", value COLLATE \"C\" NULLS FIRST";

const TOP: &str =
    "SELECT value, count, count(*) OVER () AS distinct_values, (sum(count) OVER ())::bigint AS all_rows FROM rtp_aggregates
  WHERE dataset = $1 AND day = $2::text::date AND aggregate = $3
  ORDER BY count DESC, value COLLATE \"C\" NULLS FIRST LIMIT $4";

const SUMMARY: &str =
    "SELECT count(*), coalesce(sum(count), 0)::bigint, (extract(epoch FROM max(computed_at)) * 1000)::bigint
  FROM rtp_aggregates WHERE dataset = $1 AND day = $2::text::date";

const LAST_DAY: &str =
    "SELECT to_char(max(day), 'YYYY-MM-DD') FROM rtp_aggregates WHERE dataset = $1";

/// The figures of one dataset.
#[derive(Debug)]
pub struct PostgresAggregates {
    target: Arc<Target>,
    session: Option<Session>,
    dataset: Dataset,
}

impl PostgresAggregates {
    /// Connects to a store that must have the tables.
    pub async fn open(server: &Address, dataset: &Dataset) -> Result<Self> {
        let mut figures = PostgresAggregates {
            target: Target::new(server)?,
            session: None,
            dataset: dataset.clone(),
        };
        figures.session().await?;
        Ok(figures)
    }

    async fn session(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) if session.is_open() => session,
            _ => {
                let history = self.dataset.history().map(|history| history.batch.table);
                let mut tables = vec![&*self.dataset.batch.table, "rtp_aggregates"];
                tables.extend(history.as_deref());
                let mut session = open_tables(&self.target, &tables).await?;
                schema::check(&mut session, &self.target, &self.dataset).await?;
                session
            }
        };
        Ok(self.session.insert(session))
    }
}

#[async_trait]
impl Aggregates for PostgresAggregates {
    async fn compute(&mut self, day: Date, fewer: Fewer, run_id: &str) -> Result<Computed> {
        let doing = format!(
            "cannot compute the figures of {day} in {}",
            self.target.address()
        );
        let task = Task {
            dataset: self.dataset.clone(),
            day,
            fewer,
            run_id: run_id.into(),
        };
        let work = move |client: &mut Client| task.run(client);
        let done = self.session().await?.run(work).await.and_then(|done| done);
        done.context(doing)
    }

    async fn read(&mut self, day: Date) -> Result<Vec<Figure>> {
        let (name, day) = (self.dataset.name.clone(), day.to_string());
        let work = move |client: &mut Client| {
            let rows = client.query(READ, &[&name, &day])?;
            let figures = rows.iter().map(|row| {
                let count: i64 = row.try_get(2)?;
                Ok(Figure {
                    aggregate: row.try_get(0)?,
                    value: row.try_get(1)?,
                    count: unsigned(count),
                    run_id: row.try_get(3)?,
                    computed_at: row.try_get(4)?,
                })
            });
            figures.collect()
        };
        let read = self.session().await?.run(work).await;
        read.context(format_args!(
            "cannot read the figures in {}",
            self.target.address()
        ))
    }

    async fn last_day(&mut self) -> Result<Option<Date>> {
        let name = self.dataset.name.clone();
        let work = move |client: &mut Client| client.query_one(LAST_DAY, &[&name])?.try_get(0);
        let read: Result<Option<String>> = self.session().await?.run(work).await;
        let day = read.context(format_args!(
            "cannot read the figures in {}",
            self.target.address()
        ))?;
        let parsed = day.map(|day| day.parse()).transpose();
        parsed.map_err(|e| Error::internal(format!("a figure's day: {e}")))
    }

    async fn top(&mut self, day: Date, aggregate: &str, most: u32) -> Result<Top> {
        let (name, day, aggregate) = (
            self.dataset.name.clone(),
            day.to_string(),
            aggregate.to_string(),
        );
        let work = move |client: &mut Client| {
            let mut top = Top::default();
            for row in client.query(TOP, &[&name, &day, &aggregate, &i64::from(most)])? {
                let counts: [i64; 3] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
                let [count, distinct, rows] = counts.map(unsigned);
                top.values.push((row.try_get(0)?, count));
                (top.distinct, top.rows) = (distinct, rows);
            }
            Ok(top)
        };
        let read = self.session().await?.run(work).await;
        read.context(format_args!(
            "cannot read the figures in {}",
            self.target.address()
        ))
    }

    async fn summary(&mut self, day: Date) -> Result<Summary> {
        let (name, day) = (self.dataset.name.clone(), day.to_string());
        let work = move |client: &mut Client| {
            let row = client.query_one(SUMMARY, &[&name, &day])?;
            Ok(Summary {
                figures: unsigned(row.try_get(0)?),
                rows: unsigned(row.try_get(1)?),
                computed_at: row.try_get(2)?,
            })
        };
        let read = self.session().await?.run(work).await;
        read.context(format_args!(
            "cannot read the figures in {}",
            self.target.address()
        ))
    }
}

/// Counts are never negative.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// The figures of a day, for the session's thread.
struct Task {
    dataset: Dataset,
    day: Date,
    fewer: Fewer,
    run_id: String,
}

impl Task {
    fn run(&self, client: &mut Client) -> Result<Result<Computed>, ::postgres::Error> {
        let transaction = client.build_transaction();
        let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead);
        let mut transaction = transaction.start()?;
        transaction.batch_execute(LOCK)?;
        let done = self.compute(&mut transaction)?;
        match &done {
            Ok(_) => transaction.commit()?,
            Err(_) => transaction.rollback()?,
        }
        Ok(done)
    }

    fn compute(&self, on: &mut Transaction<'_>) -> Result<Result<Computed>, ::postgres::Error> {
        let mut done = self.rows(on)?;
        done.stored_rows = self.stored_rows(on)?;
        done.is_kept = self.fewer == Fewer::Keep && done.rows < done.stored_rows;
        if done.is_kept {
            return Ok(Ok(done));
        }
        for aggregate in &self.dataset.aggregates {
            let [figures, removed, written] = self.count(on, aggregate, &done.table)?;
            if figures > MAX_VALUES {
                return Ok(Err(too_many(aggregate, self.day)));
            }
            done.figures += figures;
            done.removed += removed;
            done.written += written;
        }
        Ok(Ok(done))
    }

    /// The table that has the rows of the day, and how many.
    fn rows(&self, on: &mut Transaction<'_>) -> Result<Computed, ::postgres::Error> {
        let count = |on: &mut Transaction<'_>, table: &str| {
            let count = format!("SELECT count(*) {}", self.of_day(table));
            on.query_one(&count, &[])?.try_get(0).map(unsigned)
        };
        let table = self.dataset.batch.table.clone();
        let rows = count(on, &table)?;
        let mut counted = Computed::of_table(table, rows);
        if let Some(history) = self.dataset.history().map(|history| history.batch.table) {
            let unrecorded = self.unrecorded(on, &history)?;
            let rows = count(on, &history)?;
            counted.prefer(history, rows, unrecorded);
        }
        Ok(counted)
    }

    /// How many of the batch table's rows of the day the history lacks.
    fn unrecorded(
        &self,
        on: &mut Transaction<'_>,
        history: &str,
    ) -> Result<u64, ::postgres::Error> {
        let (key, as_of) = (quoted(&self.dataset.key().name), quoted(AS_OF));
        let count = format!(
            "SELECT count(*) {} AND NOT EXISTS (SELECT 1 FROM {} AS h
               WHERE h.{key} = b.{key} AND h.{as_of} = '{}'::date AND h.rtp_digest = b.rtp_digest)",
            self.of_day(&self.dataset.batch.table),
            quoted(history),
            self.day
        );
        on.query_one(&count, &[])?.try_get(0).map(unsigned)
    }

    fn of_day(&self, table: &str) -> String {
        let (time, day) = (quoted(&self.dataset.time().name), self.day);
        let start = format!("'{day} 00:00:00+00'::timestamp with time zone");
        format!(
            "FROM {} AS b WHERE {time} >= {start} AND {time} < {start} + interval '24 hours'",
            quoted(table)
        )
    }

    /// Every dimension counts all rows, so the largest sum is the number of rows.
    fn stored_rows(&self, on: &mut Transaction<'_>) -> Result<u64, ::postgres::Error> {
        let select = format!(
            "SELECT coalesce(max(rows), 0)::bigint FROM (SELECT sum(count) AS rows FROM rtp_aggregates
             WHERE dataset = $1 AND day = $2::text::date AND aggregate IN ({}) GROUP BY aggregate) AS sums",
            names(&self.dataset)
        );
        let of = on.query_one(&select, &[&self.dataset.name, &self.day.to_string()])?;
        Ok(unsigned(of.try_get(0)?))
    }

    /// Counts the rows by one dimension and stores the figures: how many there are, are removed, and are inserted or
    /// replaced. Too many of them are not stored.
    fn count(
        &self,
        on: &mut Transaction<'_>,
        aggregate: &Aggregate,
        table: &str,
    ) -> Result<[u64; 3], ::postgres::Error> {
        let statement = format!(
            "WITH figures AS MATERIALIZED (SELECT {} AS value, count(*) AS count {} GROUP BY 1 LIMIT {}),
             removed AS (DELETE FROM rtp_aggregates AS a WHERE dataset = $1 AND day = $2::text::date AND aggregate = $3
               AND NOT EXISTS (SELECT 1 FROM figures AS f
                 WHERE coalesce(f.value, '') = coalesce(a.value, '') AND (f.value IS NULL) = (a.value IS NULL))
               RETURNING 1),
             written AS (INSERT INTO rtp_aggregates AS a (dataset, day, aggregate, value, count, run_id, computed_at)
               SELECT $1, $2::text::date, $3, value, count, $4, clock_timestamp() FROM figures
               ON CONFLICT (dataset, day, aggregate, (value IS NULL), md5(coalesce(value, ''))) DO UPDATE
               SET count = excluded.count, run_id = excluded.run_id, computed_at = excluded.computed_at
               WHERE a.count <> excluded.count
               RETURNING 1)
             SELECT (SELECT count(*) FROM figures), (SELECT count(*) FROM removed), (SELECT count(*) FROM written)",
            expression(&self.dataset, aggregate, self.day),
            self.of_day(table),
            MAX_VALUES + 1
        );
        let day = self.day.to_string();
        let counted = on.query_one(
            &statement,
            &[&self.dataset.name, &day, &aggregate.name, &self.run_id],
        )?;
        Ok([
            unsigned(counted.try_get(0)?),
            unsigned(counted.try_get(1)?),
            unsigned(counted.try_get(2)?),
        ])
    }
}

/// The group of a row, as text.
fn expression(dataset: &Dataset, aggregate: &Aggregate, day: Date) -> String {
    let field = &dataset.fields[aggregate.field];
    let column = quoted(&field.name);
    match aggregate.by {
        By::Value => match field.kind {
            FieldType::Date => dated(field, &of_time(field, &column, "YYYY-MM-DD")),
            _ => format!("{column}::text"),
        },
        By::Band { width } => {
            let born = of_time(field, &column, "YYYYMMDD");
            let (born, day) = (format!("{born}::bigint"), number(day));
            let low = format!("(({day} - {born}) / 10000 / {width} * {width})");
            let band = match width {
                1 => format!("{low}::text"),
                _ => format!("{low} || '-' || {low} + {}", width - 1),
            };
            let band = format!("CASE WHEN {born} > {day} THEN '{UNBORN}' ELSE {band} END");
            dated(field, &band)
        }
        // In the collation C, only A to Z have a lower case, as in SQLite.
        By::Domain => format!(
            "CASE WHEN strpos({column}, '@') > 0 THEN lower(substring({column} FROM '[^@]*$') COLLATE \"C\") END"
        ),
        By::Month => dated(field, &of_time(field, &column, "YYYY-MM")),
        By::Hour => dated(field, &of_time(field, &column, "HH24")),
        By::Lateness => {
            let late = format!("{column} - {}", quoted(&dataset.time().name));
            let buckets = LATENESS.map(|(below, name)| {
                format!(
                    "WHEN {late} < interval '{} seconds' THEN '{name}'",
                    below / 1_000
                )
            });
            let bucket = format!("CASE {} ELSE '{VERY_LATE}' END", buckets.join(" "));
            dated(field, &bucket)
        }
    }
}

/// A part of a timestamp or date, in UTC whatever the session's time zone is.
fn of_time(field: &Field, column: &str, format: &str) -> String {
    match field.kind {
        FieldType::Date => format!("to_char({column}::timestamp, '{format}')"),
        _ => format!("to_char({column} AT TIME ZONE 'UTC', '{format}')"),
    }
}

/// The expression, for times and dates of the years that the dataset's types have: not infinite ones, for example.
fn dated(field: &Field, expression: &str) -> String {
    let column = quoted(&field.name);
    let (midnight, kind) = match field.kind {
        FieldType::Date => ("", "date"),
        _ => (" 00:00:00+00", "timestamp with time zone"),
    };
    format!(
        "CASE WHEN {column} >= '0001-01-01{midnight}'::{kind} AND {column} < '10000-01-01{midnight}'::{kind} THEN {expression}
           WHEN {column} IS NOT NULL THEN '{INVALID}' END"
    )
}
