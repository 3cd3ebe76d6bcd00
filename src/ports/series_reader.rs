//! The reading port of a series: the rows that a real-time store keeps by time, for comparing them with those of its
//! table.

use async_trait::async_trait;

use crate::dataset::{Dataset, Series};
use crate::error::{Error, Result};
use crate::ports::table_reader::Visitor;
use crate::record::row;
use crate::record::value::Value;

/// Reads one series, whatever store it is in, with the guarantees of a
/// [`TableReader`](crate::ports::table_reader::TableReader).
///
/// A row that is lent has two values more than the dataset has fields: the start of its bucket, a timestamp, and its
/// shard. A key has as many rows as versions were kept.
#[async_trait]
pub trait SeriesReader: Send {
    /// Lends every row to the visitor. An error may occur after some rows were lent.
    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()>;

    /// Lends the rows at these places as they are now, in any order; a place without a row has none.
    async fn read(&mut self, places: &[Place], visitor: &mut dyn Visitor) -> Result<()>;
}

/// Where a version of a row stands in a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Start of the bucket, in milliseconds since 1970 UTC, and shard.
    pub partition: (i64, i32),
    /// Event time, in milliseconds since 1970 UTC.
    pub time: i64,
    /// The key.
    pub key: Value<'static>,
}

impl Place {
    /// Where a row with these values belongs; none if its event time is not one.
    pub fn of(dataset: &Dataset, series: &Series, values: &[Value<'_>]) -> Option<Place> {
        let key = &values[dataset.event.key];
        let Value::Timestamp(time) = values[dataset.event.time] else {
            return None;
        };
        Some(Place {
            partition: row::bucket(series, time, key),
            time,
            key: key.owned(),
        })
    }

    /// Where a row stands that a series lends.
    pub fn stored(dataset: &Dataset, values: &[Value<'_>]) -> Result<Place> {
        let width = dataset.fields.len();
        let ([Value::Timestamp(bucket), Value::Int(shard)], Value::Timestamp(time)) =
            (&values[width..], &values[dataset.event.time])
        else {
            return Err(Error::internal(
                "a row of a series has no bucket, shard or event time",
            ));
        };
        Ok(Place {
            partition: (*bucket, i32::try_from(*shard).map_err(Error::internal)?),
            time: *time,
            key: values[dataset.event.key].owned(),
        })
    }

    /// Whether it is in the bucket and shard that its event time and key belong to.
    pub fn is_right(&self, series: &Series) -> bool {
        self.partition == row::bucket(series, self.time, &self.key)
    }
}
