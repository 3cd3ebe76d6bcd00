"""Sends the day's records to the event log: `just api_to_kafka`.

Whichever of the two daily DAGs runs first fetches the records into the landing file of the day; the other one reads
the same file. Running it again for the same day changes nothing in the stores.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.10
    from airflow import DAG

from rtp_tasks import DAG_ARGUMENTS, EVENT_LOG, LANDING_FILE, cron, init, landing, rtp

with DAG(dag_id="api_to_kafka", schedule=cron("5 0 * * *"), doc_md=__doc__, **DAG_ARGUMENTS):
    [init(), landing()] >> rtp("api_to_kafka", "produce", "--require-complete", LANDING_FILE, outlets=[EVENT_LOG])
