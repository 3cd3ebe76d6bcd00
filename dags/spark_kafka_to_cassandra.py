"""Streams the event log's new events into the real-time store: `just spark_kafka_to_cassandra`.

Runs after `api_to_kafka` has sent something. RTP_STREAM_ENGINE chooses `rtp` or the Spark job.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.10
    from airflow import DAG

from rtp_tasks import DAG_ARGUMENTS, EVENT_LOG, REALTIME_STORE, init, stream

with DAG(dag_id="spark_kafka_to_cassandra", schedule=[EVENT_LOG], doc_md=__doc__, **DAG_ARGUMENTS):
    init() >> stream("spark_kafka_to_cassandra", outlets=[REALTIME_STORE])
