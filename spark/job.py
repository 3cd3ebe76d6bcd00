"""What the Spark jobs have in common: options, addresses, messages and the summary, as those of `rtp`. Only the driver needs it."""

import argparse
import datetime
import json
import os
import re
import sys
import time
import urllib.parse
import uuid

from pyspark.sql import SparkSession

DONE, NO, USAGE, DEPENDENCY, MISSING, INTERRUPTED, TERMINATED = 0, 1, 2, 4, 5, 130, 143
INIT = "run `rtp init` with the same dataset"


class Failure(Exception):
    """Ends the run: the exit status, and a message for the user."""


def main(run, work):
    """Does the work, which returns the exit status, and ends the process."""
    try:
        status = work()
    except Failure as failure:
        status, message = failure.args
        run.log("error", message)
    run.summary(status)
    os._exit(status)  # Spark's threads may be waiting for a JVM that is gone


def options(description):
    """A parser of the options that every job has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    built_in = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "schema/users.toml")
    parser.add_argument("--dataset", default=os.environ.get("RTP_DATASET", built_in), metavar="FILE", help="dataset file [default: schema/users.toml]")
    parser.add_argument("--log-format", choices=["text", "json"], default="text")
    return parser


def spark(name):
    """The session, with the Python of this process for its tasks."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.appName(name).config("spark.ui.showConsoleProgress", "false").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


class Server:
    """The address of a server: `scheme://[USER@]HOST[:PORT][,HOST[:PORT]][?NAME=VALUE[&NAME=VALUE]]`."""

    PARAMETERS = {"kafka": ("ca", "sasl", "tls"), "cassandra": ("ca", "consistency", "tls"), "postgres": ("sslmode", "sslrootcert")}

    def __init__(self, text, scheme, port, option):
        if not (text or "").startswith(f"{scheme}://"):
            raise Failure(USAGE, f"{option} must be {scheme}://HOST:PORT[,HOST:PORT]")
        authority, _, query = text.removeprefix(f"{scheme}://").partition("?")
        self.user, _, hosts = authority.strip("/").rpartition("@")
        self.hosts = [host if re.search(r":\d+$", host) else f"{host}:{port}" for host in hosts.split(",")]
        self.address, self.secret = f"{scheme}://{','.join(self.hosts)}", f"RTP_{scheme.upper()}_PASSWORD"
        if ":" in self.user:
            raise Failure(USAGE, f"an address must not contain a password; set {self.secret}_FILE instead")
        self.parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        for name in sorted(set(self.parameters) - set(self.PARAMETERS[scheme])):
            raise Failure(USAGE, f"unknown parameter `{name}`; supported: {', '.join(self.PARAMETERS[scheme])}")
        self.tls = self.choice("tls", ("true", "false")) == "true"

    def choice(self, name, supported):
        if (value := self.parameters.get(name)) not in (None, *supported):
            raise Failure(USAGE, f"invalid {name}={value}; supported: {', '.join(supported)}")
        return value

    def password(self):
        file, text = (os.environ.get(name) for name in (f"{self.secret}_FILE", self.secret))
        if not (file or text):
            raise Failure(USAGE, f"the password of {self.user} is missing; set {self.secret}_FILE or {self.secret}")
        try:
            if file and os.stat(file).st_mode & 0o007:
                raise Failure(USAGE, f"the secret in {file} is readable by every user of this machine")
            return open(file).read().rstrip("\r\n") if file else text
        except OSError as error:
            raise Failure(USAGE, f"cannot read the secret in {file}: {error.strerror}") from error


class Report:
    """The run's id, counts and messages, and its summary."""

    COUNTS = ("read", "written", "rejected", "deduplicated", "skipped", "bytes")

    def __init__(self, command, form):
        self.command, self.form, self.started = command, form, time.monotonic()
        self.id, self.counts = os.environ.get("RTP_RUN_ID") or str(uuid.uuid4()), dict.fromkeys(self.COUNTS, 0)

    def add(self, counts):
        for name, count in counts.items():
            self.counts[name] += count

    def say(self, text, **fields):
        line = json.dumps({"command": self.command, "run_id": self.id, **fields}) if self.form == "json" else f"rtp {self.command}: {text}"
        print(line, file=sys.stderr)

    def log(self, level, message):
        self.say(f"{level}: {message}", time=datetime.datetime.now(datetime.UTC).isoformat(), level=level, message=message)

    def summary(self, status):
        seconds = round(time.monotonic() - self.started, 3)
        moved = ", ".join(f"{count} {name}" for name, count in self.counts.items() if name != "bytes")
        self.say(f"{moved}; {self.counts['bytes']} B in {seconds:.2f} s; exit {status}", **self.counts, seconds=seconds, exit=status)
