//! Why a series and its table do not fit together: by what the table keeps with its rows, and by the log.

use super::recheck::Recheck;
use crate::dataset::{Dataset, Nulls};
use crate::error::Result;
use crate::ports::series_reader::Place;
use crate::ports::table_reader::Provenance;
use crate::record::value::Value;
use crate::run::retry::Retry;
use crate::verify::base::Base;
use crate::verify::classify::{self, Version};
use crate::verify::recheck::{OwnedRow, read_again};
use crate::verify::search::{Wanted, hash_of, id_of, in_log};
use crate::verify::{Class, Comparison, Kind, Side};

/// How often the log is searched for a key of which several rows do not fit.
const SEARCHES: u32 = 5;

/// Nobody was asked why.
const UNASKED: (Class, String) = (Class::Unexplained, String::new());

/// A row of a series that the log may explain.
pub(super) struct Extra {
    pub(super) place: Place,
    /// The event time of the table's row.
    pub(super) newest: Option<i64>,
    version: Version,
}

/// What is known about the rows of some keys in the table.
pub(super) struct Kept<'c> {
    rows: crate::verify::recheck::RowsByKey<'c>,
    kept: Vec<Provenance>,
}

impl<'a> Recheck<'a> {
    /// Asks where the group stands, before any row is read that is judged: what it had committed by then is in the series.
    pub(super) async fn ask(&mut self) {
        let witnesses = self.comparison.witnesses.as_ref();
        if self.base.is_none() && witnesses.is_some() {
            self.base = Some(Base::take(witnesses, &self.comparison.whole, self.retry).await);
        }
    }

