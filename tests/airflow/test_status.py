"""Every exit status ends a task as docs/airflow.md says, with every runner; the webhook's alerts."""

import datetime
import json
import types

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from rtp_tasks import rtp, rtp_day
from rtp_tasks.local import Operator

NOW = datetime.datetime(2026, 11, 2, 0, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
RETRY, FAIL, SKIP = AirflowException, AirflowFailException, AirflowSkipException


class Task:
    """What Airflow passes to a task, as far as it is used."""

    def __init__(self):
        self.pushed = {}
        ti = types.SimpleNamespace(
            dag_id="some_dag", task_id="some_task", try_number=2, start_date=NOW, log_url="http://airflow/log", xcom_push=self.push
        )
        dag_run = types.SimpleNamespace(logical_date=NOW, run_id="manual__1")
        self.context = {
            "ti": ti,
            "dag_run": dag_run,
            "dag": types.SimpleNamespace(dag_id="some_dag", user_defined_macros={"rtp_day": rtp_day}),
        }

    def push(self, key, value):
        self.pushed[key] = value


def summary(**counts):
    return {"command": "produce", "run_id": "day-2026-11-01", "read": 7, "written": 7, "rejected": 0, "exit": 0, **counts}


def run(tmp_path, monkeypatch, script, **arguments):
    """Runs a shell script instead of rtp, through the operator; returns the task and how it ended."""
    program = tmp_path / "rtp"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("RTP_BIN", str(program))
    monkeypatch.setenv("RTP_HOME", str(tmp_path))
    task = Task()
    operator = rtp("some_task", "produce", **arguments)
    assert isinstance(operator, Operator)
    monkeypatch.setattr(operator, "get_env", lambda context: {"PATH": "/usr/bin:/bin", "WHO": "airflow"})
    try:
        returned = operator.execute(task.context)
        assert returned is None  # the summary is pushed, even if the task fails
        return task, None
    except AirflowException as ended:
        return task, ended


def script(status, *lines):
    printed = "\n".join(f"echo '{line if isinstance(line, str) else json.dumps(line)}' >&2" for line in lines)
    return f"{printed}\nexit {status}"


@pytest.mark.parametrize("no_fails", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0, None),
        (1, None),
        (2, FAIL),
        (3, FAIL),
        (4, RETRY),
        (5, FAIL),
        (70, FAIL),
        (101, FAIL),
        (126, FAIL),
        (127, FAIL),
        (130, RETRY),
        (137, RETRY),
        (143, RETRY),
    ],
)
def test_a_status_ends_a_task(status, kind, no_fails, tmp_path, monkeypatch, webhook):
    monkeypatch.setenv("RTP_ALERT_URL", webhook.url)
    task, ended = run(tmp_path, monkeypatch, script(status, summary(exit=status)), no_fails=no_fails)
    if status == 1 and no_fails:
        kind = FAIL
    assert type(ended) is (kind or type(None)), ended
    assert task.pushed == {"return_value": summary(exit=status)}
    # Airflow's callback reports a failed task, once it has finally failed.
    assert len(webhook.alerts) == (status == 1 and not no_fails)


@pytest.mark.parametrize("signal", ["INT", "TERM", "KILL"])
def test_a_program_that_a_signal_ends_is_tried_again(signal, tmp_path, monkeypatch):
    _, ended = run(tmp_path, monkeypatch, f"kill -s {signal} $$; sleep 5")
    assert type(ended) is RETRY and "interrupted by a signal" in str(ended)


def test_nothing_to_read_skips_what_follows(tmp_path, monkeypatch):
    empty = summary(read=0, written=0)
    task, ended = run(tmp_path, monkeypatch, script(0, empty))
    assert type(ended) is SKIP and task.pushed == {"return_value": empty}
    assert run(tmp_path, monkeypatch, script(0, empty), may_be_empty=True)[1] is None
    # An answer of no is never ignored silently.
    assert type(run(tmp_path, monkeypatch, script(1, empty), no_fails=True)[1]) is FAIL


