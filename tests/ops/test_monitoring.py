"""Prometheus' configuration, its rules and Grafana's dashboards, on a real Prometheus that scrapes a running pipeline.

What is run is deploy/prometheus and deploy/grafana, with
the targets of this test, shorter intervals, and shorter `for` of the alerts.
"""

import http.server
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, RTP, clean_environment, load

PROMETHEUS = ROOT / "deploy/prometheus"
RULES = PROMETHEUS / "rules/rtp.yml"
RULE_TEST = PROMETHEUS / "tests/rtp.test.yml"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
#: Seconds within which a condition must hold.
PATIENCE = 300
#: PromQL's keywords, which are not metrics.
WORDS = {"by", "and", "or", "unless", "on", "without", "ignoring", "group_left", "bool", "offset"}


def rules():
    groups = load(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]


def selectors(expression):
    """The vector selectors of a PromQL expression, such as `up{job="a"}`."""
    no_labels = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    found = re.finditer(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?(?!\w|\s*\()", re.sub(r"\[[^\]]*\]", "", no_labels))
    return [m[0] for m in found if m[1] not in WORDS and not in_braces(no_labels, m[0])]


def in_braces(text, name):
    """Whether a name occurs only as a label or a label's value."""
    return name not in re.sub(r"\{[^}]*\}", "", text) and "{" not in name


def test_selectors_are_found():
    expression = 'sum by (le) (rate(a_total{b="c"}[5m])) / (up > 0) and last_over_time(d:e[1h]) < time() - 26 * 3600'
    assert selectors(expression) == ['a_total{b="c"}', "up", "d:e"]


def promtool(*args):
    return subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True, check=False)


def test_the_configuration_is_valid():
    ran = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert ran.returncode == 0, ran.stderr
    assert f"{len(rules())} rules found" in ran.stdout


def test_each_alert_waits_fires_and_clears():
    ran = promtool("test", "rules", RULE_TEST)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tests = load(RULE_TEST)["tests"]
    for alert in ALERTS:
        moments = [m for t in tests for m in t["alert_rule_test"] if m["alertname"] == alert["alert"]]
        fires = [bool(m.get("exp_alerts")) for m in moments]
        assert fires == [False, True, False], alert["alert"]


