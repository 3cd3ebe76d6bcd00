//! The history of the batch table: a second table with the newest version of each key on each day.

use super::{Dataset, Field, FieldType, From, Pointer, TimeFormat};

/// The history table's own column: the UTC date of the row's event time, which is part of its key.
pub const AS_OF: &str = "as_of";

impl Dataset {
    /// The history table as the table of a dataset, which has the as-of date as its last field; none if the dataset keeps
    /// no history. Its key alone is not unique: the history has a row for each key and date.
    pub fn history(&self) -> Option<Dataset> {
        if !self.batch.history {
            return None;
        }
        let mut history = self.clone();
        history.batch.table = format!("{}_history", self.batch.table);
        history.batch.history = false;
        history.fields.push(Field {
            name: AS_OF.into(),
            kind: FieldType::Date,
            from: From::Pointer(Pointer::default()),
            required: true,
            aliases: Vec::new(),
            coerce: false,
            format: TimeFormat::default(),
        });
        Some(history)
    }
}
