"""The DAGs do the same as the justfile's recipes of the same names: same stages, commands, files, order."""

import json
import re
import shutil
import stat
import subprocess
import sys

import pytest
from conftest import DAG_IDS, ROOT, Place
from test_import import look

DAY = "2026-11-01"
#: Stands in for rtp: records its arguments and its environment variables.
RECORDER = """#!{python}
import json, os, sys
names = ("RTP_AS_OF", "RTP_RUN_ID", "RTP_API_URL", "RTP_EVENT_LOG", "RTP_REALTIME_STORE", "RTP_BATCH_STORE")
told = {{name: os.environ.get(name) for name in names}}
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], told, os.path.isdir(os.environ["RTP_LANDING"])]) + "\\n")
"""


@pytest.fixture(scope="module")
def recipes():
    done = subprocess.run([ROOT / "justw", "--dump", "--dump-format", "json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["recipes"]


@pytest.fixture(scope="module")
def dags(tmp_path_factory):
    return look(sys.executable, tmp_path_factory.mktemp("look"), RTP_BIN="rtp", RTP_LANDING="LANDING", RTP_COUNT="700")["dags"]


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    recorder = tmp_path / "rtp"
    recorder.write_text(RECORDER.format(python=sys.executable, log=str(tmp_path / "calls")))
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    del place.environment["RTP_MAX_OUTAGE"]
    place.environment.update(RTP_BIN=str(recorder), RTP_COUNT="700", RTP_DAY=DAY, RTP_API_URL="http://127.0.0.1:9/")
    return place


def calls(place):
    file = place.folder / "calls"
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    shutil.rmtree(place.folder / "landing", ignore_errors=True)
    return recorded


def run_recipe(place, name):
    done = place.run(str(ROOT / "justw"), name)
    assert done.returncode == 0, done.stderr
    return calls(place)


def run_tasks(place, dag):
    """Runs a DAG's commands in the order of its tasks, as rendered by Airflow with the day."""
    done = set()
    while len(done) < len(dag["tasks"]):
        for name, task in dag["tasks"].items():
            if name not in done and done.issuperset(task["before"]):
                done.add(name)
                filled = [re.sub(r"\{\{ rtp_day\(dag_run\) \}\}", DAY, text) for text in (task["command"], json.dumps(task["env"]))]
                command = filled[0].replace("exec rtp ", f"exec {place.environment['RTP_BIN']} ")
                command = command.replace("LANDING", place.environment["RTP_LANDING"])
                ran = place.run("bash", "-c", command, **json.loads(filled[1]))
                assert ran.returncode == 0, ran.stderr
    return calls(place)


@pytest.mark.parametrize("name", DAG_IDS)
def test_a_dag_runs_the_commands_of_its_recipe(name, place, dags):
    by_just, by_airflow = run_recipe(place, name), run_tasks(place, dags[name])
    assert by_just == by_airflow
    assert by_just[-1][1]["RTP_RUN_ID"] == f"day-{DAY}" and by_just[-1][1]["RTP_AS_OF"] == DAY


@pytest.mark.parametrize("name", DAG_IDS)
def test_a_dag_has_the_stages_of_its_recipe(name, recipes, dags):
    tasks = dags[name]["tasks"]
    before = {task: {one["recipe"] for one in recipes[task]["dependencies"]} - {"build"} for task in tasks}
    assert before == {task: set(its["before"]) for task, its in tasks.items()}
    assert set(tasks) == {name} | before[name]


def test_the_dags_are_the_stages_of_run_dag(recipes):
    body = json.dumps(recipes["run-dag"]["body"])
    assert re.search(r"for stage in ([a-z_ ]+); do", body).group(1).split() == DAG_IDS