@pytest.mark.parametrize("name", [alert["alert"] for alert in ALERTS])
def test_the_test_of_an_alert_can_fail(name, tmp_path):
    text = load(RULES)
    for group in text["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == name:
                rule["expr"] = "vector(0) > 1"
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules/rtp.yml").write_text(yaml.safe_dump(text), encoding="utf-8")
    shutil.copy(RULE_TEST, tmp_path / "tests")
    ran = promtool("test", "rules", tmp_path / "tests/rtp.test.yml")
    assert ran.returncode == 1 and f"alertname: {name}," in ran.stderr


def test_the_runbook_has_a_page_for_each_alert():
    headings = re.findall(r"(?m)^#+ (.+)$", (ROOT / "docs/operations.md").read_text(encoding="utf-8"))
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for alert in ALERTS:
        page, anchor = alert["annotations"]["runbook"].split("#")
        assert page == "docs/operations.md" and anchor == alert["alert"].lower()
        assert anchor in anchors


def free_port():
    """A port that the system does not assign in the meantime."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Containers(http.server.BaseHTTPRequestHandler):
    """Stands in for cAdvisor, with metrics of two containers: there are none here."""

    def do_GET(self):  # noqa: N802, the library's name
        lines = []
        for name, share in [("rtp-stream", 0.2), ("broker", 0.5)]:
            lines.append(f'container_cpu_usage_seconds_total{{name="{name}",cpu="total"}} {time.time() % 1e6 * share}')
            lines.append(f'container_memory_working_set_bytes{{name="{name}"}} 4e7')
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(("\n".join(lines) + "\n").encode())

    def log_message(self, *_):
        pass


class Pipeline:
    """A pipeline on the embedded stores, and a Prometheus that scrapes it."""

    def __init__(self, folder):
        self.folder = folder
        self.children = []
        self.ports = {job: free_port() for job in ["rtp-stream", "rtp-heartbeat", "rtp-runs"]}
        self.sent = 0
        self.over = threading.Event()

    def start(self):
        (self.folder / "runs").mkdir()
        self.rtp("init")
        self.heartbeat = self.spawn(
            RTP, "heartbeat", "--interval", "1s", "--metrics-listen", f"127.0.0.1:{self.ports['rtp-heartbeat']}"
        )
        self.start_stream()
        self.produce(200)
        users = "".join(user(n) for n in range(200))
        self.rtp("load-batch", "--metrics-file", "runs/load-batch.prom", data=users)
        eventually("the rows are stored", lambda: self.rtp("verify", check=False) == 0)
        self.rtp("verify", "--metrics-file", "runs/verify.prom")
        self.spawn(
            "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
            f"--collector.textfile.directory={self.folder}/runs", f"--web.listen-address=127.0.0.1:{self.ports['rtp-runs']}",
        )  # fmt: skip
        containers = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Containers)
        self.ports["cadvisor"] = containers.server_port
        threading.Thread(target=containers.serve_forever, daemon=True).start()
        self.start_prometheus()
        self.input = threading.Thread(target=self.go_on_producing, daemon=True)
        self.input.start()

    def start_stream(self):
        self.stream = self.spawn(RTP, "stream", "--metrics-listen", f"127.0.0.1:{self.ports['rtp-stream']}")

    def start_prometheus(self):
        config = load(PROMETHEUS / "prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{self.ports[job['job_name']]}"]}]
        (self.folder / "rules").mkdir()
        text = re.sub(r"(?m)^(\s+for:) .*$", r"\1 2s", RULES.read_text(encoding="utf-8"))
        (self.folder / "rules/rtp.yml").write_text(text, encoding="utf-8")
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.url = f"http://127.0.0.1:{free_port()}"
        self.spawn(
            "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        )  # fmt: skip
        eventually("Prometheus is ready", lambda: ask(f"{self.url}/-/ready"))
        eventually("every target is up", lambda: len(self.query("up == 1")) == len(config["scrape_configs"]))

    def spawn(self, *command):
        log = open(self.folder / f"{len(self.children)}.log", "wb")
        child = subprocess.Popen(
            command, cwd=self.folder, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self.children.append(child)
        return child

    def rtp(self, *args, data="", check=True):
        ran = subprocess.run([RTP, *args], cwd=self.folder, env=clean_environment(), input=data, capture_output=True, text=True, check=False)
        assert ran.returncode == 0 or not check, ran.stderr
        return ran.returncode

    def produce(self, count):
        """Sends users; the metrics file describes the last run, so every stage has one."""
        lines = "".join(user(n) for n in range(self.sent, self.sent + count))
        self.rtp("produce", "--metrics-file", "runs/produce.prom", data=lines)
        self.sent += count

    def go_on_producing(self):
        while not self.over.wait(1):
            self.produce(20)

    def query(self, expression):
        """The series of an instant query, with numeric values."""
        answer = ask(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert answer is None or answer["status"] == "success", answer
        series = answer["data"]["result"] if answer else []
        return [one for one in series if one["value"][1] != "NaN"]

    def fires(self, name):
        return bool(self.query(f'ALERTS{{alertname="{name}",alertstate="firing"}}'))

    def end(self):
        self.over.set()
        for child in self.children:
            child.kill()
            child.wait()


def user(n):
    event = {"id": f"00000000-0000-4000-8000-{n:012}", "email": f"{n}@example.com", "fetched_at": "2026-11-01T00:00:00.000Z"}
    return json.dumps(event) + "\n"


def ask(url):
    """The JSON that a server answers; True for an answer that is not JSON, None for no answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read()
    except urllib.error.HTTPError as refused:
        return {"status": refused.read().decode()} if refused.code == 400 else None
    except OSError:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return True


def eventually(what, is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    running = Pipeline(tmp_path_factory.mktemp("monitoring"))
    try:
        running.start()
        yield running
    finally:
        running.end()


def targets():
    """Name and expression of every query in every panel."""
    panels = [(file.stem, panel) for file in DASHBOARDS for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]]
    return [(f"{stem}: {panel['title']} {t['refId']}", t["expr"]) for stem, panel in panels for t in panel.get("targets", [])]


def test_there_are_panels():
    titles = dict(targets())
    for title in ["Consumer lag by partition", "Micro-batch latency", "Cassandra write rate", "CPU of rtp", "Memory of rtp", "Exit status of the last run"]:
        assert f"rtp: {title} A" in titles


def test_grafana_finds_prometheus_and_the_dashboards():
    """No Grafana runs here: its files are compared with each other and with docker-compose.yml."""
    (source,) = load("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = load("deploy/grafana/provisioning/dashboards/rtp.yml")["providers"]
    services = load("docker-compose.yml")["services"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert f"127.0.0.1:{port}:{port}" in services[host]["ports"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    for file in DASHBOARDS:
        panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
        named = [of["datasource"] for panel in panels for of in [panel, *panel.get("targets", [])] if "datasource" in of]
        assert named and all((of["type"], of["uid"]) == (source["type"], source["uid"]) for of in named)
        places = [panel["gridPos"] for panel in panels]
        cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
        assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels overlap"


@pytest.mark.parametrize(("name", "expression"), targets(), ids=[name for name, _ in targets()])
def test_every_panel_has_data(pipeline, name, expression):
    asked = expression.replace("$dataset", ".*").replace("$__rate_interval", "15s")
    eventually(f"{name} has data: {asked}", lambda: pipeline.query(asked))


@pytest.mark.parametrize("rule", rules(), ids=[rule.get("alert") or rule["record"] for rule in rules()])
def test_every_selector_finds_a_series(pipeline, rule):
    assert selectors(rule["expr"])
    for selector in selectors(rule["expr"]):
        eventually(f"{selector} finds a series", lambda s=selector: pipeline.query(s))


def test_variables_of_the_dashboards_have_values(pipeline):
    for file in DASHBOARDS:
        for variable in json.loads(file.read_text(encoding="utf-8"))["templating"]["list"]:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            assert [series["metric"][label] for series in pipeline.query(metric)]


def test_a_stream_that_is_killed_raises_the_alert_and_its_restart_clears_it(pipeline):
    assert not pipeline.fires("RtpConsumerLagHigh") and not pipeline.fires("RtpStreamDown")
    pipeline.stream.send_signal(signal.SIGKILL)
    pipeline.stream.wait()
    pipeline.over.set()
    pipeline.input.join()
    pipeline.produce(11_000)
    eventually("the lag raises its alert", lambda: pipeline.fires("RtpConsumerLagHigh"))
    eventually("the stream is told to be down", lambda: pipeline.fires("RtpStreamDown"))
    pipeline.start_stream()
    eventually("the lag's alert is cleared", lambda: not pipeline.fires("RtpConsumerLagHigh"))
    eventually("the stream is there again", lambda: not pipeline.fires("RtpStreamDown"))
    assert pipeline.stream.poll() is None
