"""Checks that the log and the stores answer, and how old their data is: `just cassandra_monitor`."""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.10
    from airflow import DAG

from rtp_tasks import DAG_ARGUMENTS, cron, init, rtp

with DAG(dag_id="cassandra_monitor", schedule=cron("*/10 * * * *"), doc_md=__doc__, **DAG_ARGUMENTS):
    init() >> rtp("cassandra_monitor", "heartbeat", "--once", no_fails=True)
