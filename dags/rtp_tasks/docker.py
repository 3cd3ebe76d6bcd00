"""Runs a stage in a container of RTP_IMAGE; needs the provider `apache-airflow-providers-docker`."""

from __future__ import annotations

import os

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from docker.types import Mount

from rtp_tasks.settings import ADDRESSES, SECRETS, names, present, required
from rtp_tasks.status import Stage


class Operator(Stage, DockerOperator):
    """A DockerOperator that keeps rtp's exit statuses apart.

    Addresses and passwords are passed on from the worker's environment; Airflow does not show the passwords.
    """

    def __init__(self, *, words, environment, folder=None, **arguments):
        super().__init__(
            image=required("RTP_IMAGE"),
            command=words,
            environment={**present(ADDRESSES), **environment},
            private_environment=present([*SECRETS, *names("RTP_DOCKER_ENV")]),
            mounts=[mount(text) for text in names("RTP_DOCKER_MOUNTS", "rtp-landing:/landing")],
            network_mode=os.environ.get("RTP_DOCKER_NETWORK"),
            mount_tmp_dir=False,
            auto_remove="never",  # its exit status must be read first
            xcom_all=True,
            **arguments,
        )

    def execute(self, context):
        try:
            lines = super().execute(context) or []
        except DockerContainerFailedException as failed:
            lines = failed.logs or []
        finally:
            # What is raised before there is a container, such as for a missing image, is passed on.
            status = self.remove() if self.container else None
        self.conclude(context, status, [text for line in lines for text in decoded(line).splitlines()])

    def remove(self):
        """Removes the container; returns its exit status."""
        try:
            return self.cli.inspect_container(self.container["Id"])["State"]["ExitCode"]
        finally:
            self.cli.remove_container(self.container["Id"], force=True)


def decoded(line):
    return line.decode(errors="backslashreplace") if isinstance(line, bytes) else line


def mount(text):
    """SOURCE:TARGET or SOURCE:TARGET:ro; a source that starts with a slash is a folder or file on the host."""
    source, target, *rest = text.split(":")
    if rest not in ([], ["ro"]):
        raise ValueError(f"invalid mount `{text}` in RTP_DOCKER_MOUNTS; expected SOURCE:TARGET or SOURCE:TARGET:ro")
    return Mount(target, source, type="bind" if source.startswith("/") else "volume", read_only=bool(rest))