def test_a_program_that_is_not_there_fails_and_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RTP_BIN", "/nowhere/rtp")
    monkeypatch.setenv("RTP_HOME", str(tmp_path))
    operator = rtp("some_task", "verify")
    monkeypatch.setattr(operator, "get_env", lambda context: {"PATH": "/usr/bin:/bin"})
    with pytest.raises(FAIL, match=r"(?s)status 127, program not found.*/nowhere/rtp"):
        operator.execute(Task().context)


def test_the_reason_is_what_rtp_said(tmp_path, monkeypatch):
    error = {"level": "error", "message": "cannot reach http://api"}
    warning = {"level": "warn", "message": "a warning"}
    _, ended = run(tmp_path, monkeypatch, script(4, warning, error, summary(exit=4)))
    assert str(ended) == "rtp produce ended with status 4, a dependency is down or refused us: cannot reach http://api"
    _, ended = run(tmp_path, monkeypatch, script(2, warning, summary(exit=2)))
    assert str(ended).endswith(": a warning")
    panic = {"level": "error", "message": "internal error, a bug in rtp: index out of bounds (src/lib.rs:7)"}
    _, ended = run(tmp_path, monkeypatch, script(70, panic, summary(exit=70)))
    assert str(ended) == f"rtp produce ended with status 70, an internal error, please report it: {panic['message']}"
    # heartbeat prints it to standard output.
    _, ended = run(tmp_path, monkeypatch, script(4, "realtime-store failed", summary(exit=4, rejected=1)))
    assert str(ended).endswith(": read 7, written 7, rejected 1\nrealtime-store failed")
    _, ended = run(tmp_path, monkeypatch, "exit 2")
    assert str(ended).endswith("no output")


def test_an_alert_has_the_shape_of_heartbeats(tmp_path, monkeypatch, webhook):
    monkeypatch.setenv("RTP_ALERT_URL", webhook.url)
    monkeypatch.setenv("RTP_DATASET", "/etc/rtp/products.toml")
    run(tmp_path, monkeypatch, script(1, summary(exit=1, rejected=3, written=4)))
    [alert] = webhook.alerts
    time = alert.pop("time")
    assert datetime.datetime.fromisoformat(time).utcoffset() == datetime.timedelta(0) and time.endswith("Z")
    assert alert == {
        "status": "firing",
        "text": "Airflow task some_dag.some_task, firing: rtp produce ended with status 1, the answer is no: read 7, written 4, rejected 3",
        "command": "some_task",
        "dataset": "products",
        "since": "2026-11-01T23:30:00.000Z",
        "run_id": "day-2026-11-01",
        "checks": [],
        "dag": "some_dag",
        "dag_run": "manual__1",
        "try": 2,
        "log_url": "http://airflow/log",
    }


@pytest.mark.parametrize("fault", ["answers 500", "is not there", "is no address", "redirects"])
def test_a_broken_webhook_changes_nothing_and_its_secret_is_not_logged(fault, tmp_path, monkeypatch, webhook, caplog):
    webhook.status = {"answers 500": 500, "redirects": 302}.get(fault, 200)
    url = {"is not there": "http://127.0.0.1:9/secret", "is no address": "secret"}.get(fault, webhook.url)
    monkeypatch.setenv("RTP_ALERT_URL", url)
    _, ended = run(tmp_path, monkeypatch, script(1, summary(exit=1)))
    assert ended is None
    assert "cannot post the alert to the webhook" in caplog.text and "secret" not in caplog.text


def test_the_day_is_that_of_utc():
    moment = types.SimpleNamespace
    assert rtp_day(moment(logical_date=NOW)) == "2026-11-01"
    assert rtp_day(moment(logical_date=None, run_after=NOW)) == "2026-11-01"


def test_the_webhook_is_not_heartbeats_to_tell(tmp_path, monkeypatch):
    monkeypatch.setenv("RTP_ALERT_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("RTP_EVENT_LOG", "sqlite:log.db")
    operator = rtp("some_task", "heartbeat", "--once")
    monkeypatch.setattr("airflow.providers.standard.operators.bash.context_to_airflow_vars", lambda *_, **__: {"AIRFLOW_CTX_X": "1"})
    env = operator.get_env({})
    assert "RTP_ALERT_URL" not in env and env["RTP_EVENT_LOG"] == "sqlite:log.db" and env["RTP_LOG_FORMAT"] == "json"
