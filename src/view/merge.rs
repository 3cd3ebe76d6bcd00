//! Which of two rows of a key is shown, and how.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::dataset::Dataset;
use crate::ports::table_reader::StoredRow;
use crate::record::row::{Digest, digest};
use crate::record::value::Value;

/// A row as one layer has it.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its values, with null in place of one that does not fit its column.
    pub values: Vec<Value<'static>>,
    /// Event time in milliseconds since 1970 UTC; the lowest number if the column has something else.
    event_time: i64,
    digest: Digest,
    /// Fields whose value does not fit, and what is there instead.
    pub misfits: Vec<(usize, String)>,
}

impl Version {
    /// A row that a store lends.
    pub fn of(dataset: &Dataset, row: StoredRow<'_>) -> Version {
        let time = dataset.event.time;
        let between = || {
            let misfit = row.foreign.iter().find(|f| f.field == time)?;
            misfit.between.as_ref().map(|[below, _]| below.clone())
        };
        let event_time = match &row.values[time] {
            Value::Timestamp(time) => *time,
            _ => match between() {
                Some(Value::Timestamp(below)) => below,
                _ => i64::MIN,
            },
        };
        Version {
            values: row.values.iter().map(Value::owned).collect(),
            event_time,
            digest: digest(dataset, row.values, &mut Vec::new()),
            misfits: row
                .foreign
                .iter()
                .map(|f| (f.field, f.found.clone()))
                .collect(),
        }
    }

    /// The order of versions of a key.
    pub fn version(&self) -> (i64, Digest) {
        (self.event_time, self.digest)
    }
}

/// Where the row that is shown stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// In the batch store; the real-time store has an older one, or none.
    Batch,
    /// In the real-time store; the batch store has an older one, or none.
    Realtime,
    /// In both, the same.
    Both,
}

impl Layer {
    /// All layers, by the name that users see.
    pub const ALL: [(&'static str, Layer); 3] = [
        ("batch", Layer::Batch),
        ("realtime", Layer::Realtime),
        ("both", Layer::Both),
    ];

    /// The name that users see.
    pub fn name(self) -> &'static str {
        let all = Self::ALL.iter();
        all.clone()
            .find(|(_, layer)| *layer == self)
            .map_or("", |(name, _)| name)
    }
}

/// The row of a key that is shown.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The row.
    pub row: Version,
    /// Where it stands.
    pub layer: Layer,
    /// When the reading of both layers began, in milliseconds since 1970 UTC: what either held then is not newer than
    /// this row.
    pub as_of: i64,
}

/// The newer of two rows of a key; none if there is neither.
pub fn newest(realtime: Option<Version>, batch: Option<Version>, as_of: i64) -> Option<Merged> {
    let (row, layer) = match (realtime, batch) {
        (Some(r), Some(b)) if r.version() == b.version() && r.misfits == b.misfits => {
            (r, Layer::Both)
        }
        (Some(r), Some(b)) if r.version() < b.version() => (b, Layer::Batch),
        (Some(r), _) => (r, Layer::Realtime),
        (None, Some(b)) => (b, Layer::Batch),
        (None, None) => return None,
    };
    Some(Merged { row, layer, as_of })
}

impl Merged {
    /// The row's event time in milliseconds since 1970 UTC, if it has one.
    pub fn event_time(&self) -> Option<i64> {
        Some(self.row.event_time).filter(|time| *time != i64::MIN)
    }

    /// How old the row was when it was read, in seconds.
    pub fn lag_seconds(&self) -> Option<f64> {
        self.event_time()
            .map(|time| self.as_of.saturating_sub(time) as f64 / 1e3)
    }

    /// As JSON.
    pub fn shown<'a>(&'a self, dataset: &'a Dataset) -> Shown<'a> {
        Shown {
            dataset,
            merged: self,
        }
    }
}

