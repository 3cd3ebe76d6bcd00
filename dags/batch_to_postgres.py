"""Loads the day's records into the batch store: `just batch_to_postgres`.

Reads the same landing file as `api_to_kafka`, whichever of the two fetched it. Bad records are written next to it.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.10
    from airflow import DAG

from rtp_tasks import BATCH_STORE, DAG_ARGUMENTS, LANDING_FILE, REJECTS_FILE, cron, init, landing, rtp

with DAG(dag_id="batch_to_postgres", schedule=cron("5 0 * * *"), doc_md=__doc__, **DAG_ARGUMENTS):
    [init(), landing()] >> rtp(
        "batch_to_postgres", "load-batch", "--require-complete", "--rejects", REJECTS_FILE, LANDING_FILE, outlets=[BATCH_STORE]
    )
