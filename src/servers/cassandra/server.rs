//! Cassandra as the real-time store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::monitor::CassandraMonitor;
use super::realtime_store::CassandraStore;
use super::table_reader::CassandraTable;
use crate::dataset::{Dataset, Series};
use crate::error::Result;
use crate::ports::monitor::StoreMonitor;
use crate::ports::realtime_store::{RealtimeStore, RealtimeStores, Upstream};
use crate::ports::series_reader::SeriesReader;
use crate::ports::table_reader::TableReader;
use crate::servers::address::{self, Address, Form};
use crate::servers::{Role, Server, ServerKind};

/// The form of its addresses.
pub(super) const FORM: Form = Form {
    scheme: "cassandra",
    shown: "cassandra://HOST:PORT[,HOST:PORT]",
    port: 9042,
    parameters: &["tls", "ca", "consistency"],
};

/// `cassandra://…`.
pub const KIND: ServerKind = ServerKind {
    scheme: FORM.scheme,
    shown: FORM.shown,
    roles: &[Role::RealtimeStore],
    parse: |rest| Ok(Arc::new(Cassandra(address::parse(rest, &FORM)?))),
};

/// A server at an address.
#[derive(Clone, Debug)]
pub struct Cassandra(pub Address);

impl fmt::Display for Cassandra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        address::show(f, &FORM, &self.0)
    }
}

impl Server for Cassandra {
    fn realtime_store(self: Arc<Self>) -> Option<Arc<dyn RealtimeStores>> {
        Some(self)
    }
}

#[async_trait]
impl RealtimeStores for Cassandra {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        super::create(&self.0, dataset).await
    }

    fn statements(&self, dataset: &Dataset) -> Vec<String> {
        super::statements(dataset)
    }

    async fn open(
        &self,
        dataset: &Dataset,
        _upstream: Upstream<'_>,
    ) -> Result<Box<dyn RealtimeStore>> {
        Ok(Box::new(CassandraStore::open(&self.0, dataset).await?))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.realtime.table;
        Ok(Box::new(
            CassandraTable::open(&self.0, dataset, table).await?,
        ))
    }

    fn series<'a>(
        &'a self,
        dataset: &'a Dataset,
        series: &'a Series,
    ) -> Option<BoxFuture<'a, Result<Box<dyn SeriesReader>>>> {
        Some(Box::pin(async move {
            let opened = CassandraTable::open_series(&self.0, dataset, series).await?;
            Ok(Box::new(opened) as Box<dyn SeriesReader>)
        }))
    }

    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>> {
        Ok(Box::new(CassandraMonitor::open(&self.0, dataset).await?))
    }
}
