//! The result of the comparison of a series: its counts and its verdict.

use crate::verify::Tolerances;

/// The result of the comparison of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparedSeries {
    /// Keys of the table.
    pub keys: u64,
    /// Rows of the series.
    pub rows: u64,
    /// Newest rows that the series lacks.
    pub missing: u64,
    /// Rows of keys that the table lacks, newer than the table's, or in another bucket or shard than their own.
    pub extra: u64,
    /// Newest rows with other values than in the table.
    pub changed: u64,
    /// How many of these are explained.
    pub explained: u64,
    /// Rows in their place of keys that the table lacks, where rows expire: the table's may have expired before them,
    /// because an older version that arrives later begins no new life there.
    pub outlived: u64,
    /// Whether the comparison ended early, because of too many suspects.
    pub is_cut: bool,
}

impl ComparedSeries {
    /// Whether everything was compared and nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences() == 0 && !self.is_cut
    }

    /// Whether everything was compared and every difference is explained.
    pub fn agrees(&self) -> bool {
        self.differences() == self.explained && !self.is_cut
    }

    /// How many rows differ.
    pub(super) fn differences(&self) -> u64 {
        self.missing + self.extra + self.changed
    }

    /// Adds the result of a pass.
    pub(super) fn add(&mut self, pass: &ComparedSeries) {
        self.keys += pass.keys;
        self.rows += pass.rows;
        self.missing += pass.missing;
        self.extra += pass.extra;
        self.changed += pass.changed;
        self.explained += pass.explained;
        self.outlived += pass.outlived;
        self.is_cut |= pass.is_cut;
    }

    /// The result in a sentence, for a series and its table, by their names. Equal means equal within these tolerances.
    pub(in crate::verify) fn sentence(
        &self,
        series: &str,
        table: &str,
        tolerances: &Tolerances,
    ) -> String {
        let ComparedSeries { keys, rows, .. } = self;
        let outlived = match self.outlived {
            0 => String::new(),
            n => format!(
                "; {n} of them are of keys that {table} lacks, which is no difference because rows expire (ttl)"
            ),
        };
        if self.is_equal() {
            let within = tolerances.within();
            return format!(
                "equal: {series} has the newest row of each of the {keys} keys in {table}{within}; {rows} rows{outlived}"
            );
        }
        let (verdict, cut) = match (self.differences(), self.is_cut) {
            (0, _) => ("not compared to the end", ""),
            (_, false) if self.agrees() => ("in agreement", ""),
            (_, true) => (
                "not equal",
                "; more was not compared, so each number may be higher",
            ),
            (_, false) => ("not equal", ""),
        };
        let explained = match self.explained {
            0 => String::new(),
            n => format!(" ({n} of these explained)"),
        };
        format!(
            "{verdict}: {} missing in {series}, {} extra in {series}, {} changed{explained}; {keys} keys in {table}, {rows} rows in {series}{outlived}{cut}",
            self.missing, self.extra, self.changed
        )
    }
}