    /// What the table keeps with the rows of these keys, and the rows once more.
    pub(super) async fn kept(&mut self, keys: &[Value<'static>]) -> Result<Option<Kept<'a>>> {
        if self.base.is_none() || keys.is_empty() {
            return Ok(None);
        }
        let table = &mut *self.table;
        let ask = async || table.provenance(keys).await;
        let kept = self.retry.through_outage(ask).await?;
        let rows = read_again(self.comparison, self.table, keys, self.retry).await?;
        Ok(Some(Kept { rows, kept }))
    }

    /// Why the series lacks a row of the table, or has other values.
    pub(super) fn of_table(
        &self,
        kind: Kind,
        newest: &OwnedRow,
        key: &Value<'_>,
        kept: Option<&Kept<'_>>,
    ) -> (Class, String) {
        let Some((base, kept)) = self.base.as_ref().zip(kept) else {
            return UNASKED;
        };
        if kept.rows.row(key) != Some(newest) {
            let why = "the row of the table was written again while it was read";
            return (Class::InFlight, why.into());
        }
        let kept = kept.kept.iter().find(|kept| kept.key == *key);
        of_table(&self.comparison.whole, base, kind, newest, kept)
    }

    /// Why the series has a row that does not belong there; none if the log has to be asked, which is noted.
    pub(super) fn of_extra(
        &mut self,
        place: &Place,
        newest: Option<i64>,
        row: &OwnedRow,
    ) -> Option<(Class, String)> {
        let outside = |why: &str| Some((Class::ChangedOutside, why.to_string()));
        if self.base.is_none() {
            return Some(UNASKED);
        }
        if !place.is_right(self.series) {
            return outside(
                "rtp writes it to another bucket or shard, as the dataset declares them",
            );
        }
        let Some(version) = classify::version(&self.comparison.whole, row) else {
            return outside("it has a value that does not fit its column");
        };
        self.extra.push(Extra {
            place: place.clone(),
            newest,
            version,
        });
        None
    }

    /// What the log says about rows that were noted.
    pub(super) async fn of_log(&mut self) -> Vec<(Extra, Class, String)> {
        let mut all = Vec::new();
        let mut left = std::mem::take(&mut self.extra);
        let Some(base) = &self.base else {
            return all;
        };
        for _ in 0..SEARCHES {
            if left.is_empty() || self.comparison.stop.requested().is_some() {
                return all;
            }
            let (now, later) = search(self.comparison, base, left, self.retry).await;
            all.extend(now);
            left = later;
        }
        all.extend(left.into_iter().map(|extra| {
            let why =
                "the log was not searched for it, because too many rows of its key do not fit";
            (extra, Class::Unexplained, why.to_string())
        }));
        all
    }
}

/// Searches the log for these versions. What it says of them, and those that there was no room for.
async fn search(
    comparison: &Comparison,
    base: &Base,
    extra: Vec<Extra>,
    retry: &Retry,
) -> (Vec<(Extra, Class, String)>, Vec<Extra>) {
    let dataset = &comparison.whole;
    let mut wanted = Wanted::default();
    for extra in &extra {
        wanted.add(&extra.place.key, extra.version);
    }
    let witnesses = comparison.witnesses.as_ref();
    let (seen, trouble) = in_log(witnesses, dataset, &base.log, &wanted, retry).await;
    let (now, later): (Vec<Extra>, Vec<Extra>) = extra
        .into_iter()
        .partition(|extra| wanted.has(hash_of(&extra.place.key), extra.version));
    let judged = now.into_iter().map(|extra| {
        let seen = seen
            .get(&id_of(hash_of(&extra.place.key), extra.version))
            .cloned();
        let seen = seen.unwrap_or_default();
        let (class, why) = classify::by_log(dataset, base, &seen, trouble.as_deref());
        (extra, class, why)
    });
    (judged.collect(), later)
}

/// Why a series lacks a row of the table, or has other values, by what the table keeps with it.
fn of_table(
    dataset: &Dataset,
    base: &Base,
    kind: Kind,
    row: &OwnedRow,
    kept: Option<&Provenance>,
) -> (Class, String) {
    let outside =
        kept.and_then(|kept| classify::changed_outside(dataset, Side::Realtime, row, kept));
    if let Some(why) = outside {
        return (Class::ChangedOutside, why);
    }
    let unexplained = |why: String| (Class::Unexplained, why);
    let log = match &base.log {
        Ok(log) => log,
        Err(why) => return unexplained(format!("the event log does not tell: {why}")),
    };
    let Some(origin) = kept.and_then(|kept| kept.origin) else {
        return unexplained("the table does not keep which event its row is from".into());
    };
    let (topic, partition, offset) = (&dataset.event.topic, origin.partition, origin.offset);
    let event = format!("{topic}, partition {partition} offset {offset}");
    if !log.has_committed {
        let why = "but the group has never committed anything; --group names that of the stream";
        return unexplained(format!("its row is from {event}, {why}"));
    }
    let Some(reader) = log.reader_of((partition, offset)) else {
        return classify::in_flight(log, &event, (partition, offset));
    };
    let event = format!("{event} was read by {reader}");
    match (kind, dataset.nulls) {
        (Kind::Changed, Nulls::Write) => (
            Class::ChangedOutside,
            format!("the table has the row as the stream wrote it; {event}"),
        ),
        (Kind::Changed, Nulls::Unset) => unexplained(event),
        _ => (Class::Lost, event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::event_log::{Offsets, Span};
    use crate::record::row::{Origin, RowMeta};
    use crate::verify::base::LogBase;

    fn base(committed: &[(i32, i64)]) -> Base {
        Base {
            log: Ok(LogBase {
                has_committed: !committed.is_empty(),
                committed: committed.iter().copied().collect(),
                bounds: Span::default(),
                after_load: Offsets::default(),
                writers: Ok(Vec::new()),
            }),
            loads: Ok(Vec::new()),
            newest: None,
            has_earlier: false,
        }
    }

    #[test]
    fn what_the_table_keeps_tells_why_the_series_lacks_its_row() {
        let dataset = Dataset::load(None).unwrap();
        let mut values = vec![Value::Null; dataset.fields.len()];
        values[dataset.event.key] = Value::Uuid(uuid::Uuid::from_u128(7));
        values[dataset.event.time] = Value::Timestamp(5_000);
        let row = OwnedRow {
            values,
            foreign: Vec::new(),
        };
        let (event_time, digest) = classify::version(&dataset, &row).unwrap();
        let kept = |offset: i64, is_ours: bool| {
            let origin = Origin {
                partition: 1,
                offset,
            };
            let meta = RowMeta {
                event_time,
                digest,
                origin,
            };
            let at = meta.write_timestamp() + i64::from(!is_ours) * 1_000_000;
            Provenance {
                key: row.values[dataset.event.key].clone(),
                origin: Some(origin),
                digest: None,
                write_timestamps: Some([at, at]),
            }
        };
        use Class::{ChangedOutside, InFlight, Lost, Unexplained};
        let at_10 = &[(1, 10)][..];
        for (committed, offset, is_ours, kind, class, why) in [
            (at_10, 9, true, Kind::Missing, Lost, "continues at 10"),
            (at_10, 10, true, Kind::Missing, InFlight, ": 0 events after"),
            (at_10, 10, true, Kind::Changed, InFlight, ": 0 events after"),
            (
                at_10,
                9,
                true,
                Kind::Changed,
                ChangedOutside,
                "as the stream wrote it",
            ),
            (
                at_10,
                9,
                false,
                Kind::Missing,
                ChangedOutside,
                "write timestamp",
            ),
            (&[], 9, true, Kind::Missing, Unexplained, "never committed"),
        ] {
            let kept = kept(offset, is_ours);
            let (found, evidence) = of_table(&dataset, &base(committed), kind, &row, Some(&kept));
            assert_eq!(found, class, "{evidence}");
            assert!(evidence.contains(why), "{evidence}");
        }
        let silent = Base {
            log: Err("it is away".into()),
            ..base(at_10)
        };
        let (class, why) = of_table(&dataset, &silent, Kind::Missing, &row, None);
        assert!(class == Unexplained && why.contains("away"), "{why}");
    }
}
