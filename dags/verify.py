"""Verifies that both stores hold the same rows: `just verify`.

Runs after both branches have written, and once a day in any case. A difference that is not explained fails the task; the
log shows it. If a stream follows the topic all the time, add `--grace 10s`: what differs is then read again after that.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.10
    from airflow import DAG

from rtp_tasks import BATCH_STORE, DAG_ARGUMENTS, REALTIME_STORE, AssetOrTimeSchedule, cron, init, rtp

SCHEDULE = AssetOrTimeSchedule(timetable=cron("0 2 * * *"), assets=[REALTIME_STORE, BATCH_STORE])

with DAG(dag_id="verify", schedule=SCHEDULE, doc_md=__doc__, **DAG_ARGUMENTS):
    init() >> rtp("verify", "verify", no_fails=True)
