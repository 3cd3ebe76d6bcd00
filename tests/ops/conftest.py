"""Shared by the tests: the binary, the tools, and a practice API."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RTP = pathlib.Path(os.environ["RTP_BIN"]).resolve()
#: A day in the past: no test depends on today's date.
DAY = "2026-11-01"


def run(*command, check=True, timeout=120, **options):
    """Runs a command to its end and returns it, with both of its outputs in the message if it fails.

    After the time it is killed with all that it has started, so that a failed test leaves nothing behind.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        pytest.fail(f"{' '.join(map(str, command))} has not ended within {timeout} s\n{output}\n{errors}")
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{output}\n{errors}")
    return done


def tool(name):
    """The path of a tool that tests/ops/run has installed; if it is missing, that is a failure, never a skipped test."""
    path = shutil.which(name)
    assert path, f"{name} is missing: run the tests by ./justw test-ops"
    return path


def clean_environment(**more):
    """The environment without variables that would point a command at the developer's own stores."""
    kept = {name: value for name, value in os.environ.items() if name == "RTP_TOOLS_DIR" or not name.startswith(("RTP_", "COMPOSE_"))}
    return kept | more


def load(path):
    """The only document of a YAML file of the project."""
    return yaml.safe_load((ROOT / path).read_text())


def help_of(*command):
    """The long help of a command of rtp."""
    return run(RTP, *command, "--help", env=clean_environment()).stdout


def commands():
    """rtp's commands, from its help."""
    listed = help_of().split("Commands:\n")[1].split("\n\n")[0]
    return re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)


@pytest.fixture(scope="session")
def variables():
    """Every environment variable that rtp reads: those in its help texts, and the passwords of src/secret.rs."""
    named = set()
    for command in commands():
        named |= set(re.findall(r"\bRTP_[A-Z_]+\b", help_of(command)))
    for server in ("KAFKA", "CASSANDRA", "POSTGRES"):
        named |= {f"RTP_{server}_PASSWORD", f"RTP_{server}_PASSWORD_FILE"}
    return named


def parse_command(arguments, environment=None):
    """Fails unless rtp accepts these arguments: with --help after them it checks all of them, and does nothing."""
    done = run(RTP, *arguments, "--help", check=False, env=clean_environment(**(environment or {})))
    assert done.returncode == 0, f"rtp {' '.join(arguments)}: {done.stderr}"


def closed_port():
    """A port that is currently unused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class MockApi:
    """`rtp mock-api` on a free port, until the test ends."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [RTP, "mock-api", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean_environment()
        )
        self.url = self.process.stdout.readline().strip() + "/api/1.4/"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=10)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def api():
    """The address of a practice API."""
    with MockApi() as started:
        yield started.url
