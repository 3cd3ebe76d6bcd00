"""A running Airflow, as users have it: DAGs are unpaused, triggered and cleared through its REST API, and the scheduler does the rest.

On real servers. Everything before the DAGs' first run is empty: no topic, no table, no landing file.
"""

import datetime
import json
import pathlib
import shutil
import time
import urllib.error
import urllib.request

import pytest
from conftest import DAG_IDS, DAGS, Api, Place, Started, Webhook, free_port, wait_for
from guard import descendants

ENDED = ("success", "failed")


class Airflow(Started):
    """`airflow standalone` on free ports, and its REST API."""

    def __init__(self, place):
        self.place = place
        self.port = free_port()
        place.environment.update(
            AIRFLOW__API__PORT=str(self.port),
            AIRFLOW__API__HOST="127.0.0.1",
            AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{self.port}",
            AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{self.port}/execution/",
            AIRFLOW__API__WORKERS="1",
            AIRFLOW__CORE__PARALLELISM="3",
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="true",
            AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(free_port()),
            AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT=str(free_port()),
        )
        super().__init__([place.program, "standalone"], place.folder / "standalone.log", env=place.environment, cwd=place.folder)
        self.token = None
        try:
            wait_for("Airflow", self.is_up, 600)
            wanted = sorted([*DAG_IDS, "too_long"])
            wait_for("the DAGs", lambda: sorted(dag["dag_id"] for dag in self.get("dags")["dags"]) == wanted, 600)
        except BaseException:
            self.end()
            print(self.log.read_text()[-10000:])
            raise

    def is_up(self):
        assert self.process.poll() is None, self.log.read_text()[-5000:]
        try:
            self.token = self.call("GET", "/auth/token")["access_token"]
            health = self.get("monitor/health")
        except (OSError, KeyError):
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def call(self, method, path, body=None):
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {self.token}"} if self.token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if self.token is None:
                raise
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def get(self, path):
        return self.call("GET", f"/api/v2/{path}")

    def switch_on(self, *dags):
        for dag in dags:
            self.call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})

    def trigger(self, dag, moment):
        return self.call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": moment})["dag_run_id"]

    def end_of(self, dag, run, seconds=600):
        """The state in which a run ends."""
        state = lambda: self.get(f"dags/{dag}/dagRuns/{run}")["state"]  # noqa: E731
        return wait_for(f"{dag} {run}", lambda: (now := state()) in ENDED and now, seconds)

    def tasks(self, dag, run):
        return {one["task_id"]: one for one in self.get(f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]}

    def states(self, dag, run):
        return {name: task["state"] for name, task in self.tasks(dag, run).items()}

    def runs(self, dag, kind):
        """The runs of a kind, oldest first: `scheduled`, or `asset_triggered` by another DAG's change."""
        found = self.get(f"dags/{dag}/dagRuns?order_by=id&limit=100")["dag_runs"]
        return [one["dag_run_id"] for one in found if one["run_type"] == kind]

    def next_of(self, dag, kind, before=0):
        """The run of this kind after this many earlier ones, and the state in which it ends."""
        [run, *_] = wait_for(f"a run of {dag}, {kind}", lambda: self.runs(dag, kind)[before:])
        return run, self.end_of(dag, run)

    def summary(self, dag, run, task):
        value = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value?deserialize=true")["value"]
        return json.loads(value) if isinstance(value, str) else value


@pytest.fixture(scope="module", autouse=True)
def away_from_the_dags_own_times():
    """A run that starts at 00:05 or 02:00 UTC, in the middle of the tests, would be one more than they expect."""
    ticks = [datetime.timedelta(hours=hours, minutes=minutes) for hours, minutes in ((0, 5), (2, 0))]
    now = datetime.datetime.now(datetime.timezone.utc)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for tick in [midnight + one + datetime.timedelta(days=days) for one in ticks for days in (0, 1)]:
        if datetime.timedelta(0) < tick - now < datetime.timedelta(minutes=15):
            time.sleep((tick - now).total_seconds() + 1)


@pytest.fixture(scope="module")
def hook():
    made = Webhook()
    yield made
    made.server.shutdown()


