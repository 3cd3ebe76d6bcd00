"""What an exit status of rtp means for a task, and the alerts; docs/airflow.md has the table."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import urllib.request
from datetime import datetime, timezone
from urllib.parse import urlsplit

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 2.10
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

log = logging.getLogger(__name__)

MEANINGS = {
    1: "the answer is no",
    2: "usage or configuration",
    3: "error budget exceeded",
    4: "a dependency is down or refused us",
    5: "data is missing",
    70: "an internal error, please report it",
    127: "program not found",
}
DEPENDENCY = 4
#: Statuses from here on are signals: 130 is SIGINT, 143 SIGTERM, 137 SIGKILL, for example when memory is short.
SIGNALS = 128
WEBHOOK_SECONDS = 10


class Stage:
    """The part of an operator that knows rtp; the other part knows how to run it.

    no_fails, may_be_empty: see rtp_tasks.rtp.
    """

    def __init__(self, *, no_fails=False, may_be_empty=False, **arguments):
        super().__init__(**arguments)
        self.no_fails = no_fails
        self.may_be_empty = may_be_empty

    def conclude(self, context, status, lines):
        """Ends the task according to the status and the summary, which is the last line."""
        if status < 0:  # how Python reports a signal
            status = SIGNALS - status
        summary = parse(lines[-1] if lines else "")
        if "exit" in summary:
            context["ti"].xcom_push(key="return_value", value=summary)
        if status == 0:
            if summary.get("read") == 0 and not self.may_be_empty:
                raise AirflowSkipException("there was nothing to read")
            return
        command = summary.get("command", self.task_id)
        reason = f"rtp {command} ended with status {status}, {meaning(status)}: {said(lines)}"
        if status == 1 and not self.no_fails:
            log.warning("%s", reason)
            tell(context, reason)
            return
        if status == DEPENDENCY or status >= SIGNALS:
            raise AirflowException(reason)
        raise AirflowFailException(reason)


def meaning(status):
    return MEANINGS.get(status, "interrupted by a signal" if status >= SIGNALS else "unknown status")


def parse(line):
    """A JSON line from rtp, or an empty object for any other line."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def said(lines):
    """The errors among the lines, or else the warnings, or else the counts and any lines that are not JSON."""
    messages = [parse(line) for line in lines]
    for level in ("error", "warn"):
        found = [one["message"] for one in messages if one.get("level") == level and "message" in one]
        if found:
            return "; ".join(found[-3:])
    others = [line for line, one in zip(lines, messages) if line and not one]
    summary = messages[-1] if messages else {}
    counts = [f"{name} {summary[name]}" for name in ("read", "written", "rejected") if name in summary]
    return "\n".join([", ".join(counts), *others[-10:]]).strip() or "no output"


def tell_failure(context):
    """Airflow's failure callback: posts an alert once a task has finally failed."""
    tell(context, str(context.get("exception") or "the task failed or was stopped externally"))


def tell_timeout(context):
    """A DAG's failure callback: posts an alert for a run over its time limit, whose tasks Airflow skips instead of failing."""
    if context.get("reason") == "timed_out":
        tell({**context, "ti": None}, f"the run took longer than {context['dag'].dagrun_timeout}")


def tell(context, reason):
    """Posts an alert in the format of heartbeat's to RTP_ALERT_URL; it never changes how the task ends."""
    url = os.environ.get("RTP_ALERT_URL")
    if not url:
        return
    headers = {"content-type": "application/json", "user-agent": "rtp-airflow"}
    host = urlsplit(url).hostname  # show nothing else: the path is often the secret
    try:
        request = urllib.request.Request(url, data=json.dumps(alert(context, reason)).encode(), headers=headers)
        with urllib.request.build_opener(NoRedirect).open(request, timeout=WEBHOOK_SECONDS):
            log.info("alert posted to the webhook at %s", host)
    except Exception as error:  # a broken webhook must not fail the task
        log.error("cannot post the alert to the webhook at %s: %s", host, getattr(error, "reason", type(error).__name__))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error, as for heartbeat's alerts, because the body would be lost."""

    def redirect_request(self, *_):
        return None


def alert(context, reason):
    dag, task, dag_run = context["dag"], context.get("ti"), context.get("dag_run")  # for a run over its time limit, only the DAG is certain
    now = datetime.now(timezone.utc)
    started = task or dag_run
    return {
        "status": "firing",
        "text": f"Airflow {f'task {dag.dag_id}.{task.task_id}' if task else f'DAG {dag.dag_id}'}, firing: {reason}",
        "command": task.task_id if task else dag.dag_id,
        "dataset": pathlib.PurePath(os.environ.get("RTP_DATASET") or "users").stem,
        "since": iso((started and started.start_date) or now),
        "time": iso(now),
        "run_id": f"day-{dag.user_defined_macros['rtp_day'](dag_run)}" if dag_run else None,
        "checks": [],
        "dag": dag.dag_id,
        "dag_run": dag_run.run_id if dag_run else context.get("run_id"),
        "try": task.try_number if task else None,
        "log_url": task.log_url if task else None,
    }


def iso(moment):
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
