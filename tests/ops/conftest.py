"""What the tests share: the binary, the tools, and a practice API."""

import os
import pathlib
import re
import shutil
import socket
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RTP = pathlib.Path(os.environ["RTP_BIN"]).resolve()
#: A day long gone: no test depends on today's date.
DAY = "2026-11-01"


def run(*command, check=True, **options):
    """Runs a command to its end and returns it, with both of its outputs in the message if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=options.pop("timeout", 120), **options)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def tool(name):
    """The path of a tool that tests/ops/run has put there; its absence is a failure, never a skipped test."""
    path = shutil.which(name)
    assert path, f"{name} is missing: run the tests by ./justw test-ops"
    return path


def clean_environment(**more):
    """The environment without what would lead a command to the developer's own stores."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RTP_", "COMPOSE_"))}
    return kept | more


def load(path):
    """The only document of a YAML file of the project."""
    return yaml.safe_load((ROOT / path).read_text())


def help_of(*command):
    """The long help of a command of rtp."""
    return run(RTP, *command, "--help", env=clean_environment()).stdout


def commands():
    """rtp's commands, by its help."""
    listed = help_of().split("Commands:\n")[1].split("\n\n")[0]
    return re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)


@pytest.fixture(scope="session")
def variables():
    """Every variable of the environment that rtp reads: those of its helps, and the passwords of src/secret.rs."""
    named = set()
    for command in commands():
        named |= set(re.findall(r"\bRTP_[A-Z_]+\b", help_of(command)))
    for server in ("KAFKA", "CASSANDRA", "POSTGRES"):
        named |= {f"RTP_{server}_PASSWORD", f"RTP_{server}_PASSWORD_FILE"}
    return named


def parse_command(arguments, environment=None):
    """Fails unless rtp takes these arguments: with --help behind them it checks all of them, and does nothing."""
    done = run(RTP, *arguments, "--help", check=False, env=clean_environment(**(environment or {})))
    assert done.returncode == 0, f"rtp {' '.join(arguments)}: {done.stderr}"


def closed_port():
    """A port on which nobody listens at the moment."""
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
