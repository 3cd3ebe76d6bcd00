//! The files in schema/ are derived from the built-in dataset. `RTP_BLESS=1 cargo test` rewrites them.

use rtp::dataset::{Dataset, ddl, event_schema};
use rtp::servers::{cassandra, postgres, sqlite};

#[test]
fn derived_files_equal_the_dataset() {
    let dataset = Dataset::load(None).unwrap();
    let sqlite = [
        sqlite::ddl::realtime(&dataset),
        sqlite::ddl::batch(&dataset),
    ]
    .concat();
    let schema = serde_json::to_string_pretty(&event_schema(&dataset)).unwrap() + "\n";
    let files = [
        (
            "cassandra.cql",
            ddl::script(&dataset, &cassandra::ddl::keyspace_and_tables(&dataset)),
        ),
        (
            "postgres.sql",
            ddl::script(&dataset, &postgres::ddl::tables(&dataset)),
        ),
        ("sqlite.sql", ddl::script(&dataset, &sqlite)),
        ("event.schema.json", schema),
    ];
    for (name, derived) in files {
        let path = format!("{}/schema/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("RTP_BLESS").is_some() {
            std::fs::write(&path, &derived).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(stored, derived, "{path} is not what the dataset yields");
    }
}
