//! Cassandra's guardrails: limits set in cassandra.yaml, of which the server says only that a statement is invalid. Some
//! are about the row, others about the state of a node, and the rest about what its clients may do at all. Names and texts
//! are those of Cassandra 4.1 and 5.0 (Guardrails.java; Guardrail.java, `decorateMessage`).

use super::Fate;

/// How a guardrail begins what it says; its name follows.
const PREFIX: &str = "Guardrail ";

/// What the one about full disks says, with the prefix or, before Cassandra 4.1, without it.
const DISK_IS_FULL: &str = "disk usage exceeds failure threshold";

/// They refuse every write until the disks of the nodes have room again.
const ABOUT_THE_NODE: [&str; 2] = ["replica_disk_usage", "local_data_disk_usage"];

/// They refuse what is in a row, however often it is sent.
const ABOUT_THE_ROW: [&str; 16] = [
    // The size of a value, ...
    "column_value_size",
    "column_ascii_value_size",
    "column_blob_value_size",
    "column_text_value_size",
    "column_varchar_value_size",
    // ... of a collection in it, ...
    "collection_size",
    "collection_map_size",
    "collection_set_size",
    "collection_list_size",
    "items_per_collection",
    // ... or of what an index on it would hold.
    "sai_string_term_size",
    "sai_frozen_term_size",
    "sai_vector_term_size",
    // The size of the partition that it belongs to; these two only write to the server's log so far.
    "partition_size",
    // The write time is the event's.
    "maximum_timestamp",
    "minimum_timestamp",
];

/// What it means that a statement is called invalid in these words; none if no guardrail says them. One that is in neither
/// list is about what clients may do (`user_timestamps`, `write_consistency_levels`, `allow_filtering`, `page_size`) or
/// how tables are made (`tables`, `columns_per_table`, `minimum_replication_factor`): it refuses every row alike, so none of
/// them is bad, and no waiting helps.
pub(super) fn fate(said: &str) -> Option<Fate> {
    if said.contains(DISK_IS_FULL) {
        return Some(Fate::Outage);
    }
    let name = said.strip_prefix(PREFIX)?.split(' ').next()?;
    Some(match name {
        name if ABOUT_THE_NODE.contains(&name) => Fate::Outage,
        name if ABOUT_THE_ROW.contains(&name) => Fate::NotTaken,
        _ => Fate::Refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_guardrails_about_the_row_refuse_a_row() {
        let full = "Write request failed because disk usage exceeds failure threshold";
        let large =
            "Value of column 'email' has size 70000, this exceeds the failure threshold of 65536.";
        let future = "The modification to table users has a timestamp 9 after the maximum allowable failure threshold 8";
        let level = "Provided values [LOCAL_QUORUM] are not allowed for write consistency levels";
        for (name, text, expected) in [
            ("replica_disk_usage", full, Fate::Outage),
            (
                "local_data_disk_usage",
                "will stop accepting writes",
                Fate::Outage,
            ),
            ("column_value_size", large, Fate::NotTaken),
            ("column_text_value_size", large, Fate::NotTaken),
            ("items_per_collection", large, Fate::NotTaken),
            ("maximum_timestamp", future, Fate::NotTaken),
            (
                "user_timestamps",
                "User provided timestamps (USING TIMESTAMP) is not allowed",
                Fate::Refused,
            ),
            ("write_consistency_levels", level, Fate::Refused),
            ("one_of_a_later_version", "no", Fate::Refused),
        ] {
            let said = format!("Guardrail {name} violated: {text}");
            assert_eq!(fate(&said), Some(expected), "{said}");
        }
        assert_eq!(fate(full), Some(Fate::Outage));
        for said in ["Batch too large", "unconfigured table users", ""] {
            assert_eq!(fate(said), None, "{said}");
        }
    }
}
