//! The batch store on a real PostgreSQL.

use std::process::Command;

use async_trait::async_trait;
use rtp::batch_store::postgres::{PostgresBatchStore, create};
use rtp::batch_store::{self, BatchStore, Mode};
use rtp::conformance::{Abilities, Ability};
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::error::{Error, Result};
use rtp::monitor::postgres::PostgresStoreMonitor;
use rtp::monitor::{StoreMonitor, conformance::store};
use rtp::row::Rows;
use rtp::table::postgres::PostgresTable;
use rtp::table::{self, TableReader};
use rtp::url::Server as Address;

use crate::common::{Place, Ran, users};
use crate::keeps;
use crate::stack::{Access, Server, own_server, server};

/// A database of one server.
struct Database<'s>(&'s Server);

impl Database<'_> {
    fn url(&self) -> &str {
        self.0.address("RTP_BATCH_STORE")
    }

    fn address(&self) -> Address {
        let rest = self.url().strip_prefix("postgres://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        let (host, port) = host.split_once(':').unwrap();
        Address {
            user: Some(user.into()),
            hosts: vec![(host.into(), port.parse().unwrap())],
            path: Some(database.into()),
            parameters: Vec::new(),
        }
    }

    /// What psql prints, one line a row.
    fn psql(&self, sql: &str) -> Result<String> {
        let url = self.url();
        let mut psql = Command::new("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
        let out = psql.output().unwrap();
        match out.status.success() {
            true => Ok(String::from_utf8(out.stdout).unwrap().trim_end().into()),
            false => Err(Error::refused(String::from_utf8_lossy(&out.stderr))),
        }
    }

    /// A folder for commands, in which the tables of the users dataset are empty.
    fn place(&self) -> Place {
        let place = Place::new();
        let ran = self.rtp(&place, &["init"], b"");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        self.psql("TRUNCATE batch_users").unwrap();
        place
    }

    fn rtp(&self, place: &Place, args: &[&str], stdin: &[u8]) -> Ran {
        place.rtp(&[args, &["--batch-store", self.url()]].concat(), stdin)
    }
}

impl Abilities for Database<'_> {
    fn lacks(&self) -> &[Ability] {
        &[Ability::HoldsForeignValues]
    }
}

#[async_trait]
impl batch_store::conformance::Harness for Database<'_> {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.address(), dataset).await
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        let store = PostgresBatchStore::open(&self.address(), dataset).await?;
        Ok(Box::new(store))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.batch.table;
        let table = PostgresTable::open(&self.address(), dataset, table).await?;
        Ok(Box::new(table))
    }

    async fn loads(&self, dataset: &Dataset) -> Result<Vec<String>> {
        let table = &dataset.batch.table;
        let select = format!("SELECT run_id FROM rtp_loads WHERE target = '{table}'");
        let loads = self.psql(&select)?;
        Ok(loads.lines().map(String::from).collect())
    }

    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()> {
        let table = quoted(&dataset.batch.table);
        let check = format!("ALTER TABLE {table} ADD CHECK (title <> '{title}')");
        self.psql(&check).map(|_| ())
    }
}

#[async_trait]
impl table::conformance::Harness for Database<'_> {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.address(), dataset).await
    }

    async fn write(&self, dataset: &Dataset, rows: &Rows) -> Result<()> {
        let mut store = PostgresBatchStore::open(&self.address(), dataset).await?;
        store.stage(rows).await?;
        store.merge(Mode::Upsert, "write").await.map(|_| ())
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        batch_store::conformance::Harness::table(self, dataset).await
    }

    async fn plant_text(&self, _: &Dataset, _: &str, _: &str) -> Result<()> {
        Err(Error::refused("its columns have strict types"))
    }
}

#[async_trait]
impl store::Harness for Database<'_> {
    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        let monitor = PostgresStoreMonitor::open(&self.address(), dataset).await?;
        Ok(Box::new(monitor))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_store_keeps_every_guarantee() {
    if let Some(postgres) = server("postgres", Access::Open) {
        keeps(batch_store::conformance::CASES, &Database(postgres)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_keeps_every_guarantee() {
    if let Some(postgres) = server("postgres", Access::Open) {
        keeps(table::conformance::CASES, &Database(postgres)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_keeps_every_guarantee() {
    if let Some(postgres) = server("postgres", Access::Open) {
        keeps(store::CASES, &Database(postgres)).await;
    }
}
