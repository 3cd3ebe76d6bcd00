"""Each DAG with `airflow dags test`: on the embedded stores, on real servers, and with faults."""

import contextlib
import os
import pathlib
import re
import sqlite3

import pytest
from conftest import DAG_IDS, ROOT, Api, Place, free_port

DAY = "2026-11-01"
#: As a user in another time zone would enter it: in UTC it is the last hour of the previous day.
MOMENT = "2026-11-02T00:30:00+01:00"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with Api(tmp_path_factory.mktemp("api")) as api:
        yield api


STORES = ("RTP_EVENT_LOG", "RTP_REALTIME_STORE", "RTP_BATCH_STORE")
#: The tasks of a DAG's runs, those of the last run at the end.
NEWEST = """
SELECT task_id, task_instance.state FROM task_instance JOIN dag_run USING (dag_id, run_id)
WHERE dag_id = ? ORDER BY dag_run.id
"""


def ready(place, **environment):
    place.environment.update(environment)
    done = place.airflow("db", "migrate")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_dag(place, dag, moment=MOMENT):
    """Runs one DAG; returns the states of its tasks and all output."""
    done = place.airflow("dags", "test", dag, moment)
    with contextlib.closing(sqlite3.connect(place.home / "airflow.db")) as database:
        found = database.execute(NEWEST, [dag])
        return dict(found), done.stdout + done.stderr


test_dag.__test__ = False


def content_of_all(place):
    """Runs the DAGs in order; returns the states of each one's tasks."""
    states = {}
    for dag in DAG_IDS:
        states[dag], said = test_dag(place, dag)
        assert "failed" not in states[dag].values(), said
    assert place.landed() == {DAY: 1000}
    verified = place.rtp("verify", "--require-records")
    assert verified.returncode == 0 and "equal: 1000 rows" in verified.stderr, verified.stderr
    return states


ALL_WELL = {
    "api_to_kafka": {"init": "success", "landing": "success", "api_to_kafka": "success"},
    "spark_kafka_to_cassandra": {"init": "success", "spark_kafka_to_cassandra": "success"},
    "batch_to_postgres": {"init": "success", "landing": "success", "batch_to_postgres": "success"},
    "verify": {"init": "success", "verify": "success"},
    "nightly_aggregates": {"init": "success", "nightly_aggregates": "success"},
    "cassandra_monitor": {"init": "success", "cassandra_monitor": "success"},
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, api):
    """A place in which every DAG has run on the embedded stores, and the states of its tasks."""
    place = ready(Place(tmp_path_factory.mktemp("embedded")), RTP_API_URL=api.url)
    return place, content_of_all(place)


@pytest.fixture(scope="module")
def real(tmp_path_factory, api, servers):
    """The same on a Kafka, a Cassandra and a PostgreSQL."""
    place = ready(Place(tmp_path_factory.mktemp("real"), servers), RTP_API_URL=api.url)
    return place, content_of_all(place)


def test_every_dag_on_the_embedded_stores(embedded):
    place, states = embedded
    assert states == ALL_WELL
    fetched = (place.folder / f"landing/{DAY}.ndjson").read_text()
    assert f'"fetched_at":"{DAY}T00:00:00' in fetched


def test_every_dag_on_airflow_2_10(tmp_path, api):
    place = Place(tmp_path, airflow=pathlib.Path(os.environ["RTP_AIRFLOW2"]).parent)
    assert content_of_all(ready(place, RTP_API_URL=api.url)) == ALL_WELL
    assert place.airflow("version").stdout.startswith("2.10.")


def test_a_stage_with_nothing_to_read_is_skipped(embedded):
    states, said = test_dag(embedded[0], "spark_kafka_to_cassandra")
    assert states == {"init": "success", "spark_kafka_to_cassandra": "skipped"}, said


def test_differences_fail_the_task_at_once_and_the_webhook_is_told(embedded, webhook):
    place, _ = embedded
    place.environment["RTP_ALERT_URL"] = webhook.url
    with contextlib.closing(sqlite3.connect(place.folder / "BATCH_STORE.db")) as store, store:
        assert store.execute("DELETE FROM batch_users_rows WHERE rowid = 7").rowcount == 1
    states, said = test_dag(place, "verify")
    assert states == {"init": "success", "verify": "failed"}, said
    [alert] = webhook.alerts
    assert (alert["command"], alert["try"], alert["status"]) == ("verify", 1, "firing") and "status 1, the answer is no" in alert["text"]


def test_every_dag_on_real_servers(real):
    place, states = real
    assert {place.environment[name].split(":")[0] for name in STORES} == {"kafka", "cassandra", "postgres"}
    assert states == ALL_WELL


def test_the_stream_stage_as_a_spark_job(real):
    """A thousand more users, streamed by Spark: the stores are equal again."""
    place, _ = real
    spark = {name: os.environ[name] for name in ("JAVA_HOME", "RTP_SPARK_PYTHON", "RTP_SPARK_JARS") if name in os.environ}
    place.environment.update(spark, RTP_STREAM_ENGINE="spark", RTP_SPARK_RUN=str(ROOT / "spark/run"))
    file = str(place.folder / "more.ndjson")
    for words in (
        ["fetch", "--api", place.environment["RTP_API_URL"], "--count", "1000", "--seed", "more", "--trailer", "--out", file],
        ["produce", "--require-complete", file],
        ["load-batch", "--require-complete", file],
    ):
        done = place.rtp(*words)
        assert done.returncode == 0, done.stderr
    states, said = test_dag(place, "spark_kafka_to_cassandra", "2026-11-02T12:00:00Z")
    assert states == ALL_WELL["spark_kafka_to_cassandra"] and "spark/run --checkpoint" in said, said
    verified = place.rtp("verify", "--require-records")
    assert verified.returncode == 0 and "equal: 2000 rows" in verified.stderr, verified.stderr


def test_rejected_rows_are_a_success_that_the_webhook_is_told_of(tmp_path, api, webhook):
    place = ready(Place(tmp_path), RTP_API_URL=api.url, RTP_ALERT_URL=webhook.url, RTP_DATASET=stricter(tmp_path))
    states, said = test_dag(place, "batch_to_postgres")
    assert states == ALL_WELL["batch_to_postgres"], said
    [alert] = webhook.alerts
    assert alert["status"] == "firing" and alert["command"] == "batch_to_postgres" and alert["run_id"] == f"day-{DAY}"
    assert re.search(r"ended with status 1, the answer is no: .*rejected [1-9]", alert["text"], re.S), alert
    assert "secret" not in said
    assert (tmp_path / f"landing/{DAY}.rejects.ndjson").stat().st_size > 0


def stricter(folder):
    """The users dataset, but with post codes as int: the API's strings are rejected."""
    text, count = re.subn(r'(name = "post_code"\ntype = )"text"', r'\1"int"', (ROOT / "schema/users.toml").read_text())
    assert count == 1
    file = folder / "stricter.toml"
    file.write_text(text)
    return str(file)


def test_an_api_that_is_away_is_tried_again_and_then_told(tmp_path, webhook):
    place = ready(Place(tmp_path), RTP_API_URL=f"http://127.0.0.1:{free_port()}/api/1.4/", RTP_ALERT_URL=webhook.url)
    states, said = test_dag(place, "api_to_kafka")
    assert states == {"init": "success", "landing": "failed", "api_to_kafka": "upstream_failed"}, said
    [alert] = webhook.alerts
    assert alert["try"] == 2 and "status 4, a dependency is down" in alert["text"]
    assert place.landed() == {}
