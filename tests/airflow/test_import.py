"""The DAGs load on Airflow 3 and on 2.10, with all required properties."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import DAG_IDS, DAGS, Place

#: Prints what Airflow finds in the folder; works on both versions.
LOOK = """
import json, sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models.dagbag import DagBag
sys.path.append(sys.argv[1])
bag = DagBag(sys.argv[1])
def looked(dag):
    timetable = dag.timetable
    inner = getattr(timetable, "timetable", timetable)
    condition = getattr(timetable, "asset_condition", None) or getattr(timetable, "dataset_condition", None)
    assets = [asset.uri for asset in getattr(condition, "objects", [])]
    return {
        "tags": sorted(dag.tags), "catchup": dag.catchup, "max_active_runs": dag.max_active_runs,
        "limit": dag.dagrun_timeout.total_seconds(), "doc": dag.doc_md, "assets": assets,
        "cron": getattr(inner, "expression", getattr(inner, "_expression", None)),
        "zone": str(getattr(inner, "timezone", getattr(inner, "_timezone", None))),
        "tasks": {task.task_id: {
            "retries": task.retries, "backoff": bool(task.retry_exponential_backoff), "delay": task.retry_delay.total_seconds(),
            "callback": bool(task.on_failure_callback), "command": task.bash_command, "env": task.env, "append": task.append_env,
            "before": sorted(task.upstream_task_ids), "outlets": [a.uri for a in task.outlets],
        } for task in dag.tasks},
    }
print("LOOKED " + json.dumps({"errors": bag.import_errors, "dags": {i: looked(d) for i, d in bag.dags.items()}}))
"""

AIRFLOWS = [pytest.param(sys.executable, id="airflow3"), pytest.param(os.environ.get("RTP_AIRFLOW2"), id="airflow2.10")]


def look(python, folder, dags=DAGS, **settings):
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
    done = subprocess.run([python, "-c", LOOK, str(dags)], env={**environment, **settings}, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("LOOKED ")]
    assert found, done.stdout + done.stderr
    return json.loads(found[0].removeprefix("LOOKED "))


@pytest.mark.parametrize("python", AIRFLOWS)
def test_they_load(python, tmp_path):
    assert python, "RTP_AIRFLOW2 names the Python of a venv with dags/requirements-airflow2.txt; ./justw test-airflow makes it"
    looked = look(python, tmp_path)
    assert looked["errors"] == {}
    dags = looked["dags"]
    assert sorted(dags) == sorted(DAG_IDS) == sorted(file.stem for file in DAGS.glob("*.py"))
    for dag in dags.values():
        assert dag["tags"] == ["rtp"] and dag["catchup"] is False and dag["max_active_runs"] == 1
        assert dag["limit"] == 3 * 3600 and "just " in dag["doc"] and (dag["cron"] or dag["assets"])
        assert dag["cron"] is None or dag["zone"].startswith("UTC") or "'UTC'" in dag["zone"], dag["zone"]
        for task in dag["tasks"].values():
            assert task["retries"] == 4 and task["backoff"] and task["delay"] == 60 and task["callback"] and task["append"]
            assert task["env"] == {
                "RTP_AS_OF": "{{ rtp_day(dag_run) }}",
                "RTP_RUN_ID": "day-{{ rtp_day(dag_run) }}",
                "RTP_LOG_FORMAT": "json",
            }
    schedule = {name: (dag["cron"], sorted(dag["assets"])) for name, dag in dags.items()}
    assert schedule == {
        "api_to_kafka": ("5 0 * * *", []),
        "batch_to_postgres": ("5 0 * * *", []),
        "spark_kafka_to_cassandra": (None, ["rtp-event-log"]),
        "verify": ("0 2 * * *", ["rtp-batch-store", "rtp-realtime-store"]),
        "nightly_aggregates": ("30 2 * * *", ["rtp-batch-store"]),
        "cassandra_monitor": ("*/10 * * * *", []),
    }
    outlets = {name: dag["tasks"][name]["outlets"] for name, dag in dags.items()}
    assert outlets == {
        "api_to_kafka": ["rtp-event-log"],
        "batch_to_postgres": ["rtp-batch-store"],
        "spark_kafka_to_cassandra": ["rtp-realtime-store"],
        "verify": [],
        "nightly_aggregates": [],
        "cassandra_monitor": [],
    }


@pytest.mark.parametrize("python", AIRFLOWS)
def test_a_broken_setting_is_an_import_error_that_names_it(python, tmp_path):
    looked = look(python, tmp_path, RTP_RUNNER="dokcer")
    assert len(looked["errors"]) == len(DAG_IDS) and looked["dags"] == {}
    assert all("invalid RTP_RUNNER `dokcer`; supported: local, docker, kubernetes" in error for error in looked["errors"].values())


def test_the_engine_is_a_setting(tmp_path):
    looked = look(
        sys.executable, tmp_path, RTP_STREAM_ENGINE="spark", RTP_SPARK_RUN="/opt/rtp/spark/run", RTP_SPARK_CHECKPOINT="/data/spark"
    )
    task = looked["dags"]["spark_kafka_to_cassandra"]["tasks"]["spark_kafka_to_cassandra"]
    assert task["command"] == "exec /opt/rtp/spark/run --checkpoint /data/spark --until-end --log-format json"


def test_airflow_itself_lists_them_and_no_error(tmp_path):
    place = Place(tmp_path)
    assert place.airflow("db", "migrate").returncode == 0
    assert place.airflow("dags", "reserialize").returncode == 0
    listed = place.airflow("dags", "list", "--output", "json")
    errors = place.airflow("dags", "list-import-errors", "--output", "json")
    assert sorted(dag["dag_id"] for dag in json.loads(listed.stdout.splitlines()[-1])) == sorted(DAG_IDS)
    assert errors.returncode == 0 and json.loads(errors.stdout.splitlines()[-1]) == [], errors.stdout


def test_ruff_finds_nothing_and_would_find_something(tmp_path):
    ruff = str(pathlib.Path(sys.executable).parent / "ruff")
    config = ["--no-cache", "--config", str(DAGS / "ruff.toml")]
    for what in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *what, *config, str(DAGS), str(pathlib.Path(__file__).parent)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    old = (DAGS / "cassandra_monitor.py").read_text().replace('schedule=cron("*/10 * * * *"), ', "")
    (tmp_path / "cassandra_monitor.py").write_text(old)
    done = subprocess.run([ruff, "check", *config, str(tmp_path)], capture_output=True, text=True)
    assert "AIR002" in done.stdout, done.stdout
