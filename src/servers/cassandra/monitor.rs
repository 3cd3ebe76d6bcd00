//! Watches the real-time store in Cassandra.

use std::ops::ControlFlow;

use async_trait::async_trait;
use scylla::frame::types::Consistency;
use scylla::response::PagingState;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Error, Result};
use crate::ports::monitor::{RowCount, StoreMonitor};
use crate::servers::address::Address;
use crate::servers::cassandra::table_reader::page_size;
use crate::servers::cassandra::{self, Cluster};

/// How long a probe row stays, in seconds, so that heartbeats that have ended leave nothing behind.
const PROBE_TTL: u32 = 86_400;

/// Rows up to which the table is counted.
const COUNTED: u64 = 10_000;

/// The dataset's tables, watched.
#[derive(Debug)]
pub struct CassandraMonitor {
    cluster: Cluster,
    target: String,
    write_probe: PreparedStatement,
    read_probe: PreparedStatement,
    last_write: PreparedStatement,
    keyspace: String,
    first_keys: PreparedStatement,
    estimates: PreparedStatement,
}

impl CassandraMonitor {
    /// Connects, and checks that the tables exist.
    pub async fn open(server: &Address, dataset: &Dataset) -> Result<Self> {
        let cluster = Cluster::connect(server, &dataset.realtime.keyspace).await?;
        let target = dataset.realtime.table.clone();
        let rows = cassandra::table(dataset, &target);
        let key = quoted(&dataset.key().name);
        cluster
            .prepare(&format!("SELECT {key} FROM {rows} LIMIT 1"))
            .await?;
        let probes = cassandra::table(dataset, "rtp_heartbeat");
        let write = format!(
            "INSERT INTO {probes} (\"writer\", \"id\", \"probed_at\") VALUES (?, ?, ?) USING TTL {PROBE_TTL}"
        );
        let read = format!("SELECT \"id\", \"probed_at\" FROM {probes} WHERE \"writer\" = ?");
        let last_write = format!(
            "SELECT \"written_at\" FROM {} WHERE \"target\" = ?",
            cassandra::table(dataset, "rtp_progress")
        );
        let mut write_probe = cluster.prepare(&write).await?;
        let mut read_probe = cluster.prepare(&read).await?;
        for probe in [&mut write_probe, &mut read_probe] {
            probe.set_consistency(Consistency::LocalQuorum);
        }
        let mut first_keys = cluster
            .prepare(&format!("SELECT {key} FROM {rows}"))
            .await?;
        first_keys.set_page_size(page_size(dataset.fields.len()));
        let estimates = "SELECT partitions_count FROM system.size_estimates WHERE keyspace_name = ? AND table_name = ?";
        Ok(CassandraMonitor {
            keyspace: dataset.realtime.keyspace.clone(),
            first_keys,
            estimates: cluster.prepare(estimates).await?,
            last_write: cluster.prepare(&last_write).await?,
            cluster,
            target,
            write_probe,
            read_probe,
        })
    }

    async fn ask(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult> {
        let asked = self
            .cluster
            .session
            .execute_unpaged(statement, values)
            .await;
        asked.map_err(|e| self.cluster.error(&e))
    }

    /// Number of rows by the server's estimate.
    async fn estimated(&self) -> Result<u64> {
        let ranges = self
            .ask(&self.estimates, (&self.keyspace, &self.target))
            .await?;
        let ranges = ranges.into_rows_result().map_err(|e| self.unexpected(&e))?;
        let rows = ranges.rows::<(i64,)>().map_err(|e| self.unexpected(&e))?;
        let mut estimated: u64 = 0;
        for row in rows {
            let (partitions,) = row.map_err(|e| self.unexpected(&e))?;
            // Less than none is estimated of nothing.
            estimated = estimated.saturating_add(u64::try_from(partitions).unwrap_or(0));
        }
        Ok(estimated)
    }

    fn unexpected(&self, error: &dyn std::fmt::Display) -> Error {
        Error::refused(format!(
            "unexpected answer from {}: {error}",
            self.cluster.address()
        ))
    }
}

#[async_trait]
impl StoreMonitor for CassandraMonitor {
    async fn probe(&mut self, writer: &str, id: &str) -> Result<()> {
        let now = crate::time::now_ms();
        let probe = (writer, id, CqlTimestamp(now));
        self.ask(&self.write_probe, probe).await?;
        let answer = self.ask(&self.read_probe, (writer,)).await?;
        let rows = answer.into_rows_result().map_err(|e| self.unexpected(&e))?;
        let found = rows
            .maybe_first_row::<(String, CqlTimestamp)>()
            .map_err(|e| self.unexpected(&e))?;
        // Another heartbeat of the same name may have written after us.
        match found {
            Some((there, at)) if there == id || at.0 >= now => Ok(()),
            _ => Err(Error::refused(format!(
                "a probe row written to {} cannot be read back",
                self.cluster.address()
            ))),
        }
    }

    async fn last_write(&mut self) -> Result<Option<i64>> {
        let answer = self.ask(&self.last_write, (&self.target,)).await?;
        let rows = answer.into_rows_result().map_err(|e| self.unexpected(&e))?;
        let row = rows.maybe_first_row::<(Option<CqlTimestamp>,)>();
        let row = row.map_err(|e| self.unexpected(&e))?;
        Ok(row.and_then(|(time,)| time).map(|time| time.0))
    }

    /// What each node estimates from its files, which may be minutes old, if that is much; otherwise counted up to a bound.
    async fn rows(&mut self) -> Result<Option<RowCount>> {
        let estimated = self.estimated().await?;
        if estimated > COUNTED {
            return Ok(Some(RowCount {
                count: estimated,
                exact: false,
            }));
        }
        let mut count = 0;
        let mut from = PagingState::start();
        while count <= COUNTED {
            let asked = self
                .cluster
                .session
                .execute_single_page(&self.first_keys, (), from);
            let (page, more) = asked.await.map_err(|e| self.cluster.error(&e))?;
            let page = page.into_rows_result().map_err(|e| self.unexpected(&e))?;
            count += page.rows_num() as u64;
            match more.into_paging_control_flow() {
                ControlFlow::Continue(next) => from = next,
                ControlFlow::Break(()) => break,
            }
        }
        Ok(Some(RowCount {
            count,
            exact: count <= COUNTED,
        }))
    }

    /// How many nodes are up, and whether they agree on the schema.
    async fn remark(&mut self) -> Result<Option<String>> {
        let session = &self.cluster.session;
        let state = session.get_cluster_state();
        let nodes = state.get_nodes_info();
        let down = nodes.iter().filter(|node| !node.is_connected());
        let down: Vec<String> = down.map(|node| node.address.to_string()).collect();
        let up = nodes.len() - down.len();
        let names = match down.is_empty() {
            true => String::new(),
            false => format!(" (not {})", down.join(", ")),
        };
        let schema = match session.check_schema_agreement().await {
            Ok(Some(_)) => "they agree on the schema".to_string(),
            Ok(None) => "they do not agree on the schema".to_string(),
            Err(e) => format!("cannot check whether they agree on the schema: {e}"),
        };
        Ok(Some(format!(
            "{up} of {} nodes up{names}, {schema}",
            nodes.len()
        )))
    }
}
