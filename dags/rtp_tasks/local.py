"""Runs a stage on Airflow's worker."""

from __future__ import annotations

import os
import shlex
from collections import deque
from functools import cached_property
from subprocess import PIPE, STDOUT, Popen

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.operators.bash import BashOperator

from rtp_tasks.settings import setting
from rtp_tasks.status import Stage

#: How many of the last output lines are kept for the summary and for alerts.
KEPT = 200


class Process(SubprocessHook):
    """Airflow's hook, except that it keeps several of the last lines instead of one."""

    def run(self, command, env, cwd):
        self.log.info("Running command: %s", command)
        # Like the hook: a session of its own, so that send_sigterm() ends all of it.
        self.sub_process = Popen(command, stdout=PIPE, stderr=STDOUT, cwd=cwd, env=env, start_new_session=True)
        lines = deque(maxlen=KEPT)
        for raw in self.sub_process.stdout:
            lines.append(raw.decode(errors="backslashreplace").rstrip())
            self.log.info("%s", lines[-1])
        return self.sub_process.wait(), list(lines)


class Operator(Stage, BashOperator):
    """A BashOperator that keeps rtp's exit statuses apart.

    Addresses and passwords come from the worker's environment. Relative paths, such as those of the embedded stores,
    are relative to RTP_HOME or, by default, Airflow's home.
    """

    def __init__(self, *, words, environment, program=None, folder=None, **arguments):
        command = "exec " + shlex.join([program or setting("RTP_BIN", "rtp"), *words])
        if folder:
            command = f"mkdir -p -m 700 {shlex.quote(folder)} && {command}"
        super().__init__(
            bash_command=command,
            env=environment,
            append_env=True,
            cwd=setting("RTP_HOME", setting("AIRFLOW_HOME", os.path.expanduser("~/airflow"))),
            **arguments,
        )

    @cached_property
    def subprocess_hook(self):
        return Process()

    def get_env(self, context):
        env = super().get_env(context)
        # Otherwise heartbeat would send an alert at every attempt, and the failure callback another one.
        env.pop("RTP_ALERT_URL", None)
        return env

    def execute(self, context):
        status, lines = self.subprocess_hook.run(["bash", "-c", self.bash_command], self.get_env(context), self.cwd)
        self.conclude(context, status, lines)
