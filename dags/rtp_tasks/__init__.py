"""Shared by the DAGs: their settings, and rtp's stages as tasks.

Every setting is an environment variable of Airflow's processes; docs/airflow.md lists them.
"""

from __future__ import annotations

import importlib
from datetime import datetime, timedelta, timezone

try:
    from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable
except ImportError:  # Airflow 2.10
    from airflow.datasets import Dataset as Asset
    from airflow.timetables.datasets import DatasetOrTimeSchedule
    from airflow.timetables.trigger import CronTriggerTimetable

    def AssetOrTimeSchedule(*, timetable, assets):
        return DatasetOrTimeSchedule(timetable=timetable, datasets=assets)  # noqa: AIR311 (Airflow 2's names)


from rtp_tasks.settings import number, setting
from rtp_tasks.status import tell_failure, tell_timeout

RUNNERS = ("local", "docker", "kubernetes")
ENGINES = ("rtp", "spark")

RUNNER = setting("RTP_RUNNER", "local", RUNNERS)
ENGINE = setting("RTP_STREAM_ENGINE", "rtp", ENGINES)
COUNT = setting("RTP_COUNT", "1000")
#: Folder for a day's records and rejects; in a container, the mount with this path.
LANDING = setting("RTP_LANDING", ".rtp/landing") if RUNNER == "local" else "/landing"
#: Where the tasks write their final metrics, for node_exporter's textfile collector; nowhere by default.
METRICS = setting("RTP_METRICS_DIR", "")

#: The UTC day of a run names the run and the landing file, and its midnight is the event time.
DAY = "{{ rtp_day(dag_run) }}"
LANDING_FILE = f"{LANDING}/{DAY}.ndjson"
REJECTS_FILE = f"{LANDING}/{DAY}.rejects.ndjson"
ENVIRONMENT = {"RTP_AS_OF": DAY, "RTP_RUN_ID": f"day-{DAY}", "RTP_LOG_FORMAT": "json"}

#: What the stages write; DAGs that read it run when it has changed. A skipped stage changes nothing.
EVENT_LOG = Asset("rtp-event-log")
REALTIME_STORE = Asset("rtp-realtime-store")
BATCH_STORE = Asset("rtp-batch-store")


def rtp_day(dag_run):
    """The UTC day of a run: that of its logical date or, if it has none, of its `run_after`."""
    moment = dag_run.logical_date or dag_run.run_after
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d")


def cron(expression):
    """A schedule whose logical date is the moment of the run, in Airflow 2 as in Airflow 3."""
    return CronTriggerTimetable(expression, timezone="UTC")


DAG_ARGUMENTS = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "catchup": False,
    "max_active_runs": 1,
    "dagrun_timeout": timedelta(seconds=number("RTP_RUN_TIMEOUT", 3 * 3600)),
    "tags": ["rtp"],
    "on_failure_callback": tell_timeout,
    "user_defined_macros": {"rtp_day": rtp_day},
    "default_args": {
        "owner": "rtp",
        "retries": int(number("RTP_RETRIES", 4)),
        "retry_delay": timedelta(seconds=number("RTP_RETRY_DELAY", 60)),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
        "execution_timeout": timedelta(seconds=number("RTP_TASK_TIMEOUT", 3600)),
        "on_failure_callback": tell_failure,
    },
}


def init():
    """Creates missing topics and tables."""
    return rtp("init", "--quiet", "init", may_be_empty=True)


def landing():
    """Fetches the day's records into the landing file, unless it already has them."""
    words = ("fetch", "--count", COUNT, "--trailer", "--out", LANDING_FILE, "--unless-complete")
    return rtp("landing", *words, folder=LANDING)


def stream(task_id, **arguments):
    """The stream stage, with the configured engine."""
    if ENGINE == "rtp":
        return rtp(task_id, "stream", "--until-end", **arguments)
    if RUNNER != "local":
        raise ValueError("RTP_STREAM_ENGINE=spark needs RTP_RUNNER=local: the image has no Spark")
    checkpoint = setting("RTP_SPARK_CHECKPOINT", ".rtp/spark-checkpoint")
    words = ["--checkpoint", checkpoint, "--until-end", "--log-format", "json"]
    return rtp(task_id, *words, program=setting("RTP_SPARK_RUN", "spark/run"), **arguments)


def rtp(task_id, *words, **arguments):
    """A task that runs `rtp` with these words.

    no_fails: status 1 fails the task; otherwise the task succeeds, and an alert is posted.
    may_be_empty: the task succeeds even if it has read nothing; otherwise it is skipped.
    folder: created first, unless the runner has a volume for it.
    """
    runner = importlib.import_module(f"rtp_tasks.{RUNNER}")
    outage = setting("RTP_MAX_OUTAGE", "")
    if outage and "heartbeat" not in words and "program" not in arguments:
        words = (*words, "--max-outage", outage)
    environment = dict(ENVIRONMENT)
    if METRICS and RUNNER == "local" and "program" not in arguments:
        # One file per task: it always describes the last run, of whichever DAG.
        environment["RTP_METRICS_FILE"] = f"{METRICS}/{task_id}.prom"
    return runner.Operator(task_id=task_id, words=list(words), environment=environment, **arguments)