#: A user's own DAG, from the same parts: a following stream does not end by itself.
TOO_LONG = """
from datetime import timedelta
from airflow.sdk import DAG
from rtp_tasks import DAG_ARGUMENTS, rtp

with DAG(dag_id="too_long", schedule=None, **{**DAG_ARGUMENTS, "dagrun_timeout": timedelta(seconds=60)}):
    rtp("too_long", "stream", "--group", "too_long")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, servers, hook):
    addresses = {**servers, "RTP_API_URL": f"http://127.0.0.1:{free_port()}/api/1.4/", "RTP_ALERT_URL": hook.url}
    place = Place(tmp_path_factory.mktemp("scheduler"), addresses)
    dags = pathlib.Path(shutil.copytree(DAGS, place.folder / "dags"))
    (dags / "too_long.py").write_text(TOO_LONG)
    place.environment["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
    return place


@pytest.fixture(scope="module")
def airflow(place):
    with Airflow(place) as airflow:
        yield airflow


def port_of(place):
    return int(place.environment["RTP_API_URL"].split(":")[2].split("/")[0])


def verified(place, rows):
    done = place.rtp("verify", "--require-records")
    assert done.returncode == 0 and f"equal: {rows} rows" in done.stderr, done.stderr


def test_an_api_that_is_down_fails_the_dag_and_tells_the_webhook_and_a_rerun_repairs_it(airflow, place, hook, tmp_path):
    airflow.switch_on("verify")
    run, state = airflow.next_of("verify", "scheduled")
    assert state == "success" and airflow.states("verify", run) == {"init": "success", "verify": "skipped"}, "both stores are empty"
    airflow.switch_on("api_to_kafka", "spark_kafka_to_cassandra")
    run, state = airflow.next_of("api_to_kafka", "scheduled")
    assert state == "failed"
    assert airflow.states("api_to_kafka", run) == {"init": "success", "landing": "failed", "api_to_kafka": "upstream_failed"}
    [alert] = wait_for("the alert", lambda: hook.alerts)
    day = airflow.get(f"dags/api_to_kafka/dagRuns/{run}")["logical_date"][:10]
    assert (alert["dag"], alert["command"], alert["try"], alert["dag_run"]) == ("api_to_kafka", "landing", 2, run)
    assert alert["status"] == "firing" and alert["run_id"] == f"day-{day}" and "status 4, a dependency is down" in alert["text"]
    assert f"127.0.0.1:{port_of(place)}" in alert["text"], "the alert says which address"
    assert airflow.summary("api_to_kafka", run, "landing")["exit"] == 4
    assert place.landed() == {} and airflow.runs("spark_kafka_to_cassandra", "asset_triggered") == []

    with Api(tmp_path, port_of(place)):
        # As docs/airflow.md says; the web UI does the same.
        cleared = place.airflow("tasks", "clear", "api_to_kafka", "--only-failed", "--yes")
        assert cleared.returncode == 0, cleared.stdout + cleared.stderr
        wait_for("the rerun", lambda: airflow.states("api_to_kafka", run)["landing"] == "success")
        assert airflow.end_of("api_to_kafka", run) == "success"
    assert airflow.next_of("spark_kafka_to_cassandra", "asset_triggered")[1] == "success"
    # The batch branch needs no API: it reads the file of the other branch.
    airflow.switch_on("batch_to_postgres")
    run, state = airflow.next_of("batch_to_postgres", "scheduled")
    assert state == "success" and airflow.summary("batch_to_postgres", run, "landing")["skipped"] >= 1000
    run, state = airflow.next_of("verify", "asset_triggered")
    assert state == "success" and airflow.summary("verify", run, "verify")["written"] == 2000
    assert place.landed() == {day: 1000}
    verified(place, 1000)


def test_one_full_run_of_all_dags(airflow, place, hook, tmp_path):
    airflow.switch_on(*DAG_IDS)
    before = {dag: len(airflow.runs(dag, "asset_triggered")) for dag in ("spark_kafka_to_cassandra", "verify")}
    alerts = len(hook.alerts)
    with Api(tmp_path, port_of(place)):
        # Both at once: one fetches, the other waits for it.
        runs = {dag: airflow.trigger(dag, "2026-11-03T00:30:00+01:00") for dag in ("api_to_kafka", "batch_to_postgres")}
        assert {airflow.end_of(dag, run) for dag, run in runs.items()} == {"success"}
    run, state = airflow.next_of("spark_kafka_to_cassandra", "asset_triggered", before["spark_kafka_to_cassandra"])
    assert state == "success" and airflow.summary("spark_kafka_to_cassandra", run, "spark_kafka_to_cassandra")["written"] == 1000
    run, state = airflow.next_of("verify", "asset_triggered", before["verify"])
    assert state == "success" and airflow.summary("verify", run, "verify")["written"] == 4000
    run, state = airflow.next_of("cassandra_monitor", "scheduled")
    assert state == "success" and airflow.summary("cassandra_monitor", run, "cassandra_monitor")["written"] == 3

    fetched = sorted(airflow.summary(dag, run, "landing")["written"] for dag, run in runs.items())
    assert fetched == [0, 1000], "the day's records were fetched once"
    assert len(place.landed()) == 2 and place.landed()["2026-11-02"] == 1000
    verified(place, 2000)
    assert len(hook.alerts) == alerts


def test_a_run_over_its_time_ends_and_the_webhook_is_told(airflow, hook):
    airflow.switch_on("too_long")
    before = len(hook.alerts)
    run = airflow.trigger("too_long", None)
    wait_for("the stream", lambda: streams(airflow))
    assert airflow.end_of("too_long", run) == "failed"
    [alert] = wait_for("the alert", lambda: hook.alerts[before:])
    assert (alert["dag"], alert["dag_run"], alert["try"]) == ("too_long", run, None)
    assert alert["text"] == "Airflow DAG too_long, firing: the run took longer than 0:01:00"
    wait_for("the end of the stream", lambda: not streams(airflow), 60)


def streams(airflow):
    """The following rtp among Airflow's child processes."""
    lines = [command_line(pid) for pid in descendants(airflow.process.pid)]
    return [line for line in lines if line and "--group" in line]


def command_line(pid):
    """The command line of a running process."""
    try:
        return [word for word in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word]
    except OSError:
        return []


def test_the_scheduler_leaves_nothing_behind(airflow):
    """Last: stops Airflow as the tests do, and looks for processes that it left."""
    below = {pid: command_line(pid) for pid in descendants(airflow.process.pid)}
    assert len(below) > 4
    airflow.process.terminate()
    airflow.process.wait()
    assert {pid: line for pid, line in below.items() if line and command_line(pid) == line} == {}
