"""Shared by the tests. Everything that they start runs under guard.py, and so stops with them, however they end."""

import http.server
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
GUARD = [sys.executable, str(pathlib.Path(__file__).parent / "guard.py")]
DAG_IDS = ["api_to_kafka", "spark_kafka_to_cassandra", "batch_to_postgres", "verify", "nightly_aggregates", "cassandra_monitor"]

# A shell makes what it starts in the background ignore SIGINT; its children would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests' own process imports the DAGs' modules and Airflow: neither may see the settings or files of the user.
OURS = {"RTP_BIN", "RTP_AIRFLOW2", "RTP_TOOLS_DIR", "RTP_STACK_JARS", "RTP_SPARK_PYTHON", "RTP_SPARK_JARS"}
for name in [name for name in os.environ if name.startswith(("RTP_", "AIRFLOW")) and name not in OURS]:
    del os.environ[name]
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"
HOME = tempfile.TemporaryDirectory(prefix="rtp-airflow-home-")
os.environ["AIRFLOW_HOME"] = HOME.name
sys.path.insert(0, str(DAGS))


def rtp_binary():
    return str(pathlib.Path(os.environ["RTP_BIN"]).resolve())


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(what, found, seconds=600):
    """The first true value of `found()`."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.3)
    return value


class Started:
    """A program that runs until the block ends."""

    def __init__(self, command, log, **arguments):
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [*GUARD, *command], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **arguments
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.terminate()
        self.process.wait()


class Api(Started):
    """The practice API; `url` is that of the users."""

    def __init__(self, folder, port=0):
        super().__init__([rtp_binary(), "mock-api", "--port", str(port)], folder / "api.log")
        self.address = wait_for("the practice API", lambda: next(iter(self.log.read_text().splitlines()), ""))
        self.url = f"{self.address}/api/1.4/"


class Webhook:
    """Receives alerts; answers with `status`."""

    def __init__(self):
        self.alerts = []
        self.status = 200
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                webhook.alerts.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(webhook.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Place:
    """A folder with its own Airflow home, the addresses of three stores, and what rtp and Airflow report about them."""

    def __init__(self, folder, stores=None, airflow=pathlib.Path(sys.executable).parent):
        self.folder = folder
        self.program = str(airflow / "airflow")
        self.home = folder / "airflow"
        self.home.mkdir(parents=True)
        self.environment = {
            "PATH": f"{airflow}:{os.environ['PATH']}",  # standalone looks for its parts there
            "HOME": str(folder),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
            "RTP_BIN": rtp_binary(),
            "RTP_TOOLS_DIR": os.environ["RTP_TOOLS_DIR"],
            "RTP_LANDING": str(folder / "landing"),
            "RTP_MAX_OUTAGE": "2s",
            "RTP_RETRIES": "1",
            "RTP_RETRY_DELAY": "1",
            **(stores or {f"RTP_{name}": f"sqlite:{folder / name}.db" for name in ("EVENT_LOG", "REALTIME_STORE", "BATCH_STORE")}),
        }

    def run(self, *command, **more):
        done = subprocess.run(
            [*GUARD, *command],
            env={**self.environment, **more},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
        )
        return done

    def airflow(self, *words, **more):
        return self.run(self.program, *words, **more)

    def rtp(self, *words):
        return self.run(rtp_binary(), *words)

    def landed(self):
        """The days of the landing files, with the number of their records."""
        return {file.stem: len(file.read_text().splitlines()) - 1 for file in (self.folder / "landing").glob("????-??-??.ndjson")}


@pytest.fixture
def webhook():
    made = Webhook()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The addresses of Kafka, Cassandra and PostgreSQL for this module only, empty at the start."""
    folder = tmp_path_factory.mktemp("stack")
    stack = [sys.executable, str(ROOT / "stack/stack.py")]
    where = ["--dir", str(folder)]
    up = subprocess.run([*stack, "up", *where, "--ports", "free", "--parent", str(os.getpid())], capture_output=True, text=True)
    if up.returncode == 3 and "CI" not in os.environ:
        pytest.skip(up.stderr)  # something must be installed first
    assert up.returncode == 0, up.stderr
    yield addresses(subprocess.run([*stack, "env", *where], capture_output=True, text=True, check=True).stdout)
    subprocess.run([*stack, "down", "--wipe", *where], check=True, capture_output=True)


def addresses(exports):
    words = (shlex.split(line)[1] for line in exports.splitlines())
    return dict(word.split("=", 1) for word in words)