/// A row with what is known about it, as JSON.
#[derive(Debug)]
pub struct Shown<'a> {
    dataset: &'a Dataset,
    merged: &'a Merged,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Shown { dataset, merged } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("layer", merged.layer.name())?;
        let event_time = merged.event_time().map(crate::time::format_ms);
        map.serialize_entry("event_time", &event_time)?;
        map.serialize_entry("as_of", &crate::time::format_ms(merged.as_of))?;
        map.serialize_entry("lag_seconds", &merged.lag_seconds())?;
        map.serialize_entry("row", &Values(dataset, &merged.row.values))?;
        if !merged.row.misfits.is_empty() {
            map.serialize_entry("misfits", &Misfits(dataset, &merged.row.misfits))?;
        }
        map.end()
    }
}

/// Values by the names of their fields, in declared order.
struct Values<'a>(&'a Dataset, &'a [Value<'static>]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = self.0.fields.iter().map(|field| &field.name);
        serializer.collect_map(names.zip(self.1))
    }
}

/// What does not fit its column, by the names of the fields.
struct Misfits<'a>(&'a Dataset, &'a [(usize, String)]);

impl Serialize for Misfits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self
            .1
            .iter()
            .map(|(field, found)| (&self.0.fields[*field].name, found));
        serializer.collect_map(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::table_reader::Foreign;

    fn version(event_time: i64, phone: &str, foreign: &[Foreign]) -> Version {
        let dataset = Dataset::load(None).unwrap();
        let mut values = vec![Value::Null; dataset.fields.len()];
        values[dataset.event.time] = Value::Timestamp(event_time);
        values[dataset.field_index("phone").unwrap()] = Value::Text(phone.to_string().into());
        let values = &values;
        Version::of(&dataset, StoredRow { values, foreign })
    }

    #[test]
    fn the_newer_row_is_shown_whichever_layer_has_it() {
        let old = || Some(version(1, "a", &[]));
        let new = || Some(version(2, "a", &[]));
        for (realtime, batch, layer, time) in [
            (old(), None, Layer::Realtime, 1),
            (None, old(), Layer::Batch, 1),
            (old(), old(), Layer::Both, 1),
            (new(), old(), Layer::Realtime, 2),
            (old(), new(), Layer::Batch, 2),
        ] {
            let merged = newest(realtime, batch, 5_000).unwrap();
            assert_eq!((merged.layer, merged.event_time()), (layer, Some(time)));
        }
        assert!(newest(None, None, 0).is_none());
    }

    #[test]
    fn of_two_rows_of_one_time_the_digest_decides_as_in_every_store() {
        let [a, b] = ["a", "b"].map(|phone| version(1, phone, &[]));
        let (larger, smaller) = match a.version() > b.version() {
            true => (a, b),
            false => (b, a),
        };
        let shown = |r: &Version, b: &Version| newest(Some(r.clone()), Some(b.clone()), 0).unwrap();
        assert_eq!(shown(&larger, &smaller).layer, Layer::Realtime);
        assert_eq!(shown(&smaller, &larger).layer, Layer::Batch);
        assert_eq!(shown(&smaller, &larger).row.values, larger.values);
    }

    #[test]
    fn what_does_not_fit_is_shown_and_keeps_layers_apart() {
        let dataset = Dataset::load(None).unwrap();
        let foreign = Foreign {
            field: dataset.field_index("phone").unwrap(),
            found: "integer 7".into(),
            between: None,
        };
        let odd = version(1, "a", &[foreign]);
        let merged = newest(Some(version(1, "a", &[])), Some(odd.clone()), 0).unwrap();
        assert_ne!(merged.layer, Layer::Both);
        let alone = newest(None, Some(odd), 1_500).unwrap();
        let json = serde_json::to_value(alone.shown(&dataset)).unwrap();
        assert_eq!(json["misfits"]["phone"], "integer 7");
        assert_eq!(json["lag_seconds"], 1.499);
        assert_eq!(json["as_of"], "1970-01-01T00:00:01.500Z");
    }
}
