//! PostgreSQL as the batch store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::aggregates::PostgresAggregates;
use super::batch_store::{self, PostgresBatchStore};
use super::ledger::PostgresLedger;
use super::monitor::PostgresStoreMonitor;
use super::table_reader::PostgresTable;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::ports::aggregates::Aggregates;
use crate::ports::batch_store::{BatchStore, BatchStores};
use crate::ports::ledger::Ledger;
use crate::ports::monitor::StoreMonitor;
use crate::ports::table_reader::TableReader;
use crate::servers::address::{self, Address, Form};
use crate::servers::{Role, Server, ServerKind};

/// The form of its addresses.
pub(super) const FORM: Form = Form {
    scheme: "postgres",
    shown: "postgres://USER@HOST:PORT/DATABASE",
    port: 5432,
    parameters: &["sslmode", "sslrootcert"],
};

/// `postgres://…`.
pub const KIND: ServerKind = ServerKind {
    scheme: FORM.scheme,
    shown: FORM.shown,
    roles: &[Role::BatchStore],
    parse: |rest| Ok(Arc::new(Postgres(address::parse(rest, &FORM)?))),
};

/// A server at an address.
#[derive(Clone, Debug)]
pub struct Postgres(pub Address);

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        address::show(f, &FORM, &self.0)
    }
}

impl Server for Postgres {
    fn batch_store(self: Arc<Self>) -> Option<Arc<dyn BatchStores>> {
        Some(self)
    }
}

#[async_trait]
impl BatchStores for Postgres {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        batch_store::create(&self.0, dataset).await
    }

    fn statements(&self, dataset: &Dataset) -> Vec<String> {
        batch_store::statements(dataset)
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        Ok(Box::new(PostgresBatchStore::open(&self.0, dataset).await?))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.batch.table;
        Ok(Box::new(
            PostgresTable::open(&self.0, dataset, table).await?,
        ))
    }

    async fn ledger(&self, dataset: &Dataset) -> Result<Box<dyn Ledger>> {
        Ok(Box::new(PostgresLedger::open(&self.0, dataset).await?))
    }

    async fn aggregates(&self, dataset: &Dataset) -> Result<Box<dyn Aggregates>> {
        Ok(Box::new(PostgresAggregates::open(&self.0, dataset).await?))
    }

    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        Ok(Box::new(
            PostgresStoreMonitor::open(&self.0, dataset).await?,
        ))
    }
}
