"""Counts the day's rows by the dataset's dimensions: `just nightly_aggregates`.

Runs after each load into the batch store, and once a day in any case. Running it again for the same day changes nothing.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.10
    from airflow import DAG

from rtp_tasks import BATCH_STORE, DAG_ARGUMENTS, DAY, AssetOrTimeSchedule, cron, init, rtp

SCHEDULE = AssetOrTimeSchedule(timetable=cron("30 2 * * *"), assets=[BATCH_STORE])

with DAG(dag_id="nightly_aggregates", schedule=SCHEDULE, doc_md=__doc__, **DAG_ARGUMENTS):
    init() >> rtp("nightly_aggregates", "aggregate", "--date", DAY)
